"""EMA against its formula, SWAD against the paper's algorithm written down naively."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import injerto
from injerto.compute.plan import make_plan
from injerto.training.averages import Ema, Swad, estimate_norms
from injerto.training.examples import Batch
from injerto.training.trainer import Trainer

Weights = dict[str, torch.Tensor]


def course(seed: int, steps: int) -> list[Weights]:
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(steps, 5, generator=generator).cumsum(0)
    return [{"w": row.clone(), "count": torch.tensor(step)} for step, row in enumerate(walk)]


def test_ema_follows_its_formula() -> None:
    steps = 50
    average, mean = Ema(steps), None
    for step, weights in enumerate(course(0, steps)):
        average.step(weights)
        decay = min(1 - 1 / (0.1 * steps), (1 + step) / (10 + step))
        mean = weights["w"].double() if mean is None else decay * mean + (1 - decay) * weights["w"].double()
    torch.testing.assert_close(average.weights()["w"].double(), mean, rtol=1e-5, atol=1e-5)
    assert average.weights()["count"] == steps - 1  # counters are taken over


def naive_swad(losses: list[float], every: int, rows: list[Weights], n_s: int, n_e: int, r: float) -> torch.Tensor:
    """Algorithm 1 of SWAD over evaluations: rows[t] are the weights after step t."""
    start, end, threshold = None, None, None
    for i in range(len(losses)):
        if threshold is None:
            if i >= n_s - 1:
                window = losses[i - n_s + 1 : i + 1]
                if window[0] == min(window):
                    start, threshold = i - n_s + 1, r / n_s * sum(window)
        elif i - n_e >= 0 and min(losses[max(start, i - n_e + 1) : i + 1]) > threshold and i - n_e + 1 > start:
            end = i - n_e
            break
    assert start is not None
    first = (start + 1) * every - 1
    last = len(rows) - 1 if end is None else (end + 1) * every - 1
    return torch.stack([row["w"].double() for row in rows[first : last + 1]]).mean(0)


@pytest.mark.parametrize("seed", range(40))
def test_swad_is_the_papers_algorithm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, every = 24, 3
    valley = np.abs(np.linspace(-1.5, rng.uniform(0.2, 3), count)) + rng.normal(0, rng.choice([0.02, 0.3]), count) + 0.5
    losses = [float(max(loss, 0.01)) for loss in valley]
    rows = course(seed, count * every)
    try:
        expected = naive_swad(losses, every, rows, 3, 6, 1.3)
    except AssertionError:
        pytest.skip("no valley on this curve")
    average = Swad()
    for step, weights in enumerate(rows):
        average.step(weights)
        if (step + 1) % every == 0:
            average.evaluated(losses[step // every])
            tensors, state = average.state()  # stopped and resumed at every evaluation
            average = Swad()
            average.load({name: t.clone() for name, t in tensors.items()}, json.loads(json.dumps(state)))
    torch.testing.assert_close(average.weights()["w"].double(), expected, rtol=1e-4, atol=1e-4)


def test_swad_without_a_valley_is_the_average_since_the_best_evaluation() -> None:
    rows, average = course(3, 8), Swad()
    for step, weights in enumerate(rows):
        average.step(weights)
        average.evaluated(8.0 - step)  # falls to the end
    torch.testing.assert_close(average.weights()["w"], rows[-1]["w"])


# --- BatchNorm statistics of an average -------------------------------------------------------------------------------


def test_statistics_of_averaged_weights_are_estimated_with_them(
    make_backbone: Callable[..., Any], make_network: Callable[..., Any]
) -> None:
    """As swa_utils.update_bn of torch, on the layers that move; the average of two networks' statistics is neither."""
    from torch.optim.swa_utils import update_bn

    one, other, average = make_backbone(0), make_backbone(1), make_backbone(0)
    for name, parameter in average.model.named_parameters():
        parameter.data.copy_((one.model.get_parameter(name) + other.model.get_parameter(name)) / 2)
    for name, buffer in average.model.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_((one.model.get_buffer(name) + other.model.get_buffer(name)) / 2)
    pictures = [torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    reference = copy.deepcopy(average.model)
    update_bn(pictures, reference)
    before = {name: buffer.clone() for name, buffer in average.model.named_buffers()}
    zeros = torch.zeros(6, dtype=torch.int64)
    batches = [Batch(inputs, zeros, zeros, zeros) for inputs in pictures]
    estimate_norms(average, 0, batches, make_plan(average, "fp32", 1))
    for name, buffer in average.model.named_buffers():
        torch.testing.assert_close(buffer, reference.get_buffer(name), rtol=1e-4, atol=1e-5)
        assert name.endswith("tracked") or not torch.allclose(buffer, before[name], rtol=0.05)
    assert not any(module.training for module in average.model.modules())
    frozen = make_backbone(0)
    estimate_norms(frozen, 2, batches, make_plan(frozen, "fp32", 1))
    for name, buffer in frozen.model.named_buffers():
        assert (frozen.stage_of(name) < 2) == torch.equal(buffer, one.model.get_buffer(name))


@pytest.mark.parametrize("average", ["ema", "swad"])
def test_what_ships_has_statistics_of_its_own_weights(
    average: str, pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    trainers: list[Trainer] = []
    select = Trainer._select

    def watched(self: Trainer) -> Any:
        trainers.append(self)
        return select(self)

    monkeypatch.setattr(Trainer, "_select", watched)
    settings = {"source": "day", "backbone": tiny_timm, "tuning": "last:2", "augment": "none"} | quick
    settings |= {"steps": 8, "norm": "train", "average": average, "lr": 0.01, "select": None}
    run = injerto.fit(pictures, out=tmp_path / "run", **settings)
    trainer, state = trainers[0], run.model.backbone.model.state_dict()
    network = copy.deepcopy(run.model.backbone.model)
    running = {name: value.clone() for name, value in state.items() if "running" in name}
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    network.eval()
    moved = [name for name in layers if run.model.backbone.stage_of(f"{name}.running_mean") >= trainer.spans[-1].frozen]
    assert moved and len(moved) < len(layers)
    for name in moved:
        layers[name].reset_running_stats(), layers[name].train()
        layers[name].momentum = None
    steps = min(8, 64)
    trainer.examples.kept.clear()  # from the pictures themselves
    batches = trainer.examples.batches(trainer.steps_plan, [dataclasses.replace(trainer.spans[-1], stop=steps)])
    with torch.no_grad():
        for batch in batches:
            network(batch.inputs)
    for name, value in network.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(running[name], value, rtol=1e-3, atol=1e-4)
