"""Whole runs with the second dial: roles, leaks, resuming, every tuning and both modalities."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import injerto
import tiny
from injerto.alignment.schedule import ramp
from injerto.basics.errors import InjertoError
from injerto.training.objectives import Classification
from injerto.training.trainer import Trainer

CLASSES = ("blue", "green", "red")
TERMS = ("mmd", "lmmd", "coral", "dann", "cdan", "cdan-e", "mcc", "supcon", "self-training")


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory, data_writers: SimpleNamespace) -> Path:
    """Four domains that differ in light, with enough held-out examples to be measured."""
    return data_writers.pictures(tmp_path_factory.mktemp("data") / "styles", 24, ("day", "dusk", "night", "dawn"))


def poisoned(data: Path, out: Path, domain: str) -> Path:
    """A copy in which the pictures of one domain are in the wrong class folders."""
    shutil.copytree(data, out)
    moved = {label: sorted((out / domain / label).iterdir()) for label in CLASSES}
    for label, wrong in zip(CLASSES, CLASSES[1:] + CLASSES[:1], strict=True):
        for path in moved[label]:
            path.rename(out / domain / wrong / f"{label}-{path.name}")
    return out


def non_oracle(metrics: dict[str, Any]) -> dict[str, Any]:
    """All that may be looked at: everything but times and the metrics of targets and unseen domains."""
    apart = ("domains", "adapter_bytes", "files")  # files: checksums also over the targets' labels
    kept = {key: value for key, value in tiny.timeless(metrics).items() if key not in apart}
    kept["domains"] = {name: entry for name, entry in metrics["domains"].items() if not entry["oracle"]}
    return kept


FAMILIES: dict[str, dict[str, Any]] = {
    "head, all terms": {"tuning": "head", "alignment": "+".join(TERMS)},
    "lora and mmd": {"tuning": "lora", "alignment": "mmd(stages=2,frequencies=estimated)"},
    "last and dann": {"tuning": "last:1", "alignment": "dann", "augment": "light", "views": 2},
    "full and mcc": {"tuning": "full", "alignment": "mcc", "norm": "recalibrate:target", "average": "ema"},
    "target only looked at": {"tuning": "last:1", "alignment": "none"},
    "generalization": {"tuning": "head", "alignment": "cdann+coral", "source": ["day", "dawn"], "objective": "vrex"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_permuted_target_labels_change_nothing_but_oracle_numbers(
    family: str, styles: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"source": "day", "target": "dusk", "backbone": tiny_timm, "steps": 6, "shots": 6} | quick
    settings |= FAMILIES[family]
    runs = []
    for name, data in (("right", styles), ("wrong", poisoned(styles, tmp_path / "wrong-data", "dusk"))):
        runs.append(injerto.fit(data, out=tmp_path / name, **settings))
    right, wrong = runs
    assert (right.path / "splits.csv").read_bytes() == (wrong.path / "splits.csv").read_bytes()
    for file in ("head.safetensors", "adapter_model.safetensors"):
        if (right.path / "adapter" / file).exists():
            one, other = (load_file(run.path / "adapter" / file) for run in runs)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)
    assert non_oracle(right.metrics) == non_oracle(wrong.metrics)
    test = (run.metrics["domains"]["dusk"]["splits"]["test"] for run in runs)
    assert next(test)["confusion"] != next(test)["confusion"]  # the labels were really different
    logs = [[json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()] for run in runs]
    assert [{**a, "time": 0} for a in logs[0]] == [{**b, "time": 0} for b in logs[1]]


def test_resuming_gives_the_same_bits_and_the_same_lambda(
    styles: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "source": ["day", "dawn"], "target": "dusk", "backbone": tiny_timm, "steps": 12, "tuning": "last:1",
        "alignment": "dann+cdan-e+self-training+mmd(frequencies=estimated)", "objective": "group-dro", "shots": 4, "augment": "light", "views": 2,
    } | quick  # fmt: skip
    whole = injerto.fit(styles, out=tmp_path / "whole", **settings)
    seen: list[float] = []
    forward = Classification.forward

    def watched(self: Classification, part: Any, p: float) -> torch.Tensor:
        seen.append(p)
        return forward(self, part, p)

    monkeypatch.setattr(Classification, "forward", watched)
    monkeypatch.setattr("injerto.training.trainer.SAVE_SECONDS", 0)
    step = Trainer._step

    def stop(self: Trainer, batch: Any) -> float:
        if self.progress.step == 7 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        injerto.fit(styles, out=tmp_path / "cut", **settings)
    (tmp_path / "again").touch()
    before = len(seen)
    cut = injerto.fit(styles, out=tmp_path / "cut", resume=True, **settings)
    first = round(seen[before] * 12)
    assert 0 < first <= 7
    assert seen[before:] == [step / 12 for step in range(first, 12)]  # evaluation does not move it
    assert ramp(seen[-1]) == pytest.approx(0.9998, abs=1e-3)
    one, other = (load_file(run.path / "adapter" / "head.safetensors") for run in (whole, cut))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert non_oracle(whole.metrics) == non_oracle(cut.metrics)


def test_each_domain_has_its_share_of_a_step(
    styles: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[Any] = []
    step = Trainer._step

    def watched(self: Trainer, batch: Any) -> float:
        batches.append(batch)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", watched)
    injerto.fit(
        styles, source=["day", "dawn"], target=["dusk", "night"], backbone=tiny_timm, alignment="mmd+self-training",
        steps=5, out=tmp_path / "r", target_labels=1, **quick,
    )  # fmt: skip
    for batch in batches:
        counts = {(int(d), int(v)): 0 for d, v in zip(batch.domain, batch.view, strict=True)}
        for d, v in zip(batch.domain, batch.view, strict=True):
            counts[int(d), int(v)] += 1
        assert counts == {(0, 0): 2, (1, 0): 2, (2, 0): 8, (3, 0): 8, (2, 1): 8, (3, 1): 8, (2, 2): 2, (3, 2): 2}
        assert (batch.labels[(batch.domain > 1) & (batch.view < 2)] == -1).all()
        assert (batch.labels[batch.view == 2] >= 0).all()


def test_target_labels_are_the_few_that_were_given_away(
    styles: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    with (tmp_path / "few.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "label"))
        writer.writerows((f"dusk/{label}/{i}.png", label) for label in CLASSES for i in range(6))
    settings = {"source": "day", "target": "dusk", "backbone": tiny_timm, "steps": 20} | quick
    run = injerto.fit(styles, out=tmp_path / "r", target_labels=str(tmp_path / "few.csv"), **settings)
    assert run.metrics["domains"]["dusk"]["splits"]["test"]["accuracy"] > 0.5
    (tmp_path / "few.csv").write_text("path,label\ndusk/blue/0.png,pink\n")
    with pytest.raises(InjertoError, match="no source has the class 'pink'"):
        injerto.fit(styles, out=tmp_path / "x", target_labels=str(tmp_path / "few.csv"), **settings)
    (tmp_path / "few.csv").write_text("path,label\nelsewhere/0.png,blue\n")
    with pytest.raises(InjertoError, match="none of its paths"):
        injerto.fit(styles, out=tmp_path / "x", target_labels=str(tmp_path / "few.csv"), **settings)
    (tmp_path / "few.csv").write_text("path,label\ndusk/blue/0.png,blue\ndusk/blue/0.png,red\n")
    with pytest.raises(InjertoError, match="'dusk/blue/0.png' has two labels"):
        injerto.fit(styles, out=tmp_path / "x", target_labels=str(tmp_path / "few.csv"), **settings)


def test_target_labels_that_are_not_there_or_not_for_learning_are_told(
    styles: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blank = tmp_path / "blank"
    blank.mkdir()
    for number, path in enumerate(sorted((styles / "dusk").rglob("*.png"))):
        shutil.copy(path, blank / f"{number}.png")
    settings = {"source": "day", "backbone": tiny_timm, "steps": 2} | quick
    with pytest.raises(InjertoError, match="'new' has no labels of the sources' classes to give away"):
        injerto.fit(styles, out=tmp_path / "x", target=f"new={blank}", target_labels=2, **settings)
    rows = "".join(f"dusk/{label}/{i}.png,{label}\n" for label in CLASSES for i in range(24))
    (tmp_path / "all.csv").write_text(f"path;label\n{rows}".replace(",", ";"))  # as a spreadsheet writes it
    injerto.fit(styles, out=tmp_path / "y", target="dusk", target_labels=str(tmp_path / "all.csv"), **settings)
    assert "of 72 paths are no train example of a target and are left out" in capsys.readouterr().err


def test_a_target_with_an_equals_sign_and_one_that_is_the_source(
    styles: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(styles / "day", tmp_path / "data" / "day")
    shutil.copytree(styles / "day", tmp_path / "data" / "p=q")
    settings = {"source": "day", "target": "p=q", "backbone": tiny_timm, "steps": 2} | quick
    run = injerto.fit(tmp_path / "data", out=tmp_path / "r", alignment="mmd", **settings)
    assert run.metrics["domains"]["p=q"]["role"] == "target"
    assert "72 inputs of target 'p=q' are in a source too" in capsys.readouterr().err


def test_an_adversarys_loss_is_not_taken_for_a_head_that_does_not_learn(
    styles: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"source": "day", "target": "dusk", "backbone": tiny_timm, "steps": 40, "tuning": "last:1"} | quick
    run = injerto.fit(styles, out=tmp_path / "r", alignment="cdan(penalty=1000)+mmd:100", **settings)
    assert not any("not learning" in text or "over-fitting" in text for text in run.metrics["warnings"])


TEXTS: dict[str, dict[str, Any]] = {
    "head": {"tuning": "head", "alignment": "mmd+self-training"},
    "lora, stages": {"tuning": "lora", "alignment": "mmd(stages=1/2)+dann"},
    "last": {"tuning": "last:1", "alignment": "cdan-e+mcc", "augment": "light", "views": 2},
    "full, in parts": {"tuning": "full", "alignment": "coral+lmmd+supcon", "accumulate": 2},
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts(case: str, reviews: Path, tiny_bert: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    run = injerto.fit(
        reviews, source="films", target="books", backbone=tiny_bert, steps=6, out=tmp_path / "r", **TEXTS[case], **quick
    )
    entry = json.loads((run.path / "log.jsonl").read_text().splitlines()[-1])
    for term in TEXTS[case]["alignment"].split("+"):
        name = term.split("(")[0]
        assert np.isfinite(entry[f"loss/{name}"])
        assert entry[f"gradient/{name}"] > 0 or name in ("self-training",)
    assert entry["gradient/labelled"] > 0
    block = run.metrics["alignment"]
    assert block["probe"]["chance"] == 0.5
    assert 0 <= block["mmd"][0]["before"]["p"] <= 1


@pytest.mark.parametrize(
    ("augment", "tuning"), [("mixup", "full"), ("light+mixup", "last:1"), ("mixstyle", "full"), ("mixup", "head")]
)
def test_mixing_trains_and_aligns(
    augment: str, tuning: str, styles: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    settings = {
        "source": ["day", "dawn"],
        "target": "dusk",
        "backbone": tiny_timm,
        "steps": 6,
        "tuning": tuning,
    } | quick
    run = injerto.fit(styles, out=tmp_path / "r", augment=augment, alignment="lmmd+dann", **settings)
    plain = injerto.fit(styles, out=tmp_path / "p", alignment="lmmd+dann", **settings)
    one, other = (load_file(r.path / "adapter" / "head.safetensors") for r in (run, plain))
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alignment": "mcc"}, "mcc needs a --target"),
        ({"alignment": "mmd"}, "mmd needs two domains"),
        ({"alignment": "cdann", "target": "dusk"}, "two or more --source"),
        ({"objective": "irm"}, "--objective irm compares sources"),
        ({"objective": "iram", "source": ["day", "dusk"]}, "unknown --objective 'iram'"),
        ({"objective": "vrex(beta=1)", "source": ["day", "dusk"]}, "unknown option 'beta'"),
        ({"alignment": "mmd", "target": "dusk", "neck": "none"}, "leave --neck out"),
        ({"alignment": "mmd(stages=1)", "target": "dusk", "tuning": "last:1"}, "stage 1 cannot be aligned"),
        ({"alignment": "mmd(stages=1)", "target": "dusk"}, "stage 1 cannot be aligned.*under this --tuning: none"),
        ({"alignment": "mmd(frequencies=estimated,estimator=linear)", "target": "dusk"}, "leave one of them out"),
        ({"alignment": "mmd", "target": {"new": "flat"}}, "is written 'new=flat'"),
        ({"alignment": "mmd", "target": "=dusk"}, "the name is missing; write NAME=PATH"),
        ({"alignment": "mmd", "target": "dusk="}, "the path is missing; write NAME=PATH"),
        ({"alignment": "mmd", "target": "dusk=nowhere"}, "nothing at 'nowhere'; write NAME=PATH"),
        ({"alignment": "mmd", "target": "dusk", "head": "probe"}, "cannot be aligned"),
        ({"alignment": "supcon", "augment": "mixup"}, "needs whole labels"),
        ({"augment": "mixstyle"}, "use --tuning full or lora"),
        ({"augment": "light+standard"}, "one policy"),
        ({"augment": "mixwell"}, "unknown --augment 'mixwell'"),
        ({"target_labels": 3}, "needs a --target"),
        ({"target_labels": 0, "target": "dusk"}, "must be 1 or more"),
        ({"target_labels": "nowhere.csv", "target": "dusk"}, "nowhere.csv: No such file.*a whole number"),
        ({"alignment": "MMD", "target": "dusk"}, r"names are written small: mmd"),
        ({"alignment": "mmd", "target": "dusk", "patience": 3}, "keeps its last step; leave it out"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_line(
    settings: dict[str, Any], message: str, styles: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    given = {"source": "day", "backbone": tiny_timm, "steps": 2} | quick | settings
    with pytest.raises(InjertoError, match=message) as found:
        injerto.fit(styles, out=tmp_path / "r", **given)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "r" / "log.jsonl").exists()


def test_a_target_from_elsewhere_leaves_the_only_domain_as_the_source(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    live = f"live={pictures / 'night'}"
    run = injerto.fit(
        pictures / "day", target=live, backbone=tiny_timm, tuning="head", steps=2, out=tmp_path / "a", **quick
    )
    assert {name: entry["role"] for name, entry in run.metrics["domains"].items()} == {
        "day": "source",
        "live": "target",
    }
