"""Which checkpoint is kept: a validator chooses, its guard holds, and no target label is read."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import injerto
from injerto.basics.errors import InjertoError
from injerto.evaluation.validators import VALIDATORS, Evidence, Verdict, best_of, judge
from injerto.statistics.recall import mean_recall
from injerto.training import fit as fit_module
from injerto.training.progress import Progress


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory, data_writers: SimpleNamespace) -> Path:
    root = tmp_path_factory.mktemp("data") / "styles"
    return Path(data_writers.pictures(root, per_class=20, domains=("day", "dusk", "night")))


@pytest.fixture
def settings(tiny_timm: Path, quick: dict[str, Any]) -> dict[str, Any]:
    more = {"source": "day", "target": "dusk", "backbone": tiny_timm, "tuning": "full", "epochs": 6, "lr": 1e-3}
    return more | {"alignment": "mmd", "augment": "none"} | quick


def log_of(run: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "name", [name if name in ("infomax", "iwv") else pytest.param(name, marks=pytest.mark.slow) for name in VALIDATORS]
)
def test_the_checkpoint_with_the_best_score_is_kept(
    name: str, styles: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    run = injerto.fit(styles, select=name, out=tmp_path / "run", **settings)
    entries, chosen = log_of(run), run.metrics["selection"]
    allowed = [entry for entry in entries if entry["rejected"] is None]
    assert chosen["rule"] == name and len(entries) >= 4
    if allowed:
        assert chosen["score"] == pytest.approx(max(entry["validator"] for entry in allowed))
        assert chosen["step"] in {e["step"] for e in allowed if e["validator"] == pytest.approx(chosen["score"])}
    shipped = run.metrics["validators"]
    if allowed and shipped["rejected"] is None:
        assert shipped["scores"][name] == pytest.approx(chosen["score"], rel=1e-3, abs=1e-4)  # what ships is that one


def test_a_validator_of_ones_own_decides(
    styles: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second evaluation is declared the best: exactly its weights ship."""
    calls: list[float] = []

    def second(name: str, evidence: Any, reference: float, seed: int) -> Verdict:
        calls.append(reference)
        score = 1.0 if len(calls) == 2 else 0.0
        return Verdict(score, None, score)

    monkeypatch.setattr(fit_module, "judge", second)
    run = injerto.fit(styles, select="infomax", out=tmp_path / "run", **settings)
    assert run.metrics["selection"]["step"] == log_of(run)[1]["step"]
    assert calls == sorted(calls)  # the reference is the best accuracy so far
    steps = log_of(run)[1]["step"]
    short = injerto.fit(styles, select="last", out=tmp_path / "short", **settings | {"epochs": None, "steps": steps})
    assert short.path.exists()


