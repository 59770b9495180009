"""From the pixels that a file can hold to RGB of 8 bits: each mode is converted by a documented rule or refused."""

from typing import Any

import numpy as np
from PIL import Image

DARK = 1 << 13
"""A picture of 16 bits that is everywhere below an eighth of their range was taken with fewer, or is nearly black."""
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
"""Modes of 8 bits (or 1) a channel; beside them ``I``, ``F`` and the ``I;16`` modes are read."""
_ORIENTATION = 0x0112
_PHOTOMETRIC = 262
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image, found: set[str] | None = None) -> Image.Image:
    """Convert a picture to upright RGB of 8 bits; the picture itself where it is that already.

    - The orientation of EXIF is applied; colour profiles and gamma are not.
    - Transparency lies over white.
    - Of 16 bits the high byte is kept, of gray and of colours. Gray of 16 or 32 bits that has no value above 255 is
      taken for 8 bits. Values below 0 or above 65535 are refused.
    - Floating point within 0..1 is scaled to 0..255; within 0..255 it is rounded. A largest value between 1 and 32 may
      be either and is refused, as are negative values, larger ones, NaN and infinity.
    - CMYK is converted without a profile: R = (255 - C) (255 - K) / 255.

    Args:
        image: A picture of any mode; it may be not loaded yet.
        found: Gets ``dark`` where a picture of 16 bits uses under an eighth of their range.

    Returns:
        A PIL image in mode RGB.

    Raises:
        ValueError: Where the pixels have no meaning as 8-bit colours.
    """
    found = set() if found is None else found
    raw, tags = _raw_mode(image), getattr(image, "tag_v2", {})
    image.load()
    if not (image.width and image.height):
        raise ValueError(f"{image.width} x {image.height} pixels")
    image = _upright(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep(image, raw, tags.get(_PHOTOMETRIC) == 0, found)
    if image.mode not in MODES:
        raise ValueError(f"pixels of mode {image.mode}: save it as RGB of 8 bits")
    if ";16" in raw and 0 < _brightest(image) < DARK >> 8:
        found.add("dark")
    key = image.info.get("transparency")
    if image.mode == "RGB" and key is None:
        return image
    if image.mode == "RGB" and ";16" in raw:
        raise ValueError("16-bit colours with a transparent one: save it with 8 bits or with an alpha channel")
    if image.mode == "L" and isinstance(key, int) and raw in ("L;2", "L;4"):  # Pillow scales the pixels only
        image.info["transparency"] = key * (85 if raw == "L;2" else 17)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def _raw_mode(image: Image.Image) -> str:
    """How a file that is not loaded yet stores its pixels, as Pillow calls it; empty where that is not known."""
    tiles: Any = getattr(image, "tile", None)
    try:
        arguments = tiles[0][3]
        return str(arguments if isinstance(arguments, str) else arguments[0])
    except (IndexError, TypeError):
        return ""


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says. The result has no EXIF, so that it is not turned again."""
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF says nothing about the pixels
        return image
    if method is None:
        return image
    turned = image.transpose(method)
    turned.info = {name: value for name, value in image.info.items() if name == "transparency"}
    return turned


def _brightest(image: Image.Image) -> int:
    """The largest value of a colour channel."""
    bands = image.getbands()
    extrema = image.getextrema()
    ranges: Any = extrema if len(bands) > 1 else (extrema,)
    return int(max(high for band, (_, high) in zip(bands, ranges, strict=True) if band not in "aA"))


def _from_deep(image: Image.Image, raw: str, white_is_zero: bool, found: set[str]) -> Image.Image:
    """Gray of 16 or 32 bits, or of floating point."""
    values = np.asarray(image)
    key = image.info.get("transparency")
    if image.mode == "F":
        if white_is_zero:
            raise ValueError("floating-point values where white is 0: save it as gray of 8 bits")
        gray = _from_float(values)
    else:
        lowest, highest = int(values.min()), int(values.max())
        if lowest < 0 or highest > 65535:
            raise ValueError(f"values from {lowest} to {highest}, beyond 0..65535: rescale it to 8 bits")
        if raw == "I;12":
            values, highest = values << 4, highest << 4
        if white_is_zero:
            values, highest = 65535 - values, 65535 - lowest
        if 255 < highest < DARK:
            found.add("dark")
        gray = (values >> 8 if highest > 255 else values).astype(np.uint8)
    if isinstance(key, int):
        gray = np.where(np.asarray(image) == key, np.uint8(255), gray)
    return Image.fromarray(gray).convert("RGB")


def _from_float(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite (NaN or infinity): replace them and save it with 8 bits")
    lowest, highest = float(values.min()), float(values.max())
    for scale in (255.0, 1.0):
        if round(lowest * scale) >= 0 and round(highest * scale) <= 255 and (scale > 1 or highest >= 32):
            return np.round(values * np.float32(scale)).astype(np.uint8)
    raise ValueError(
        f"floating-point values from {lowest:.6g} to {highest:.6g}, neither 0..1 nor clearly 0..255: rescale it to 8 "
        "bits"
    )
