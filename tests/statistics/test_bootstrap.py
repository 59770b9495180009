"""The intervals against brute force, against theory, and in their coverage."""

import time

import numpy as np
import pytest

from injerto.statistics.bootstrap import bootstrap_interval, nested_draws, nested_interval
from injerto.statistics.significance import p_value


def brute_force(scores, groups, labels=None, draws=4000, seed=7):
    """One draw at a time: pick groups, gather their examples, take the mean."""
    rng = np.random.default_rng(seed)
    names = np.unique(groups)
    members = [np.flatnonzero(groups == name) for name in names]
    values = []
    for _ in range(draws):
        rows = np.concatenate([members[pick] for pick in rng.integers(len(names), size=len(names))])
        if labels is None:
            values.append(scores[rows].mean())
        else:
            values.append(np.mean([scores[rows][labels[rows] == c].mean() for c in np.unique(labels[rows])]))
    return np.quantile(values, [0.025, 0.975])


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("binary", [False, True], ids=["continuous", "right-or-wrong"])
def test_interval_equals_brute_force(balanced: bool, binary: bool) -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, size=240)
    labels = rng.choice(3, p=[0.7, 0.2, 0.1], size=240)
    level = rng.random(60)[groups]
    scores = (rng.random(240) < level).astype(float) if binary else level + rng.normal(0, 0.1, 240)
    given = labels if balanced else None
    ours = bootstrap_interval(scores, groups, labels=given, draws=4000)
    reference = brute_force(scores, groups, given)
    assert ours == pytest.approx(reference, abs=0.1 * (reference[1] - reference[0]))


def test_interchangeable_groups_take_the_short_way_to_the_same_interval() -> None:
    rng = np.random.default_rng(1)
    groups = np.arange(3000)
    scores = (rng.random(3000) < 0.8).astype(float)
    short = bootstrap_interval(scores, groups, draws=4000)
    long = bootstrap_interval(scores + rng.normal(0, 1e-9, 3000), groups, draws=4000)
    assert short == pytest.approx(long, abs=0.0015)
    spread = 1.96 * np.sqrt(scores.mean() * (1 - scores.mean()) / 3000)
    assert short == pytest.approx((scores.mean() - spread, scores.mean() + spread), abs=0.0015)


@pytest.mark.parametrize("size", [1, 5])
def test_coverage_of_the_mean_over_simulated_data_sets(size: int) -> None:
    """200 data sets of 60 groups: 95 % of the intervals hold the truth, +- 3 standard errors (0.046)."""
    rng = np.random.default_rng(2)
    held = 0
    for repeat in range(200):
        groups = np.repeat(np.arange(60), size)
        scores = np.repeat(rng.normal(0.5, 0.2, 60), size) + rng.normal(0, 0.05, 60 * size)
        low, high = bootstrap_interval(scores, groups, draws=1000, seed=repeat)
        held += low <= 0.5 <= high
    assert 0.95 - 0.046 <= held / 200 <= 0.95 + 0.046


def test_groups_matter() -> None:
    """Ten copies of every example add nothing: the interval stays; taken as single examples it would shrink."""
    rng = np.random.default_rng(3)
    scores = rng.random(50)
    once = np.ptp(bootstrap_interval(scores, np.arange(50)))
    copied = np.ptp(bootstrap_interval(np.repeat(scores, 10), np.repeat(np.arange(50), 10)))
    single = np.ptp(bootstrap_interval(np.repeat(scores, 10), np.arange(500)))
    assert copied == pytest.approx(once)
    assert single < 0.5 * once


def test_names_and_numbers_as_groups_and_the_seed() -> None:
    scores = np.random.default_rng(4).random(30)
    numbers = np.arange(30) // 2
    names = [f"g{n:02d}" for n in numbers]
    assert bootstrap_interval(scores, numbers) == bootstrap_interval(scores, names)
    assert bootstrap_interval(scores, numbers, seed=1) != bootstrap_interval(scores, numbers, seed=2)
    wide, narrow = (np.ptp(bootstrap_interval(scores, numbers, level=level)) for level in (0.95, 0.5))
    assert narrow < wide


@pytest.mark.parametrize("labels", [None, np.zeros(1)])
def test_one_example_is_a_point(labels: np.ndarray | None) -> None:
    assert bootstrap_interval(np.array([0.25]), ["a"], labels=labels) == (0.25, 0.25)
    assert nested_interval([np.array([0.25])], [["a"]]) == (0.25, 0.25, 0.25)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        bootstrap_interval(np.array([]), [])
    with pytest.raises(ValueError, match="2 scores"):
        bootstrap_interval(np.ones(2), ["a"])
    with pytest.raises(ValueError, match="no seeds"):
        nested_interval([], [])
    with pytest.raises(ValueError, match="other of 1"):
        nested_interval([np.ones(2)] * 2, [["a", "b"]] * 2, [np.ones(2)])
    with pytest.raises(ValueError, match="can't be paired"):
        nested_interval([np.ones(2)], [["a", "b"]], [np.ones(3)])


def nested_brute_force(scores, groups, draws, seed=5):
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        picked = []
        for pick in rng.integers(len(scores), size=len(scores)):
            names = np.unique(groups[pick])
            chosen = rng.integers(len(names), size=len(names))
            rows = np.concatenate([np.flatnonzero(groups[pick] == names[c]) for c in chosen])
            picked.append(scores[pick][rows].mean())
        values.append(np.mean(picked))
    return np.quantile(values, [0.025, 0.975])


