"""A drift sketch: what embeddings looked like when an adapter was made, in a few kilobytes and without the data.

A server keeps it beside the adapter and tests every window of live inputs against it. It holds the mean of random
Fourier features, which stands for the distribution as a Gaussian kernel sees it, and how far chance takes a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from injerto.adapters.snapshot import SKETCH, Snapshot, read_file
from injerto.adapters.tensors import Tensors
from injerto.basics.errors import InjertoError
from injerto.basics.files import atomic_path
from injerto.basics.limits import SKETCH_BYTES
from injerto.statistics.kernels import median_bandwidth

FORMAT = "injerto-sketch-1"
LEVEL = 0.01  # false alarms per window of unchanged inputs: one in a hundred
DRAWS = 20_000  # of the null distribution; the smallest p-value is 1 / (1 + DRAWS)
FEWEST, SMALLEST_WINDOW = 20, 8  # rows of a sketch, of a window
MOST_ROWS, LARGEST_WINDOW = 5_000, 256  # more teach a sketch little; a larger window answers later
FEATURES, WIDE, WIDE_FEATURES = 256, 512, 1024  # M, and of embeddings wider than 512
MOST_FEATURES, WIDEST = 4096, 100_000  # M, D

_BANDWIDTH_ROWS, _ROWS = 1000, 1024  # rows the median distance is taken over; rows at a time
_ALIKE = 1e-8  # a bandwidth below this share of the mean squared length of the rows is rounding
_ROUNDING = 1e-9  # of a statistic; kernels are at most 1
_TYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64}
_TENSORS = {"mean": "F32", "eigenvalues": "F32", "bandwidth": "F64", "seed": "I64", "count": "I64", "dimension": "I64"}


@dataclass(frozen=True)
class Drift:
    """How a window compares with a sketch.

    Attributes:
        statistic: MMD^2, biased, 0 to 4; if unchanged, about (1 - E k) (1 / n + 1 / N): it depends on the size.
        p_value: Of the hypothesis that nothing has changed, from 1 / (1 + DRAWS) to 1.
        n: Inputs in the window.
    """

    statistic: float
    p_value: float
    n: int

    def alarm(self, level: float = LEVEL) -> bool:
        """Whether the window looks changed.

        Args:
            level: False alarms per window. Windows are not corrected for their number: expect one in 1 / level.

        Raises:
            InjertoError: Where no p-value is that small, or every one is.
        """
        if not 1 / (1 + DRAWS) <= level < 1:
            raise InjertoError(f"a level of false alarms is from 1/{1 + DRAWS} to below 1, not {level}")
        return self.p_value <= level


@dataclass(frozen=True, eq=False)
class Sketch:
    """A distribution of embeddings as the mean of random Fourier features, and their spread.

    Features (Rahimi and Recht, NeurIPS 2007, algorithm 1): cosine and sine of w x, over the root of M / 2, for M / 2
    frequencies w from N(0, 1 / sigma^2), which are drawn again when needed. The product of the features of x and y is
    about ``k(x, y) = exp(-|x - y|^2 / (2 sigma^2))``, so that the scale of the embeddings does not matter.

    Attributes:
        mean: Of the features, float32 (M,).
        eigenvalues: Of their covariance, float32 (M,), ascending, a little shrunk towards their mean.
        bandwidth: sigma^2, in squared units of the embeddings.
        seed: Of the frequencies.
        count: Embeddings it was made of, N; of grouped ones, how many independent ones say as much of the mean.
        dimension: Width of an embedding, D.
    """

    mean: np.ndarray
    eigenvalues: np.ndarray
    bandwidth: float
    seed: int
    count: int
    dimension: int

    @classmethod
    def of(
        cls,
        embeddings: np.ndarray,
        features: int | None = None,
        seed: int = 0,
        groups: Sequence[str] | np.ndarray | None = None,
    ) -> "Sketch":
        """Sketch embeddings, of examples that the adapter was not trained on: its own look different to it.

        sigma is the median distance within 1,000 rows (Gretton et al., JMLR 13, 2012, section 8); where all are alike,
        the root of their mean squared length, or 1 for 0.

        Args:
            embeddings: (N, D) rows, N from 20 up, any scale; of more than 5,000 so many are drawn.
            features: M, even, 2 to 4096; 256 where not given, 1,024 for D above 512. The file has 8 M bytes and some
                430 more.
            seed: Of frequencies and rows, from 0 up; the global random state is left alone.
            groups: Group of each row (N,), None for independent ones. Rows of one group resemble each other, so they
                tell less of the mean than as many others: :attr:`count` is lowered by their design effect (Kish,
                Survey Sampling, 1965, section 5.4).

        Raises:
            InjertoError: Where there are too few embeddings (counted so), numbers that are not finite, or an argument
                is off.
        """
        count, dimension = _check(embeddings)
        if features is None:
            features = FEATURES if dimension <= WIDE else WIDE_FEATURES
        if not (2 <= features <= MOST_FEATURES and features % 2 == 0 and 0 <= seed < 2**63):
            raise InjertoError(f"features are even, 2 to {MOST_FEATURES}, a seed is 0 or more: not {features}, {seed}")
        if count < FEWEST:
            raise InjertoError(f"a drift sketch needs {FEWEST} embeddings or more, not {count}: add examples")
        names = np.arange(count) if groups is None else np.asarray(groups)
        if count > MOST_ROWS:
            chosen = np.sort(_order(count, seed)[:MOST_ROWS])
            embeddings, names, count = embeddings[chosen], names[chosen], MOST_ROWS
        bandwidth = _bandwidth(embeddings, seed)
        rows = _features(embeddings, _normals(seed, dimension, features // 2), bandwidth)
        mean, eigenvalues = rows.mean(0).astype(np.float32), _null_eigenvalues(rows).astype(np.float32)
        count = _independent(rows, names)
        if count < FEWEST:
            raise InjertoError(f"a drift sketch needs {FEWEST} independent embeddings, not {count}: add groups")
        return cls(mean, eigenvalues, bandwidth, seed, count, dimension)

    @property
    def window(self) -> int:
        """Inputs of a window that this sketch can judge well: a tenth of its own, 8 to 256."""
        return min(LARGEST_WINDOW, max(SMALLEST_WINDOW, self.count // 10))

    def same(self, other: "Sketch") -> bool:
        """Whether it is the same sketch, read again perhaps.

        Args:
            other: Any.
        """
        mine, others = ((one.bandwidth, one.seed, one.count, one.dimension) for one in (self, other))
        return mine == others and np.array_equal(self.mean, other.mean)

    def test(self, window: np.ndarray) -> Drift:
        """Does a window of inputs come from the sketched distribution?

        The statistic is the squared distance of the feature means: MMD^2, biased (Gretton et al. 2012, equation 5), up
        to the error of the features. If it does, n N / (n + N) times that is distributed as sum_i lambda_i z_i^2, z
        standard normal and lambda the eigenvalues of the features' covariance (section 5, Theorem 12; of features, by
        the central limit theorem). ``p = (1 + #{drawn >= observed}) / (1 + DRAWS)``, draws of a fixed seed, made once.

        Measured at M = 256 on normal, clustered and digit data, D 64 to 384, N from 20 and n from 8 to 1,000, over many
        sketches: of unchanged windows 3 to 7 % raise an alarm at the level 5 %, 0.3 to 1.6 % at 1 %. One sketch has a
        rate of its own, as its mean is off, too: at N = 10 n mostly 3 to 7 % at 5 %, at N = n 0 to 17 %. So keep
        windows well below N. Other class proportions are found as often as by the exact kernel; a shift in one of
        hundreds of independent directions less often, where more features help.

        Args:
            window: (n, D), n from 8 up, of independent inputs: many from one source look like a change.

        Raises:
            InjertoError: Where the window is too small, of another width, or has numbers that are not finite.
        """
        n, dimension = _check(window)
        if dimension != self.dimension:
            raise InjertoError(f"embeddings of width {dimension}, not {self.dimension}: use the sketch's base model")
        if n < SMALLEST_WINDOW:
            raise InjertoError(f"a window of {n} inputs is too small: wait for {SMALLEST_WINDOW} or more")
        rows = _features(window, _normals(self.seed, dimension, len(self.mean) // 2), self.bandwidth)
        statistic = float(np.square(rows.mean(0) - self.mean).sum())
        scaled = n * self.count / (n + self.count) * max(statistic - _ROUNDING, 0.0)
        above = DRAWS - int(np.searchsorted(self._null, scaled))
        return Drift(statistic, (1 + above) / (1 + DRAWS), n)

    @cached_property
    def _null(self) -> np.ndarray:
        """Draws of the weighted sum of squared normals, ascending, (DRAWS,), 500 at a time."""
        rng, weights = np.random.Generator(np.random.Philox(0)), self.eigenvalues.astype(np.float64)
        parts = [np.square(rng.standard_normal((500, len(weights)))) @ weights for _ in range(DRAWS // 500)]
        with np.errstate(over="ignore"):  # of a stranger's sketch
            return np.sort(np.concatenate(parts)).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all, byte for byte the same for equal sketches.

        Args:
            path: The file.

        Raises:
            InjertoError: Where it can't be written.
        """
        tensors = {name: np.asarray(getattr(self, name), _TYPES[kind]) for name, kind in _TENSORS.items()}
        data = save(tensors, metadata={"format": FORMAT})  # one entry: several would be in another order every time
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)

    @classmethod
    def load(cls, path: Path) -> "Sketch":
        """Read what :meth:`save` wrote; it may come from a stranger, so every number is checked.

        Args:
            path: The file.

        Raises:
            InjertoError: Where it is missing, damaged, too large or no sketch.
        """
        return cls.parse(read_file(path, SKETCH_BYTES, "drift sketch"), str(path))

    @classmethod
    def parse(cls, content: bytearray | memoryview, path: str) -> "Sketch":
        """Read the bytes of a file, every number checked.

        Args:
            content: The file.
            path: Its name, for messages.

        Raises:
            InjertoError: Where it is damaged or no sketch.
        """
        file = Tensors(content, path)
        types = {name: claim.type for name, claim in file.claims.items()}
        if file.metadata.get("format") != FORMAT or types != _TENSORS:
            raise InjertoError(f"{path} is no drift sketch of format {FORMAT}; it is not loaded")
        tensors = {name: file[name].numpy() for name in types}
        mean, eigenvalues, bandwidth = tensors["mean"], tensors["eigenvalues"], tensors["bandwidth"]
        shapes = {name: mean.shape if kind == "F32" else () for name, kind in _TENSORS.items()}
        if mean.ndim != 1 or {name: tensor.shape for name, tensor in tensors.items()} != shapes:
            raise InjertoError(f"{path} has tensors of shapes that no sketch has; it is not loaded")
        seed, count, dimension = (int(tensors[name]) for name in ("seed", "count", "dimension"))
        sizes = 2 <= len(mean) <= MOST_FEATURES and len(mean) % 2 == 0 and 1 <= dimension <= WIDEST and count >= FEWEST
        whole = sizes and 0 <= eigenvalues.min() <= eigenvalues.max() < np.inf and np.abs(mean).max() <= 1  # NaN fails
        if not (whole and seed >= 0 and 0 < bandwidth < np.inf):
            raise InjertoError(f"{path} holds numbers that no sketch has, or NaN; it is not loaded")
        return cls(mean, eigenvalues, float(bandwidth), seed, count, dimension)