def test_all_turned_away_the_best_on_the_source_is_kept_and_said(
    styles: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(fit_module, "judge", lambda *given: Verdict(-np.inf, "collapsed", 5.0))
    run = injerto.fit(styles, select="snd", out=tmp_path / "run", **settings)
    best = max(entry["val_accuracy"] for entry in log_of(run))
    chosen = next(e for e in log_of(run) if e["step"] == run.metrics["selection"]["step"])
    assert chosen["val_accuracy"] == best and run.metrics["selection"]["score"] is None
    assert "every checkpoint was turned away" in capsys.readouterr().err


def test_permuted_target_labels_change_no_choice(styles: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    poisoned = tmp_path / "poisoned"
    (poisoned / "dusk").mkdir(parents=True)
    for name in ("day", "night"):
        (poisoned / name).symlink_to(styles / name)
    for old, new in (("blue", "red"), ("green", "blue"), ("red", "green")):
        (poisoned / "dusk" / new).symlink_to(styles / "dusk" / old)
    one = injerto.fit(styles, select="infomax", out=tmp_path / "one", **settings)
    other = injerto.fit(poisoned, select="infomax", out=tmp_path / "other", **settings)
    assert one.metrics["selection"] == other.metrics["selection"]
    assert one.metrics["validators"] == other.metrics["validators"]
    a, b = (load_file(r.path / "adapter" / "adapter_model.safetensors") for r in (one, other))
    assert all((a[key] == b[key]).all() for key in a)


def test_a_plain_run_with_a_target_is_judged_too(styles: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    run = injerto.fit(styles, out=tmp_path / "run", **settings | {"alignment": "none", "select": "bnm"})
    assert run.metrics["selection"]["rule"] == "bnm"
    assert set(run.metrics["validators"]["scores"]) == set(VALIDATORS)
    no_target = injerto.fit(styles, out=tmp_path / "b", **settings | {"alignment": "none", "target": None})
    assert no_target.metrics["validators"] is None


def test_the_guard_holds_in_hindsight() -> None:
    """What was chosen while nothing better was known on the source is given up once it would be refused."""
    progress = Progress()
    for step, (accuracy, score, rejected, better) in enumerate(
        [
            (0.4, 9.0, None, True),
            (0.5, 3.0, None, False),
            (0.9, 2.0, None, True),  # 0.4 is now far below the best on the source
            (0.7, 99.0, "collapsed", False),
            (0.88, 4.0, None, True),
        ]
    ):
        progress.step, progress.reference = step, max(progress.reference, accuracy)
        assert progress.better((accuracy, -1.0), Verdict(score, rejected, score)) == better, step
    assert progress.best_step == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"select": "infomix"}, "did you mean 'infomax'"),
        ({"select": "infomax", "target": None, "alignment": "none"}, "it needs a --target"),
        ({"select": "infomax", "average": "swad"}, "chooses its own weights"),
    ],
)
def test_what_cannot_choose_is_refused(
    changes: dict[str, Any], message: str, styles: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InjertoError, match=message):
        injerto.fit(styles, out=tmp_path / "run", **settings | changes)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory, data_writers: SimpleNamespace) -> Path:
    """Pictures of which most are of one class."""
    root = Path(
        data_writers.pictures(tmp_path_factory.mktemp("data") / "uneven", per_class=30, domains=("day", "dusk"))
    )
    for domain in ("day", "dusk"):
        for label in ("green", "red"):
            for path in sorted((root / domain / label).iterdir())[12:]:
                path.unlink()
    return root


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_balanced_class_weights_choose_by_balanced_accuracy(
    class_weights: str, uneven: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    more = {"target": (), "alignment": "none", "select": "best-source-val", "lr": 3e-3, "class_weights": class_weights}
    run = injerto.fit(uneven, out=tmp_path / "run", **(settings | more))
    entries, chosen = log_of(run), run.metrics["selection"]
    name = "val_balanced_accuracy" if class_weights == "balanced" else "val_accuracy"
    assert chosen["score"] == max(entry[name] for entry in entries)
    assert next(e for e in entries if e["step"] == chosen["step"])[name] == chosen["score"]
    val = run.metrics["domains"]["day"]["splits"]["val"]  # the log's numbers are those of the report
    last = next(entry for entry in entries if entry["step"] == chosen["step"])
    assert last["val_accuracy"] == pytest.approx(val["accuracy"])
    assert last["val_balanced_accuracy"] == pytest.approx(val["balanced_accuracy"])
    assert last["val_nll"] == pytest.approx(val["nll"], rel=1e-3)


def test_the_guard_and_the_source_validator_count_classes_equally_then() -> None:
    rng = np.random.default_rng(0)
    labels = np.asarray([0] * 90 + [1] * 10)
    lazy = np.where(np.arange(100)[:, None] < 94, [[2.0, 0.0]], [[0.0, 2.0]])  # 96 % right, 60 + 100 % by class
    fair = np.where(
        (labels == 1)[:, None] | (np.arange(100)[:, None] < 12), [[0.0, 2.0]], [[2.0, 0.0]]
    )  # 88 %, 87 + 100
    target = rng.normal(size=(50, 2)) * 3
    for balanced, best in ((False, 0), (True, 1)):
        evidence = [
            Evidence(logits, labels, rng.normal(size=(100, 4)), target, rng.normal(size=(50, 4)), balanced=balanced)
            for logits in (lazy, fair)
        ]
        assert best_of("source", evidence) == best
        accuracies = [mean_recall(logits.argmax(1) == labels, labels) for logits in (lazy, fair)]
        verdict = judge("infomax", evidence[0], max(accuracies))
        assert (verdict.rejected is not None) == balanced  # 0.8 is more than 0.1 below 0.93


def test_a_validator_judges_a_balanced_run_by_one_measure(
    uneven: Path, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference and what the guard holds against it are the same accuracy."""
    seen: list[tuple[float, float]] = []

    def watched(name: str, evidence: Any, reference: float, seed: int) -> Verdict:
        known = np.asarray(evidence.source_labels)
        seen.append((mean_recall(evidence.source_logits.argmax(1) == known, known), reference))
        assert evidence.balanced
        return judge(name, evidence, reference, seed)

    monkeypatch.setattr(fit_module, "judge", watched)
    more = {"class_weights": "balanced", "select": "source"}
    run = injerto.fit(uneven, out=tmp_path / "run", **(settings | more))
    best = 0.0
    for entry, (_, reference) in zip(log_of(run), seen, strict=False):
        best = max(best, entry["val_balanced_accuracy"])
        assert reference == pytest.approx(best)
