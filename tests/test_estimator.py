"""The scikit-learn face: its own checks, one answer with scikit-learn's pipeline, real backbones on real data."""

import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import injerto
from injerto import Classifier
from injerto.basics.errors import InjertoError
from injerto.recipe.recipe import load_recipe


@parametrize_with_checks([Classifier()])  # no expected failures
def test_scikit_learn_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


# --- embeddings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.01, 1.0])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("data", [load_iris, load_wine])
def test_the_same_as_scikit_learns_pipeline(data: Any, classes: int, strength: float) -> None:
    X, y = data(return_X_y=True)
    X, y = X[y < classes], y[y < classes]
    X = np.column_stack([X, np.full(len(X), 3.0)])  # a constant column
    X_train, y_train, X_test = X[::2], y[::2], X[1::2]
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-10, max_iter=10000))
    expected = peer.fit(X_train, y_train).predict_proba(X_test)
    ours = Classifier(C=strength).fit(X_train, y_train)
    np.testing.assert_allclose(ours.predict_proba(X_test), expected, atol=1e-3)  # L-BFGS stops at 1e-5
    assert np.array_equal(ours.predict(X_test), peer.predict(X_test))
    assert strength == ours.C_


def noisy(seed: int = 0, size: int = 200, width: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, size)
    X = rng.normal(size=(size, width))
    X[np.arange(size), y] += 2.5
    return X, y


def test_the_strength_is_chosen_on_val_and_knows_no_order() -> None:
    X, y = noisy()
    chosen = Classifier().fit(X, y)
    assert chosen.C_ in (0.003, 0.01, 0.03, 0.1)  # in many noisy dimensions neither end of the list
    fixed = Classifier(C=chosen.C_).fit(X, y)
    assert np.array_equal(fixed.predict_proba(X), chosen.predict_proba(X))  # solved on everything
    order = np.random.default_rng(1).permutation(len(X))
    again = Classifier().fit(X[order], y[order])
    assert again.C_ == chosen.C_
    np.testing.assert_allclose(again.predict_proba(X), chosen.predict_proba(X), atol=1e-3)


