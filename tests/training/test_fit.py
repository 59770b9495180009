"""Whole runs: resumed to the same bits, no influence of what must not have any, roles."""

import csv
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import injerto
import tiny
from injerto.basics.errors import InjertoError
from injerto.compute.batches import BatchMaker
from injerto.evaluation.recorded import MOVED
from injerto.training.trainer import Trainer

CASES: dict[str, dict[str, Any]] = {
    "cached head": {"tuning": "head", "augment": "light", "views": 2, "epochs": 5},
    "cached head, mlp and neck": {"tuning": "head", "head": "mlp", "neck": "8", "epochs": 4},
    "uncached head": {"tuning": "head", "augment": "standard", "views": 0, "epochs": 3},
    "full, augmented": {"tuning": "full", "augment": "standard", "views": 0, "norm": "train", "epochs": 4},
    "last, sgd": {"tuning": "last:2", "augment": "light", "views": 2, "optimizer": "sgd", "lr": 0.05, "epochs": 4},
    "recalibrated": {"tuning": "last:2", "norm": "recalibrate:target", "epochs": 3, "augment": "none", "accumulate": 2},
    "early stop": {"tuning": "full", "augment": "none", "epochs": 9, "lr": 1e-7, "head_lr": 1e-9, "patience": 3},
    "gradual": {"tuning": "gradual", "augment": "none", "epochs": 6, "l2_sp": 0.1, "layer_decay": 0.7},
    "lp-ft, slider": {"tuning": "lp-ft", "slider": True, "augment": "light", "epochs": 4, "average": "ema"},
    "swad": {"tuning": "last:2", "augment": "light", "views": 2, "epochs": 6, "average": "swad"},
    "rate found": {"tuning": "last:1", "augment": "none", "epochs": 5, "lr": "auto"},
    "texts, augmented": {"tuning": "last:1", "augment": "standard", "views": 2, "epochs": 4},
    "texts": {"tuning": "full", "epochs": 3, "lr": 1e-3},
    "texts, last": {"tuning": "last:1", "epochs": 3, "select": "last", "class_weights": "balanced"},
}


@pytest.fixture
def go(pictures: Path, reviews: Path, tiny_timm: Path, tiny_bert: Path, quick: dict[str, Any]) -> Callable[..., Any]:
    """A function that runs a case into a folder; other data may be given."""

    def fit(case: str, out: Path, data: Path | None = None, **more: Any) -> Any:
        texts = case.startswith("texts")
        roles = {"source": "films"} if texts else {"source": "day", "target": "dusk"}
        backbone = tiny_bert if texts else tiny_timm
        return injerto.fit(
            data or (reviews if texts else pictures), out=out, backbone=backbone, **(quick | roles | CASES[case] | more)
        )

    return fit


def shipped(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "adapter").iterdir())}


def outcome(out: Path) -> dict[str, Any]:
    """Everything a run leaves behind that must not depend on the clock."""
    metrics = tiny.timeless(json.loads((out / "metrics.json").read_text()))
    log = out / "log.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    checkpoints = {path.name: path.read_bytes() for path in sorted((out / "checkpoints").glob("*"))}
    return {
        "metrics": metrics,
        "log": [{key: value for key, value in entry.items() if key != "time"} for entry in entries],
        "adapter": shipped(out),
        "checkpoints": checkpoints,
        "splits": (out / "splits.csv").read_bytes(),
        "recipe": (out / "recipe.yaml").read_bytes(),
    }


def interrupted_after(monkeypatch: pytest.MonkeyPatch, steps: int, error: type[BaseException]) -> Any:
    original, done = Trainer._step, 0

    def step(self: Trainer, batch: Any) -> float:
        nonlocal done
        if done == steps:
            raise error("stop")
        done += 1
        return original(self, batch)

    context = monkeypatch.context()
    patch = context.__enter__()
    patch.setattr(Trainer, "_step", step)
    return context


