"""The loop against a loop written by hand; what must not move does not."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from injerto.basics.errors import InjertoError
from injerto.compute.batches import BatchMaker
from injerto.compute.plan import ComputePlan
from injerto.domains.load import load_domains
from injerto.recipe.recipe import make_recipe
from injerto.tasks.classification import encode
from injerto.tasks.model import Model
from injerto.training.examples import Examples, Stream
from injerto.training.objectives import Classification
from injerto.training.schedule import rate_factor
from injerto.training.stepplan import StepPlan
from injerto.training.trainer import Trainer
from injerto.tuning.base import apply_tuning

torch.set_num_threads(1)
PLAN = ComputePlan("cpu", "fp32", True, 1)
CLASSES = ("blue", "green", "red")


@pytest.fixture
def train(make_backbone: Callable[..., Any], pictures: Path, tmp_path: Path) -> Callable[..., Any]:
    """A function that sets up a trainer on ``day`` and ``dusk``."""

    def make(validate: Any = lambda: None, dropout: float = 0.0, seed: int = 0, **settings: Any) -> Trainer:
        settings = {"tuning": "last:2", "augment": "none", "batch_size": 8, "lr": 1e-2, "head_lr": 1e-2} | settings
        recipe = make_recipe(data="x", seed=seed, **settings).resolved("image")
        domains = load_domains(pictures)
        parts = {name: domains[name] for name in ("day", "dusk")}
        torch.manual_seed(0)
        model = Model(make_backbone(dropout=dropout), CLASSES, recipe.head, recipe.neck_width)
        tuned = apply_tuning(model.backbone, recipe.tuning_spec)
        maker = BatchMaker(model.backbone.preprocessing, "cpu")
        streams = {
            name: Stream(part, encode(part.labels, CLASSES), index, recipe.policy)
            for index, (name, part) in enumerate(parts.items())
        }
        examples = Examples(streams, maker, recipe.views, recipe.seed)
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        objective = Classification(model, PLAN, smoothing=recipe.label_smoothing)
        return Trainer(model, recipe, PLAN, tuned, examples, objective, validate, folder)

    return make


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def pixels(trainer: Trainer, step: int, plan: StepPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of a step, made with torchvision from the files."""
    from PIL import Image
    from torchvision.transforms import functional as vision

    looks = trainer.model.backbone.preprocessing
    rows, labels = [], []
    for name, draw in plan.draw(step).items():
        domain = trainer.examples.streams[name].part
        for position in draw.positions:
            with Image.open(domain.inputs[position]) as image:
                rows.append(vision.normalize(vision.to_tensor(image.convert("RGB")), looks.mean, looks.std))
            labels.append(CLASSES.index(domain.labels[position]))
    return torch.stack(rows), torch.tensor(labels)


def by_hand(trainer: Trainer, steps: int) -> dict[str, torch.Tensor]:
    """Plain torch: no accelerate, no fused optimizer, no fused norms, no channels_last, batches decoded by torchvision."""
    recipe = trainer.recipe
    network, head = copy.deepcopy(trainer.model.backbone.model).eval(), nn.Linear(12, 3)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    first = {"last:2": "blocks.1", "full": "", "head": "nothing"}[recipe.tuning]
    moving = [
        (name, p) for name, p in network.named_parameters()
        if not first or (first != "nothing" and name.startswith("blocks") and name >= first)
    ]  # fmt: skip
    if recipe.norm == "train":
        network.blocks[1][1].train(), network.blocks[2][1].train()
    groups = []
    for parameters, rate in (([p for _, p in moving], recipe.lr), (list(head.parameters()), recipe.head_lr)):
        for vector in (False, True):
            chosen = [p for p in parameters if (p.ndim == 1) == vector]
            if chosen:
                decay = 0.0 if vector else recipe.weight_decay
                groups.append({"params": chosen, "lr": rate, "peak": rate, "weight_decay": decay})
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups)
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    plan = StepPlan(trainer.examples.sizes(), recipe.batch_size, recipe.seed)
    for step in range(steps):
        x, y = pixels(trainer, step, plan)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(step, trainer.steps, recipe.warmup)
        optimizer.zero_grad()
        loss = functional.cross_entropy(head(network(x)), y, label_smoothing=recipe.label_smoothing)
        loss.backward()
        if recipe.clip:
            everything = [p for group in groups for p in group["params"]]
            norm = torch.sqrt(sum((p.grad**2).sum() for p in everything if p.grad is not None))
            for p in everything:
                if p.grad is not None:
                    p.grad *= min(1.0, recipe.clip / (float(norm) + 1e-6))
        optimizer.step()
    result = {f"backbone.model.{name}": value for name, value in network.state_dict().items()}
    return result | {"head.layers.0.weight": head.weight, "head.layers.0.bias": head.bias}


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "tuning": "full", "clip": 0.05, "label_smoothing": 0.1, "weight_decay": 0.3},
        {"optimizer": "sgd", "norm": "train", "clip": 0},
        {"optimizer": "adamw", "weight_decay": 0.5, "lr": 1e-3},
        {"optimizer": "adamw", "tuning": "head", "views": 0, "head_lr": 0.1},
    ],
    ids=lambda settings: " ".join(f"{k}={v}" for k, v in settings.items()),
)
def test_training_equals_a_loop_written_by_hand(train: Callable[..., Any], settings: dict[str, Any]) -> None:
    trainer = train(steps=8, **settings)
    before = state_of(trainer)
    expected = by_hand(trainer, 8)
    trainer.run()
    found = state_of(trainer)
    moved = 0.0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=2e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
        moved = max(moved, float((found[name].float() - before[name].float()).abs().max()))
    assert moved > 5e-3


