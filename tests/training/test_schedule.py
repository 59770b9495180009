import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injerto.training.schedule import rate_factor


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
