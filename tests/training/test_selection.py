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
from injerto.evaluation.validators import VALIDATORS, Verdict
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