def test_the_loss_falls(train: Callable[..., Any]) -> None:
    trainer = train(steps=60, tuning="full")
    losses = []
    original = trainer._step
    trainer._step = lambda batch: losses.append(original(batch)) or losses[-1]  # type: ignore[method-assign]
    trainer.run()
    assert losses[0] == pytest.approx(np.log(3), abs=1e-5)  # undecided at first
    assert np.mean(losses[-10:]) < 0.3


@pytest.mark.parametrize("norm", ["frozen", "train", "recalibrate:source"])
@pytest.mark.parametrize("tuning", ["head", "last:2", "full"])
def test_what_is_frozen_stays_bit_identical(train: Callable[..., Any], tuning: str, norm: str) -> None:
    trainer = train(steps=4, tuning=tuning, norm=norm, dropout=0.3, views=0, augment="light", weight_decay=0.1)
    before = state_of(trainer)
    trainer.run()
    after = state_of(trainer)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {"head": (), "last:2": ("blocks.1.", "blocks.2."), "full": ("stem.", "blocks.")}[tuning]
    names = set(before) - {"head.shift", "head.scale"}
    allowed = {name for name in names if name.startswith("head.")}
    for name in names:
        inner = name.removeprefix("backbone.model.")
        if trained and inner.startswith(trained):
            statistic = "running" in inner or "tracked" in inner
            if not statistic or norm == "train":
                allowed.add(name)
    assert changed == allowed


def test_every_trained_tensor_gets_its_gradient_through_the_fused_norms(train: Callable[..., Any]) -> None:
    trainer = train(steps=2, tuning="full")
    trainer.run()
    for name, parameter in trainer.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("accumulate", [2, 3, 8, 50])
def test_accumulation_equals_one_batch(train: Callable[..., Any], accumulate: int) -> None:
    whole, parts = (
        train(steps=5, optimizer="sgd", tuning="full", accumulate=n, label_smoothing=0.1) for n in (1, accumulate)
    )
    losses: dict[int, list[float]] = {}
    for index, trainer in enumerate((whole, parts)):
        original, kept = trainer._step, losses.setdefault(index, [])
        trainer._step = lambda batch, original=original, kept=kept: kept.append(original(batch)) or kept[-1]
        trainer.run()
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for name, value in state_of(whole).items():
        torch.testing.assert_close(state_of(parts)[name], value, rtol=1e-3, atol=1e-5)


