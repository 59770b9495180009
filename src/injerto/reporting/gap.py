"""The gap as one page without outside parts: verdict, matrix, map of examples, causes, numbers."""

import base64
import io
import json
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.errors import InjertoError
from injerto.basics.files import check_writable, write_text
from injerto.basics.progress import format_seconds, note, progress
from injerto.domains.images import decode
from injerto.evaluation.causes import PICTURE, TEXT
from injerto.evaluation.gap import Gap

MOST = 5000
"""Examples on the map, at most."""
COMPONENTS = 50
"""Principal components that t-SNE starts from."""
THUMBNAIL = 48
"""Pixels of the longer side of a picture on the map."""
CHARACTERS = 200
"""Of a text on the map."""
TSNE_LEAST = 20
"""Examples below which only principal components are drawn."""


def check_page(path: Path) -> None:
    """Refuse a place where no page can be written, before anything is measured.

    Args:
        path: The page to write.

    Raises:
        InjertoError: Where it is a folder, or its folder cannot be written.
    """
    if path.is_dir():
        raise InjertoError(f"--report {path} is a folder; name a file, such as {path / 'gap.html'}")
    if path.suffix.lower() not in (".html", ".htm"):
        raise InjertoError(f"--report {path} is to be a page for a browser; give it a name that ends in .html")
    check_writable(path.parent)


def report_gap(gap: Gap, path: str | PathLike[str], seed: int = 0) -> Path:
    """Write a measured gap as an HTML page that needs nothing else.

    Args:
        gap: From :func:`injerto.measure_gap`.
        path: The page to write.
        seed: Of which examples are drawn and of t-SNE.

    Returns:
        The path.

    Raises:
        InjertoError: Where it cannot be written.
    """
    if not isinstance(gap, Gap):
        raise InjertoError(f"report_gap takes what measure_gap returned, not a {type(gap).__name__}")
    path = Path(path)
    check_page(path)
    measures = PICTURE if gap.domains.modality == "image" else TEXT
    content = {"gap": gap.content, "map": map_of(gap, seed), "measures": measures}
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")  # nothing in it can end the script
    page = files("injerto.reporting").joinpath("gap.html").read_text(encoding="utf-8")
    write_text(path, page.replace("/*DATA*/null", data))
    return path


def map_of(gap: Gap, seed: int = 0) -> dict[str, Any]:
    """Up to :data:`MOST` examples in two dimensions: principal components, and t-SNE (van der Maaten and Hinton 2008).

    Args:
        gap: What was measured.
        seed: Of which examples are drawn (the same number of every domain where they suffice) and of t-SNE.
    """
    from sklearn.decomposition import PCA

    share = max(1, MOST // len(gap.domains))
    parts = {name: domain.first(share) for name, domain in gap.domains.items()}
    values = np.concatenate([gap.embeddings[name][: len(part)] for name, part in parts.items()]).astype(np.float32)
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
    count = min(COMPONENTS, *values.shape)
    reduced = PCA(count, svd_solver="randomized", random_state=seed).fit_transform(values)
    layouts = {"principal components": reduced[:, :2] if count > 1 else np.repeat(reduced, 2, axis=1)}
    if len(values) >= TSNE_LEAST:
        from sklearn.manifold import TSNE

        note(f"map of {len(values)} examples by t-SNE: about {format_seconds(0.012 * len(values))}")
        perplexity = min(30.0, (len(values) - 1) / 4)
        layouts["t-SNE"] = TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(reduced)
    shown = []
    with progress("map", len(values), "examples") as bar:
        for name, part in parts.items():
            for item, label in zip(part.inputs, part.labels, strict=True):
                shown.append({"domain": name, "label": label, "is": _small(item, gap.domains.modality)})
                bar.advance()
    return {"examples": shown, "layouts": {name: _scaled(layout) for name, layout in layouts.items()}}


def _scaled(layout: np.ndarray) -> list[list[float]]:
    """Into the unit square, the farthest half percent at each end on its border."""
    low, high = np.quantile(layout, [0.005, 0.995], axis=0)
    inside = np.clip((layout - low) / np.maximum(high - low, 1e-9), 0, 1)
    return [[round(float(x), 4), round(float(y), 4)] for x, y in inside]


def _small(item: Any, modality: str) -> str:
    """A picture as a data URL, or the beginning of a text."""
    if modality == "text":
        text = " ".join(str(item).split())
        return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "\u2026"
    picture = decode(item)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=60)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
