"""Gentle tunings by their effects: who moves when, how far, and from where."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import injerto
from injerto.basics.errors import InjertoError
from injerto.training.trainer import Trainer

Weights = dict[str, torch.Tensor]


@pytest.fixture
def steps_of(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, list[Weights], Trainer]]:
    """A function: a run on ``day``, the weights before the first step and after each one, and its trainer."""

    def go(**settings: Any) -> tuple[Any, list[Weights], Trainer]:
        seen: list[Weights] = []
        trainers: list[Trainer] = []
        original = Trainer._step

        def step(self: Trainer, batch: Any) -> float:
            if not seen:
                trainers.append(self)
                seen.append({n: t.detach().clone() for n, t in self.model.named_parameters()})
            loss = original(self, batch)
            seen.append({n: t.detach().clone() for n, t in self.model.named_parameters()})
            return loss

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "_step", step)
            out = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
            given = {"source": "day", "backbone": tiny_timm, "augment": "none", "select": "last"} | quick
            run = injerto.fit(pictures, out=out, **(given | settings))
        return run, seen, trainers[0]

    return go


def moved(a: Weights, b: Weights, trainer: Trainer) -> set[int]:
    """Stages of the backbone that differ."""
    backbone, prefix = trainer.model.backbone, "backbone.model."
    return {
        backbone.stage_of(name.removeprefix(prefix))
        for name in a
        if name.startswith(prefix) and not torch.equal(a[name], b[name])
    }


def test_gradual_thaws_from_the_top(steps_of: Any) -> None:
    _, seen, trainer = steps_of(tuning="gradual", steps=20, lr=1e-2)
    count = len(trainer.model.backbone.stages)  # 5: stem and four levels
    thirds = [count, -(-2 * count // 3), -(-count // 3), 0]
    for step in range(20):
        frozen = thirds[min(step // 4, 3)]  # a fifth of the steps each, the rest for everything
        assert moved(seen[step], seen[step + 1], trainer) == set(range(frozen, count)), step
        assert not torch.equal(seen[step]["head.layers.0.weight"], seen[step + 1]["head.layers.0.weight"])


def test_layer_decay_is_the_rate_of_each_stage(steps_of: Any) -> None:
    settings = {"tuning": "full", "optimizer": "sgd", "steps": 1, "warmup": 0, "clip": 0, "weight_decay": 0, "lr": 1e-2}
    _, plain, trainer = steps_of(**settings)
    _, decayed, _ = steps_of(layer_decay=0.5, **settings)
    backbone = trainer.model.backbone
    for name in plain[0]:
        factor = 1.0
        if name.startswith("backbone."):
            depth = len(backbone.stages) - 1 - backbone.stage_of(name.removeprefix("backbone.model."))
            factor = 0.5**depth
        change, small = plain[1][name] - plain[0][name], decayed[1][name] - decayed[0][name]
        torch.testing.assert_close(small, factor * change, rtol=2e-2, atol=2e-7)


def test_l2_sp_around_zero_is_adamw_s_weight_decay(steps_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"tuning": "full", "steps": 1, "lr": 1e-2, "head_lr": 1e-2, "warmup": 0}  # then Adam turns dust to steps
    original = Trainer._optimizer

    def around_zero(self: Trainer) -> Any:
        optimizer = original(self)
        for group in optimizer.param_groups:
            group["start"] = [torch.zeros_like(start) for start in group["start"]]
        return optimizer

    def decays_everything(self: Trainer) -> Any:
        optimizer = original(self)
        backbone = {id(p) for p in self.model.backbone.parameters()}
        for group in optimizer.param_groups:
            if id(group["params"][0]) in backbone:
                group["weight_decay"] = 0.3
        return optimizer

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer", around_zero)
        _, pulled, _ = steps_of(l2_sp=0.3, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_optimizer", decays_everything)
        _, decayed, _ = steps_of(**settings)
    for name in pulled[-1]:
        torch.testing.assert_close(pulled[-1][name], decayed[-1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_l2_sp_holds_the_backbone_near_its_start_and_leaves_the_head(steps_of: Any) -> None:
    distances, heads = [], []
    for strength in (0.0, 5.0, 80.0):
        _, seen, _ = steps_of(tuning="full", steps=25, lr=1e-2, l2_sp=strength)
        start, end = seen[0], seen[-1]
        distances.append(sum(float((end[n] - start[n]).square().sum()) for n in start if n.startswith("backbone")))
        heads.append(float(end["head.layers.0.weight"].norm()))
    assert distances[0] > 1.3 * distances[1] > 4 * distances[2]
    assert heads[2] > 0.5 * heads[0]


def test_lp_ft_starts_at_the_probe(steps_of: Any, pictures: Path) -> None:
    run, seen, trainer = steps_of(tuning="lp-ft", steps=2, slider=True)
    base = injerto.load(run.path, slider=0)
    domain = injerto.load_domains(pictures)["day"]
    sides = run.recorded_splits()
    parts = {
        side: domain.subset([i for i, content in enumerate(domain.contents) if sides[content] == side])
        for side in ("train", "val", "test")
    }
    values = {side: base.embed(list(part.inputs)).astype(np.float64) for side, part in parts.items()}
    scaler = StandardScaler().fit(values["train"])
    truth = {side: np.asarray(part.labels) for side, part in parts.items()}
    best: tuple[tuple[float, float], Any] | None = None
    for strength in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
        model = LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
        model.fit(scaler.transform(values["train"]), truth["train"])
        chances = model.predict_proba(scaler.transform(values["val"]))
        likely = chances[np.arange(len(chances)), np.searchsorted(model.classes_, truth["val"])]
        score = (
            float((model.predict(scaler.transform(values["val"])) == truth["val"]).mean()),
            float(np.log(likely).mean()),
        )
        if best is None or score > best[0]:
            best = (score, model)
    assert best is not None
    expected = best[1].predict_proba(scaler.transform(values["test"]))
    np.testing.assert_allclose(base.predict_proba(list(parts["test"].inputs)), expected, atol=2e-3)
    head = trainer.model.head  # folded by now: its first weights were those of the probe, in its own scale
    assert seen[0]["head.layers.0.weight"].abs().sum() > 0 and head is not None


@pytest.mark.slow
def test_the_average_is_what_ships(steps_of: Any) -> None:
    run, seen, _ = steps_of(tuning="full", steps=30, average="ema", lr=1e-3)
    assert run.metrics["selection"]["rule"] == "ema"
    name = "backbone.model.conv1.weight"
    mean = seen[1][name]
    for step, weights in enumerate(seen[2:], start=1):
        decay = min(1 - 1 / 3, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weights[name]
    torch.testing.assert_close(run.model.state_dict()[name], mean, rtol=1e-4, atol=1e-6)
    run, _, _ = steps_of(tuning="full", steps=30, average="swad", lr=1e-3, select=None)
    assert run.metrics["selection"]["rule"] == "swad"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"tuning": "lp-ft", "head": "mlp"}, "linear"),
        ({"tuning": "lp-ft", "neck": "8"}, "no neck"),
        ({"tuning": "head", "slider": True}, "--slider"),
        ({"tuning": "full", "average": "swad", "select": "best-source-val"}, "swad"),
        ({"tuning": "head", "head": "probe", "average": "ema"}, "solved"),
        ({"tuning": "full", "layer_decay": 0}, "layer-decay"),
        ({"tuning": "full", "layer_decay": 1.5}, "layer-decay"),
        ({"tuning": "full", "l2_sp": -1}, "l2-sp"),
        ({"tuning": "full", "lr": "fast"}, "lr"),
    ],
)
def test_what_does_not_fit_together_is_refused(settings: dict[str, Any], words: str, steps_of: Any) -> None:
    with pytest.raises(InjertoError, match=words) as caught:
        steps_of(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_few_examples_get_enough_steps(steps_of: Any) -> None:
    run, seen, _ = steps_of(tuning="full", shots=2, batch_size=None, lr=1e-3)
    assert len(seen) - 1 == 60
    metrics = run.metrics
    assert metrics["domains"]["day"]["splits"]["val"]["n"] == 6
    assert metrics["domains"]["day"]["splits"]["test"]["n"] == 6  # all of them
    _, seen, _ = steps_of(tuning="full", shots=2, epochs=2)
    assert len(seen) - 1 == 2


def test_more_shots_contain_fewer(steps_of: Any) -> None:
    def train(shots: int) -> set[str]:
        run, _, _ = steps_of(tuning="head", shots=shots, steps=2)
        return {content for content, side in run.recorded_splits().items() if side == "train"}

    one, three = train(1), train(3)
    others = {c for c in one & three}
    assert len(one) < len(three) and others == one


def test_swad_without_val_is_refused(pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    import shutil

    for label in ("blue", "red"):  # one example a class: all of them train
        (tmp_path / "few" / "day" / label).mkdir(parents=True)
        shutil.copyfile(pictures / "day" / label / "0.png", tmp_path / "few" / "day" / label / "0.png")
    with pytest.raises(InjertoError, match="swad looks for a valley"):
        injerto.fit(tmp_path / "few", backbone=tiny_timm, tuning="full", average="swad", out=tmp_path / "r", **quick)
