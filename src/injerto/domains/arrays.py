"""Arrays and tensors: pixels become pictures, arrays of strings or objects a list."""

import sys
from typing import Any

import numpy as np
from PIL import Image

from injerto.basics.errors import InjertoError

_LAYOUTS = "(H, W), (H, W, 1 or 3 or 4) or (1 or 3, H, W), or that of N of them"


def from_arrays(given: Any, modality: str, place: str) -> tuple[Image.Image, ...] | list[Any]:
    """A tuple of the pictures in an array of numbers, or the list that an array of other things is.

    Args:
        given: A NumPy array, a tensor on any device, or what has ``__array__``.
        modality: ``image`` or ``text``.
        place: What messages call it.

    Raises:
        InjertoError: For shapes that can be read in two ways, values out of range, masked or missing entries.
    """
    array = _array(given, place)
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise InjertoError(
                f"{place} is a masked array with {int(array.mask.sum())} masked entries; fill them first"
            )
        array = np.ma.getdata(array)
    if array.dtype.kind in "OUT":
        return list(np.atleast_1d(array).tolist())
    if array.dtype.kind == "S":
        raise InjertoError(f"{place} is an array of bytes, which NumPy cuts at their last zeros; give a list")
    if modality == "text":
        return list(np.atleast_1d(array).tolist())
    if array.ndim == 4:
        return tuple(_placed(one, f"{place}[{index}]") for index, one in enumerate(array))
    return (_placed(array, place),)


def array_image(array: np.ndarray) -> Image.Image:
    """One picture of an array of pixels.

    Floating point lies in 0..1, integers in 0..255, and of 16 bits the high byte is kept, as of a file with 16 bits.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3), (H, W, 4), (1, H, W) or (3, H, W).

    Raises:
        InjertoError: For a shape that can be read in two ways or in none, or values out of range.
    """
    if not array.size or array.dtype.kind not in "biuf":
        raise InjertoError(f"an image array holds numbers and at least one pixel, not {array.dtype} {array.shape}")
    first, last = (array.shape[0] in (1, 3), array.shape[2] in (1, 3, 4)) if array.ndim == 3 else (False, True)
    if array.ndim not in (2, 3) or not (first or last):
        raise InjertoError(f"an image array has the shape {_LAYOUTS}, not {array.shape}")
    if first and last:
        raise InjertoError(f"the shape {array.shape} can be (H, W, C) or (C, H, W); give a PIL image, or pad the sides")
    if first:
        array = array.transpose(1, 2, 0)
    if array.dtype.kind in "bf":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise InjertoError("a floating-point image must lie in 0..1; give uint8 in 0..255 otherwise")
        array = np.round(array * 255)
    elif array.dtype == np.uint16 and array.max() > 255:
        array = array >> 8
    elif array.min() < 0 or array.max() > 255:
        raise InjertoError("an integer image must lie in 0..255; scale it, or give floating point in 0..1")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))


def _placed(array: np.ndarray, place: str) -> Image.Image:
    try:
        return array_image(array)
    except InjertoError as error:
        raise InjertoError(f"{place}: {error}") from None


def _array(given: Any, place: str) -> np.ndarray:
    torch = sys.modules.get("torch")
    try:
        if torch is not None and isinstance(given, torch.Tensor):
            given = given.detach().cpu()
            given = given.float() if given.dtype in (torch.bfloat16, torch.float16) else given
            return np.asarray(given.resolve_conj().numpy())
        return given if isinstance(given, np.ndarray) else np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InjertoError(f"{place}: this {type(given).__name__} cannot be read as an array ({error})") from error
