"""Settings in YAML: one mapping, each name once, within bounds that are checked before anything is built."""

from collections import Counter
from pathlib import Path
from typing import Any

from injerto.basics.limits import RECIPE_BYTES, RECIPE_DEPTH, RECIPE_NODES, RECIPE_VALUE

_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))


def read_mapping(path: Path) -> dict[str, Any]:
    """:func:`load_mapping` of a file.

    Args:
        path: The file.

    Raises:
        ValueError: Where it is too large, no text or no YAML, and as :func:`load_mapping`.
        OSError: Where it cannot be read.
    """
    import yaml

    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("is no file but a device or pipe; save it as a file")
    with path.open("rb") as stream:
        data = stream.read(RECIPE_BYTES + 1)
    try:
        return load_mapping(data.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        if len(data) > RECIPE_BYTES:
            raise ValueError(_too_large()) from None
        line = str(error).strip().splitlines()[0]
        raise ValueError(f"is not valid YAML: {line}") from None


def load_mapping(text: str) -> dict[str, Any]:
    """Read a mapping of settings; ``batch-size`` and ``batch_size`` are one name.

    Args:
        text: YAML.

    Raises:
        ValueError: Where it is not a mapping of names, names a setting twice, or is beyond the bounds: its size, depth
            and number of values with every alias written out, and tags other than those of plain values.
        yaml.YAMLError: Where it is not valid YAML.
    """
    import yaml

    _check(text)
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        fields = loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise ValueError("must hold 'name: value' lines")
    assert isinstance(node, yaml.MappingNode)
    for name, times in Counter(str(key.value).replace("-", "_") for key, _ in node.value).items():
        if times > 1:
            raise ValueError(f"names {name} {times} times; name each setting once")
    return {key.replace("-", "_"): value for key, value in fields.items()}


def _too_large() -> str:
    return f"is larger than {RECIPE_BYTES:,} bytes; these are no settings"


def _check(text: str) -> None:
    """Refuse what would take much time or memory once it is built; an alias counts as what it stands for."""
    import yaml

    if len(text) > RECIPE_BYTES:
        raise ValueError(_too_large())
    sizes: dict[str, tuple[int, int]] = {}
    open_ones: list[tuple[str | None, int, int]] = []  # anchor, and what was counted before
    nodes = characters = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before, written = open_ones.pop()
            if anchor:
                sizes[anchor] = (nodes - before, characters - written)
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in _TAGS:
            raise ValueError(f"holds the tag {tag[:60]!r}; settings are plain words, numbers and lists")
        nodes += 1
        if isinstance(event, yaml.AliasEvent):
            more = sizes.get(str(event.anchor), (RECIPE_NODES, 0))  # one that is not closed yet holds itself
            nodes, characters = nodes + more[0], characters + more[1]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_ones.append((event.anchor, nodes - 1, characters))
        elif isinstance(event, yaml.ScalarEvent):
            characters += len(event.value)
            if len(event.value) > RECIPE_VALUE:
                raise ValueError(f"holds a value of {len(event.value):,} characters; up to {RECIPE_VALUE:,} are read")
            if event.anchor:
                sizes[event.anchor] = (1, len(event.value))
        if len(open_ones) > RECIPE_DEPTH:
            raise ValueError(f"is nested more than {RECIPE_DEPTH} deep; settings are plain values and lists")
        if nodes > RECIPE_NODES or characters > RECIPE_BYTES:
            raise ValueError(
                f"holds more than {RECIPE_NODES:,} values or {RECIPE_BYTES:,} characters, aliases written out; "
                "these are no settings"
            )
