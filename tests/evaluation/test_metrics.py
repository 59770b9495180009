"""The metrics against scikit-learn, and at their edges."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from injerto.basics.errors import InjertoError
from injerto.evaluation.metrics import classification_metrics, empty_metrics

CLASSES = ["cat", "dog", "emu", "fox"]
SIX = {"accuracy", "balanced_accuracy", "macro_f1", "nll", "ece", "n"}


def random_case(n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, p=[0.5, 0.3, 0.15, 0.05], size=n)
    logits = rng.normal(0, 1, (n, 4)) + 1.5 * np.eye(4)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, labels, [f"g{i // 2}" for i in range(n)]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_equals_scikit_learn() -> None:
    probabilities, labels, groups = random_case()
    predicted = probabilities.argmax(axis=1)
    ours = classification_metrics(probabilities, labels, CLASSES, groups)
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert ours["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, predicted))
    assert ours["macro_f1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    assert ours["nll"] == pytest.approx(reference.log_loss(labels, probabilities))
    assert ours["confusion"] == reference.confusion_matrix(labels, predicted).tolist()
    assert ours["n"] == 300
    for name in ("accuracy", "balanced_accuracy"):
        low, high = ours[f"{name}_interval"]
        assert low < ours[name] < high
    f1 = reference.f1_score(labels, predicted, average=None)
    assert [ours["per_class"][name]["f1"] for name in CLASSES] == pytest.approx(f1.tolist())


def test_keys_and_json() -> None:
    ours = classification_metrics(*random_case()[:2], CLASSES, random_case()[2])
    assert set(ours) == SIX | {"accuracy_interval", "balanced_accuracy_interval", "per_class", "confusion"}
    assert json.loads(json.dumps(ours, allow_nan=False)) == ours
    assert list(ours["per_class"]) == CLASSES
    assert set(ours["per_class"]["cat"]) == {"precision", "recall", "f1", "n"}


def test_same_seed_same_interval() -> None:
    case = random_case()
    one, two, three = (classification_metrics(*case[:2], CLASSES, case[2], seed=seed) for seed in (0, 0, 1))
    assert one == two
    assert one["balanced_accuracy_interval"] != three["balanced_accuracy_interval"]


def test_class_absent_and_never_predicted_counts_nowhere() -> None:
    probabilities = np.array([[0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0], [0.6, 0.4, 0, 0]])
    ours = classification_metrics(probabilities, np.array([0, 1, 1]), CLASSES, ["a", "b", "c"])
    assert ours["balanced_accuracy"] == pytest.approx(0.75)
    assert ours["macro_f1"] == pytest.approx(2 / 3)
    assert ours["per_class"]["fox"] == {"precision": None, "recall": None, "f1": None, "n": 0}
    assert ours["confusion"] == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_class_absent_but_predicted_lowers_f1_not_recall() -> None:
    probabilities = np.eye(4)[[0, 1, 2]]
    labels = np.array([0, 1, 1])
    ours = classification_metrics(probabilities, labels, CLASSES, ["a", "b", "c"])
    assert ours["macro_f1"] == pytest.approx(reference.f1_score(labels, [0, 1, 2], average="macro"))
    assert ours["balanced_accuracy"] == pytest.approx(0.75)
    assert ours["per_class"]["emu"] == {"precision": 0.0, "recall": None, "f1": 0.0, "n": 0}


def test_present_but_never_predicted() -> None:
    ours = classification_metrics(np.eye(4)[[0, 0]], np.array([0, 3]), CLASSES, ["a", "b"])
    assert ours["per_class"]["fox"] == {"precision": None, "recall": 0.0, "f1": 0.0, "n": 1}


def test_one_class_present_and_one_example() -> None:
    ours = classification_metrics(np.eye(4)[[1, 1, 0]], np.array([1, 1, 1]), CLASSES, ["a", "b", "c"])
    assert ours["accuracy"] == ours["balanced_accuracy"] == pytest.approx(2 / 3)
    single = classification_metrics(np.array([[0.1, 0.7, 0.1, 0.1]]), np.array([1]), CLASSES, ["a"])
    assert single["n"] == 1
    assert (
        single["accuracy_interval"] == single["balanced_accuracy_interval"] == [pytest.approx(0.025), 1.0]
    )  # Clopper-Pearson
    assert single["ece"] == pytest.approx(0.3)


def test_a_probability_of_zero_costs_a_finite_amount() -> None:
    ours = classification_metrics(np.eye(4)[[0]], np.array([1]), CLASSES, ["a"])
    assert ours["nll"] == pytest.approx(-np.log(1e-12))


def test_half_precision_inputs() -> None:
    probabilities, labels, groups = random_case()
    exact = classification_metrics(probabilities, labels, CLASSES, groups)
    coarse = classification_metrics(probabilities.astype(np.float32), labels, CLASSES, groups)
    assert coarse["nll"] == pytest.approx(exact["nll"], rel=1e-6)


def test_groups_widen_the_interval() -> None:
    probabilities, labels, _ = random_case(400)
    copied = np.repeat(probabilities, 8, axis=0), np.repeat(labels, 8)
    apart = classification_metrics(*copied, CLASSES, [str(i) for i in range(3200)])["accuracy_interval"]
    together = classification_metrics(*copied, CLASSES, [str(i // 8) for i in range(3200)])["accuracy_interval"]
    assert np.ptp(together) > 2 * np.ptp(apart)


def test_not_a_number_is_one_clear_line() -> None:
    probabilities, labels, groups = random_case(10)
    probabilities[3] = np.nan
    with pytest.raises(InjertoError, match="1 of 10 examples; train it again") as caught:
        classification_metrics(probabilities, labels, CLASSES, groups)
    assert "\n" not in str(caught.value)


def test_shapes_and_labels_that_do_not_fit() -> None:
    probabilities, labels, groups = random_case(10)
    with pytest.raises(ValueError, match="3 classes"):
        classification_metrics(probabilities, labels, CLASSES[:3], groups)
    with pytest.raises(ValueError, match="9 groups"):
        classification_metrics(probabilities, labels, CLASSES, groups[:9])
    with pytest.raises(ValueError, match="0..3"):
        classification_metrics(probabilities, labels - 1, CLASSES, groups)


def test_empty() -> None:
    assert set(empty_metrics(7)) == SIX
    assert empty_metrics(7)["n"] == 7
    assert all(value is None for key, value in empty_metrics(7).items() if key != "n")
    assert classification_metrics(np.zeros((0, 4)), np.zeros(0, dtype=int), CLASSES, []) == empty_metrics(0)
