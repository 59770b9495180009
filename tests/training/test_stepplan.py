from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from injerto.training.stepplan import StepPlan

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def named(counts: list[int]) -> dict[str, int]:
    return {f"s{index}": count for index, count in enumerate(counts)}


def lengths_for(counts: dict[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(1, 60, count) for name, count in counts.items()}


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(
        np.array_equal(a[n].positions, b[n].positions) and np.array_equal(a[n].cycles, b[n].cycles) for n in a
    )


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 50), st.integers(0, 2**40), st.booleans())
def test_a_step_is_a_pure_function_of_seed_and_step(counts: list[int], batch: int, seed: int, texts: bool) -> None:
    domains = named(counts)
    lengths = lengths_for(domains) if texts else None
    straight = StepPlan(domains, batch, seed, lengths)
    in_order = [straight.draw(step) for step in range(12)]
    jumping = StepPlan(domains, batch, seed, lengths)
    for step in (11, 3, 7, 3, 0):
        assert same(jumping.draw(step), in_order[step])


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(1, 60), st.integers(0, 60))
def test_drawn_before_is_what_was_drawn(counts: list[int], batch: int, step: int) -> None:
    domains = named(counts)
    plan = StepPlan(domains, batch, 0)
    names, count = list(domains), len(domains)
    brute = Counter({name: 0 for name in names})
    for early in range(step):
        for offset in range(batch % count):  # the remainder begins one source later each step
            brute[names[(early + offset) % count]] += 1
        for name in names:
            brute[name] += batch // count
    assert {name: plan.drawn_before(name, step) for name in names} == dict(brute)
    drawn: Counter[str] = Counter({name: 0 for name in names})
    for early in range(min(step, 8)):
        for name, part in plan.draw(early).items():
            drawn[name] += len(part.positions)
    assert all(drawn[name] == plan.drawn_before(name, min(step, 8)) for name in names)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 60), st.integers(0, 5), st.booleans())
def test_every_cycle_holds_every_example_once(counts: list[int], batch: int, seed: int, texts: bool) -> None:
    domains = named(counts)
    plan = StepPlan(domains, batch, seed, lengths_for(domains) if texts else None)
    seen: dict[str, dict[int, list[int]]] = {name: {} for name in domains}
    for step in range(30):
        draw = plan.draw(step)
        assert sum(len(part.positions) for part in draw.values()) == batch
        for name, part in draw.items():
            for position, cycle in zip(part.positions, part.cycles, strict=True):
                seen[name].setdefault(int(cycle), []).append(int(position))
    for name, cycles in seen.items():
        assert sorted(cycles) == list(range(len(cycles)))  # one after the other
        for cycle, positions in cycles.items():
            assert len(set(positions)) == len(positions)
            if cycle < len(cycles) - 1:
                assert sorted(positions) == list(range(domains[name]))


def test_the_remainder_rotates_fairly() -> None:
    plan = StepPlan({"a": 50, "b": 50, "c": 50}, 8, 0)
    shares = [{name: len(part.positions) for name, part in plan.draw(step).items()} for step in range(6)]
    assert all(sum(share.values()) == 8 and set(share.values()) == {2, 3} for share in shares)
    totals = Counter()
    for share in shares:
        totals.update(share)
    assert set(totals.values()) == {16}


def test_a_batch_smaller_than_the_number_of_sources() -> None:
    plan = StepPlan(dict.fromkeys("abcde", 9), 2, 0)
    for step in range(10):
        assert sum(len(part.positions) for part in plan.draw(step).values()) == 2
    assert all(plan.drawn_before(name, 10) == 4 for name in "abcde")


def test_a_small_source_next_to_a_large_one_is_gone_through_more_often() -> None:
    plan = StepPlan({"small": 5, "large": 500}, 20, 0)
    draw = plan.draw(0)
    assert sorted(draw["small"].positions.tolist()) == sorted(list(range(5)) * 2)
    assert draw["small"].cycles.tolist() == [0] * 5 + [1] * 5
    assert len(set(draw["large"].positions.tolist())) == 10


def test_seeds_sources_and_cycles_have_orders_of_their_own() -> None:
    def order(seed: int, name: str, cycle: int) -> tuple[int, ...]:
        plan = StepPlan({"a": 30, "b": 30}, 60, seed)
        return tuple(plan.draw(cycle)[name].positions.tolist())

    orders = {order(seed, name, cycle) for seed in (0, 1) for name in "ab" for cycle in (0, 1)}
    assert len(orders) == 8


def test_the_order_is_shuffled_evenly() -> None:
    places = np.asarray([StepPlan({"a": 10}, 10, seed).draw(0)["a"].positions for seed in range(400)])
    means = places.mean(axis=0)
    assert np.abs(means - 4.5).max() < 0.75  # five standard errors


def test_a_sources_order_does_not_depend_on_the_batch_size() -> None:
    def stream(batch: int) -> list[int]:
        plan = StepPlan({"a": 17}, batch, 3)
        return [int(i) for step in range(60 // batch + 1) for i in plan.draw(step)["a"].positions][:51]

    assert stream(4) == stream(5) == stream(32)


def test_length_windows_make_batches_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 640)
    spread = {}
    for texts in (False, True):
        plan = StepPlan({"a": 640}, 8, 0, {"a": lengths} if texts else None)
        spread[texts] = np.mean([np.ptp(lengths[plan.draw(step)["a"].positions]) for step in range(80)])
    assert spread[True] < 0.15 * spread[False]
    first = StepPlan({"a": 640}, 8, 0, {"a": lengths})
    means = [lengths[first.draw(step)["a"].positions].mean() for step in range(80)]
    assert abs(np.corrcoef(np.arange(80), means)[0, 1]) < 0.5  # short ones do not come first


@pytest.mark.parametrize(("counts", "batch", "expected"), [([100], 32, 3.125), ([10, 30], 8, 5.0)])
def test_an_epoch_is_train_size_over_batch_size(counts: list[int], batch: int, expected: float) -> None:
    assert StepPlan(named(counts), batch, 0).steps_per_epoch == expected
