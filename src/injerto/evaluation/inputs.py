"""What ``predict`` takes: paths, pictures, arrays, texts, tables, lists of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.domains.folders import is_image_name


def as_inputs(inputs: Any, modality: str) -> list[Any]:
    """A flat list of pictures (paths, bytes, PIL) or texts.

    Args:
        inputs: A path, folder, PIL image, array, text, DataFrame, or a list of these.
        modality: ``image`` or ``text``.

    Raises:
        InjertoError: Where an input is of the wrong kind or a file is not there.
    """
    if _is_frame(inputs):
        inputs = _column(inputs, modality)
    if type(inputs).__module__.partition(".")[0] == "torch":
        inputs = inputs.detach().cpu().numpy()
    if modality == "text":
        return _texts(np.atleast_1d(inputs).tolist() if isinstance(inputs, np.ndarray) else inputs)
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "OU":  # paths or pictures, not pixels
        inputs = list(inputs)
    if isinstance(inputs, np.ndarray):
        if inputs.ndim == 4:
            return [picture for array in inputs for picture in as_inputs(array, modality)]
        return [_from_array(inputs)]
    if isinstance(inputs, Image.Image | bytes):
        return [inputs]
    if isinstance(inputs, str | Path):
        return _paths(Path(inputs))
    if isinstance(inputs, Iterable):
        return [picture for item in inputs for picture in as_inputs(item, modality)]
    raise InjertoError(
        f"cannot predict on {type(inputs).__name__}; give a path, PIL image, array, tensor, or a list of these"
    )


def _texts(inputs: Any) -> list[str]:
    texts = [inputs] if isinstance(inputs, str) else list(inputs) if isinstance(inputs, Iterable) else [inputs]
    for text in texts:
        if not isinstance(text, str):
            raise InjertoError(f"an input is a {type(text).__name__}, not a text: {str(text)[:40]!r}; give strings")
    return texts


def _paths(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and is_image_name(file.name))
        if not found:
            raise InjertoError(f"no images in {path}")
        return found
    if not path.exists():
        raise InjertoError(f"no such image: {path}")
    return [path]


def _from_array(array: np.ndarray) -> Image.Image:
    if not array.size or array.dtype.kind not in "biuf":
        raise InjertoError(f"an image array holds numbers and at least one pixel, not {array.dtype} {array.shape}")
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.dtype.kind in "bf":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise InjertoError("a floating-point image must lie in 0..1; give uint8 in 0..255 otherwise")
        array = np.round(array * 255)
    elif array.min() < 0 or array.max() > 255:
        raise InjertoError("an integer image must lie in 0..255; scale it, or give floating point in 0..1")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InjertoError(f"an image array has shape (H, W), (H, W, 3) or (N, H, W, 3), not {array.shape}")
    return Image.fromarray(array.astype(np.uint8))


def _is_frame(inputs: Any) -> bool:
    return type(inputs).__module__.startswith("pandas") and type(inputs).__name__ in ("DataFrame", "Series")


def _column(frame: Any, modality: str) -> list[Any]:
    if type(frame).__name__ == "Series":
        return frame.tolist()
    from injerto.domains.columns import INPUT_NAMES

    for name in INPUT_NAMES:
        if name in frame.columns:
            return frame[name].tolist()
    if len(frame.columns) == 1:
        return frame.iloc[:, 0].tolist()
    raise InjertoError(
        f"the table has no column of inputs; name one of {', '.join(INPUT_NAMES)}, or pass frame['column']"
    )
