"""Settings as the command line that a user would type."""

import re
import shlex
from collections.abc import Mapping
from typing import Any


def flags(settings: Mapping[str, Any]) -> list[str]:
    """Words for some settings: a flag alone for True, a flag and each value of a list, nothing for None and False.

    Args:
        settings: Names of the recipe's fields to their values.
    """
    words: list[str] = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value is not None:
            for item in value if isinstance(value, list | tuple) else [value]:
                words += [flag, str(item)]
    return words


def fit_command(data: str, settings: Mapping[str, Any]) -> str:
    """``injerto fit`` with a folder of its own, so that commands for several recipes do not get in each other's way.

    Args:
        data: What to learn from.
        settings: Names of the recipe's fields to their values.
    """
    parts: list[str] = []
    for name in ("source", "target", "tuning", "alignment", "augment"):
        value = settings.get(name) or ("none" if name == "alignment" else ())
        parts += [value] if isinstance(value, str) else list(value)
    name = "-".join(re.sub(r"[^\w.]+", "-", part.partition("=")[0]).strip("-.") for part in parts)
    return shlex.join(["injerto", "fit", data, *flags({**settings, "out": f"runs/{name[:120]}"})])
