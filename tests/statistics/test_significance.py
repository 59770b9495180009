"""p-values against simulated comparisons of equals, Holm's correction against its definition."""

from itertools import permutations

import numpy as np
import pytest

from injerto.statistics.bootstrap import nested_draws, percentiles
from injerto.statistics.significance import holm, p_value


def study(rng: np.random.Generator, seeds: int, effect: float, shift: float = 0.0) -> tuple[list, list, list]:
    """Two rows on the same examples: groups of two, each with its noise, and every seed with an effect of its own.

    ``effect`` is its deviation as a multiple of the standard error that a seed's test examples leave.
    """
    groups = [np.repeat(np.arange(40), 2)] * seeds
    base = [rng.normal(0.6, 0.3, 80) for _ in range(seeds)]
    noise = [np.repeat(rng.normal(0, 1, 40), 2) + rng.normal(0, 0.5, 80) for _ in range(seeds)]
    error = np.sqrt((1 + 0.5**2 / 2) / 40)
    own = [b + n + shift + effect * error * rng.normal() for b, n in zip(base, noise, strict=True)]
    return own, groups, base


@pytest.mark.parametrize(
    ("seeds", "effect", "low", "high"),
    [(1, 0.0, 0.03, 0.08), (2, 0.0, 0.0, 0.05), (3, 0.5, 0.01, 0.065), (5, 1.0, 0.02, 0.075), (3, 4.0, 0.14, 0.29)],
)
def test_level_over_simulated_comparisons_of_equals(seeds: int, effect: float, low: float, high: float) -> None:
    """Nominal or below while seeds differ little; the last case is the one that the docstring warns of."""
    rng = np.random.default_rng(seeds)
    values = [p_value(nested_draws(*study(rng, seeds, effect), draws=400, seed=i)[1]) for i in range(500)]
    assert low <= np.mean(np.asarray(values) < 0.05) <= high


def test_a_true_difference_is_found() -> None:
    rng = np.random.default_rng(1)
    values = [p_value(nested_draws(*study(rng, 5, 0.5, shift=0.4), draws=400, seed=i)[1]) for i in range(60)]
    assert np.mean(np.asarray(values) < 0.05) > 0.9


def test_it_agrees_with_the_interval() -> None:
    rng = np.random.default_rng(2)
    found = set()
    for repeat in range(60):
        _, draws = nested_draws(*study(rng, 3, 1.0, shift=0.3), draws=1000, seed=repeat)
        low, high = percentiles(draws)
        p = p_value(draws)
        if abs(p - 0.05) > 0.005:
            assert (p < 0.05) == (not low <= 0 <= high)
            found.add(p < 0.05)
    assert found == {True, False}


def test_both_signs_none_and_no_draws() -> None:
    draws = np.random.default_rng(3).normal(1, 1, 999)
    assert p_value(draws) == p_value(-draws) == 2 * (1 + int((draws <= 0).sum())) / 1000
    assert p_value(np.zeros(100)) == 1.0  # the same row
    assert p_value(np.ones(999)) == 0.002  # never 0
    with pytest.raises(ValueError, match="no draws"):
        p_value(np.array([]))


def closed(values: list[float]) -> list[float]:
    """Holm by the closure principle: the largest Bonferroni p-value of all subsets that a hypothesis is in."""
    count = len(values)
    sets = [[i for i in range(count) if bits >> i & 1] for bits in range(1, 2**count)]
    return [max(min(1.0, len(s) * min(values[i] for i in s)) for s in sets if one in s) for one in range(count)]


def test_holm_is_the_closure_of_bonferroni() -> None:
    rng = np.random.default_rng(4)
    for count in (1, 2, 5, 7):
        values = list(rng.random(count) ** 3)
        assert holm(values) == pytest.approx(closed(values))
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm's own steps, by hand
    assert holm([]) == []


def test_holm_is_monotone_and_knows_no_order() -> None:
    values = [0.02, 0.001, 0.4, 0.02]
    adjusted = dict(zip(values, holm(values), strict=True))
    for order in permutations(values):
        assert holm(order) == [adjusted[value] for value in order]
    assert all(after >= before for before, after in zip(values, holm(values), strict=True))
    assert np.argsort(holm(values), kind="stable").tolist() == np.argsort(values, kind="stable").tolist()


def test_no_more_than_one_in_twenty_families_holds_a_false_difference() -> None:
    rng = np.random.default_rng(5)
    families = rng.random((400, 8))
    assert np.mean([min(holm(list(one))) < 0.05 for one in families]) < 0.085
    assert np.mean([one.min() < 0.05 for one in families]) > 0.25  # without a correction