def load_sketch(files: Snapshot) -> Sketch | None:
    """An adapter's sketch, None where it has none.

    Args:
        files: Open, its card read.

    Raises:
        InjertoError: Where there is one that is damaged.
    """
    return Sketch.parse(files.read(SKETCH), str(files.folder / SKETCH)) if SKETCH in files else None


def _null_eigenvalues(rows: np.ndarray) -> np.ndarray:
    """Eigenvalues (M,) of the covariance of features (N, M), so that mean and variance of the null are right.

    Those of the unbiased covariance have the right sum, but lie too far apart where N is not well above M: such a test
    rejects too seldom. The null's variance is twice the sum of their squares, tr(Sigma^2); they are shrunk to their
    mean until that is its unbiased estimate (Himeno and Yamada, J. Multivariate Analysis 130, 2014).
    """
    n, centred = len(rows), rows - rows.mean(0)
    eigenvalues: np.ndarray = np.linalg.eigvalsh(centred.T @ centred / (n - 1)).clip(0)
    total, squares = float(eigenvalues.sum()), float(np.square(eigenvalues).sum())
    fourth = np.square(np.square(centred).sum(1)).sum() / (n - 1)
    wanted = (n - 1) / (n * (n - 2) * (n - 3)) * ((n - 1) * (n - 2) * squares + total**2 - n * fourth)
    mean, least = total / len(eigenvalues), total**2 / len(eigenvalues)  # the squares where all are the same
    if squares <= least:
        return eigenvalues
    share = float(np.sqrt(np.clip((wanted - least) / (squares - least), 0, 1)))
    return share * eigenvalues + (1 - share) * mean


