"""The scikit-learn face: one classifier of embeddings, pictures or texts for pipelines and searches."""

import unicodedata
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from injerto import api
from injerto.adapters.load import read_files
from injerto.basics.errors import InjertoError
from injerto.basics.progress import quiet
from injerto.basics.removal import remove_temporary, scratch_folder
from injerto.domains.columns import ColumnNames
from injerto.domains.domain import Domains, Modality, Problem
from injerto.domains.folders import is_image_name
from injerto.domains.rows import Rows, build_domains
from injerto.domains.splits import split_domains
from injerto.domains.texts import clean_texts
from injerto.evaluation.inputs import as_inputs
from injerto.recipe.recipe import make_recipe

if TYPE_CHECKING:
    from injerto.evaluation.run import Run

FIELDS = ("tuning", "head", "epochs", "lr", "head_lr", "batch_size", "augment", "image_size", "threads")
TRAINED = ("epochs", "steps", "lr", "head_lr", "neck", "alignment", "average")
"""Settings that only a trained head has a use for."""
SAID = {"data", "source", "target", "input", "label", "domain", "group", "split_column", "split_file", "seed"}
SAID |= {"config", "resume"}
"""Settings that the estimator decides."""
FITTED = ("classes_", "coef_", "intercept_", "C_", "n_features_in_", "feature_names_in_", "_run", "_base", "_files")
"""What a fit leaves behind."""


class EstimatorError(InjertoError, ValueError):
    """What the user can mend, as the ValueError that scikit-learn expects."""


