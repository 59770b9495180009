import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injerto.recipe.grammar import parse_tuning
from injerto.recipe.recipe import make_recipe
from injerto.tasks.model import Model
from injerto.training.optimizer import make_optimizer, set_rates
from injerto.training.schedule import rate_factor
from injerto.tuning.base import apply_tuning


def test_by_hand() -> None:
    found = [rate_factor(step, 10, 0.2) for step in range(10)]
    expected = [1 / 3, 2 / 3] + [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    assert found == pytest.approx(expected)


def test_without_warm_up_it_begins_at_the_top() -> None:
    assert rate_factor(0, 100, 0.0) == 1.0
    assert rate_factor(0, 1, 0.1) == 1.0


@given(st.integers(1, 3000), st.floats(0, 0.99))
def test_it_rises_then_falls_and_is_never_zero(steps: int, warmup: float) -> None:
    rates = [rate_factor(step, steps, warmup) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert top == min(round(warmup * steps), steps - 1)


@given(st.integers(1, 3000), st.floats(0, 0.99))
def test_a_constant_rate_rises_and_stays(steps: int, warmup: float) -> None:
    rates = [rate_factor(step, steps, warmup, constant=True) for step in range(steps)]
    rise = round(warmup * steps)
    assert rates[:rise] == [rate_factor(step, steps, warmup) for step in range(rise)]
    assert all(rate == 1.0 for rate in rates[rise:])


@pytest.mark.parametrize(("average", "tuning"), [("none", "gradual"), ("ema", "full"), ("swad", "full")])
def test_every_group_has_its_own_schedule(average: str, tuning: str, make_backbone: Callable[..., Any]) -> None:
    """A stage's schedule begins when the stage thaws; SWAD's rate stays constant after the warm-up."""
    backbone, steps = make_backbone(), 100
    recipe = make_recipe(data="x", tuning=tuning, average=average, lr=0.5, head_lr=2.0).resolved("image")
    tuned = apply_tuning(backbone, parse_tuning(tuning))
    model = Model(backbone, ("a", "b"), "linear", None)
    optimizer = make_optimizer(model, tuned, recipe, 0.5, 2.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen: dict[int, list[float]] = {}
    for step in range(steps):
        set_rates(optimizer, step, steps, recipe, factor=3.0)
        for group in optimizer.param_groups:
            stages = {backbone.stage_of(n.removeprefix("backbone.model.")) if n.startswith("backbone") else -1
                      for n in (names[id(parameter)] for parameter in group["params"])}  # fmt: skip
            for stage in stages:
                seen.setdefault(stage, []).append(group["lr"])
    begins = {-1: 0, **dict.fromkeys(range(4), 0)}
    if tuning == "gradual":  # four stages: the last third from 20 %, two thirds from 40 %, all from 60 %
        begins = {-1: 0, 3: 20, 2: 40, 1: 60, 0: 60}
    for stage, first in begins.items():
        peak = 3.0 * (2.0 if stage == -1 else 0.5)
        expected = []
        for step in range(steps):
            left, done = steps - first, step - first
            rise = round(0.1 * left)
            if done < 0:
                expected.append(0.0)
            elif done < rise:
                expected.append(peak * (done + 1) / (rise + 1))
            elif average == "swad":
                expected.append(peak)
            else:
                expected.append(peak * 0.5 * (1 + math.cos(math.pi * (done - rise) / (left - rise))))
        rates = seen[stage][:: len(seen[stage]) // steps]
        assert rates == pytest.approx(expected)