def _independent(rows: np.ndarray, groups: np.ndarray) -> int:
    """How many independent rows have a mean as uncertain as that of these, at most as many as there are."""
    _, place = np.unique(groups, return_inverse=True)
    count, units = len(rows), int(place.max()) + 1
    if units == count:
        return count
    centred = rows - rows.mean(0)
    sums = np.zeros((units, rows.shape[1]))
    np.add.at(sums, place, centred)
    of_mean = float(np.square(sums).sum()) / count**2 * units / max(units - 1, 1)
    of_row = float(np.square(centred).sum()) / count + of_mean
    return count if of_mean == 0 and units > 1 else 1 if units == 1 else min(count, round(of_row / of_mean))


def _check(embeddings: np.ndarray) -> tuple[int, int]:
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu" or not 1 <= embeddings.shape[1] <= WIDEST:
        raise InjertoError(f"need numbers (N, D), D from 1 to {WIDEST}, not {embeddings.dtype} {embeddings.shape}")
    if len(embeddings) and not np.abs(embeddings).max() <= np.finfo(np.float32).max:
        raise InjertoError("NaN, infinite or huge numbers among the embeddings: look for broken inputs")
    return embeddings.shape[0], embeddings.shape[1]


def _bandwidth(embeddings: np.ndarray, seed: int) -> float:
    rows = embeddings[_order(len(embeddings), seed)[:_BANDWIDTH_ROWS]].astype(np.float64)
    length, median = float(np.square(rows).sum(1).mean()), float(median_bandwidth(torch.from_numpy(rows)))
    return median if median > _ALIKE * length > 0 else length or 1.0


