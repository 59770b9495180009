"""New against old over the way from the pretrained to the tuned model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.files import atomic_path


def accuracies_of(point: Mapping[str, Any]) -> dict[str, float]:
    """The accuracies of all domains at a point of the way; runs of earlier versions have them in one.

    Args:
        point: Of ``forgetting.path`` in ``metrics.json``.
    """
    return {**point["accuracy"], **point.get("oracle", {})}


def draw_path(metrics: Mapping[str, Any], picture: Path) -> bool:
    """Plot accuracy on new data against what is kept of the old, one point per t (WiSE-FT, CVPR 2022, figure 1).

    Old is the accuracy of a refitted probe on the data to remember, else the agreement with the original classifier,
    else the similarity of the embedding.

    Args:
        metrics: The content of ``metrics.json`` of a run with a slider.
        picture: The PNG to write.

    Returns:
        Whether there was a path to draw.
    """
    forgotten = metrics.get("forgetting") or {}
    path = forgotten.get("path")
    if not path:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = {"remember": f"probe on {(forgotten.get('remember') or {}).get('data')}"}
    names |= {"agreement": "agreement with the original classifier", "cka": "similarity of the embedding (CKA)"}
    old = next(key for key in ("remember", "agreement", "cka") if path[-1].get(key) is not None)
    percent = 1 if old == "cka" else 100
    figure = Figure(figsize=(5.6, 4.2), dpi=110)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for name, entry in metrics["domains"].items():
        if all(name in accuracies_of(point) for point in path):
            x = np.asarray([point[old] for point in path]) * percent
            y = np.asarray([accuracies_of(point)[name] for point in path]) * 100
            solid = entry["role"] == "source"
            style, role = ("-", "source") if solid else ("--", f"{entry['role']}, oracle")
            axis.plot(x, y, style, marker="o", markersize=4, label=f"{name} ({role})")
            if solid:
                for point, left, high in zip(path, x, y, strict=True):
                    axis.annotate(
                        f"t={point['t']:g}", (left, high), textcoords="offset points", xytext=(4, 4), fontsize=7
                    )
    axis.set_xlabel(names[old] + (", %" if percent == 100 else ""))
    axis.set_ylabel("accuracy on new data, %")
    axis.set_title("from the pretrained model with a probe (t=0) to the tuned one (t=1)", fontsize=9)
    axis.margins(x=0.1)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.tight_layout()
    with atomic_path(picture) as temporary:
        figure.savefig(temporary, format="png")
    return True