def test_nested_interval_equals_brute_force() -> None:
    rng = np.random.default_rng(6)
    sizes = (40, 55, 30, 40)
    groups = [rng.integers(0, 15, size=n) for n in sizes]
    scores = [rng.normal(0.6 + 0.1 * rng.normal(), 0.3, n) for n in sizes]
    mean, low, high = nested_interval(scores, groups, draws=6000)
    assert mean == pytest.approx(np.mean([s.mean() for s in scores]))
    reference = nested_brute_force(scores, groups, 4000)
    assert (low, high) == pytest.approx(tuple(reference), abs=0.1 * np.ptp(reference))


def crossed_brute_force(scores, groups, draws, seed=5):
    """Groups are drawn once for all seeds; which seeds there are is drawn beside."""
    rng, names = np.random.default_rng(seed), np.unique(np.concatenate(groups))
    values = []
    for _ in range(draws):
        chosen = names[rng.integers(len(names), size=len(names))]
        each = []
        for own, group in zip(scores, groups, strict=True):
            rows = np.concatenate([np.flatnonzero(group == name) for name in chosen])
            each.append(own[rows].mean())
        means = np.array([own.mean() for own in scores])
        values.append(np.mean(each) + means[rng.integers(len(scores), size=len(scores))].mean() - means.mean())
    return np.quantile(values, [0.025, 0.975])


def test_seeds_that_share_test_groups_draw_them_together() -> None:
    rng = np.random.default_rng(6)
    effect = rng.normal(0, 0.3, 25)
    groups = [np.array([f"g{i}" for i in rng.integers(low, low + 20, size=60)]) for low in (0, 5, 0)]
    scores = [0.5 + effect[[int(name[1:]) for name in own]] + 0.1 * rng.normal(size=60) for own in groups]
    found = nested_interval(scores, groups, draws=6000)[1:]
    reference = crossed_brute_force(scores, groups, 4000)
    assert found == pytest.approx(tuple(reference), abs=0.1 * np.ptp(reference))


@pytest.mark.parametrize("shared", [True, False], ids=["one test set", "a test set each"])
@pytest.mark.parametrize("size", [1, 3])
def test_level_of_the_p_value_over_seeds_and_groups(shared: bool, size: int) -> None:
    """Two rows equally good, three seeds. Group by group within each seed, one test set gave 26 % in place of 5 %."""
    rng, below = np.random.default_rng(0), 0
    for repeat in range(200):
        names = [np.repeat(np.arange(60) + (0 if shared else 60 * seed), size) for seed in range(3)]
        effect = rng.normal(0, 1, 180)
        scores = [effect[own] + rng.normal(0, 0.3, len(own)) for own in names]
        below += p_value(nested_draws(scores, names, draws=300, seed=repeat)[1]) < 0.05
    assert below / 200 <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5


def test_a_seed_without_a_group_in_a_draw_says_nothing_there() -> None:
    mean, draws = nested_draws([np.array([1.0]), np.array([0.0, 0.0])], [["a"], ["b", "c"]], draws=500)
    assert mean == 0.5 and np.isfinite(draws).all() and set(np.round(draws, 6)) <= {0.0, 0.5, 1.0}


def test_pairing_cancels_what_both_rows_share() -> None:
    rng = np.random.default_rng(8)
    groups = [np.arange(100)] * 3
    other = [rng.random(100) + shift for shift in (0.0, 0.3, -0.3)]
    scores = [row + 0.02 for row in other]
    mean, low, high = nested_interval(scores, groups, other)
    assert (mean, low, high) == pytest.approx((0.02, 0.02, 0.02))
    _, alone_low, alone_high = nested_interval(scores, groups)
    assert alone_high - alone_low > 0.1


def test_no_difference_holds_zero_and_sign_follows_the_order() -> None:
    rng = np.random.default_rng(9)
    groups = [np.arange(200)] * 5
    one, two = ([(rng.random(200) < 0.7).astype(float) for _ in range(5)] for _ in range(2))
    mean, low, high = nested_interval(one, groups, two)
    assert low < 0 < high
    turned = nested_interval(two, groups, one)
    assert turned == pytest.approx((-mean, -high, -low), abs=0.005)


def test_nested_balanced_means() -> None:
    labels = [np.array([0] * 90 + [1] * 10)] * 2
    scores = [np.array([1.0] * 90 + [0.0] * 10)] * 2
    mean, low, high = nested_interval(scores, [np.arange(100)] * 2, labels=labels)
    assert (mean, low, high) == pytest.approx((0.5, 0.5, 0.5))
    assert nested_interval(scores, [np.arange(100)] * 2)[0] == pytest.approx(0.9)


def test_nested_coverage_over_simulated_studies() -> None:
    """150 studies of 8 seeds: seeds vary, examples vary; near 95 % hold the truth (few seeds make it a bit narrow)."""
    rng = np.random.default_rng(10)
    held = 0
    for repeat in range(150):
        scores = [0.1 + rng.normal(0, 0.02) + rng.normal(0, 0.2, 100) for _ in range(8)]
        _, low, high = nested_interval(scores, [np.arange(100)] * 8, draws=400, seed=repeat)
        held += low <= 0.1 <= high
    assert held / 150 >= 0.88


def test_ten_thousand_examples_are_quick() -> None:
    rng = np.random.default_rng(11)
    scores = rng.random(10_000)
    groups = np.arange(10_000)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        bootstrap_interval(scores, groups)
        times.append(time.perf_counter() - start)
    assert min(times) < 1.0  # about 0.2 s alone; a shared machine gets room
