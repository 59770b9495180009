import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from injerto.basics.errors import InjertoError
from injerto.statistics import distance, twosample
from injerto.statistics.distance import a_distance, frechet_distance
from injerto.statistics.kernels import MULTIPLIERS
from injerto.statistics.mmd import mmd2
from injerto.statistics.twosample import two_sample_test


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def pairs(seed: int, n: int, shift: float = 0.0, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """The same n objects in two styles."""
    objects, a, b = np.random.default_rng(seed).standard_normal((3, n, 4))
    return objects + noise * a, objects + noise * b + shift


def views(seed: int, n: int, size: int, width: int = 4, alike: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """n objects of ``size`` rows each, and the object of every row."""
    groups = np.repeat(np.arange(n), size)
    rows = np.sqrt(alike) * normal(seed, n, width)[groups] + np.sqrt(1 - alike) * normal(seed + 10**6, n * size, width)
    return rows, groups


def numbers(result: object) -> list[float]:
    return [value for value in dataclasses.astuple(result) if not isinstance(value, str)]


def rejected(make: Callable, count: int, **keys) -> float:
    """Share of draws with a p-value of 5 % or less."""
    found = []
    for seed in range(count):
        x, y, *groups = make(seed)
        result = two_sample_test(x, y, groups=tuple(groups) or None, draws=59, seed=seed, **keys)
        found.append(result.p_value <= 0.05)
        assert result.p_value >= 1 / 60
    return float(np.mean(found))


# --- MMD and its test -------------------------------------------------------------------------------------------------


def reference(x: np.ndarray, y: np.ndarray, gx: list, gy: list) -> tuple[float, float]:
    """MMD^2 over the pairs of different groups, every group of a side weighing the same, and the effect, by loops."""
    z = np.concatenate([x, y])
    apart = sorted(((z[i] - z[j]) ** 2).sum() for i in range(len(z)) for j in range(i))
    sigma2 = apart[(len(apart) - 1) // 2]

    def k(p: np.ndarray, q: np.ndarray) -> float:
        return float(np.mean([np.exp(-((p - q) ** 2).sum() / (2 * m * sigma2)) for m in MULTIPLIERS]))

    def towards(p: np.ndarray, group, rows: np.ndarray, names: list) -> dict:
        """Mean kernel of p to every other group of a side."""
        return {
            name: np.mean([k(p, q) for q, other in zip(rows, names, strict=True) if other == name])
            for name in dict.fromkeys(names)
            if name != group
        }

    def average(rows: np.ndarray, names: list, function: Callable) -> list[np.ndarray]:
        """Per group the values of its rows."""
        return [
            np.array([function(p, name) for p, own in zip(rows, names, strict=True) if own == name])
            for name in dict.fromkeys(names)
        ]

    def between(rows: np.ndarray, names: list, others: np.ndarray, theirs: list) -> float:
        total = sum(v.mean() for v in average(rows, names, lambda p, g: sum(towards(p, g, others, theirs).values())))
        return total / sum(a != b for a in dict.fromkeys(names) for b in dict.fromkeys(theirs))

    value = between(x, gx, x, gx) + between(y, gy, y, gy) - 2 * between(x, gx, y, gy)

    def witness(p: np.ndarray, group) -> float:
        return float(
            np.mean(list(towards(p, group, x, gx).values())) - np.mean(list(towards(p, group, y, gy).values()))
        )

    means, variances = [], []
    for side, names in ((x, gx), (y, gy)):
        w = average(side, names, witness)
        means.append(np.mean([v.mean() for v in w]))
        variances.append(np.mean([((v - means[-1]) ** 2).mean() for v in w]) * len(w) / (len(w) - 1))
    return value, (means[0] - means[1]) / np.sqrt(np.mean(variances))


GROUPS = {
    "none": (list(range(7)), list(range(10, 15))),
    "pairs": (list("abcdefg"), list("gfcbx")),
    "several rows": (list("aabbbcd"), list("efffg")),
    "several rows of pairs": (list("aabcccd"), list("ccbea")),
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equals_the_formulas(groups: tuple[list, list], dtype: type) -> None:
    x, y = normal(0, 7, 3), normal(1, 5, 3) + 0.8
    value, effect = reference(x, y, *groups)
    result = two_sample_test(x.astype(dtype), y.astype(dtype), groups=groups)
    assert result.mmd2 == pytest.approx(value, abs=1e-6 if dtype == np.float32 else 1e-12)
    assert result.effect == pytest.approx(effect, rel=1e-4 if dtype == np.float32 else 1e-9)
    assert result.estimator == "exact" and result.error == 0 and result.low < result.mmd2 < result.high
    many = two_sample_test(x.astype(dtype), y.astype(dtype), groups=groups, exact=0, features=40_000)
    assert many.mmd2 == pytest.approx(value, abs=0.01) and many.effect == pytest.approx(effect, abs=0.1)
    assert many.low == pytest.approx(result.low, abs=0.05) and many.estimator == "random features"


def test_without_groups_it_is_the_librarys_mmd() -> None:
    x, y = normal(2, 60, 16), normal(3, 45, 16) + 0.2
    expected = mmd2(torch.from_numpy(x), torch.from_numpy(y)).item()
    assert two_sample_test(x, y).mmd2 == pytest.approx(expected, abs=1e-12)
    assert two_sample_test(x, y, groups=(range(60), range(60, 105))).mmd2 == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("keys", [{}, {"exact": 0, "features": 20}], ids=["exact", "random features"])
@pytest.mark.parametrize("m", [12, 30])
def test_level_of_independent_rows(keys: dict, m: int) -> None:
    """400 draws of equal distributions: 5 %, within 2.5 standard errors."""
    share = rejected(lambda seed: (normal(2 * seed, 12, 3), normal(2 * seed + 1, m, 3)), 400, **keys)
    assert abs(share - 0.05) < 2.5 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize("keys", [{}, {"exact": 0, "features": 20}], ids=["exact", "random features"])
def test_level_of_pairs_and_what_free_permutation_makes_of_them(keys: dict) -> None:
    names = np.arange(15), np.arange(15)
    assert abs(rejected(lambda seed: (*pairs(seed, 15), *names), 400, **keys) - 0.05) < 0.028
    assert rejected(lambda seed: pairs(seed, 15), 100, **keys) == 0  # far too cautious ...
    shifted = lambda seed: pairs(seed, 15, shift=0.25)  # noqa: E731
    assert rejected(lambda seed: (*shifted(seed), *names), 50, **keys) >= 0.5
    assert rejected(shifted, 50, **keys) == 0  # ... and blind
    assert two_sample_test(*pairs(0, 15), groups=names, **keys).paired
    assert not two_sample_test(*pairs(0, 15), **keys).paired


@pytest.mark.parametrize("keys", [{}, {"exact": 0, "features": 20}], ids=["exact", "random features"])
def test_level_where_a_group_has_several_rows_in_one_domain(keys: dict) -> None:
    def make(seed: int) -> tuple:
        (x, gx), (y, gy) = views(2 * seed, 8, 4), views(2 * seed + 1, 8, 4)
        return x, y, gx, gy + 100

    assert abs(rejected(make, 300, **keys) - 0.05) < 0.032
    assert rejected(lambda seed: make(seed)[:2], 40, **keys) > 0.6  # rows moved one by one look like a difference


def test_level_of_pairs_of_unequal_sizes_and_of_a_few_pairs_among_many() -> None:
    def unequal(seed: int) -> tuple:
        """One picture of an object in x, three in y."""
        rows, groups = views(seed, 15, 4, alike=0.7)
        first = np.arange(60) % 4 == 0
        return rows[first], rows[~first], groups[first], groups[~first]

    def few(seed: int) -> tuple:
        (x, y), rest = pairs(seed, 4, noise=0.1), normal(seed + 10**5, 20, 4)
        return np.r_[x, rest[:10]], np.r_[y, rest[10:]], np.arange(14), np.r_[:4, 20:30]

    assert abs(rejected(unequal, 300) - 0.05) < 0.035
    assert abs(rejected(few, 300) - 0.05) < 0.032
    assert two_sample_test(*few(0)[:2], groups=few(0)[2:]).paired is False


def test_groups_of_one_domain_stay_where_pairs_are_the_rule() -> None:
    """Objects found in one domain only are another kind: that is no difference of style."""
    names = np.arange(40), np.r_[:30, 50:60]

    def make(seed: int) -> tuple:
        x, y = pairs(seed, 40)
        y[30:] += 3
        return x, y, *names

    assert rejected(make, 60) < 0.2
    units = twosample._sorted_by_group(*make(0)[:2], names)[1]
    member = twosample._reassigned(units, True, 50, np.random.default_rng(0))
    assert (member[:, ~units.shared] == units.in_x[~units.shared]).all()
    pair = units.shared & units.in_x
    assert (member[:, pair] != member[:, units.shared & ~units.in_x]).all() and 0.4 < member[1:, pair].mean() < 0.6
    free = twosample._reassigned(units, False, 50, np.random.default_rng(0))
    assert (free.sum(1) == units.in_x.sum()).all() and (free[1:, ~units.shared] != member[1:, ~units.shared]).any()


def test_power_and_effect_on_a_known_shift() -> None:
    x = normal(4, 600, 8)
    effects = [two_sample_test(x, normal(5, 600, 8) + shift / np.sqrt(8)).effect for shift in (0, 0.3, 1, 3)]
    assert effects == sorted(effects) and abs(effects[0]) < 0.15
    assert effects[1:3] == pytest.approx([0.3, 1], abs=0.2)  # Cohen's d, the direction being that of the shift
    assert rejected(lambda seed: (normal(seed, 30, 8), normal(seed + 500, 30, 8) + 0.4), 40) > 0.8
    small = [two_sample_test(normal(s, 100, 8), normal(s + 50, 100, 8) + 0.3, draws=40) for s in range(20)]
    large = two_sample_test(normal(6, 4000, 8), normal(7, 4000, 8) + 0.3, exact=2000, features=400, draws=40)
    assert np.mean([result.effect for result in small]) == pytest.approx(large.effect, abs=0.1)
    assert large.high - large.low < min(result.high - result.low for result in small) / 3


def test_effect_ignores_the_ratio_of_the_sizes() -> None:
    x, y = normal(8, 1500, 4) * 1.5, normal(9, 1500, 4) + 1
    even, odd, other = (
        two_sample_test(x[:n], y[:m], draws=1).effect for n, m in ((1500, 1500), (150, 1500), (1500, 150))
    )
    assert odd == pytest.approx(even, rel=0.2) and other == pytest.approx(even, rel=0.2)


def test_interval_covers() -> None:
    """The true MMD^2 is the mean of the unbiased estimates. 95 % is approximate, see the docstring."""
    for make, names in (
        (lambda seed, n: (normal(2 * seed, n, 4), normal(2 * seed + 1, n, 4) + 0.5), None),
        (lambda seed, n: pairs(seed, n, 0.4), np.arange(30)),
    ):
        results = [
            two_sample_test(*make(seed, 30), groups=None if names is None else (names, names), draws=40)
            for seed in range(250)
        ]
        true = np.mean([result.mmd2 for result in results])
        assert 0.85 < np.mean([result.low <= true <= result.high for result in results]) < 0.99
    null = [two_sample_test(normal(2 * s, 30, 4), normal(2 * s + 1, 30, 4), draws=40) for s in range(100)]
    assert np.mean([result.low <= 0 <= result.high for result in null]) >= 0.95


@pytest.mark.parametrize("keys", [{}, {"exact": 0}], ids=["exact", "random features"])
@pytest.mark.parametrize("grouped", [False, True])
def test_symmetric_blind_to_order_and_to_scale(keys: dict, grouped: bool) -> None:
    x, y = normal(10, 40, 6), normal(11, 30, 6) + 0.25
    gx, gy = (np.arange(40) // 2, np.arange(30) // 2 + 4) if grouped else (np.arange(40), np.arange(40, 70))
    result = two_sample_test(x, y, groups=(gx, gy), draws=999, **keys)
    mirror = two_sample_test(y, x, groups=(gy, gx), draws=999, **keys)
    assert mirror.p_value == pytest.approx(result.p_value, abs=0.03)
    assert (mirror.mmd2, mirror.effect) == pytest.approx((result.mmd2, result.effect), rel=1e-6)
    order = np.random.default_rng(0).permutation(40)
    mixed = two_sample_test(x[order], y[::-1], groups=(gx[order], gy[::-1]), draws=999, **keys)
    assert mixed.p_value == pytest.approx(result.p_value, abs=0.03)
    assert (mixed.mmd2, mixed.effect, mixed.paired) == pytest.approx((result.mmd2, result.effect, grouped), rel=1e-6)
    for scale, shift in ((1e-4, 0), (1e4, 0), (-7, 100)):
        other = two_sample_test(x * scale + shift, y * scale + shift, groups=(gx, gy), draws=999, **keys)
        assert numbers(other)[:2] == pytest.approx(numbers(result)[:2], rel=1e-6)
        assert (other.effect, other.low, other.high) == pytest.approx(
            (result.effect, result.low, result.high), rel=1e-5
        )


def test_random_features_stray_by_their_stated_error() -> None:
    x, y = normal(12, 150, 32), normal(13, 120, 32) + 0.2
    groups = np.arange(150) // 2, np.arange(120) // 3 + 20
    for names in (None, groups):
        exact = two_sample_test(x, y, groups=names, draws=1).mmd2
        runs = [two_sample_test(x, y, groups=names, draws=1, exact=0, features=100, seed=s) for s in range(60)]
        scores = np.array([(run.mmd2 - exact) / run.error for run in runs])
        assert 0.75 < scores.std() < 1.3 and abs(scores.mean()) < 0.5
        many = two_sample_test(x, y, groups=names, draws=1, exact=0, features=1600)
        assert many.error == pytest.approx(np.mean([run.error for run in runs]) / 4, rel=0.3)


def test_several_chunks_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(14, 90, 5), normal(15, 70, 5) + 0.2
    groups = np.arange(90) // 4, np.arange(70) // 3 + 10
    for names in (None, groups):
        whole = numbers(two_sample_test(x, y, groups=names, exact=0))
        folds, distance = a_distance(x, y, groups=names), frechet_distance(x, y)
        monkeypatch.setattr(twosample, "_ROWS", 7)
        assert numbers(two_sample_test(x, y, groups=names, exact=0)) == pytest.approx(whole, rel=1e-9)
        assert a_distance(x, y, groups=names) == folds
        assert frechet_distance(x, y).distance == pytest.approx(distance.distance, rel=1e-9)
        monkeypatch.undo()


def test_same_seed_same_bits_and_no_global_randomness() -> None:
    x, y = normal(16, 40, 5), normal(17, 40, 5) + 0.2
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for keys in ({}, {"exact": 0}):
        assert two_sample_test(x, y, **keys) == two_sample_test(x.copy(), y.copy(), **keys)
        assert two_sample_test(x, y, **keys) != two_sample_test(x, y, seed=1, **keys)
    assert a_distance(x, y) == a_distance(x.copy(), y.copy())
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


# --- what all three take ----------------------------------------------------------------------------------------------


FUNCTIONS: list[Callable] = [
    two_sample_test,
    lambda x, y: two_sample_test(x, y, exact=0, features=20),
    a_distance,
    frechet_distance,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_too_few_examples_broken_features_and_wrong_shapes(function: Callable) -> None:
    one, two = normal(18, 1, 3), normal(19, 2, 3)
    for x, y in ((one, two), (two, one), (two[:0], two)):
        with pytest.raises(InjertoError, match=f"from 2 examples on each side up, not {len(x)} and {len(y)}"):
            function(x, y)
    assert np.isfinite(numbers(function(two, two + 1))).all()
    for bad in (np.nan, np.inf, -np.inf):
        broken = two.copy()
        broken[1, 2] = bad
        with pytest.raises(InjertoError, match="NaN or infinite"):
            function(two, broken)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 2\)"):
        function(two, two[:, :2])


@pytest.mark.parametrize("function", [two_sample_test, a_distance])
def test_wrong_groups(function: Callable) -> None:
    x, y = normal(20, 4, 3), normal(21, 3, 3)
    with pytest.raises(ValueError, match="need 4 and 3 group names"):
        function(x, y, groups=(list("abcd"), list("ab")))
    with pytest.raises(InjertoError, match="from 2 groups on each side up"):
        function(x, y, groups=(list("abcd"), list("aaa")))
    with pytest.raises(InjertoError, match="1 or more draws"):
        two_sample_test(x, y, draws=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 1e-8, 3.7, 1e5])
def test_collapsed_features(dtype: type, value: float) -> None:
    x, y = np.full((8, 300), value, dtype), np.full((6, 300), value, dtype)
    for keys in ({}, {"exact": 0, "features": 20}):
        result = two_sample_test(x, y, **keys)
        assert abs(result.mmd2) < 1e-6 and result.p_value == 1 and result.effect == 0
    assert a_distance(x, y).error == 0.5 and a_distance(x, y).value == 0
    assert frechet_distance(x, y).distance == pytest.approx(0, abs=1e-9 * (1 + value) ** 2)
    y += 1 + value
    for keys in ({}, {"exact": 0, "features": 20}):
        result = two_sample_test(x, y, **keys)
        assert result.mmd2 > 0.5 and result.p_value < 0.02 and result.effect == np.inf
    assert a_distance(x, y).value == 2
    apart = frechet_distance(x, y)
    assert apart.distance == pytest.approx(300 * (1 + value) ** 2, rel=1e-5) and apart.relative == pytest.approx(4)


# --- A-distance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "d"), [(200, 200, 10), (100, 100, 600), (400, 40, 30), (40, 400, 600)])
def test_a_distance_of_equal_and_of_disjoint_domains(n: int, m: int, d: int) -> None:
    """Also with fewer rows than columns, and at ten to one."""
    scale = 1 / np.sqrt(np.arange(1, d + 1))
    equal = [a_distance(normal(2 * s, n, d) * scale, normal(2 * s + 1, m, d) * scale) for s in range(6)]
    assert abs(np.mean([result.error for result in equal]) - 0.5) < 0.05
    assert np.mean([result.value for result in equal]) < 0.2 and equal[0].low <= equal[0].value <= equal[0].high
    x, y = normal(22, n, d) * scale, normal(23, m, d) * scale + 6 * scale
    assert a_distance(x, y) == distance.ADistance(2.0, 0.0, 2.0, 2.0)


def test_a_distance_reads_the_overlap_of_two_normals() -> None:
    """Bayes error of unit normals a shift s apart: Phi(-s / 2)."""
    x, y = normal(24, 3000, 5), normal(25, 300, 5)
    y[:, 2] += 2
    result = a_distance(x, y)
    assert result.error == pytest.approx(0.1587, abs=0.03)
    assert result.value == pytest.approx(2 * (1 - 2 * result.error)) and result.low < 2 * (1 - 2 * 0.1587) < result.high
    scaled = a_distance(x * [1e-3, 1, 1e3, 5, 1], y * [1e-3, 1, 1e3, 5, 1])
    assert scaled.error == pytest.approx(result.error, abs=0.005)
    assert a_distance(x, y, seed=1) != result


def test_groups_never_straddle_folds_and_every_fold_has_both_sides() -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        first, second = rng.choice(list("abcdefgh"), 20), rng.choice(list("efghijkl"), 15)
        folds = distance._folds((first, second), seed)
        placed: dict[str, int] = {}
        for names, fold in zip((first, second), folds, strict=True):
            assert set(fold) == {0, 1}
            assert all(placed.setdefault(name, where) == where for name, where in zip(names, fold, strict=True))
        order = rng.permutation(20)
        assert (distance._folds((first[order], second), seed)[0] == folds[0][order]).all()
        mirrored = distance._folds((second, first), seed)
        assert {n: f for n, f in zip(second, mirrored[0], strict=True) if n in set(first)}.items() <= placed.items()
    for names in ((list("ab"), list("ab")), (list("ab"), list("ac")), (list("ab"), list("cd"))):
        assert all(set(fold) == {0, 1} for fold in distance._folds(tuple(map(np.array, names)), 0))
    different = [distance._folds((np.arange(20), np.arange(20)), seed)[0].tolist() for seed in range(5)]
    assert len(set(map(tuple, different))) == 5


def test_a_distance_of_near_copies_needs_their_groups() -> None:
    """Eight near copies of every object: folds that tear them apart recognize objects, not domains."""
    (x, gx), (y, gy) = (views(seed, 15, 8, width=100, alike=0.999) for seed in (26, 27))
    assert a_distance(x, y).value == 2
    assert a_distance(x, y, groups=(gx, gy + 100)).value < 0.8


# --- Frechet distance -------------------------------------------------------------------------------------------------


def test_frechet_equals_the_formula_with_a_matrix_root() -> None:
    from scipy.linalg import sqrtm

    for seed in range(5):
        x, y = normal(seed, 80, 6) @ normal(seed + 50, 6, 6), normal(seed + 100, 60, 6) @ normal(seed + 150, 6, 6) + 1
        s1, s2 = np.cov(x.T), np.cov(y.T)
        expected = np.trace(s1 + s2 - 2 * np.real(sqrtm(s1 @ s2)))
        assert distance._covariance_distance(s1, s2) == pytest.approx(expected, rel=1e-9)
        assert distance._covariance_distance(s2, s1) == pytest.approx(expected, rel=1e-9)
        assert distance._covariance_distance(s1, s1) == pytest.approx(0, abs=1e-6)
        shrunk = [distance._shrunk_covariance([(z, np.arange(len(z)))])[1] for z in (x, y)]
        whole = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(
            shrunk[0] + shrunk[1] - 2 * np.real(sqrtm(shrunk[0] @ shrunk[1]))
        )
        assert frechet_distance(x, y).distance == pytest.approx(whole, rel=1e-9)
        mixed = sum(map(np.trace, shrunk)) / 2 + ((x.mean(0) - y.mean(0)) ** 2).sum() / 4
        assert frechet_distance(x, y).relative == pytest.approx(whole / mixed, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(30, 5), (20, 60), (200, 40), (3, 4)])
def test_shrinkage_equals_ledoit_and_wolf(n: int, d: int) -> None:
    """Lemmas 3.2 to 3.4 by loops, with n - 1 for n, as the mean is estimated."""
    x = normal(n, n, d) / np.arange(1, d + 1)
    z = x - x.mean(0)
    sample = z.T @ z / (n - 1)
    centre = np.trace(sample) / d
    apart = ((sample - centre * np.eye(d)) ** 2).sum()
    around = sum(((np.outer(row, row)) ** 2).sum() for row in z) / (n - 1) - (sample**2).sum()
    weight = min(max(around / (n - 1) / apart, 0), 1)
    result = distance._shrunk_covariance([(x, np.arange(n))])[1]
    np.testing.assert_allclose(result, (1 - weight) * sample + weight * centre * np.eye(d), atol=1e-12)
    if n >= 30:
        from sklearn.covariance import ledoit_wolf

        assert weight == pytest.approx(ledoit_wolf(x)[1], abs=0.02)


def test_frechet_of_two_normals_with_many_rows_is_the_closed_form() -> None:
    """Commuting covariances: the sum over axes of (mu1 - mu2)^2 + (sd1 - sd2)^2."""
    sd1, sd2 = np.array([1, 2, 3, 0.5]), np.array([2, 2, 0.5, 1])
    turn = np.linalg.qr(normal(28, 4, 4))[0]
    x, y = normal(29, 100_000, 4) * sd1 @ turn, (normal(30, 60_000, 4) * sd2 + [1, 0, -1, 2]) @ turn
    expected = 6 + ((sd1 - sd2) ** 2).sum()
    result = frechet_distance(x, y)
    assert result.distance == pytest.approx(expected, rel=0.02)
    assert frechet_distance(x.astype(np.float32), y.astype(np.float32)).distance == pytest.approx(
        result.distance, rel=1e-5
    )
    assert frechet_distance(y, x).distance == pytest.approx(result.distance, rel=1e-9)
    scaled = frechet_distance(x * 1000 + 5, y * 1000 + 5)
    assert scaled.distance == pytest.approx(1e6 * result.distance, rel=1e-6)
    assert scaled.relative == pytest.approx(result.relative, rel=1e-6)


def test_shrinkage_takes_a_part_of_the_bias_of_small_samples() -> None:
    """The figures of the docstring: one normal distribution, 256 features of variance 1 / k."""
    scale = 1 / np.sqrt(np.arange(1, 257))
    for n, plain, shrunk in ((50, 0.74, 0.34), (256, 0.23, 0.17), (1000, 0.06, 0.05)):
        x, y = normal(31, n, 256) * scale, normal(32, n, 256) * scale
        mean = ((x.mean(0) - y.mean(0)) ** 2).sum()
        raw = mean + distance._covariance_distance(np.cov(x.T), np.cov(y.T))
        assert raw / (np.trace(np.cov(x.T) + np.cov(y.T)) / 2 + mean / 4) == pytest.approx(plain, abs=0.05)
        assert frechet_distance(x, y).relative == pytest.approx(shrunk, abs=0.05)


def test_frechet_of_few_rows_and_unequal_sizes_is_finite_and_real() -> None:
    for n, m in ((2, 2), (2, 50), (10, 300), (300, 7)):
        result = frechet_distance(normal(n, n, 40).astype(np.float32), normal(m + 1, m, 40).astype(np.float32) + 3)
        assert 0.5 * 360 < result.distance < 3 * 360 and 0 < result.relative < 4


def test_features_that_are_too_many_to_keep_are_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (1500, 6)), rng.normal(0.2, 1, (1200, 6))
    groups = np.arange(1500) // 2, 200 + np.arange(1200)
    settings: dict[str, Any] = {"groups": groups, "exact": 0, "features": 50, "draws": 20}
    kept = two_sample_test(x, y, **settings)
    monkeypatch.setattr(twosample, "_KEPT", 0)
    assert two_sample_test(x, y, **settings) == kept