def _order(count: int, seed: int) -> np.ndarray:
    return np.argsort(np.random.Philox(key=seed).random_raw(count))


@lru_cache(maxsize=4)  # sketches of one seed and width share them
def _normals(seed: int, dimension: int, count: int) -> np.ndarray:
    """Standard normal numbers (D, M / 2), the same in every version of numpy.

    Philox's integers stay as they are, ``Generator``'s normal numbers need not (NEP 19): hence Box and Muller (1958).
    """
    half = -(-dimension * count // 2)
    uniform = ((np.random.Philox(key=seed).random_raw(2 * half) >> np.uint64(12)) + 0.5) * 2.0**-52  # never 0 or 1
    radius, angle = np.sqrt(-2 * np.log(uniform[:half])), 2 * np.pi * uniform[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: dimension * count].reshape(-1, count)


def _features(embeddings: np.ndarray, normals: np.ndarray, bandwidth: float) -> np.ndarray:
    """Cosines, then sines, (n, M), every row of length 1; in float64, as embeddings may lie far from 0."""
    count, scale = normals.shape[1], bandwidth**-0.5
    rows = np.empty((len(embeddings), 2 * count))
    for start in range(0, len(embeddings), _ROWS):
        phases = (embeddings[start : start + _ROWS].astype(np.float64) * scale) @ normals
        rows[start : start + _ROWS] = np.hstack([np.cos(phases), np.sin(phases)])
    rows /= np.sqrt(count)
    return rows
