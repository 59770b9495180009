"""What a run forgets, against probes fitted with scikit-learn on the run's own embeddings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import injerto
from injerto.basics.errors import InjertoError
from injerto.domains.splits import split_domains
from injerto.reporting.path import accuracies_of


@pytest.fixture
def settings(tiny_timm: Path, quick: dict[str, Any]) -> dict[str, Any]:
    return {"source": "day", "backbone": tiny_timm, "augment": "none", "lr": 3e-3, "epochs": 4} | quick


def probe_accuracy(run: Any, data: Path, name: str, seed: int) -> float:
    domains = injerto.load_domains(data)
    only = {name: domains[name]}
    sides = split_domains(only, [name], seed)[name]
    values, labels = run.embed(list(domains[name].inputs)).astype(np.float64), np.asarray(domains[name].labels)
    scaler = StandardScaler().fit(values[sides == "train"])
    found = []
    for strength in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0):
        model = LogisticRegression(C=strength, max_iter=5000, tol=1e-7)
        model.fit(scaler.transform(values[sides == "train"]), labels[sides == "train"])
        chances = model.predict_proba(scaler.transform(values[sides == "val"]))
        likely = chances[np.arange(len(chances)), np.searchsorted(model.classes_, labels[sides == "val"])]
        accuracy = (model.predict(scaler.transform(values[sides == "val"])) == labels[sides == "val"]).mean()
        test = (model.predict(scaler.transform(values[sides == "test"])) == labels[sides == "test"]).mean()
        found.append((accuracy, np.log(likely).mean(), -strength, test))
    return float(max(found)[3])


def test_remembering_is_a_refitted_probe(pictures: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    settings |= {"tuning": "full", "remember": f"{pictures}:night", "slider": True}
    run = injerto.fit(pictures, out=tmp_path / "run", **settings)
    found = run.metrics["forgetting"]["remember"]
    assert found["after"] == pytest.approx(probe_accuracy(run, pictures, "night", 0))
    assert found["before"] == pytest.approx(probe_accuracy(run.scale(0), pictures, "night", 0))
    assert found["difference"] == pytest.approx(found["after"] - found["before"])
    low, high = found["interval"]
    assert low <= found["difference"] <= high
    path = run.metrics["forgetting"]["path"]
    assert [point["t"] for point in path] == [0, 0.25, 0.5, 0.75, 1]
    assert path[-1]["remember"] == found["after"] and path[0]["remember"] == found["before"]
    assert path[0]["cka"] == pytest.approx(1, abs=1e-5)
    tests = {name: entry["splits"]["test"]["accuracy"] for name, entry in run.metrics["domains"].items()}
    assert accuracies_of(path[-1]) == pytest.approx(tests)
    roles = {name: entry["role"] for name, entry in run.metrics["domains"].items()}
    for point in path:
        assert {roles[name] for name in point["accuracy"]} == {"source"}
        assert point["oracle"] and "source" not in {roles[name] for name in point["oracle"]}
    earlier = {**path[0], "accuracy": accuracies_of(path[0])}
    del earlier["oracle"]
    assert accuracies_of(earlier) == accuracies_of(path[0])


def test_nothing_moved_is_nothing_forgotten(pictures: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    run = injerto.fit(pictures, out=tmp_path / "run", tuning="head", remember=f"{pictures}:night", **settings)
    found = run.metrics["forgetting"]
    assert found["cka"] == 1 and found["remember"]["difference"] == 0 and found["remember"]["interval"] == [0, 0]


def test_what_cannot_be_remembered_is_refused(
    pictures: Path, reviews: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    one = tmp_path / "one" / "day" / "red"
    one.mkdir(parents=True)
    for picture in (pictures / "day" / "red").iterdir():
        (one / picture.name).write_bytes(picture.read_bytes())
    for data, words in (
        (reviews, "holds texts"),
        (one.parent.parent, "two or more classes"),
        (f"{pictures}:noon", "noon"),
        ("no-such-data", "--remember no-such-data: "),
    ):
        with pytest.raises(InjertoError, match=words) as caught:
            injerto.fit(pictures, out=tmp_path / "run", tuning="head", remember=str(data), **settings)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()
