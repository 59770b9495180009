"""A drift sketch: what embeddings looked like when an adapter was made, in two kilobytes and without the data.

A server keeps it beside the adapter and tests every window of live inputs against it. It holds the mean of random
Fourier features, which stands for the distribution as far as a Gaussian kernel sees it, and what it takes to say how
far a window of the same distribution may stray from it by chance.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from injerto.basics.errors import InjertoError
from injerto.basics.files import atomic_path
from injerto.statistics.kernels import median_bandwidth

FORMAT = "injerto-sketch-1"
LEVEL = 0.01
"""False alarms per window, on average: at 0.01 one in a hundred windows of unchanged inputs raises an alarm."""
DRAWS = 20_000
"""Of the null distribution; the smallest p-value is 1 / (1 + DRAWS)."""
FEWEST = 20
"""Embeddings that a sketch can be made of."""
SMALLEST_WINDOW = 8
LARGEST_FILE = 1_000_000  # bytes
MOST_FEATURES = 4096
WIDEST = 100_000  # numbers in an embedding

_BANDWIDTH_ROWS = 1000  # rows the median distance is taken over
_ROWS = 1024  # rows at a time
_ALIKE = 1e-8  # embeddings closer than that, in units of their mean squared length, differ by rounding only
_ROUNDING = 1e-9  # of a statistic: kernels are at most 1
_DTYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64}
_KINDS = {"mean": "F32", "eigenvalues": "F32", "bandwidth": "F64", "seed": "I64", "count": "I64", "dimension": "I64"}


@dataclass(frozen=True)
class Drift:
    """How a window compares with a sketch.

    Attributes:
        statistic: MMD^2 of window and sketch, biased, from 0 to 4 and below 2 but for the error of the features. For
            unchanged inputs it is about (1 - E k) (1 / n + 1 / N): compare it between windows of one size only.
        p_value: Of the hypothesis that nothing has changed, from 1 / (1 + DRAWS) to 1.
        n: Inputs in the window.
    """

    statistic: float
    p_value: float
    n: int

    def alarm(self, level: float = LEVEL) -> bool:
        """Whether the window looks changed.

        Args:
            level: Share of windows of unchanged inputs that raise a false alarm, on average; they are not corrected for
                how many windows are tested, so expect one in 1 / level windows.

        Raises:
            InjertoError: Where no p-value could be that small, or every one is.
        """
        if not 1 / (1 + DRAWS) <= level < 1:
            raise InjertoError(f"a level of false alarms is from 1/{1 + DRAWS} to below 1, not {level}")
        return self.p_value <= level


@dataclass(frozen=True, eq=False)
class Sketch:
    """The distribution of some embeddings, as a mean of random Fourier features and its spread.

    Features (Rahimi and Recht, NeurIPS 2007, algorithm 1): cosine and sine of ``w x`` for M / 2 frequencies w drawn
    from N(0, 1 / sigma^2), over the root of M / 2, so that the product of the features of x and y is about
    ``k(x, y) = exp(-|x - y|^2 / (2 sigma^2))``. The frequencies are drawn again from the seed when they are needed.

    Attributes:
        mean: Of the features, float32 (M,).
        eigenvalues: Of their covariance, float32 (M,), ascending, made ready for :meth:`test`.
        bandwidth: sigma^2, in squared units of the embeddings.
        seed: Of the frequencies.
        count: Embeddings it was made of, N.
        dimension: Width of an embedding, D.
    """

    mean: np.ndarray
    eigenvalues: np.ndarray
    bandwidth: float
    seed: int
    count: int
    dimension: int

    @classmethod
    def of(cls, embeddings: np.ndarray, features: int = 256, seed: int = 0) -> "Sketch":
        """Sketch embeddings. Take them from examples the adapter was not trained on: it treats its own differently.

        sigma is the median distance of 1,000 rows (Gretton et al., JMLR 13, 2012, section 8); where they are all alike,
        the root of their mean squared length, or 1 where they are 0.

        Args:
            embeddings: (N, D), float32 or float64, independent rows, N from 20 up; better a few times the size of a
                window, see :meth:`test`.
            features: M, even, from 2 to 4096. The file has 8 M bytes and a header of 500.
            seed: Of frequencies and rows, from 0 to 2^63 - 1; the global random state is left alone.

        Raises:
            InjertoError: Where there are too few embeddings, numbers that are not finite, or an argument is off.
        """
        if not (2 <= features <= MOST_FEATURES and features % 2 == 0 and 0 <= seed < 2**63):
            raise InjertoError(
                f"a sketch has an even number of features from 2 to {MOST_FEATURES} and a seed from 0 to"
                f" 2^63 - 1, not {features} and {seed}"
            )
        embeddings = _checked(embeddings)
        count, dimension = embeddings.shape
        if count < FEWEST:
            raise InjertoError(f"a drift sketch needs {FEWEST} embeddings or more, not {count}: add examples")
        bandwidth = _bandwidth(embeddings, seed)
        mapped = _features(embeddings, _normals(seed, dimension, features // 2), bandwidth)
        mean = mapped.mean(0)
        mapped -= mean
        eigenvalues = _null_eigenvalues(mapped)
        return cls(mean.astype(np.float32), eigenvalues.astype(np.float32), bandwidth, seed, count, dimension)

    def test(self, window: np.ndarray) -> Drift:
        """Does a window of inputs come from the sketched distribution?

        The statistic is the squared distance of the feature means: MMD^2, biased (Gretton et al. 2012, equation 5), up
        to the error of the features. Of a window of that distribution, n N / (n + N) times it is distributed as the sum
        of lambda_i z_i^2, z standard normal and lambda the eigenvalues of the features' covariance (the same, Theorem
        12, which is about kernels; for features it is the central limit theorem). The p-value counts ``DRAWS`` draws of
        that sum: ``(1 + #{drawn >= observed}) / (1 + DRAWS)``. They are made at the first call, from a fixed seed.

        FIGURES

        Args:
            window: (n, D), n from 8 up; of independent inputs: many of one source are a change of their own.

        Raises:
            InjertoError: Where the window is too small, of another width, or has numbers that are not finite.
        """
        window = _checked(window)
        n, dimension = window.shape
        if dimension != self.dimension:
            raise InjertoError(
                f"embeddings of {dimension} numbers can't be tested against a sketch of {self.dimension}: use the"
                " base model it was made with"
            )
        if n < SMALLEST_WINDOW:
            raise InjertoError(f"a window of {n} inputs is too small: wait for {SMALLEST_WINDOW} or more")
        mapped = _features(window, _normals(self.seed, dimension, len(self.mean) // 2), self.bandwidth)
        statistic = float(np.square(mapped.mean(0) - self.mean).sum())
        scaled = n * self.count / (n + self.count) * max(statistic - _ROUNDING, 0.0)
        above = DRAWS - int(np.searchsorted(self._null, scaled))
        return Drift(statistic, (1 + above) / (1 + DRAWS), n)

    @cached_property
    def _null(self) -> np.ndarray:
        """Draws of the weighted sum of squared normals, ascending, (DRAWS,)."""
        rng = np.random.Generator(np.random.Philox(0))
        weights = self.eigenvalues.astype(np.float64)
        drawn = [np.square(rng.standard_normal((500, len(weights)))) @ weights for _ in range(DRAWS // 500)]
        return np.sort(np.concatenate(drawn))

    def save(self, path: Path) -> None:
        """Write a safetensors file, byte for byte the same for equal sketches.

        Args:
            path: The file; it is whole or not there.

        Raises:
            InjertoError: Where it can't be written.
        """
        tensors = {name: np.asarray(getattr(self, name), _DTYPES[kind]) for name, kind in _KINDS.items()}
        data = save(tensors, metadata={"format": FORMAT})  # one entry: several would be in another order every time
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)

    @classmethod
    def load(cls, path: Path) -> "Sketch":
        """Read what :meth:`save` wrote, everything checked: it may come from a stranger.

        Args:
            path: The file.

        Raises:
            InjertoError: Where it is missing, damaged, too large or no sketch.
        """
        tensors = _read(path)
        mean, eigenvalues = tensors["mean"], tensors["eigenvalues"]
        seed, count, dimension = (int(tensors[name]) for name in ("seed", "count", "dimension"))
        bandwidth = float(tensors["bandwidth"])
        whole = seed >= 0 and count >= FEWEST and 1 <= dimension <= WIDEST
        if not (whole and bandwidth > 0 and eigenvalues.min() >= 0 and np.abs(mean).max() <= 1):
            raise InjertoError(f"{path} holds numbers that no sketch has; it is not loaded, make it again")
        return cls(mean, eigenvalues, bandwidth, seed, count, dimension)


def _checked(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu" or not 1 <= embeddings.shape[1] <= WIDEST:
        raise InjertoError(
            f"embeddings are numbers (N, D), D from 1 to {WIDEST}, not {embeddings.dtype} {embeddings.shape}"
        )
    if len(embeddings) and not np.abs(embeddings).max() <= np.finfo(np.float32).max:
        raise InjertoError("NaN, infinite or huge numbers among the embeddings: look for broken inputs")
    return embeddings


def _bandwidth(embeddings: np.ndarray, seed: int) -> float:
    """sigma^2: the median squared distance of some rows; where they coincide, what keeps the kernel in scale."""
    order = np.argsort(np.random.Philox(key=seed).random_raw(len(embeddings)))
    some = embeddings[order[:_BANDWIDTH_ROWS]].astype(np.float64)
    length = float(np.square(some).sum(1).mean())
    if length == 0:
        return 1.0
    median = float(median_bandwidth(torch.from_numpy(some)))
    return median if median > _ALIKE * length else length


@lru_cache(maxsize=4)  # sketches of one seed and width share them
def _normals(seed: int, dimension: int, count: int) -> np.ndarray:
    """Standard normal numbers (D, M / 2), the same in every version of numpy.

    The raw integers of Philox are guaranteed to stay as they are, the normal numbers of ``Generator`` are not (NEP 19);
    so these are made here, two from two uniform ones (Box and Muller, 1958).
    """
    size = dimension * count
    raw = np.random.Philox(key=seed).random_raw(2 * ((size + 1) // 2)).reshape(2, -1)
    uniform = ((raw >> np.uint64(11)) + 0.5) * 2.0**-53  # between 0 and 1, without the ends
    radius, angle = np.sqrt(-2 * np.log(uniform[0])), 2 * np.pi * uniform[1]
    normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size].reshape(dimension, count)
    normals.setflags(write=False)
    return normals


def _features(embeddings: np.ndarray, normals: np.ndarray, bandwidth: float) -> np.ndarray:
    """Cosines, then sines, (n, M), every row of length 1. In float64: an offset of all embeddings does no harm."""
    count, scale = normals.shape[1], 1 / math.sqrt(bandwidth)
    mapped = np.empty((len(embeddings), 2 * count))
    for start in range(0, len(embeddings), _ROWS):
        phases = (embeddings[start : start + _ROWS].astype(np.float64) * scale) @ normals
        np.cos(phases, out=mapped[start : start + _ROWS, :count])
        np.sin(phases, out=mapped[start : start + _ROWS, count:])
    return mapped / math.sqrt(count)


def _null_eigenvalues(centred: np.ndarray) -> np.ndarray:
    """Eigenvalues (M,) of the covariance of centred features (N, M), drawn towards their mean.

    Those of the unbiased covariance S add up to the right sum, but lie too far apart where N is not much larger than M,
    and the test would hardly ever reject. The sum and the sum of squares are the mean and half the variance of the null
    distribution; so the eigenvalues are drawn together until the latter, too, is what it should be: the unbiased
    estimate of tr(Sigma^2) of Himeno and Yamada, J. Multivariate Analysis 130, 2014 (see Zhou and Guo, Statistics and
    Probability Letters 129, 2017), for any distribution.
    """
    n, m = centred.shape
    eigenvalues = np.linalg.eigvalsh(centred.T @ centred / (n - 1)).clip(0)
    total, squares = eigenvalues.sum(), np.square(eigenvalues).sum()
    fourth = np.square(np.square(centred).sum(1)).sum() / (n - 1)
    wanted = (n - 1) / (n * (n - 2) * (n - 3)) * ((n - 1) * (n - 2) * squares + total**2 - n * fourth)
    least = total**2 / m  # all eigenvalues the same
    if squares <= least:
        return eigenvalues
    share = math.sqrt(min(max((wanted - least) / (squares - least), 0), 1))
    return total / m + share * (eigenvalues - total / m)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a sketch's file, their names, types, shapes and finite numbers checked."""
    if not path.is_file():
        raise InjertoError(f"{path} is missing or no file; make the sketch again")
    if path.stat().st_size > LARGEST_FILE:
        raise InjertoError(f"{path} is larger than {LARGEST_FILE} bytes, more than a sketch has; it is not loaded")
    try:
        with safe_open(path, framework="np") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  not a dict
            if (file.metadata() or {}).get("format") != FORMAT or kinds != _KINDS:
                raise InjertoError(f"{path} is no drift sketch of format {FORMAT}; it is not loaded")
            tensors = {name: file.get_tensor(name) for name in kinds}
    except (SafetensorError, OSError, ValueError) as error:
        if "KeyboardInterrupt" in str(error):  # safetensors wraps what is raised while it reads
            raise KeyboardInterrupt from None
        raise InjertoError(f"{path} cannot be read ({error}); it is damaged or no safetensors file") from None
    features = tensors["mean"].size
    wanted = {name: (features,) if kind == "F32" else () for name, kind in _KINDS.items()}
    if not 2 <= features <= MOST_FEATURES or features % 2 or {k: v.shape for k, v in tensors.items()} != wanted:
        raise InjertoError(f"{path} holds tensors of shapes that no sketch has; it is not loaded")
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise InjertoError(f"{path} holds NaN or infinity; it is not loaded")
    return tensors
