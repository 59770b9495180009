"""EMA against its formula, SWAD against the paper's algorithm written down naively."""

import json

import numpy as np
import pytest
import torch

from injerto.training.averages import Ema, Swad

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
