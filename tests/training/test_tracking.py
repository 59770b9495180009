"""Trackers write what the log says, inside the run's folder, and change nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

import injerto
from injerto.basics.errors import InjertoError
from injerto.training import tracking


@pytest.fixture
def settings(tiny_timm: Path, quick: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_SILENT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return {"source": "day", "backbone": tiny_timm, "tuning": "head", "epochs": 4} | quick


def log_of(run: Any) -> dict[int, float]:
    entries = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    return {entry["step"]: entry["val_nll"] for entry in entries}


def test_tensorboard(pictures: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain = injerto.fit(pictures, out=tmp_path / "plain", **settings)
    run = injerto.fit(pictures, out=tmp_path / "run", track="tensorboard", **settings)
    (file,) = (path for path in run.path.rglob("events.out.tfevents.*") if path.parent.name == "injerto")
    events = EventAccumulator(str(file.parent))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("val_nll")}
    assert found == pytest.approx(log_of(run), rel=1e-6)
    for name in ("adapter_model.safetensors", "head.safetensors"):
        assert (plain.path / "adapter" / name).read_bytes() == (run.path / "adapter" / name).read_bytes()


def test_mlflow(pictures: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    import mlflow

    run = injerto.fit(pictures, out=tmp_path / "run", track="mlflow", **settings)
    client = mlflow.MlflowClient(f"sqlite:///{run.path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("injerto")
    (tracked,) = client.search_runs([experiment.experiment_id])
    found = {metric.step: metric.value for metric in client.get_metric_history(tracked.info.run_id, "val_nll")}
    assert found == pytest.approx(log_of(run))
    assert tracked.data.params["tuning"] == "head"


def test_wandb_offline(pictures: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    run = injerto.fit(pictures, out=tmp_path / "run", track="wandb", **settings)
    assert list((run.path / "wandb").glob("offline-run-*/*.wandb"))


def test_a_missing_package_is_said_before_anything_runs(
    pictures: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(InjertoError, match=r"--track mlflow: .*pip install mlflow-skinny"):
        injerto.fit(pictures, out=tmp_path / "run", track="mlflow", **settings)
    assert not (tmp_path / "run").exists()