def test_groups_are_not_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    from injerto import estimator

    seen = []

    def split(domains: Any, *rest: Any) -> Any:
        sides = split_domains(domains, *rest)
        seen.append((domains["X"], sides["X"]))
        return sides

    split_domains = estimator.split_domains
    monkeypatch.setattr(estimator, "split_domains", split)
    X, y = noisy()
    parted = []
    for groups in (None, np.arange(len(X)) // 4):
        Classifier().fit(X, y, groups=groups)
        domain, sides = seen.pop()
        assert set(sides) == {"train", "val"} and 0.15 < (sides == "val").mean() < 0.35
        of = [int(source) // 4 for source in domain.sources]
        parted.append(
            len(
                {g for g, s in zip(of, sides, strict=True) if s == "val"}
                & {g for g, s in zip(of, sides, strict=True) if s == "train"}
            )
        )
    assert parted[0] > 0 and parted[1] == 0


def test_search_and_pipeline_on_embeddings() -> None:
    X, y = noisy()
    words = np.asarray(["b", "c", "a"])[y]
    pipeline = make_pipeline(FunctionTransformer(np.abs), Classifier())
    assert cross_val_score(make_pipeline(StandardScaler(), Classifier()), X, words, cv=3).mean() > 0.7
    search = GridSearchCV(
        pipeline,
        {"functiontransformer__func": [np.zeros_like, np.abs, None], "classifier__C": np.logspace(-4, 4, 5)},
        cv=3,
        scoring="neg_log_loss",
    )
    search.fit(X, words)
    assert search.best_params_["functiontransformer__func"] is None
    assert search.best_params_["classifier__C"] in (1e-2, 1.0)  # both ends are worse
    assert search.classes_.tolist() == ["a", "b", "c"]
    frame = pd.DataFrame(X).add_prefix("f")
    assert Classifier().fit(frame, words).feature_names_in_.tolist() == frame.columns.tolist()


def test_balanced_classes_are_predicted_more_often() -> None:
    X, y = noisy(width=6)
    keep = (y > 0) | (np.arange(len(y)) % 8 == 0)  # class 0 becomes rare
    rare = [
        (Classifier(C=1.0, settings=settings).fit(X[keep], y[keep]).predict(X) == 0).sum()
        for settings in (None, {"class_weights": "balanced"})
    ]
    assert rare[1] > 1.1 * rare[0] > 0


# --- pictures and texts, tiny networks ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(pictures: Path) -> list[Path]:
    return sorted((pictures / "day").glob("*/*.png"))


@pytest.fixture(scope="module")
def colours(files: list[Path]) -> list[str]:
    return [file.parent.name for file in files]


@pytest.fixture(scope="module")
def painter(files: list[Path], colours: list[str], tiny_timm: Path) -> Classifier:
    return Classifier(tiny_timm, threads=1).fit(files, colours)


def test_every_form_of_pictures(painter: Classifier, files: list[Path], colours: list[str], tiny_timm: Path) -> None:
    expected = painter.predict_proba(files)
    assert painter.score(files, colours) > 0.8
    assert not hasattr(painter, "n_features_in_") and not hasattr(painter, "coef_")
    arrays = np.stack([np.asarray(Image.open(file)) for file in files])
    objects = np.empty(len(files), object)
    objects[:] = files
    forms = {
        "strings": [str(file) for file in files],
        "array of strings": np.asarray([str(file) for file in files]),
        "objects": objects,
        "column": objects[:, None],
        "PIL": [Image.open(file) for file in files],
        "bytes": [file.read_bytes() for file in files],
        "(N, H, W, 3)": arrays,
        "list of arrays": list(arrays),
        "Series": pd.Series([str(file) for file in files], index=range(5, 5 + len(files))),
        "frame": pd.DataFrame({"anything": [str(file) for file in files]}),
    }
    for name, form in forms.items():
        assert np.array_equal(painter.predict_proba(form), expected), name
    for name in ("(N, H, W, 3)", "frame"):
        fitted = Classifier(tiny_timm, threads=1).fit(forms[name], pd.Series(colours))
        assert fitted.score(files, colours) > 0.8, name


def test_labels_keep_their_type_and_order(
    painter: Classifier, files: list[Path], colours: list[str], tiny_timm: Path
) -> None:
    number = {"blue": 9, "green": 10, "red": 2}  # sorted as words: 10, 2, 9
    y = np.asarray([number[colour] for colour in colours])
    fitted = Classifier(tiny_timm, threads=1).fit(files, y)
    assert fitted.classes_.tolist() == [2, 9, 10] and fitted.predict(files[:3]).dtype == y.dtype
    assert list(fitted.run_.labels) == ["10", "2", "9"]
    assert fitted.predict(files).tolist() == [number[str(colour)] for colour in painter.predict(files)]
    np.testing.assert_allclose(fitted.predict_proba(files)[:, [1, 2, 0]], painter.predict_proba(files), atol=1e-6)
    red = Classifier(tiny_timm, threads=1).fit(files, y == 2)
    assert red.classes_.dtype == bool and red.predict(files).dtype == bool and red.score(files, y == 2) > 0.8


@pytest.mark.slow
def test_the_folder_goes_with_the_estimator(
    files: list[Path], colours: list[str], tiny_timm: Path, tmp_path: Path
) -> None:
    fitted = Classifier(tiny_timm, threads=1).fit(files, colours)
    first = fitted.run_.path
    assert first.is_dir()
    second = fitted.fit(files, colours).run_.path
    assert second.is_dir() and not first.exists()
    X, y = noisy()
    assert not hasattr(fitted.fit(X, y), "run_") and not second.exists()
    assert fitted.fit(files, colours).run_.metrics["domains"]["X"]["splits"]["val"]["n"] > 3
    third = fitted.run_.path
    del fitted
    gc.collect()
    assert not third.exists()

    kept = Classifier(tiny_timm, threads=1, out=tmp_path / "run").fit(files, colours)
    expected = kept.predict(files).tolist()
    with pytest.raises(InjertoError, match="exists already"):
        clone(kept).fit(files, colours)
    clone(kept).set_params(settings={"overwrite": True}).fit(files, colours)
    del kept
    gc.collect()
    assert injerto.load(tmp_path / "run", threads=1).predict(files) == expected


def test_pickles(painter: Classifier, files: list[Path], colours: list[str]) -> None:
    from torch import nn

    X, y = noisy()
    solved = Classifier().fit(X, y)
    network = nn.Sequential(nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module = Classifier(network, threads=1, image_size=32).fit(files, colours)
    for fitted, inputs in ((solved, X), (painter, files), (module, files)):
        expected = fitted.predict_proba(inputs)
        once = pickle.loads(pickle.dumps(fitted))
        twice = pickle.loads(pickle.dumps(once))  # without having been opened in between
        thrice = pickle.loads(pickle.dumps(once)) if once.predict_proba(inputs) is not None else None
        for copy in (once, twice, thrice):
            assert np.array_equal(copy.predict_proba(inputs), expected)
            assert np.array_equal(copy.predict(inputs), fitted.predict(inputs))


def test_settings_reach_the_recipe(files: list[Path], colours: list[str], tiny_timm: Path) -> None:
    base = Classifier(tiny_timm, threads=1, random_state=3)
    recipes = {}
    for name, changes in {
        "plain": {},
        "trained": {"epochs": np.int64(1), "head_lr": np.float64(1e-2), "batch_size": 8},
        "moving": {"tuning": "last:1", "epochs": 1, "augment": "light", "settings": {"label_smoothing": 0.1}},
        "asked": {"head": "mlp", "settings": {"steps": 2}},
    }.items():
        fitted = clone(base).set_params(**changes).fit(files, colours)
        recipes[name] = load_recipe(fitted.run_.path / "recipe.yaml")
        assert recipes[name]["seed"] == 3 and recipes[name]["threads"] == 1
    assert [recipe["head"] for recipe in recipes.values()] == ["probe", "linear", "linear", "mlp"]
    assert recipes["trained"]["head_lr"] == 1e-2 and recipes["trained"]["epochs"] == 1
    assert recipes["moving"]["augment"] == "light" and recipes["moving"]["label_smoothing"] == 0.1
    assert recipes["asked"]["steps"] == 2


def test_a_search_over_the_tuning(files: list[Path], colours: list[str], tiny_timm: Path) -> None:
    brief = {"tuning": ["last:1"], "head_lr": [1e-9], "settings": [{"steps": 1}]}  # one tiny step: it knows nothing
    grid = [{"tuning": ["head"]}, brief]
    search = GridSearchCV(Classifier(tiny_timm, threads=1), grid, cv=2, scoring="neg_log_loss", error_score="raise")
    search.fit(files, colours)
    assert search.best_params_ == {"tuning": "head"}
    np.testing.assert_allclose(search.cv_results_["mean_test_score"][1], -np.log(3), atol=1e-3)


def test_texts(reviews: Path, tiny_bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = pd.read_csv(reviews)
    fitted = Classifier(tiny_bert, threads=1).fit(table["text"], table["label"])
    expected = fitted.predict_proba(table["text"])
    assert fitted.score(table["text"], table["label"]) > 0.8
    assert not capfd.readouterr().err  # silent unless told to talk
    for form in (table["text"].tolist(), table["text"].to_numpy(object), table[["text"]]):
        assert np.array_equal(fitted.predict_proba(form), expected)
    texts, labels = [*table["text"], " "], [*table["label"], "good"]
    with pytest.raises(InjertoError, match=r"first: X\[96\] \(the text is empty\)"):
        Classifier(tiny_bert, threads=1).fit(texts, labels)
    groups = np.arange(len(table)) // 6
    talking = Classifier(tiny_bert, threads=1, verbose=True).fit(table["text"], table["label"], groups=groups)
    assert "data: X (source)" in capfd.readouterr().err
    sides = talking.run_.recorded_splits()
    from injerto.domains.rows import content_of

    of = [sides[content_of(text)] for text in table["text"]]
    assert {len(set(of[start : start + 6])) for start in range(0, len(of), 6)} == {1}


# --- refusals ---------------------------------------------------------------------------------------------------------

NUMBERS = (np.eye(6), [0, 1] * 3)
WORDS = (["a good film", "a bad film"] * 3, [0, 1] * 3)
REFUSED = {
    "one class": ({}, WORDS[0], [1] * 6, "one class only"),
    "lengths": ({}, WORDS[0], [0, 1], "inconsistent numbers of samples"),
    "a number among texts": ({}, ["a", 3, "b"], [0, 1, 0], "give strings"),
    "continuous y": ({}, WORDS[0], [0.5, 1.2, 0.1, 0.2, 0.3, 0.4], "continuous"),
    "y of two kinds": ({}, WORDS[0], np.array([0, "a"] * 3, object), "y "),
    "y with None": ({}, WORDS[0], [None, "a"] * 3, "y "),
    "an empty class": ({}, WORDS[0], ["", "a"] * 3, "empty"),
    "no y": ({}, WORDS[0], None, "y should be a 1d array"),
    "tuning without backbone": ({"tuning": "last:1"}, *NUMBERS, "leave tuning='last:1' out"),
    "epochs without backbone": ({"epochs": 3}, *NUMBERS, "leave epochs=3 out"),
    "head without backbone": ({"head": "mlp"}, *NUMBERS, "leave head='mlp' out"),
    "out without run": ({"out": "run"}, *NUMBERS, "leave out='run' out"),
    "C with backbone": ({"C": 1.0}, *WORDS, "leave C out"),
    "C below zero": ({"C": -1.0}, *NUMBERS, "'C' parameter"),
    "a parameter in settings": ({"settings": {"lr": 1}}, *WORDS, "give it as the parameter lr"),
    "data in settings": ({"settings": {"source": "a"}}, *WORDS, "settings holds 'source'"),
    "a typing error in settings": ({"settings": {"step": 3}}, *NUMBERS, "did you mean 'steps'"),
    "an unknown tuning": ({"tuning": "all"}, *NUMBERS, "all"),
    "nan": ({}, np.where(np.eye(6) > 0, np.nan, 1), NUMBERS[1], "NaN"),
    "one dimension": ({}, np.arange(6.0), NUMBERS[1], "Reshape your data"),
    "missing picture": ({}, ["a.png", "b.png"], [0, 1], "no such image: a.png"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_are_one_line(what: str) -> None:
    parameters, X, y, says = REFUSED[what]
    with pytest.raises(InjertoError, match=says) as caught:
        Classifier(**parameters).fit(X, y)
    assert "\n" not in str(caught.value)


def test_refusals_are_value_errors_too(painter: Classifier, files: list[Path]) -> None:
    with pytest.raises(ValueError, match="one class only"):
        Classifier().fit(*WORDS[:1], [1] * 6)
    with pytest.raises(NotFittedError):
        Classifier().predict(files)
    assert not hasattr(Classifier(), "run_")
    with pytest.raises(InjertoError, match="expecting 6 features"):
        Classifier().fit(*NUMBERS).predict(np.eye(3))


# --- real backbones ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_texts() -> None:
    domain = injerto.load_domains("sentiment-domains")["tweets"]
    short = [i for i, text in enumerate(domain.inputs) if len(str(text)) < 60][:40]
    X, y = [domain.inputs[i] for i in short], [domain.labels[i] for i in short]
    scores = cross_val_score(Classifier("packaged:minilm-l6", threads=1), X, y, cv=2, error_score="raise")
    assert scores.mean() > 0.65  # two classes


def test_real_pictures_in_a_pipeline() -> None:
    domain = injerto.load_domains("emoji-styles")["noto"]
    kept = [
        i
        for name in ("animal", "building", "face")
        for i in [i for i, label in enumerate(domain.labels) if label == name][:12]
    ]
    X, y = [domain.inputs[i] for i in kept], [domain.labels[i] for i in kept]
    model = Classifier("packaged:efficientnet-lite0", image_size=96, threads=1)
    pipeline = make_pipeline(FunctionTransformer(lambda paths: [Image.open(path) for path in paths]), model)
    scores = cross_val_score(pipeline, X, y, cv=2, error_score="raise")
    assert scores.mean() > 0.65  # three classes
