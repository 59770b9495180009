"""What the tables of several pages are made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from injerto.statistics.bootstrap import bootstrap_interval
from injerto.studies.tables import gain_text

HERE = Path(__file__).parents[1]
"""benchmarks/studies."""
DOCS = HERE.parents[1] / "docs"
NOT_YET = "Not measured yet.\n"
NAMES = {"art_painting": "art", "kitchen_housewares": "kitchen"}


def comparisons(study: str) -> list[dict[str, Any]]:
    """The comparisons of a study of `alignment.py`; none where it was not done."""
    path = HERE / f"alignment-{study}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())["comparisons"] if path.exists() else []
    return found


def gain(figures: dict[str, Any]) -> str:
    """` (+7.5 [4.8, 10.4])`, or `(none: ...)` where the interval holds 0."""
    text = gain_text(figures)
    return "" if text == "-" else f" (none: {text[1:-1]})" if text.startswith("(") else f" ({text})"


def table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def short(name: str) -> str:
    return NAMES.get(name, name)


def pairs(study: str) -> tuple[dict[Any, dict[str, Any]], dict[Any, float], list[int]]:
    """Rows by (tuning, alignment) and then pair; accuracy on a target's own labels; how many seeds."""
    rows: dict[Any, dict[str, Any]] = {}
    own: dict[Any, float] = {}
    seeds = set()
    for content in comparisons(study):
        seeds.add(len(content["seeds"]))
        for row in content["summary"]:
            tuning, alignment = row["axes"]["tuning"], row["axes"].get("alignment", "none")
            if content["target"]:
                (source,), (target,) = content["source"], content["target"]
                entry = {"domains": row["domains"], "source": source, "target": target}
                rows.setdefault((tuning, alignment), {})[f"{source} -> {target}"] = entry
            else:
                (name,) = content["source"]
                own[name, tuning] = row["domains"][name]["splits"]["test"]["accuracy"]
    return rows, own, sorted(seeds)


def mean_text(values: list[float]) -> str:
    """A mean over pairs with its interval, pairs resampled; in brackets where it holds 0."""
    mean = float(np.mean(values))
    low, high = bootstrap_interval(np.asarray(values), np.arange(len(values)))
    text = f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]".replace("-0.0", "+0.0")
    return f"({text})" if low <= 0 <= high else text


def in_words(language: str, english: str, spanish: str) -> str:
    """A heading of a page in English or Spanish."""
    return {"en": english, "es": spanish}[language]


def role_name(language: str, role: str) -> str:
    """A domain's role in the page's language."""
    return role if language == "en" else {"source": "origen", "target": "objetivo", "unseen": "no visto"}[role]
