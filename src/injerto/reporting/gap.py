"""The gap as one page without outside parts: verdict, matrix, map of examples, causes, numbers."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.errors import InjertoError
from injerto.evaluation.causes import PICTURE, TEXT
from injerto.evaluation.gap import Gap
from injerto.reporting.maps import layouts_of, shown
from injerto.reporting.page import check_page, write_page

MOST = 5000
"""Examples on the map, at most."""


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
    return write_page("gap.html", {"gap": gap.content, "map": map_of(gap, seed), "measures": measures}, path)


def map_of(gap: Gap, seed: int = 0) -> dict[str, Any]:
    """Up to :data:`MOST` examples in two dimensions.

    Args:
        gap: What was measured.
        seed: Of which examples are drawn (the same number of every domain where they suffice) and of t-SNE.
    """
    share = max(1, MOST // len(gap.domains))
    parts = {name: domain.first(share) for name, domain in gap.domains.items()}
    values = np.concatenate([gap.embeddings[name][: len(part)] for name, part in parts.items()])
    return {"examples": shown(parts, gap.domains.modality), "layouts": layouts_of(values, seed)}
