"""What an alignment did, in plain words: each trouble is named with its cure, and nothing is said without one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import injerto
from injerto.alignment.base import Setting, make_alignment
from injerto.domains.domain import Domain
from injerto.recipe.grammar import parse_alignment
from injerto.training.health import Health, label_shift, warn_about, warn_of_frequencies
from injerto.training.watch import Watch

FINE: dict[str, Any] = {
    "last_step": {
        "loss/labelled": 0.2, "gradient/labelled": 0.1, "gradient/dann": 0.1, "dann/discriminator": 0.55,
        "dann/chance": 0.5,
    },
    "label_shift": {"sketch": 0.05},
    "probe": {"before": 0.95, "after": 0.6, "chance": 0.5},
    "mmd": [{"domains": ["photo", "sketch"], "before": {"value": 0.3, "p": 0.0}, "after": {"value": 0.01, "p": 0.2}}],
}  # fmt: skip


def said(best: float = 0.9, last: float = 0.89, **changes: Any) -> dict[str, str]:
    """The warnings about a block with some changes."""
    watch = Watch()
    block = {**FINE, **changes}
    warn_about(block, {"dann": 1.0}, watch, best, last, 7)
    return watch.said


def test_nothing_is_said_of_a_healthy_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert said() == {}
    assert (
        "tells the domains apart 95 % in the pretrained embedding, 60 % in what the head sees now (chance 50 %), "
        "MMD^2 0.300 -> 0.010 (p 0.200)"
    ) in capsys.readouterr().err


def test_a_dead_adversary_is_not_taken_for_success() -> None:
    text = said(probe={"before": 0.95, "after": 0.93, "chance": 0.5})["dead adversary dann"]
    assert "at chance (55 %)" in text and "fresh probe still tells the domains apart (93 %)" in text


def test_a_shift_of_the_classes_is_named_to_terms_that_match_frequencies() -> None:
    def warned(terms: list[str], **block: Any) -> dict[str, str]:
        watch = Watch()
        warn_of_frequencies({**FINE, "mmd": [], **block}, terms, watch)
        return watch.said

    shift = {"sketch": 0.4}
    assert "mmd, dann pulls different classes" in warned(["mmd", "dann"], label_shift=shift)["label shift sketch"]
    assert warned(["mmd"], label_shift={"sketch": 0.2}) == warned([], label_shift=shift) == {}
    assert warned(["mmd"], label_shift=shift, mmd=FINE["mmd"]) == {}  # far: a poor classifier reads as shift


def test_terms_that_match_frequencies() -> None:
    roles = ("source", "target")
    texts = ("mmd", "mmd(frequencies=estimated)", "lmmd", "coral", "dann", "cdan", "cdan-e", "mcc")
    terms = {text: make_alignment(parse_alignment(text)[0], Setting(4, 3, roles)) for text in texts}
    assert [text for text, term in terms.items() if term.matches_frequencies] == [
        "mmd",
        "lmmd",
        "dann",
        "cdan",
        "cdan-e",
    ]


def test_skewed_target_classes_are_seen_before_mmd_hides_them(
    tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, data_writers: SimpleNamespace
) -> None:
    """Four of five target examples are blue; after MMD the guesses have the source's frequencies."""
    data = data_writers.pictures(tmp_path / "data", per_class=100, domains=("day",))
    for label, count in (("blue", 80), ("green", 10), ("red", 10)):
        (data / "dusk" / label).mkdir(parents=True)
        for number in range(count):
            picture = data_writers.picture(label, 1000 + number, -5)
            Image.fromarray(picture).save(data / "dusk" / label / f"{number}.png")
    settings = {"source": "day", "target": "dusk", "backbone": tiny_timm, "tuning": "head", "steps": 20} | quick
    run = injerto.fit(data, alignment="mmd", out=tmp_path / "run", **settings)
    assert run.metrics["alignment"]["label_shift"]["dusk"] > 0.25
    assert any("may be distributed differently" in text for text in run.metrics["warnings"])


def test_what_is_lost_on_the_source_is_told() -> None:
    assert "fell from 90 % to 70 %" in said(last=0.7)["negative transfer"]


def test_a_term_that_drowns_the_labels_is_named_with_a_weight_to_try() -> None:
    strong = {**FINE["last_step"], "gradient/dann": 5.0}
    assert said(last_step=strong) == {}  # the labels are learned: their gradient is small because they are
    assert "dann pulls 50 times as hard" in said(last_step={**strong, "loss/labelled": 1.9})["drowned by dann"]
    assert "(dann:0.1)" in said(last_step=strong, last=0.7)["drowned by dann"]
    heavy = said(last_step={**strong, "gradient/dann": 244.0, "loss/labelled": 1.9})["drowned by dann"]
    assert "they are not learned: lower its weight (dann:0.0" in heavy
    assert "source val fell" in said(last_step=strong, last=0.7)["drowned by dann"]


def test_a_heavy_term_is_named_in_a_real_run(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"source": "day", "target": "dusk", "backbone": tiny_timm, "tuning": "full", "steps": 30} | quick
    run = injerto.fit(pictures, alignment="mmd:5000", out=tmp_path / "heavy", **settings)
    assert any("mmd pulls" in text for text in run.metrics["warnings"])
    run = injerto.fit(pictures, alignment="mmd:0.01", out=tmp_path / "light", **settings)
    assert not any("mmd pulls" in text for text in run.metrics["warnings"])