def test_clipping_limits_the_step(train: Callable[..., Any]) -> None:
    distance = {}
    for clip in (0, 1e-3):
        trainer = train(steps=1, optimizer="sgd", clip=clip, lr=1.0, head_lr=1.0, weight_decay=0, warmup=0)
        before = state_of(trainer)
        trainer.run()
        after = state_of(trainer)
        moved = [after[n] - before[n] for n, p in trainer.model.named_parameters() if p.requires_grad]
        distance[clip] = float(torch.sqrt(sum((m**2).sum() for m in moved)))
    assert distance[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert distance[0] > 0.05


def test_biases_and_norms_do_not_decay(train: Callable[..., Any]) -> None:
    trainer = train(steps=1, tuning="full", weight_decay=0.3)
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        assert decays[id(parameter)] == (0.3 if parameter.ndim > 1 else 0.0), name


def test_seeds_differ_and_equal_seeds_do_not(train: Callable[..., Any]) -> None:
    states = []
    for seed in (0, 0, 1):
        trainer = train(steps=4, seed=seed, dropout=0.5, augment="standard", views=0, tuning="full")
        trainer.run()
        states.append(state_of(trainer))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_the_global_random_state_is_left_alone_and_without_influence(train: Callable[..., Any]) -> None:
    states = []
    for burn in (0, 7):
        trainer = train(steps=3, dropout=0.5, tuning="full", augment="light", views=0)
        torch.manual_seed(burn)
        before = torch.get_rng_state()
        trainer.run()
        assert torch.equal(torch.get_rng_state(), before)
        states.append(state_of(trainer))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# --- selection and early stopping -------------------------------------------------------------------------------------


def scores(*values: float) -> Callable[[], tuple[float, float]]:
    left = list(values)
    return lambda: (left.pop(0), 0.0)


def test_the_best_val_score_is_kept(train: Callable[..., Any]) -> None:
    trainer = train(scores(0.2, 0.9, 0.5, 0.8), epochs=4, batch_size=30)
    snapshots = {}
    original = trainer._evaluate

    def evaluate(loss: float) -> None:
        snapshots[trainer.progress.step] = state_of(trainer)
        original(loss)

    trainer._evaluate = evaluate  # type: ignore[method-assign]
    selection = trainer.run()
    assert selection == {"rule": "best-source-val", "step": 4, "steps": 8, "score": 0.9}
    chosen = state_of(trainer)
    assert all(torch.equal(chosen[name], snapshots[4][name]) for name in chosen)
    assert not all(torch.equal(chosen[name], snapshots[8][name]) for name in chosen)


def test_a_tie_in_accuracy_is_broken_by_the_likelihood(train: Callable[..., Any]) -> None:
    left = [(0.5, -1.0), (0.5, -0.4), (0.5, -0.9)]
    assert train(lambda: left.pop(0), epochs=3, batch_size=60).run()["step"] == 2


def test_last_is_the_last(train: Callable[..., Any]) -> None:
    trainer = train(scores(0.9, 0.1, 0.2), epochs=3, batch_size=60, select="last")
    assert trainer.run() == {"rule": "last", "step": 3, "steps": 3, "score": None}
    assert not (trainer.folder / "checkpoints" / "best.safetensors").exists()


def test_early_stopping(train: Callable[..., Any]) -> None:
    trainer = train(scores(0.1, 0.5, 0.4, 0.5, 0.9, 0.9), epochs=6, batch_size=60, patience=2)
    assert trainer.run() == {"rule": "best-source-val", "step": 2, "steps": 4, "score": 0.5}


def test_without_val_nothing_stops_early(train: Callable[..., Any]) -> None:
    trainer = train(lambda: None, epochs=6, batch_size=60, patience=2)
    assert trainer.run() == {"rule": "last", "step": 6, "steps": 6, "score": None}


@pytest.mark.parametrize(
    ("settings", "steps", "every"),
    [
        ({"epochs": 3, "batch_size": 60}, 3, 1),
        ({"epochs": 0.1, "batch_size": 8}, 1, 1),
        ({"epochs": 2.5, "batch_size": 8}, 19, 8),
        ({"steps": 5, "batch_size": 8}, 5, 5),
        ({"steps": 3, "batch_size": 500}, 3, 1),
    ],
)
def test_steps_and_evaluations(train: Callable[..., Any], settings: dict, steps: int, every: int) -> None:
    trainer = train(**settings)
    assert (trainer.steps, trainer.evaluate_every) == (steps, every)


def test_every_evaluation_is_logged(train: Callable[..., Any]) -> None:
    trainer = train(scores(0.1, 0.2, 0.3), epochs=2.5, batch_size=20, patience=5)
    trainer.run()
    entries = [json.loads(line) for line in (trainer.folder / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [3, 6, 8]
    assert [entry["val_accuracy"] for entry in entries] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_loss_that_is_no_number_ends_the_run(train: Callable[..., Any], optimizer: str) -> None:
    trainer = train(steps=20, lr=1e30, head_lr=1e30, tuning="full", optimizer=optimizer, clip=0)
    with pytest.raises(InjertoError, match=r"the loss became (nan|inf).* at step \d+; lower --lr \(now 1e\+30\)"):
        trainer.run()
