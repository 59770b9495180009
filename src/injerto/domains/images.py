"""Pictures: decoding, and the way from a picture to a model's pixels, for evaluation and for training."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, UnidentifiedImageError

from injerto.basics.errors import InjertoError, first_line, suggest
from injerto.basics.progress import warn
from injerto.domains.domain import ImageInput
from injerto.domains.formats import open_picture, refuse_others
from injerto.domains.pixels import to_rgb
from injerto.domains.preprocessing import ImagePreprocessing

DECODING = 3
"""Raised whenever a picture becomes other pixels than before, or is refused, so that no cache of the former is read."""
POLICIES = ("none", "light", "standard")
_SCALES = {"light": (0.6, 1.0), "standard": (0.35, 1.0)}
_JITTER = 0.3


def read_image(input: ImageInput, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode a picture to upright RGB of 8 bits, as :func:`injerto.domains.pixels.to_rgb` converts it.

    Of several frames or pages the first is taken.

    Args:
        input: A path, an encoded picture or a PIL image.
        at_least: Width and height in pixels that are needed; a JPEG is then decoded at a fraction of its size that is
            still at least twice that.

    Returns:
        A PIL image in mode RGB.

    Raises:
        InjertoError: Where the picture cannot be decoded or converted, is of a format that is not read, or has more
            pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    try:
        return decode(input, at_least)
    except Exception as error:  # a picture's decoder may raise anything
        shown = input if isinstance(input, Path) else "picture"
        raise InjertoError(f"cannot read {shown} ({reason(error)}); mend or remove it") from error


def decode(input: ImageInput, at_least: tuple[int, int] | None = None, found: set[str] | None = None) -> Image.Image:
    """:func:`read_image` without its error message: whatever the decoder raises comes through.

    Args:
        input: As there.
        at_least: As there.
        found: Gets ``dark`` and ``frames`` where the picture is of that kind; without it a dark one is warned of.

    Returns:
        A PIL image in mode RGB.
    """
    seen = set() if found is None else found
    if isinstance(input, Image.Image):
        refuse_others(input)
        image = to_rgb(input, seen)
    else:
        with open_picture(input) as opened:
            if found is not None and opened.format in ANIMATED and getattr(opened, "is_animated", False):
                found.add("frames")
            if at_least is not None:
                side = 2 * max(at_least)  # both ways, because the picture may lie on its side
                opened.draft(None, (side, side))  # type: ignore[arg-type]
            image = to_rgb(opened, seen)
    if found is None and "dark" in seen and not _told:
        warn_dark(str(input) if isinstance(input, Path) else "a picture")
    return image


def reason(error: BaseException) -> str:
    """Why a picture could not be decoded, in a few words.

    Args:
        error: What the decoder raised.
    """
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)


ANIMATED = ("TIFF", "GIF", "WEBP", "PNG", "AVIF")
"""Formats whose further frames are other pictures (those of MPO, ICO and PSD belong to the first)."""

_told: list[str] = []
"""The dark picture that was named, if one was."""


def warn_dark(name: str, others: int = 0) -> None:
    """Say that a picture will be nearly black; once a process, because every picture of a camera would say the same.

    Args:
        name: Of the picture.
        others: How many more there are, where that is known.
    """
    _told.append(name)
    more = f"{others} others like it" if others else "others like it are not named"
    warn(
        f"{name} of 16 bits uses under an eighth of their range and becomes nearly black; rescale it to 8 bits first "
        f"({more})"
    )


LONG = 64
"""Of a picture that would be resized to this many times the pixels that are kept, only the centre is resized: 3 by
100,000 pixels would take gigabytes. The result is nearly the same; all others are resized as timm does."""


def prepare_image(image: Image.Image, preprocessing: ImagePreprocessing) -> np.ndarray:
    """Resize and centre-crop as timm's and torchvision's evaluation transforms do, pixel for pixel.

    The shorter side becomes ``floor(size / crop)`` and the centre is kept; with ``squash`` both sides are resized
    without keeping the aspect ratio. Equal to ``timm.data.create_transform(is_training=False)`` before normalization.

    Args:
        image: An RGB picture.
        preprocessing: Size, crop and filter.

    Returns:
        uint8 array (height, width, 3), 0..255.
    """
    height, width = preprocessing.height, preprocessing.width
    scaled = (math.floor(width / preprocessing.crop), math.floor(height / preprocessing.crop))
    if preprocessing.squash:
        size = scaled
    elif scaled[0] == scaled[1]:
        short = min(image.size)
        size = (int(scaled[0] * image.width / short), int(scaled[0] * image.height / short))
    else:
        ratio = min(image.width / scaled[0], image.height / scaled[1])
        size = (round(image.width / ratio), round(image.height / ratio))
    left, top = (_margin(size[0], width), _margin(size[1], height))
    if size[0] * size[1] > LONG * width * height and min(left, top) >= 0:
        x, y = image.width / size[0], image.height / size[1]
        box = (left * x, top * y, min((left + width) * x, image.width), min((top + height) * y, image.height))
        return np.array(image.resize((width, height), _filter(preprocessing), box), dtype=np.uint8)
    if size != image.size:
        image = image.resize(size, _filter(preprocessing))
    if (left, top, *size) != (0, 0, width, height):
        image = image.crop((left, top, left + width, top + height))  # black beyond the edge
    return np.array(image, dtype=np.uint8)


def augment_image(
    image: Image.Image, preprocessing: ImagePreprocessing, policy: str, rng: np.random.Generator
) -> np.ndarray:
    """One random view of a picture for training: a pure function of the picture, the policy and the generator's state.

    ``light`` is a random crop (0.6 to 1 of the area, aspect ratio 3/4 to 4/3) and a horizontal flip; ``standard`` crops
    down to 0.35 and varies brightness, contrast and colour by up to 30 % (random resized crop: Szegedy et al. 2015,
    "Going deeper with convolutions", section 6).

    Args:
        image: An RGB picture.
        preprocessing: Size and filter.
        policy: ``none`` (then :func:`prepare_image`), ``light`` or ``standard``.
        rng: The source of all randomness.

    Returns:
        uint8 array (height, width, 3), 0..255.

    Raises:
        InjertoError: For an unknown policy.
    """
    if policy == "none":
        return prepare_image(image, preprocessing)
    if policy not in POLICIES:
        raise InjertoError(f"unknown augmentation '{policy}'; {suggest(policy, list(POLICIES))}")
    box = _random_box(image.width, image.height, _SCALES[policy], rng)
    flip = rng.random() < 0.5
    image = image.resize((preprocessing.width, preprocessing.height), _filter(preprocessing), box=box)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if policy == "standard":
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhancer(image).enhance(rng.uniform(1 - _JITTER, 1 + _JITTER))
    return np.array(image, dtype=np.uint8)


def _filter(preprocessing: ImagePreprocessing) -> Image.Resampling:
    try:
        return Image.Resampling[preprocessing.interpolation.upper()]
    except KeyError:
        known = [resampling.name.lower() for resampling in Image.Resampling]
        raise InjertoError(
            f"unknown interpolation '{preprocessing.interpolation}'; {suggest(preprocessing.interpolation, known)}"
        ) from None


def _margin(have: int, want: int) -> int:
    """Where a centred window begins; negative where it is larger, as torchvision's ``center_crop`` rounds."""
    return round((have - want) / 2) if have >= want else -((want - have) // 2)


def _random_box(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random crop; the centre where ten draws do not fit (as torchvision)."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(rng.integers(0, width - wide + 1)), int(rng.integers(0, height - high + 1))
            return left, top, left + wide, top + high
    wide, high = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