class Classifier(ClassifierMixin, BaseEstimator):
    """Transfer learning as a scikit-learn classifier.

    ``X`` decides what is done. A 2-D array of numbers holds embeddings: no backbone runs, a converged logistic
    regression on standardized columns is solved. A list, 1-D array or Series of pictures (paths, bytes, PIL, arrays;
    also an array (N, H, W, 3)) or of texts is fitted as :func:`injerto.fit` does it. A quarter of the examples is the
    ``val`` split that regularization or checkpoint are chosen on; identical ones are never parted. Embeddings are then
    solved on everything. Of a run only the adapter is pickled.

    Attributes:
        classes_: The classes, sorted; of the type of ``y``. Columns of :meth:`predict_proba` follow them.
        n_features_in_: Columns of ``X`` (embeddings only), as ``feature_names_in_`` for data frames.
        coef_: Weights on ``X``, (C, D) (embeddings only).
        intercept_: Biases (C,) (embeddings only).
        C_: The inverse regularization strength used (embeddings only).
        run_: The finished run (pictures and texts only).

    Examples:
        >>> model = Classifier(tuning="last:2").fit(["cat.png", "dog.png", ...], ["cat", "dog", ...])  # doctest: +SKIP
    """

    def __init__(
        self,
        backbone: Any = None,
        tuning: str = "head",
        head: str | None = None,
        *,
        C: float | None = None,
        epochs: float | None = None,
        lr: float | str | None = None,
        head_lr: float | None = None,
        batch_size: int | None = None,
        augment: str | None = None,
        image_size: int | None = None,
        threads: int | None = None,
        random_state: Any = 0,
        out: str | PathLike[str] | None = None,
        settings: dict[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        """Keep the settings; :meth:`fit` checks them. None takes the library's default.

        Args:
            backbone: A name, a folder or any ``nn.Module``; not used on embeddings.
            tuning: What may move; on embeddings ``head``.
            head: ``linear``, ``mlp``, ``native`` or ``probe``; None is ``probe`` where tuning is ``head`` and nothing
                (such as ``epochs``) asks for a trained head, else ``linear``.
            C: Inverse regularization strength on embeddings; None chooses it.
            epochs: Passes over the train split.
            lr: Learning rate of what was pretrained, or ``auto``.
            head_lr: Learning rate of the new layers.
            batch_size: Examples per step.
            augment: ``none``, ``light``, ``standard`` or ``auto``.
            image_size: Pixels a side.
            threads: CPU threads of a run.
            random_state: An int, or what ``check_random_state`` takes: the seed of split and training.
            out: Where the run's folder is kept; None for a temporary one that goes with the estimator.
            settings: Further fields of :class:`injerto.recipe.recipe.Recipe`, and ``overwrite``.
            verbose: Whether notes and progress are printed.
        """
        self.backbone = backbone
        self.tuning = tuning
        self.head = head
        self.C = C
        self.epochs = epochs
        self.lr = lr
        self.head_lr = head_lr
        self.batch_size = batch_size
        self.augment = augment
        self.image_size = image_size
        self.threads = threads
        self.random_state = random_state
        self.out = out
        self.settings = settings
        self.verbose = verbose

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Learn classes from embeddings, pictures or texts.

        Args:
            X: (N, D) numbers, or N pictures or texts.
            y: Classes (N,): strings, integers or booleans.
            groups: Keys (N,): examples with one key are on the same side of the inner split.

        Raises:
            InjertoError: Where something does not fit; a ValueError too where ``X``, ``y`` or a parameter is at fault.
            TypeError: For a sparse ``X``.
        """
        for name in FITTED:
            self.__dict__.pop(name, None)
        self.__dict__.pop("_cleanup", lambda: None)()  # the folder of an earlier fit
        fields, X = self._fields(), _column(X)
        kind = _kind(X)
        with _refusing():
            if kind is None:
                X, y = validate_data(self, X, y, dtype=np.float64)
            else:
                X, y = _inputs(X, kind), column_or_1d(y, warn=True)
            check_consistent_length(X, y, groups)
            try:
                classes, codes = np.unique(y, return_inverse=True)
            except TypeError:
                raise EstimatorError("y holds values that cannot be sorted; give all strings or all integers") from None
            check_classification_targets(y)
            names = [_name(value) for value in classes]
            if len(classes) < 2:
                raise EstimatorError(f"y has one class only ('{names[0]}'); classification needs at least two")
            if len(set(names)) < len(names) or "" in names:
                raise EstimatorError("y has classes that are empty or not told apart by their names; rename them")
            keys = None if groups is None else [str(group) for group in groups]
            if kind is None:
                self._solve(X, codes, keys, fields)
        if kind is not None:
            self._run_on(_domains(X, kind, [names[code] for code in codes], keys), fields)
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities, float64 (N, C), columns as in ``classes_``.

        Args:
            X: As for :meth:`fit`.

        Raises:
            NotFittedError: Before :meth:`fit`.
            InjertoError: Where an input cannot be read.
        """
        check_is_fitted(self)
        if "coef_" in vars(self):
            from scipy.special import softmax

            with _refusing():
                X = validate_data(self, X, dtype=np.float64, reset=False)
            return softmax(X @ self.coef_.T + self.intercept_, axis=1)
        with nullcontext() if self.verbose else quiet():
            found = self.run_.predict_proba(_column(X))
        columns = {_name(value): position for position, value in enumerate(self.classes_)}
        result = np.zeros((len(found), len(columns)))  # a class all of whose examples were left out stays 0
        result[:, [columns[label] for label in self.run_.labels]] = found
        return result

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each input, of the type of ``y``, (N,).

        Args:
            X: As for :meth:`fit`.
        """
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    @property
    def run_(self) -> "Run":
        """The run behind a classifier of pictures or texts; after unpickling its adapter alone."""
        check_is_fitted(self)
        if "coef_" in vars(self):
            raise AttributeError("fitted on embeddings: there is no run, see coef_ and intercept_")
        if "_run" not in vars(self):
            folder = self._temporary()
            for name, content in self.__dict__.pop("_files").items():
                (folder / name).write_bytes(content)
            self._run = api.load(folder, backbone=self._base, threads=self.threads)
        return self._run

    def _fields(self) -> dict[str, Any]:
        """Fields of the recipe (and ``overwrite``), None left out."""
        settings = dict(self.settings or {})
        for name in settings:
            if name in self.get_params(deep=False):
                raise EstimatorError(f"settings holds '{name}'; give it as the parameter {name} instead")
            if name in SAID:
                raise EstimatorError(f"settings holds '{name}', which X, y, groups or random_state say; leave it out")
        fields = {name: getattr(self, name) for name in FIELDS} | settings
        fields = {name: value for name, value in fields.items() if value is not None}
        fields = {name: value.item() if isinstance(value, np.generic) else value for name, value in fields.items()}
        if self.tuning == "head" and not any(name in fields for name in TRAINED):
            fields.setdefault("head", "probe")
        seed = self.random_state
        drawn = seed if isinstance(seed, int | np.integer) else check_random_state(seed).randint(2**31 - 1)
        return fields | {"seed": int(drawn)}

    def _solve(self, X: np.ndarray, codes: np.ndarray, keys: list[str] | None, fields: dict[str, Any]) -> None:
        """Logistic regression on standardized columns; C by (balanced) accuracy, then NLL, on ``val``."""
        recipe = make_recipe(data="X", **fields)
        given = fields | {"out": self.out}
        needless = [
            name for name in ("tuning", "head", *TRAINED, "out") if given.get(name) not in (None, "head", "probe")
        ]
        if needless:
            what = f"{needless[0]}={given[needless[0]]!r}"
            raise EstimatorError(
                f"X holds embeddings, on which a probe is solved; leave {what} out, or give raw inputs"
            )
        from injerto.tasks.heads import solve_probe
        from injerto.tasks.probe import quick_score

        balanced = recipe.balanced
        scaler = StandardScaler().fit(X)
        scaled = scaler.transform(X)
        self.C_ = self.C
        if self.C_ is None:
            domains = _domains([row.tobytes() for row in X], "image", [str(code) for code in codes], keys)
            seed = recipe.seed if recipe.split_seed is None else recipe.split_seed
            sides, places = split_domains(domains, ["X"], seed)["X"], np.array(domains["X"].sources, int)
            train, val = places[sides == "train"], places[sides == "val"]
            self.C_ = 0.1
            if len(val) and len(np.unique(codes[train])) == codes.max() + 1:

                def score(w: np.ndarray, b: np.ndarray) -> tuple[float, float]:
                    return quick_score(scaled[val] @ w.T + b, codes[val], balanced)

                _, _, self.C_ = solve_probe(scaled[train], codes[train], score, balanced)
        weight, bias, _ = solve_probe(scaled, codes, lambda *_: (0.0, 0.0), balanced, (self.C_,))
        self.coef_ = weight / scaler.scale_
        self.intercept_ = bias - self.coef_ @ scaler.mean_

    def _run_on(self, domains: Domains, fields: dict[str, Any]) -> None:
        """Fit a run on pictures or texts."""
        if self.C is not None:
            raise EstimatorError("C is for embeddings; on pictures and texts the probe chooses its own: leave C out")
        folder = self._temporary() / "run" if self.out is None else Path(self.out)
        with nullcontext() if self.verbose else quiet():
            api.fit(domains, out=folder, backbone=self.backbone, **fields)
        self._base = str(self.backbone) if isinstance(self.backbone, PathLike) else self.backbone
        self._run = api.load(folder, backbone=self._base, threads=self.threads)

    def _temporary(self) -> Path:
        """A folder that is removed with the estimator, at the next fit or when Python ends."""
        folder = scratch_folder()
        self._cleanup = weakref.finalize(self, remove_temporary, folder)
        return folder

    def __getstate__(self) -> dict[str, Any]:
        """The adapter's bytes in place of the run and its folder."""
        state = dict(super().__getstate__())
        state.pop("_cleanup", None)
        run = state.pop("_run", None)
        if run is not None:
            state["_files"] = read_files(run.path)
        return state


def _column(X: Any) -> Any:
    """The only column of a frame or (N, 1) array of pictures or texts, anything else as it is."""
    if getattr(X, "ndim", 0) == 2 and X.shape[1] == 1 and not hasattr(X, "toarray"):
        only = X.iloc[:, 0] if hasattr(X, "iloc") else X[:, 0]
        return X if _kind(only) is None else only
    return X


def _kind(X: Any) -> Modality | None:
    """What ``X`` holds, by its first entry and, for strings, by how they end; None for numbers."""
    if getattr(X, "ndim", 0) == 4:
        return "image"
    if not isinstance(X, list | tuple) and getattr(X, "ndim", 0) != 1:
        return None
    first = next((item for item in X if not _missing(item)), None)
    if isinstance(first, str | Path | bytes | Image.Image):
        items = list(X)
        lost = [position for position, item in enumerate(items) if _missing(item)]
        if lost:
            raise EstimatorError(f"X[{lost[0]}] is missing ({items[lost[0]]!r}); leave such examples out")
    if isinstance(first, str):
        return "image" if all(is_image_name(str(item)) for item in X) else "text"
    pictures = isinstance(first, Path | bytes | Image.Image) or getattr(first, "ndim", 0) > 1
    return "image" if pictures else None


def _missing(item: Any) -> bool:
    return item is None or (isinstance(item, float) and item != item)


def _inputs(X: Any, kind: Modality) -> list[Any]:
    """Pictures or texts as a run reads them; empty texts stay, for which the library has a setting."""
    if kind == "text" and all(isinstance(item, str) for item in X):
        return clean_texts([str(item) for item in X], "X")
    return as_inputs(X, ColumnNames(inputs_only=kind))


def _domains(items: list[Any], kind: Modality, labels: list[str], keys: list[str] | None) -> Domains:
    """One domain in memory, all of it ``train``, of which the library makes a quarter ``val``."""
    rows = Rows(kind, "X")
    for position, (item, label) in enumerate(zip(items, labels, strict=True)):
        source = str(item) if isinstance(item, Path) else str(position)
        if kind == "text" and not item.strip():
            rows.problems.append(Problem(f"X[{source}]", "the text is empty"))
            continue
        rows.add("X", item, label, source, "train")
        rows.keys[-1] = keys[position] if keys is not None else None
    return build_domains(rows)


def _name(value: Any) -> str:
    """A class as the library names it."""
    return unicodedata.normalize("NFC", str(value))


@contextmanager
def _refusing() -> Iterator[None]:
    """scikit-learn's refusals as ours, in one line."""
    try:
        yield
    except InjertoError:
        raise
    except ValueError as error:
        raise EstimatorError(" ".join(str(error).split())) from error
