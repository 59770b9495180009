"""Plain causes of a shift that a person can act on: how pictures look, what texts are made of."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from injerto.basics.errors import InjertoError
from injerto.basics.progress import progress
from injerto.domains.domain import Domain
from injerto.domains.images import decode
from injerto.domains.rows import threads

MOST = 1000
"""Examples of a domain that are looked at: the first by id."""
SIDE = 64
"""Pixels of the longer side of what brightness, contrast, colour and sharpness are measured on."""
LARGE = 0.8
"""A standardized difference called large (Cohen 1988, section 2.2)."""

PICTURE = {
    "brightness": "mean of the grey values, 0 black to 1 white",
    "contrast": "standard deviation of the grey values",
    "colour": "mean saturation, 0 grey to 1",
    "sharpness": "log10 of the mean squared Laplacian of the grey values: low where blurred",
    "size": "log2 of the shorter side in pixels",
    "shape": "log2 of width over height",
}
TEXT = {
    "length": "log2 of the number of words",
    "capitals": "share of capitals among the letters",
    "marks": "share of characters that are neither letters, digits nor spaces",
}
DIRECTIONS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("flatter", "of higher contrast"),
    "colour": ("paler", "more colourful"),
    "sharpness": ("more blurred", "sharper"),
    "size": ("smaller", "larger"),
    "shape": ("narrower", "wider"),
    "length": ("shorter", "longer"),
    "capitals": ("with fewer capitals", "with more capitals"),
    "marks": ("with fewer marks and signs", "with more marks and signs"),
}
"""Cause to the words for less and more of it."""
_WORD = re.compile(r"\w+")


def look_at(domain: Domain, modality: str) -> dict[str, np.ndarray]:
    """What is measured on each of up to :data:`MOST` examples of a domain.

    Args:
        domain: Its examples.
        modality: ``image`` or ``text``.

    Returns:
        Name of the measure, as in :data:`PICTURE` or :data:`TEXT`, to its values, float64 (n,).
    """
    inputs = domain.first(MOST).inputs
    measure = _look_at_picture if modality == "image" else _look_at_text
    with (
        ThreadPoolExecutor(threads()) as pool,
        progress(f"looking at {domain.name}", len(inputs), f"{modality}s") as bar,
    ):
        rows = []
        for row in pool.map(measure, inputs):
            bar.advance()
            if row is not None:
                rows.append(row)
    names = list(PICTURE if modality == "image" else TEXT)
    return dict(zip(names, np.asarray(rows, dtype=np.float64).reshape(-1, len(names)).T, strict=True))


def _look_at_picture(item: Any) -> tuple[float, ...] | None:
    try:
        picture = decode(item)
    except (InjertoError, OSError, ValueError):
        return None
    width, height = picture.size
    scale = SIDE / max(width, height)
    small = picture.resize((max(3, round(width * scale)), max(3, round(height * scale))))
    pixels = np.asarray(small, dtype=np.float64) / 255
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    top = pixels.max(axis=2)
    saturation = np.where(top > 0, (top - pixels.min(axis=2)) / np.maximum(top, 1e-9), 0)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    sharpness = math.log10(float(np.square(laplacian).mean()) + 1e-6)
    return (
        float(grey.mean()), float(grey.std()), float(saturation.mean()), sharpness, math.log2(min(width, height)),
        math.log2(width / height),
    )  # fmt: skip


def _look_at_text(item: Any) -> tuple[float, ...]:
    text = str(item)
    letters = [letter for letter in text if letter.isalpha()]
    signs = sum(not (letter.isalnum() or letter.isspace()) for letter in text)
    capitals = sum(letter.isupper() for letter in letters) / max(1, len(letters))
    return math.log2(max(1, len(_WORD.findall(text)))), capitals, signs / max(1, len(text))


def differences(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """How two domains differ in each measure, the largest difference first.

    Args:
        a: From :func:`look_at`.
        b: The same of the other domain.

    Returns:
        ``what``; ``a`` and ``b``, the means; ``effect``, the difference of the means over the pooled standard deviation
        (Cohen's d, cut at +-99; positive where b has more of it); ``large``, whether it is above :data:`LARGE`.
    """
    found = []
    for what, one in a.items():
        other = b[what]
        if len(one) < 2 or len(other) < 2:
            continue
        spread = math.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2)
        apart = float(other.mean() - one.mean())
        effect = 0.0 if abs(apart) < 1e-9 else float(np.clip(apart / max(spread, 1e-9), -99, 99))
        entry = {"what": what, "a": float(one.mean()), "b": float(other.mean()), "effect": effect}
        found.append(entry | {"large": abs(effect) > LARGE})
    return sorted(found, key=lambda entry: -abs(entry["effect"]))


class Vocabulary:
    """The words of a domain's texts, and the languages they are in."""

    def __init__(self, domain: Domain) -> None:
        """Count.

        Args:
            domain: Of texts; up to :data:`MOST` of them are read.
        """
        texts = [str(text) for text in domain.first(MOST).inputs]
        self.words = Counter(word for text in texts for word in _WORD.findall(text.lower()))
        self.languages = _languages(texts)

    def covers(self, other: "Vocabulary") -> float | None:
        """The share of another domain's words, each as often as it is there, that occur here too; None without words.

        Args:
            other: The other domain's.
        """
        total = sum(other.words.values())
        return sum(count for word, count in other.words.items() if word in self.words) / total if total else None


def _languages(texts: Sequence[str]) -> dict[str, float]:
    """Language code to its share, most frequent first; of texts of five words or more, which can be told apart."""
    from py3langid.langid import classify

    long = [text for text in texts if len(_WORD.findall(text)) >= 5][:200]
    counts = Counter(str(classify(text)[0]) for text in long)
    return {code: count / len(long) for code, count in counts.most_common(3)}
