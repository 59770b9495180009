"""The strong view of an example for self-training: RandAugment and Cutout on pictures, token dropout on texts."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from injerto.domains.images import augment_image
from injerto.domains.preprocessing import ImagePreprocessing

SUFFIX = "+strong"
"""Ends the policy of a strong view; before it stands the weak policy that the strong one begins with."""
OPERATIONS = 2
"""Operations of RandAugment on one picture: N of Cubuk et al. 2020, section 2."""
CUTOUT = 0.5
"""Longest side of the grey square, as a share of the picture's shorter side (Sohn et al. 2020, appendix E)."""
GREY = (127, 127, 127)
DROPPED = 0.3
"""Chance of a token to be dropped."""

Operation = Callable[[Image.Image, float], Image.Image]


def strong_policy(policy: str) -> str:
    """The policy of the strong view beside a plain one: never weaker than it.

    Args:
        policy: Of the plain view: ``none``, ``light`` or ``standard``.
    """
    return f"{'light' if policy == 'none' else policy}{SUFFIX}"


def is_strong(policy: str) -> bool:
    """Whether a policy is one of :func:`strong_policy`.

    Args:
        policy: Any policy.
    """
    return policy.endswith(SUFFIX)


def strong_image(
    image: Image.Image, preprocessing: ImagePreprocessing, policy: str, rng: np.random.Generator
) -> np.ndarray:
    """One strong view of a picture, as FixMatch makes it (Sohn et al., NeurIPS 2020, section 2.3 and appendix E).

    The weak policy's random crop and flip, then RandAugment (Cubuk et al., NeurIPS 2020): two operations of
    :data:`RANDAUGMENT`, each at a random strength; then Cutout (DeVries & Taylor 2017): a grey square of up to half
    the side at a random place.

    Args:
        image: An RGB picture.
        preprocessing: Size and filter.
        policy: From :func:`strong_policy`.
        rng: The source of all randomness.

    Returns:
        uint8 array (height, width, 3), 0..255.
    """
    weak = augment_image(image, preprocessing, policy.removesuffix(SUFFIX), rng)
    view = Image.fromarray(weak)
    for index in rng.integers(0, len(RANDAUGMENT), OPERATIONS):
        view = RANDAUGMENT[int(index)](view, float(rng.random()))
    return _cutout(np.array(view, dtype=np.uint8), rng)


def strong_tokens(ids: np.ndarray, special: frozenset[int], rng: np.random.Generator) -> np.ndarray:
    """One strong view of a text: each token is dropped with probability 0.3, and neighbours are swapped.

    At least one token is dropped where there are two or more, so that the view is another text; as in EDA (Wei & Zou,
    EMNLP 2019, section 2) a tenth of the rest is swapped with its neighbour.

    Args:
        ids: Token ids (L,).
        special: Ids that stay where they are.
        rng: The source of all randomness.

    Returns:
        Token ids, at least one of them not special where there was one.
    """
    fixed = np.isin(ids, list(special))
    keep = fixed | (rng.random(len(ids)) >= DROPPED)
    free = np.flatnonzero(~fixed)
    chosen = rng.permutation(free)
    if len(free) and not keep[free].any():
        keep[chosen[0]] = True
    if len(free) > 1 and keep[free].all():
        keep[chosen[0]] = False
    ids, fixed = ids[keep].copy(), fixed[keep]
    places = np.flatnonzero(~fixed[:-1] & ~fixed[1:])
    for place in rng.permutation(places)[: len(ids) // 10]:
        ids[[place, place + 1]] = ids[[place + 1, place]]
    return ids


def _cutout(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A grey square of a random side whose centre is a random pixel; what lies outside the picture is cut off."""
    height, width = view.shape[:2]
    side = max(1, round(CUTOUT * rng.random() * min(height, width)))
    top, left = int(rng.integers(0, height)) - side // 2, int(rng.integers(0, width)) - side // 2
    view[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = GREY
    return view


def _enhance(kind: type) -> Operation:
    """Brightness, contrast, colour or sharpness: 1 leaves the picture as it is, 0.05 takes nearly all of it away."""
    return lambda image, level: kind(image).enhance(0.05 + 0.9 * level)


def _affine(row: int, column: int, most: float, moved: bool) -> Operation:
    """A shear by up to ``most``, or a shift by up to ``most`` of the side, in either direction."""

    def operate(image: Image.Image, level: float) -> Image.Image:
        amount = most * (2 * level - 1) * (image.size[row] if moved else 1)
        matrix = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        matrix[3 * row + column] += amount
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)

    return operate


def _rotate(image: Image.Image, level: float) -> Image.Image:
    """By up to 30 degrees in either direction."""
    return image.rotate(60 * level - 30, Image.Resampling.BILINEAR, fillcolor=GREY)


RANDAUGMENT: tuple[Operation, ...] = (
    lambda image, level: ImageOps.autocontrast(image),
    lambda image, level: ImageOps.equalize(image),
    lambda image, level: image,
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Sharpness),
    lambda image, level: ImageOps.posterize(image, 4 + int(4.999 * level)),
    lambda image, level: ImageOps.solarize(image, int(256 * level)),
    _rotate,
    _affine(0, 1, 0.3, moved=False),
    _affine(1, 0, 0.3, moved=False),
    _affine(0, 2, 0.3, moved=True),
    _affine(1, 2, 0.3, moved=True),
)
"""The fourteen operations of FixMatch's table 12 in its ranges: a picture and a level in [0, 1] to a picture."""