RARER = ("last, sgd", "lp-ft, slider", "rate found", "uncached head")


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in RARER else c for c in CASES])
def test_interrupted_and_resumed_is_the_same_to_the_bit(
    case: str, go: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    go(case, whole)
    for steps, error in ((1, KeyboardInterrupt), (5, RuntimeError), (0, KeyboardInterrupt)):
        context = interrupted_after(monkeypatch, steps, error)
        with pytest.raises(error, match="stop"):
            go(case, parts, resume=parts.exists())
        context.__exit__(None, None, None)
        assert not (parts / "metrics.json").exists()
        assert not (parts / "adapter").exists()
    assert (parts / "checkpoints" / "last.safetensors").exists()  # something was there to go on from
    go(case, parts, resume=True)
    a, b = outcome(whole), outcome(parts)
    for name in a:
        assert a[name] == b[name], name


@pytest.mark.parametrize("case", ["full, augmented", "lp-ft, slider"])
def test_a_long_epoch_is_saved_in_between(
    case: str, go: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = {"epochs": None, "steps": 6, "batch_size": 2}  # less than an epoch: one evaluation, at the end
    go(case, whole, **settings)
    monkeypatch.setattr("injerto.training.trainer.UNSAVED_SECONDS", -1)
    context = interrupted_after(monkeypatch, 4, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        go(case, parts, **settings)
    context.__exit__(None, None, None)
    assert (parts / "checkpoints" / "last.safetensors").exists() and not (parts / "log.jsonl").exists()
    context = interrupted_after(monkeypatch, 2, KeyboardInterrupt)  # two are left; a third would stop it
    go(case, parts, resume=True, **settings)
    context.__exit__(None, None, None)
    a, b = outcome(whole), outcome(parts)
    for name in a:
        assert a[name] == b[name], name


def test_interrupted_while_measuring(go: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from injerto.training.fit import Fit

    go("full, augmented", tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            go("full, augmented", tmp_path / "parts")
    assert not (tmp_path / "parts" / "metrics.json").exists()
    go("full, augmented", tmp_path / "parts", resume=True)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_resume_on_missing_empty_and_finished(go: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        go("cached head", tmp_path / name, resume=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "empty").rglob("*")}
    assert go("cached head", tmp_path / "empty", resume=True).metrics["selection"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "empty").rglob("*")} == before


def test_resume_refuses_another_recipe(go: Callable[..., Any], tmp_path: Path) -> None:
    go("cached head", tmp_path / "run")
    with pytest.raises(InjertoError, match=r"another recipe: head_lr \(was .*, now 0.5\)|lr \(was"):
        go("cached head", tmp_path / "run", resume=True, lr=0.5)
    with pytest.raises(InjertoError, match="seed"):
        go("cached head", tmp_path / "run", resume=True, seed=1)


def test_resume_refuses_other_data(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = shutil.copytree(pictures, tmp_path / "data")
    settings = {"source": "day", "backbone": tiny_timm, "tuning": "last:1", "epochs": 2, "augment": "none"} | quick

    def go(**more: Any) -> Any:
        return injerto.fit(data, out=tmp_path / "run", **settings, **more)

    context = interrupted_after(monkeypatch, 3, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        go()
    context.__exit__(None, None, None)
    moved = sorted((data / "day" / "red").iterdir())[:2]
    for file in moved:
        file.rename(tmp_path / file.name)
    with pytest.raises(InjertoError, match="was started on other data: of .* examples 2 are gone; bring them back"):
        go(resume=True)
    for file in moved:
        (tmp_path / file.name).rename(file)
    go(resume=True)
    (data / "day" / "red" / "new.png").write_bytes(moved[0].read_bytes() + b" ")
    capsys.readouterr()
    go(resume=True)
    said = capsys.readouterr().err
    assert "finished already" in said and "its figures are of other data than these" in said and "1 are new" in said


def test_resume_refuses_another_plan(go: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # as many threads as the machine has cores
    context = interrupted_after(monkeypatch, 5, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        go("last, sgd", tmp_path / "run", threads=None)
    context.__exit__(None, None, None)
    from injerto.compute import plan
    from injerto.compute.machine import Machine

    monkeypatch.setattr(plan, "machine", lambda: Machine("cpu", "another", 3, False))
    threads = torch.get_num_threads()
    try:
        with pytest.raises(InjertoError, match="set --threads and --precision as before") as caught:
            go("last, sgd", tmp_path / "run", threads=None, resume=True)
        assert "\n" not in str(caught.value)
    finally:
        torch.set_num_threads(threads)


def test_overwrite_leaves_nothing_of_the_earlier_run(go: Callable[..., Any], tmp_path: Path) -> None:
    go("full, augmented", tmp_path / "run")
    go("cached head", tmp_path / "run", overwrite=True)
    go("cached head", tmp_path / "fresh")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "fresh")


@pytest.mark.parametrize("case", ["cached head", "full, augmented", "texts"])
def test_random_states_are_left_alone_and_have_no_influence(case: str, go: Callable[..., Any], tmp_path: Path) -> None:
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        go(case, tmp_path / str(seed))
        assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert outcome(tmp_path / "1") == outcome(tmp_path / "2")


def test_what_a_cache_holds_makes_no_difference(
    go: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INJERTO_CACHE", str(tmp_path / "cold"))
    go("cached head", tmp_path / "cold-run")
    go("cached head", tmp_path / "warm-run")
    monkeypatch.setenv("INJERTO_CACHE", str(tmp_path / "partly"))
    go("cached head", tmp_path / "other", source="night", target=())
    go("cached head", tmp_path / "partly-run")
    for name in ("warm-run", "partly-run"):
        assert outcome(tmp_path / name) == outcome(tmp_path / "cold-run")


def test_a_frozen_backbone_sees_every_picture_once(
    go: Callable[..., Any], own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from injerto.compute.inference import Embedder

    seen: list[str] = []
    original = Embedder._run

    def embed(self: Embedder, inputs: Any, keys: Any, *more: Any) -> Any:
        seen.extend(keys)
        return original(self, inputs, keys, *more)

    monkeypatch.setattr(Embedder, "_run", embed)
    case = {"augment": "none", "views": 1, "epochs": 9}
    go("cached head", tmp_path / "one", **case)
    assert len(seen) == len(set(seen)) > 50
    seen.clear()
    go("cached head", tmp_path / "two", **(case | {"head": "probe"}))
    assert seen == []


# --- no leaks ---------------------------------------------------------------------------------------------------------

FAMILIES = {
    "probe": {"tuning": "head", "head": "probe"},
    "head": {"tuning": "head", "epochs": 4},
    "last": {"tuning": "last:1", "epochs": 3, "patience": 2},
    "full": {"tuning": "full", "epochs": 2, "norm": "train", "class_weights": "balanced"},
    "adabn": {"tuning": "last:1", "epochs": 2, "norm": "recalibrate:target"},
    "adabn head": {"tuning": "head", "epochs": 2, "norm": "recalibrate:target"},
}
TURNED = {"blue": "green", "green": "red", "red": "blue"}


@pytest.fixture(scope="module")
def poisoned(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The data as they are; with the labels of target and unseen turned round; with labels nobody knows; with none."""
    folders = {}
    for kind in ("as they are", "turned", "foreign", "none"):
        root = folders[kind] = tmp_path_factory.mktemp("poison") / "pictures"
        shutil.copytree(pictures, root)
        for number in range(3):  # the target also holds pictures of the source
            shutil.copy(root / "day" / "red" / f"{number}.png", root / "dusk" / "red" / f"day{number}.png")
        for domain in ("dusk", "night"):
            for label in TURNED:
                (root / domain / label).rename(root / domain / f"{label}-before")
            for label in TURNED:
                new = {"turned": TURNED[label], "foreign": f"x{label}", "none": "_unlabeled"}.get(kind, label)
                (root / domain / new).mkdir(exist_ok=True)
                for file in (root / domain / f"{label}-before").iterdir():
                    file.rename(root / domain / new / f"{label}{file.name}")
                (root / domain / f"{label}-before").rmdir()
    return folders


def without_oracle(out: Path) -> dict[str, Any]:
    result = outcome(out)
    assert {name for name, entry in result["metrics"]["domains"].items() if entry["oracle"]} == {"dusk", "night"}
    result["metrics"]["domains"] = {n: e for n, e in result["metrics"]["domains"].items() if not e["oracle"]}
    for name in ("predictions.csv", MOVED):  # they hold the labels and the data's path
        del result["metrics"]["files"][name]
    card = tiny.timeless(json.loads(result["adapter"].pop("adapter_card.json")))
    card["metrics"] = {name: entry for name, entry in card["metrics"].items() if not entry["oracle"]}
    assert set(card["metrics"]) == {"day"}
    result.pop("recipe")  # names the data's path
    result["metrics"].pop("adapter_bytes")  # the card's length depends on the oracle numbers in it
    return result | {"card": card}


@pytest.mark.parametrize("family", FAMILIES)
def test_target_and_unseen_labels_have_no_influence(
    family: str, poisoned: dict[str, Path], tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    results, oracle = {}, {}
    for kind, data in poisoned.items():
        out = tmp_path / kind
        settings = {"augment": "none"} | FAMILIES[family]
        injerto.fit(data, source="day", target="dusk", backbone=tiny_timm, out=out, seed=3, **quick, **settings)
        results[kind] = without_oracle(out)
        domains = json.loads((out / "metrics.json").read_text())["domains"]
        oracle[kind] = [domains[name]["splits"]["test"]["nll"] for name in ("dusk", "night")]
    for kind in poisoned:
        for part in results["as they are"]:
            assert results[kind][part] == results["as they are"][part], (kind, part)
    assert oracle["turned"] != oracle["as they are"]  # the poison was really there
    assert oracle["foreign"][1] is None and oracle["none"][1] is None


def test_target_and_unseen_labels_of_texts_have_no_influence(
    reviews: Path, tiny_bert: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    rows = list(csv.DictReader(reviews.open(encoding="utf-8")))
    results = []
    for kind in ("plain", "turned"):
        (tmp_path / kind).mkdir()
        with (tmp_path / kind / "reviews.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ("text", "label", "domain"))
            writer.writeheader()
            for row in rows:
                turned = kind == "turned" and row["domain"] == "books"
                writer.writerow(row | ({"label": {"good": "bad", "bad": "good"}[row["label"]]} if turned else {}))
        for tuning in ("head", "full"):
            out = tmp_path / f"{kind}-{tuning}"
            injerto.fit(
                tmp_path / kind / "reviews.csv", source="films", target="books", backbone=tiny_bert, out=out,
                tuning=tuning, epochs=2, **quick
            )  # fmt: skip
            result = outcome(out)
            books = result["metrics"]["domains"].pop("books")
            assert books["oracle"] and books["role"] == "target"
            card = tiny.timeless(json.loads(result["adapter"].pop("adapter_card.json")))
            card["metrics"].pop("books")
            for name in ("predictions.csv", MOVED):
                del result["metrics"]["files"][name]
            result["metrics"].pop("adapter_bytes")
            result.pop("recipe")
            results.append(result | {"card": card})
    assert results[0] == results[2] and results[1] == results[3]


# --- roles ------------------------------------------------------------------------------------------------------------


def domains_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "metrics.json").read_text())["domains"]


def test_what_is_reported_of_which_role(image_run: Path) -> None:
    domains = domains_of(image_run)
    found = {name: (entry["role"], entry["oracle"], set(entry["splits"])) for name, entry in domains.items()}
    assert found == {
        "day": ("source", False, {"val", "test"}),
        "dusk": ("target", True, {"train", "test"}),
        "night": ("unseen", True, {"test"}),
    }
    six = {"accuracy", "balanced_accuracy", "macro_f1", "nll", "ece", "n"}
    assert all(six <= set(split) for entry in domains.values() for split in entry["splits"].values())


def test_the_report_has_what_was_promised(image_run: Path) -> None:
    metrics = json.loads((image_run / "metrics.json").read_text())
    assert set(metrics["seconds"]) == {"load", "cache", "train", "evaluate"}
    assert all(isinstance(value, float) for value in metrics["seconds"].values())
    assert metrics["forgetting"].keys() == {"agreement", "cka", "n"}
    size = sum(path.stat().st_size for path in (image_run / "adapter").iterdir())
    assert metrics["adapter_bytes"] == size
    assert 0 < metrics["parameters"]["trainable"] < metrics["parameters"]["total"]
    assert {path.name for path in image_run.iterdir()} == {
        "recipe.yaml", "metrics.json", "log.jsonl", "checkpoints", "adapter", "splits.csv", "base.json", "predictions.csv"
    }  # fmt: skip


def test_it_learns_what_can_be_learned(go: Callable[..., Any], image_run: Path, tmp_path: Path) -> None:
    go("full, augmented", tmp_path / "run", epochs=15, lr=3e-3)
    assert domains_of(tmp_path / "run")["day"]["splits"]["test"]["accuracy"] >= 0.8


def test_a_target_from_elsewhere(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, data_writers: SimpleNamespace
) -> None:
    elsewhere = data_writers.pictures(tmp_path / "phone", 4, ("mine",)) / "mine"
    injerto.fit(pictures, source="day", target=f"phone={elsewhere}", backbone=tiny_timm, out=tmp_path / "r", **quick)
    domains = domains_of(tmp_path / "r")
    assert {name: entry["role"] for name, entry in domains.items()} == {
        "day": "source", "dusk": "unseen", "night": "unseen", "phone": "target"
    }  # fmt: skip
    assert set(domains["phone"]["splits"]) == {"train", "test"}


def test_an_unlabelled_target_has_null_metrics(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, data_writers: SimpleNamespace
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(8):
        shutil.copy(pictures / "night" / "red" / f"{number}.png", flat)
    injerto.fit(pictures, source="day", target=f"mine={flat}", backbone=tiny_timm, out=tmp_path / "r", **quick)
    for split in domains_of(tmp_path / "r")["mine"]["splits"].values():
        assert split["n"] > 0
        assert all(split[key] is None for key in ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece"))


def test_a_class_no_source_has_is_a_warning_and_left_out(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "pictures"
    shutil.copytree(pictures, data)
    (data / "night" / "red").rename(data / "night" / "violet")
    run = injerto.fit(data, source="day", backbone=tiny_timm, out=tmp_path / "r", **quick)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: oracle")]
    assert len(warnings) == 1 and "night" in warnings[0] and "violet" in warnings[0]
    assert run.labels == ("blue", "green", "red")
    split = domains_of(tmp_path / "r")["night"]["splits"]["test"]
    assert split["unknown_class"] > 0
    domain = injerto.load_domains(data)["night"]
    sides = {row["content"]: row["split"] for row in csv.DictReader((tmp_path / "r" / "splits.csv").open())}
    test = [i for i, content in enumerate(domain.contents) if sides[content] == "test"]
    known = [i for i in test if domain.labels[i] != "violet"]
    assert (split["n"], split["unknown_class"]) == (len(known), len(test) - len(known))
    predicted = run.predict([domain.inputs[i] for i in known])
    right = np.mean([a == domain.labels[i] for a, i in zip(predicted, known, strict=True)])
    assert split["accuracy"] == pytest.approx(right)


def test_a_class_without_train_examples_is_never_predicted(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    with (tmp_path / "splits.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("path", "split"))
        for label in ("blue", "green", "red"):
            for number in range(10):
                side = "test" if label == "red" or number > 7 else "val" if number > 5 else "train"
                writer.writerow((f"day/{label}/{number}.png", side))
    run = injerto.fit(
        pictures, source="day", backbone=tiny_timm, head="probe", split_file=str(tmp_path / "splits.csv"),
        out=tmp_path / "r", **quick
    )  # fmt: skip
    assert run.labels == ("blue", "green", "red")
    chances = run.predict_proba(pictures / "day")
    assert chances[:, 2].max() < 1e-3
    assert domains_of(tmp_path / "r")["day"]["splits"]["test"]["accuracy"] < 0.6


def test_several_sources_are_all_learned_from(go: Callable[..., Any], tmp_path: Path) -> None:
    go("cached head", tmp_path / "r", source=("day", "night"), target=())
    domains = domains_of(tmp_path / "r")
    assert {name: entry["role"] for name, entry in domains.items()} == {
        "day": "source", "dusk": "unseen", "night": "source"
    }  # fmt: skip
    both = [domains[name]["splits"]["val"]["accuracy"] for name in ("day", "night")]
    score = json.loads((tmp_path / "r" / "metrics.json").read_text())["selection"]["score"]
    assert score == pytest.approx(np.mean(both))


def test_a_module_of_the_users_own_is_not_changed(
    pictures: Path, make_backbone: Callable[..., Any], quick: dict[str, Any], tmp_path: Path
) -> None:
    backbone = make_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    settings = {"source": "day", "backbone": backbone, "steps": 3} | quick
    injerto.fit(pictures, out=tmp_path / "first", tuning="full", norm="train", lr=0.1, **settings)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    injerto.fit(pictures, out=tmp_path / "second", tuning="head", **settings)
    injerto.fit(pictures, out=tmp_path / "third", tuning="head", **(settings | {"backbone": make_backbone()}))
    assert outcome(tmp_path / "second") == outcome(tmp_path / "third")


def test_recalibrating_a_remainder_of_one_and_pictures_twice(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    """Batches of 17 of 18 train pictures leave one over, and its deepest maps are a single pixel."""
    for tuning in ("head", "last:1"):
        settings = quick | {"batch_size": 17, "steps": 2, "augment": "none"}
        run = injerto.fit(
            pictures,
            source="day",
            backbone=tiny_timm,
            tuning=tuning,
            norm="recalibrate",
            out=tmp_path / tuning,
            **settings,
        )
        assert any("18 examples make rough statistics" in text for text in run.metrics["warnings"])


def test_the_targets_statistics_in_frozen_stages_are_warned_of(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    settings = quick | {"steps": 2, "augment": "none", "norm": "recalibrate:target", "target": "night", "source": "day"}
    for tuning, told in (("head", True), ("last:1", False)):
        run = injerto.fit(pictures, backbone=tiny_timm, tuning=tuning, out=tmp_path / tuning, **settings)
        assert any("with a frozen backbone" in text for text in run.metrics["warnings"]) == told


def test_equal_pictures_as_objects_can_be_recalibrated_on(
    tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, data_writers: SimpleNamespace
) -> None:
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Pillow

    pictures = [data_writers.picture(label, n) for label in ("blue", "red") for n in range(6)]
    rows = [Pillow.fromarray(array) for array in pictures for _ in range(2)]
    labels = [label for label in ("blue", "red") for _ in range(12)]
    data = Dataset.from_dict({"image": rows, "label": labels}, Features({"image": Image(), "label": Value("string")}))
    injerto.fit(data, backbone=tiny_timm, norm="recalibrate", out=tmp_path / "r", **quick)


def test_frozen_norms_are_recalibrated_before_training_and_trained_ones_after(
    go: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, str]] = []
    from injerto.training import recalibration

    original, trained = recalibration.recalibrate, False

    def recalibrate(backbone: Any, batches: Any, only: set[str]) -> None:
        batches = list(batches)
        sizes.extend(len(batch) for batch in batches)
        seen.extend((trained, name) for name in sorted(only))
        original(backbone, batches, only)

    def run(self: Trainer, resume: bool = False) -> Any:
        nonlocal trained
        result, trained = train(self, resume), True
        return result

    train, sizes = Trainer.run, []
    monkeypatch.setattr(recalibration, "recalibrate", recalibrate)
    monkeypatch.setattr(Trainer, "run", run)
    go("recalibrated", tmp_path / "r")
    assert {name for after, name in seen if after} == {
        name for _, name in seen if name.startswith(("layer3", "layer4"))
    }
    assert len(seen) == len({name for _, name in seen}) == 21
    assert min(sizes) >= 8  # no small remainder


@pytest.mark.parametrize("tuning", ["head", "full"])
def test_recalibrating_on_nothing_is_refused_before_training(
    tuning: str, pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    with (tmp_path / "splits.csv").open("w") as stream:
        stream.write("path,split\n")
        for domain in ("day", "dusk"):
            for label in ("blue", "green", "red"):
                for number in range(10):
                    side = "test" if domain == "dusk" or number > 7 else "val" if number > 5 else "train"
                    stream.write(f"{domain}/{label}/{number}.png,{side}\n")
    with pytest.raises(InjertoError, match="dusk has fewer than two train examples"):
        injerto.fit(
            pictures, source="day", target="dusk", norm="recalibrate:target", backbone=tiny_timm, tuning=tuning,
            split_file=str(tmp_path / "splits.csv"), out=tmp_path / "r", **quick
        )  # fmt: skip
    assert not (tmp_path / "r" / "checkpoints").exists()


@pytest.mark.slow
def test_forgetting_is_what_the_open_run_shows(
    go: Callable[..., Any], pictures: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    from injerto.statistics.similarity import linear_cka

    found = {}
    for name, case, more in (
        ("still", "cached head", {}),
        ("gentle", "last, sgd", {"lr": 1e-6}),
        ("harsh", "full, augmented", {"norm": "frozen", "lr": 0.05}),
        ("recalibrated", "cached head", {"norm": "recalibrate:target"}),
    ):
        run = go(case, tmp_path / name, **more)
        found[name] = run.metrics["forgetting"]
        sides = run.recorded_splits()
        day = injerto.load_domains(pictures)["day"]
        held = [day.inputs[i] for i, content in enumerate(day.contents) if sides[content] == "test"]
        base = injerto.load_backbone(str(tiny_timm))
        maker = BatchMaker(base.preprocessing, "cpu")
        with torch.no_grad():
            before = base(maker.collate_images([maker.image(item) for item in held])).numpy()
        expected = linear_cka(before, injerto.load(run.path, threads=1).embed(held))
        assert found[name]["cka"] == pytest.approx(expected, abs=1e-3), name
    assert found["still"] == {"agreement": None, "cka": 1.0, "n": 0}  # this base has no classifier
    assert found["gentle"]["n"] == len(held) > 2
    assert 0.9999 < found["gentle"]["cka"] <= 1
    assert found["harsh"]["cka"] < 0.95 and found["recalibrated"]["cka"] < 0.95


def test_a_run_without_a_test_split_cannot_say_what_it_forgot(
    go: Callable[..., Any], pictures: Path, tmp_path: Path
) -> None:
    rows = [
        f"day/{label}/{n}.png,{'train' if n < 7 else 'val'}" for label in ("red", "green", "blue") for n in range(10)
    ]
    (tmp_path / "split.csv").write_text("path,split\n" + "\n".join(rows) + "\n")
    run = go("last, sgd", tmp_path / "run", target=(), split_file=str(tmp_path / "split.csv"), epochs=1)
    assert run.metrics["forgetting"] is None
