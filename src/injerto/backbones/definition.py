"""How a network is defined, as digests: its configuration, the code of its own classes, the settings of its modules.

Nothing is imported or run. The code of the libraries is not read: their versions stand for it.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from injerto.basics.files import sha256

LIBRARIES = {"torch", "timm", "transformers", "numpy", "injerto", *sys.stdlib_module_names} - {"__main__"}
UNRELATED = {
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "id2label",
    "label2id",
    "problem_type",
    "training",
    "warnings_issued",
    "pretrained_cfg",
    "default_cfg",
}
"""Settings that no output depends on, or that name a place."""
INSIDE = set(vars(nn.Module()))
MOST = 2000
"""Functions whose code is read, at most."""


def definition(model: nn.Module, embed: Any) -> str:
    """Digest of a network's configuration, of the code of classes that belong to no library, and of the pooling.

    Args:
        model: The network.
        embed: What makes embeddings of its output.
    """
    kinds = dict.fromkeys(type(module) for module in model.modules())
    code = _Code()
    own = [line for kind in kinds for line in code.of_class(kind)]
    own += [line for module in model.modules() for value in vars(module).values() for line in code.of(value)]
    own += list(code.of(embed))
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]
    return sha256(json.dumps(_config(model)), json.dumps(names), *own, _plain(embed))


def settings(model: nn.Module) -> str:
    """Digest of what the modules hold beside their state dict: numbers, words, flags, tensors that are not saved.

    Args:
        model: The network.
    """
    saved = set(model.state_dict())
    found = []
    for path, module in model.named_modules():
        library = _is_library(type(module).__module__)
        found.append(f"{path}:{type(module).__module__}.{type(module).__qualname__}")
        for name, value in sorted(vars(module).items()):
            if name not in INSIDE and name not in UNRELATED and not (library and name.startswith("_")):
                found.append(f"{path}.{name}={_plain(value)}")
    found += [f"{name}={_plain(buffer)}" for name, buffer in model.named_buffers() if name not in saved]
    return sha256(*found)


def _config(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return None
    return {key: _plain(value) for key, value in sorted(config.to_dict().items()) if key not in UNRELATED}


def _plain(value: Any, depth: int = 4) -> str:
    """A value as text that is the same in every process; other objects by the name of their class only."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.Size):
        return repr(value)
    if isinstance(value, Tensor):
        return sha256(str(value.dtype), str(tuple(value.shape)), value.detach().cpu().double().numpy().tobytes())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return sha256(str(value.dtype), str(value.shape), value.tobytes())
    if depth and isinstance(value, Mapping):
        pairs = sorted((str(key), _plain(item, depth - 1)) for key, item in value.items() if key not in UNRELATED)
        return f"{{{pairs}}}"
    if depth and isinstance(value, list | tuple):
        return f"[{[_plain(item, depth - 1) for item in value]}]"
    if depth and isinstance(value, set | frozenset):
        return f"({sorted(_plain(item, depth - 1) for item in value)})"
    if isinstance(value, FunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    fields = getattr(value, "__dataclass_fields__", None)
    parts = [(name, _plain(getattr(value, name), depth - 1)) for name in fields] if fields and depth else []
    return f"{type(value).__module__}.{type(value).__qualname__}{parts}"


def _is_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in LIBRARIES


class _Code:
    """Reads functions and what they call, each once."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def of(self, value: Any) -> Iterator[str]:
        """The code behind a value: of a function, a method, a property; of a class that belongs to no library."""
        if isinstance(value, staticmethod | classmethod | MethodType):
            value = value.__func__
        if isinstance(value, property):
            value = value.fget
        value = getattr(value, "__wrapped__", value) if isinstance(value, FunctionType) else value
        if isinstance(value, type):
            yield from self.of_class(value)
        elif isinstance(value, FunctionType):
            yield from self._function(value)

    def of_class(self, kind: type) -> Iterator[str]:
        """The methods and plain attributes of a class and of those that it extends."""
        for one in kind.__mro__:
            if _is_library(one.__module__) or id(one) in self._seen:
                continue
            self._seen.add(id(one))
            for name, value in sorted(vars(one).items()):
                if name.startswith("__") and not callable(value):
                    continue
                yield f"{one.__qualname__}.{name}={_plain(value)}"
                yield from self.of(value)

    def _function(self, function: FunctionType) -> Iterator[str]:
        code = function.__code__
        if _is_library(function.__module__) or id(code) in self._seen or len(self._seen) > MOST:
            return
        self._seen.add(id(code))
        yield from _instructions(code, function.__doc__)
        yield _plain([function.__defaults__, function.__kwdefaults__])
        names = set(_names(code))
        values = {name: function.__globals__[name] for name in names if name in function.__globals__}
        for cell, name in zip(function.__closure__ or (), code.co_freevars, strict=False):
            try:
                values[name] = cell.cell_contents
            except ValueError:  # not yet filled
                continue
        for name, value in sorted(values.items()):
            if isinstance(value, ModuleType):
                if not _is_library(value.__name__):
                    for part in sorted(names & set(vars(value))):
                        yield f"{name}.{part}={_plain(vars(value)[part])}"
                        yield from self.of(vars(value)[part])
            elif not isinstance(value, nn.Module):
                yield f"{name}={_plain(value)}"
                yield from self.of(value)


def _instructions(code: CodeType, text: str | None) -> Iterator[str]:
    """Byte code, names and constants of a function and of those inside it; not its documentation."""
    yield f"{code.co_name} {code.co_code.hex()} {code.co_names} {code.co_varnames}"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant, None)
        elif constant != text or text is None:
            yield _plain(constant)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
