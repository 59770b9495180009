"""Examples in two dimensions, and what is seen of each when it is pointed at."""

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from injerto.basics.progress import format_seconds, note, progress
from injerto.domains.domain import Domain
from injerto.domains.images import decode

COMPONENTS = 50
"""Principal components that t-SNE starts from."""
THUMBNAIL = 48
"""Pixels of the longer side of a picture on a map."""
CHARACTERS = 200
"""Of a text on a map."""
TSNE_LEAST = 20
"""Examples below which only principal components are drawn."""
SECONDS = 0.012
"""Of t-SNE for an example, on one core."""


def layouts_of(values: np.ndarray, seed: int = 0) -> dict[str, list[list[float]]]:
    """Places in the unit square: principal components, and t-SNE (van der Maaten and Hinton 2008).

    Args:
        values: Embeddings, (N, D).
        seed: Of t-SNE.

    Returns:
        Name of the layout to N places.
    """
    from sklearn.decomposition import PCA

    values = np.asarray(values, np.float32)
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
    count = min(COMPONENTS, *values.shape)
    reduced = PCA(count, svd_solver="randomized", random_state=seed % 2**32).fit_transform(values)
    layouts = {"principal components": reduced[:, :2] if count > 1 else np.repeat(reduced, 2, axis=1)}
    if len(values) >= TSNE_LEAST:
        from sklearn.manifold import TSNE

        note(f"map of {len(values)} examples by t-SNE: about {format_seconds(SECONDS * len(values))}")
        perplexity = min(30.0, (len(values) - 1) / 4)
        layouts["t-SNE"] = TSNE(init="pca", perplexity=perplexity, random_state=seed % 2**32).fit_transform(reduced)
    return {name: _scaled(layout) for name, layout in layouts.items()}


def shown(parts: Mapping[str, Domain], modality: str, looks: bool = True) -> list[dict[str, Any]]:
    """What is told of each example: its domain, its class, and a small picture or the beginning of the text.

    Args:
        parts: The examples by domain.
        modality: ``image`` or ``text``.
        looks: Whether the examples themselves are shown.
    """
    found = []
    with progress("examples", sum(map(len, parts.values())), "examples") as bar:
        for name, item, label in _each(parts):
            found.append({"domain": name, "label": label, "is": small(item, modality) if looks else ""})
            bar.advance()
    return found


def _each(parts: Mapping[str, Domain]) -> Iterator[tuple[str, Any, str | None]]:
    for name, part in parts.items():
        yield from ((name, item, label) for item, label in zip(part.inputs, part.labels, strict=True))


def small(item: Any, modality: str) -> str:
    """A picture as a data URL, or the beginning of a text.

    Args:
        item: As a domain holds it.
        modality: ``image`` or ``text``.
    """
    if modality == "text":
        text = " ".join(str(item).split())
        return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "\u2026"
    picture = decode(item)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=60)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _scaled(layout: np.ndarray) -> list[list[float]]:
    """Into the unit square, the farthest half percent at each end on its border."""
    low, high = np.quantile(layout, [0.005, 0.995], axis=0)
    inside = np.clip((layout - low) / np.maximum(high - low, 1e-9), 0, 1)
    return [[round(float(x), 4), round(float(y), 4)] for x, y in inside]