def test_a_probe_and_mmd_see_two_domains_apart_and_one_that_is_cut_in_two() -> None:
    rng = np.random.default_rng(0)
    parts = {}
    for name in ("one", "other"):
        names = tuple(f"{name} {i}" for i in range(80))
        parts[name] = Domain(name, names, (None,) * 80, names, names, names, (None,) * 80, names)
    health = Health(parts, seed=0)
    apart = health.measure({"one": rng.normal(0, 1, (80, 8)), "other": rng.normal(1, 1, (80, 8))})
    alike = health.measure({name: rng.normal(0, 1, (80, 8)) for name in parts})
    assert apart is not None and alike is not None
    assert apart["probe"] > 0.85 and apart["mmd"][0]["p"] < 0.01
    assert alike["probe"] < 0.65 and alike["mmd"][0]["p"] > 0.01


def test_the_estimated_shift_of_the_classes() -> None:
    """Where probes are right the estimate is the total variation between the classes' shares."""
    rng = np.random.default_rng(0)

    def drawn(*counts: int) -> np.ndarray:
        return np.repeat(np.eye(2), counts, axis=0) * 10 + rng.normal(0, 0.5, (sum(counts), 2))

    labels = np.repeat([0, 1], 50)
    targets = {"same": drawn(50, 50), "skewed": drawn(90, 10), "tiny": drawn(2, 3)}
    found = label_shift(drawn(50, 50), labels, targets, 2)
    assert found["same"] == pytest.approx(0, abs=1e-3) and found["skewed"] == pytest.approx(0.4, abs=1e-3)
    assert "tiny" not in found
    assert label_shift(drawn(50, 50), np.where(labels == 0, 0, -1), targets, 2) == {}  # one class only


def of_groups(name: str, groups: list[str]) -> Domain:
    ids = tuple(f"{name} {i}" for i in range(len(groups)))
    return Domain(name, ids, (None,) * len(ids), ids, ids, tuple(groups), (None,) * len(ids), ids)


@pytest.mark.parametrize("shared", [False, True], ids=["own groups", "pairs"])
def test_the_p_value_keeps_its_level_under_groups(shared: bool) -> None:
    """Equal distributions, groups of four alike rows: row by row 96 % of such p-values are below 0.05."""
    rng, below = np.random.default_rng(0), 0
    names = {"a": [f"a{i // 4}" for i in range(48)], "b": [f"{'a' if shared else 'b'}{i // 4}" for i in range(48)]}
    parts = {name: of_groups(name, groups) for name, groups in names.items()}
    for repeat in range(120):
        centres = {name: rng.normal(size=(12, 5)) for name in parts}
        if shared:
            centres["b"] = centres["a"]
        rows = {name: np.repeat(centres[name], 4, axis=0) + 0.3 * rng.normal(size=(48, 5)) for name in parts}
        found = Health(parts, seed=repeat).measure(rows)
        assert found is not None
        below += found["mmd"][0]["p"] <= 0.05
    assert below / 120 <= 0.11  # 0.05 and three standard errors


def test_one_group_on_a_side_is_not_measured_and_that_is_what_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"a": of_groups("a", ["x"] * 30), "b": of_groups("b", [str(i) for i in range(30)])}
    values = {name: np.random.default_rng(0).normal(size=(30, 4)) for name in parts}
    assert Health(parts, seed=0).measure(values) is None
    warn_about({"last_step": {}, "label_shift": {}}, {"mmd": 1.0}, Watch(), 0.9, 0.9, 3)
    assert "or all of one group" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(6))
def test_the_probe_never_sees_a_group_on_both_sides(seed: int) -> None:
    """Of two groups a side that cannot be told apart but by their members, a fresh probe knows nothing."""
    parts = {name: of_groups(name, [f"{name}{i // 15}" for i in range(30)]) for name in ("a", "b")}
    rng = np.random.default_rng(seed)
    values = {name: np.repeat(rng.normal(size=(2, 64)), 15, axis=0) for name in parts}  # rows of a group are one point
    found = Health(parts, seed=seed).measure(values)
    assert found is not None and found["probe"] in (0.0, 0.5, 1.0)  # whole groups are right or wrong


def test_the_classes_shift_is_estimated_on_groups_that_the_probe_has_not_seen() -> None:
    """Labels by chance, two copies of everything: a probe that knows the copy would seem perfect, and the shift large."""
    rng, found = np.random.default_rng(0), []
    rows = np.repeat(rng.normal(size=(60, 200)), 2, axis=0)
    labels, groups = np.repeat(rng.integers(0, 2, 60), 2), [str(i // 2) for i in range(120)]
    target = {"t": rng.normal(size=(200, 200))}
    for given in (None, groups):
        found.append(label_shift(rows, labels, target, 2, given)["t"])
    alone = label_shift(rows[::2], labels[::2], target, 2)["t"]
    assert found[1] == pytest.approx(alone, abs=0.15)
