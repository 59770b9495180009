"""The page of a gap: whole, without outside parts, and nothing in the data becomes part of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import injerto
from injerto.basics.errors import InjertoError
from injerto.domains.domain import Domain, Domains
from injerto.evaluation.gap import Gap
from injerto.reporting.gap import map_of

EVIL = "</script><img src=x onerror=alert(1)>"


def gap_of(names: tuple[str, ...] = ("one", EVIL), count: int = 30) -> Gap:
    """A measured gap between texts; the last domain's embeddings are far away."""
    rng = np.random.default_rng(0)
    parts = {}
    for name in names:
        ids = tuple(f"{name}{i:03d}" for i in range(count))
        texts = tuple(f"{EVIL} text {i}" for i in range(count))
        parts[name] = Domain(name, texts, (EVIL,) * count, ids, ids, ids, (None,) * count, ids)
    pair = {"a": names[0], "b": names[1], "level": "far", "mmd2": 0.3, "says": EVIL, "causes": [], "label_shift": None}
    numbers = ("mmd2_low", "mmd2_high", "p_value", "effect", "a_distance", "a_distance_low", "a_distance_high")
    pair |= dict.fromkeys((*numbers, "frechet_relative"), 0.5)
    about = {name: {"n": count, "labelled": 0, "classes": 1, "looks": {}} for name in names}
    content = {"data": EVIL, "modality": "text", "backbone": "b", "domains": about, "pairs": [pair]}
    content |= {"verdict": EVIL, "advice": [{"why": EVIL, "command": EVIL}]}
    values = {name: rng.normal(6 * index, 1, (count, 8)).astype(np.float32) for index, name in enumerate(names)}
    return Gap(content, Domains(parts, "text", "d"), values)


def test_nothing_from_outside_and_nothing_escapes(tmp_path: Path) -> None:
    page = injerto.report_gap(gap_of(), tmp_path / "gap.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 1 and "<img src=x" not in page
    assert not re.search(r"""(src|href)\s*=\s*["']?https?:|@import|url\(""", page)
    assert "innerHTML" not in page  # what comes from the data is set as text
    data = json.loads(re.search(r"const DATA = (\{.*\});\n", page).group(1))  # type: ignore[union-attr]
    assert data["gap"]["verdict"] == EVIL and len(data["map"]["examples"]) == 60


def test_the_map_keeps_apart_what_is_apart_and_is_the_same_each_time() -> None:
    drawn = map_of(gap_of(), seed=1)
    assert set(drawn["layouts"]) == {"principal components", "t-SNE"}
    for layout in drawn["layouts"].values():
        places = np.asarray(layout)
        assert places.min() >= 0 and places.max() <= 1
        one, other = places[:30], places[30:]
        spread = one.std(0).max() + other.std(0).max()
        assert np.linalg.norm(one.mean(0) - other.mean(0)) > spread
    assert map_of(gap_of(), seed=1) == drawn


def test_few_examples_have_a_map_too() -> None:
    drawn = map_of(gap_of(count=2))
    assert set(drawn["layouts"]) == {"principal components"} and len(drawn["examples"]) == 4


def test_a_folder_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(InjertoError, match="is a folder"):
        injerto.report_gap(gap_of(), tmp_path)
