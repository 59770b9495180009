"""The public functions: what fit takes, and that every form of an input gets the same answer."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import injerto
from injerto.basics.errors import InjertoError


@pytest.fixture(scope="module")
def run(image_run: Path) -> Any:
    return injerto.load(image_run, threads=1)


@pytest.fixture(scope="module")
def files(pictures: Path) -> list[Path]:
    return sorted((pictures / "day").glob("*/[1-3].png"))


# --- pictures ---------------------------------------------------------------------------------------------------------


def forms(file: Path) -> dict[str, Any]:
    import pandas as pd

    array = np.asarray(Image.open(file)).copy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "BMP")
    return {
        "str": str(file),
        "Path": file,
        "PIL": Image.open(file),
        "PIL with alpha": Image.fromarray(array).convert("RGBA"),
        "bytes": file.read_bytes(),
        "bytes of another format": buffer.getvalue(),
        "uint8 array": array,
        "float32 array": array.astype(np.float32) / 255,
        "float64 array": array / 255,
        "int array": array.astype(np.int64),
        "channels first": array.transpose(2, 0, 1),
        "read-only array": np.asarray(Image.open(file)),
        "reversed memory": np.asfortranarray(array),
        "list": [file],
        "tuple": (file,),
        "generator": (item for item in [file]),
        "list of lists": [[file]],
        "batch": array[None],
        "float batch": array[None] / 255,
        "list of arrays": [array],
        "DataFrame": pd.DataFrame({"image": [str(file)], "other": [1]}),
        "one-column DataFrame": pd.DataFrame({"anything": [str(file)]}),
        "Series": pd.Series([file]),
        "DataFrame of PIL": pd.DataFrame({"image": [Image.open(file)]}),
    }


def test_every_form_of_a_picture_gets_the_same_answer(run: Any, files: list[Path]) -> None:
    expected = run.predict_proba(files)
    assert expected.shape == (len(files), 3) and expected.dtype == np.float64
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-12)
    assert np.ptp(expected[:, 0]) > 0.01
    for index in (4,):
        for name, form in forms(files[index]).items():
            found = run.predict_proba(form)
            assert np.array_equal(found, run.predict_proba(str(files[index]))), name
            np.testing.assert_allclose(found, expected[index : index + 1], rtol=1e-6)


def test_many_at_once_is_one_after_another(run: Any, files: list[Path]) -> None:
    import pandas as pd

    expected = np.concatenate([run.predict_proba(file) for file in files])
    arrays = [np.asarray(Image.open(file)) for file in files]
    frame = pd.DataFrame({"path": [str(file) for file in files]}, index=range(100, 100 + len(files)))
    forms = [files, [str(f) for f in files], np.stack(arrays), arrays, frame, frame["path"], files[:1] + arrays[1:]]
    forms += [frame["path"].to_numpy(), np.asarray([str(f) for f in files])]
    for several in forms:
        assert np.array_equal(run.predict_proba(several), run.predict_proba(files))
    np.testing.assert_allclose(run.predict_proba(files), expected, rtol=1e-6)
    assert run.predict(files) == [run.labels[i] for i in expected.argmax(1)]
    assert injerto.predict(run.path, files, threads=1) == run.predict(files)


def test_a_folder_is_its_pictures_in_order(run: Any, pictures: Path) -> None:
    everything = sorted(path for path in (pictures / "day").rglob("*.png"))
    assert np.array_equal(run.predict_proba(pictures / "day"), run.predict_proba(everything))


def test_grey_and_nothing(run: Any) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 36), dtype=np.uint8)
    colour = np.stack([grey] * 3, axis=2)
    for form in (grey, grey[:, :, None], Image.fromarray(grey), grey[None, :, :, None]):
        assert np.array_equal(run.predict_proba(form), run.predict_proba(colour))
    assert run.predict([]) == []
    assert run.predict_proba([]).shape == (0, 3)


def test_tensors_are_arrays(run: Any, files: list[Path]) -> None:
    import torch

    array = np.asarray(Image.open(files[0]).convert("RGB"))
    tensor = torch.from_numpy(array.copy())
    expected = run.predict_proba(array)
    for form in (tensor, tensor.permute(2, 0, 1), tensor[None], [tensor], tensor.float().requires_grad_() / 255):
        assert np.array_equal(run.predict_proba(form), expected)
    with pytest.raises(InjertoError, match="shape"):
        run.predict(torch.tensor(3))


WRONG = {
    "missing file": ("nowhere.png", "nowhere.png"),
    "number": (3, "cannot predict on int"),
    "None": (None, "cannot predict on NoneType"),
    "floats beyond 1": (np.full((8, 8, 3), 7.5), "0..1"),
    "nan": (np.full((8, 8, 3), np.nan), "0..1"),
    "negative integers": (np.full((8, 8, 3), -1), "0..255"),
    "integers beyond 255": (np.full((8, 8, 3), 300), "0..255"),
    "two channels": (np.zeros((8, 8, 2), np.uint8), "shape"),
    "a vector": (np.zeros(8, np.uint8), "shape"),
    "five dimensions": (np.zeros((1, 1, 8, 8, 3), np.uint8), "shape"),
    "no pixels": (np.zeros((0, 8, 3)), "shape|pixel|0..1"),
    "words": (np.asarray([["a", "b"]]), "no such image: a"),
    "broken bytes": (b"not a picture", "cannot read"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_picture_is_said_in_one_line(run: Any, what: str) -> None:
    given, says = WRONG[what]
    with pytest.raises(InjertoError, match=says) as caught:
        run.predict(given)
    assert "\n" not in str(caught.value)


def test_a_table_without_a_known_column(run: Any) -> None:
    import pandas as pd

    with pytest.raises(InjertoError, match="no column of texts or picture paths found among a, b"):
        run.predict(pd.DataFrame({"a": ["x"], "b": ["y"]}))


def test_embeddings_are_what_the_head_sees(run: Any, files: list[Path]) -> None:
    embedded = run.embed(files)
    assert embedded.shape == (len(files), 16)
    layer = run.model.head.layers[0]
    logits = embedded @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(run.predict_proba(files), chances, rtol=1e-4, atol=1e-6)


def test_predicting_leaves_the_model_alone(run: Any, files: list[Path]) -> None:
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.predict(files)
    after = run.model.state_dict()
    assert all(bool((before[name] == after[name]).all()) for name in before)
    assert not any(module.training for module in run.model.modules())


# --- texts ------------------------------------------------------------------------------------------------------------


def test_every_form_of_a_text_gets_the_same_answer(text_run: Path) -> None:
    import pandas as pd

    run = injerto.load(text_run, threads=1)
    texts = ["the film was great", "a dull and poor plot .", "good", "word " * 100, "great great fine good"]
    expected = run.predict_proba(texts)
    for index, text in enumerate(texts):
        frame = pd.DataFrame({"text": [text], "label": ["x"]})
        for form in (text, [text], (text,), np.asarray([text]), frame, frame["text"], (t for t in [text])):
            found = run.predict_proba(form)
            assert np.array_equal(found, run.predict_proba(text))
            np.testing.assert_allclose(found, expected[index : index + 1], rtol=1e-5)
    assert run.labels == ("bad", "good")
    assert run.predict("great fine good great") == ["good"] and run.predict("dull poor bad bad") == ["bad"]


def test_a_text_that_is_a_files_name_is_a_text(text_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = injerto.load(text_run, threads=1)
    before = run.predict_proba("good")
    (tmp_path / "good").write_text("bad bad bad")
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(run.predict_proba("good"), before)


@pytest.mark.parametrize("given", [3, [3], [None], ["a", float("nan")], b"bytes", [b"a"], [["a"]]])
def test_what_is_no_text(text_run: Path, given: Any) -> None:
    with pytest.raises(InjertoError, match="not a text"):
        injerto.load(text_run, threads=1).predict(given)


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluate_uses_the_recorded_test_split_where_content_is_known(
    run: Any, pictures: Path, tmp_path: Path, data_writers: Any
) -> None:
    found = injerto.evaluate(run.path, pictures, threads=1)
    for name, entry in run.metrics["domains"].items():
        test = entry["splits"]["test"]
        assert (found[name]["n"], found[name]["accuracy"]) == (test["n"], test["accuracy"])
        assert found[name]["confusion"] == test["confusion"]
    copied = tmp_path / "other-place"  # it is the content that is known, not the path
    shutil.copytree(pictures / "day", copied / "renamed")
    again = injerto.evaluate(run.path, copied, on="renamed", threads=1)
    assert again["renamed"]["confusion"] == found["day"]["confusion"]
    new = data_writers.pictures(tmp_path / "new", 3, ("dawn",))
    for file in new.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    assert injerto.evaluate(run.path, new, threads=1)["dawn"]["n"] == 9  # nothing known: all of it


def test_the_adapters_folder_knows_the_runs_splits(run: Any, pictures: Path) -> None:
    whole, inner = (injerto.evaluate(path, pictures, on="day", threads=1) for path in (run.path, run.path / "adapter"))
    assert inner == whole


def test_evaluate_says_what_is_missing(run: Any, pictures: Path, reviews: Path) -> None:
    with pytest.raises(InjertoError, match="no domain 'dawn'.*day"):
        injerto.evaluate(run.path, pictures, on="dawn")
    with pytest.raises(InjertoError, match="texts.*images"):
        injerto.evaluate(run.path, reviews)


def test_evaluating_only_known_train_examples(run: Any, pictures: Path, tmp_path: Path) -> None:
    known = {content for content, side in run.recorded_splits().items() if side == "train"}
    domain = injerto.load_domains(pictures)["day"]
    for source, content in zip(domain.sources, domain.contents, strict=True):
        if content in known:
            target = tmp_path / "seen" / source
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pictures / source, target)
    with pytest.raises(InjertoError, match="nothing to test on"):
        injerto.evaluate(run.path, tmp_path / "seen")


# --- fit --------------------------------------------------------------------------------------------------------------


def test_yaml_keywords_and_defaults_are_one_language(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"source": "day", "backbone": str(tiny_timm), "tuning": "head", "epochs": 2, **quick}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({key.replace("_", "-"): value for key, value in settings.items()}))
    by_yaml = injerto.fit(pictures, out=tmp_path / "a", config=tmp_path / "c.yaml")
    by_word = injerto.fit(str(pictures), out=str(tmp_path / "b"), **settings)
    again = injerto.fit(pictures, out=tmp_path / "c", config=tmp_path / "a" / "recipe.yaml")
    recipes = [(run.path / "recipe.yaml").read_bytes() for run in (by_yaml, by_word, again)]
    assert recipes[0] == recipes[1] == recipes[2]
    assert by_yaml.metrics["domains"] == by_word.metrics["domains"] == again.metrics["domains"]


@pytest.mark.parametrize(("inside", "given"), [({"steps": 3}, {"epochs": 1}), ({"epochs": 3}, {"steps": 2})])
def test_keywords_win_over_the_yaml(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, inside: dict, given: dict
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(inside | {"source": "night", "seed": 7}))
    run = injerto.fit(
        pictures, out=tmp_path / "r", config=tmp_path / "c.yaml", source="day", backbone=tiny_timm, **given, **quick
    )
    recipe = yaml.safe_load((run.path / "recipe.yaml").read_text())
    assert recipe["source"] == ["day"] and recipe["seed"] == 7 == recipe["split_seed"]
    assert {key: recipe[key] for key in ("steps", "epochs")} == {"steps": None, "epochs": None} | given


def test_objects_go_in_too(
    tiny_timm: Path, make_network: Callable[..., Any], quick: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    import pandas as pd

    files = sorted((pictures / "day").rglob("*.png"))
    frame = pd.DataFrame({"image": [str(f) for f in files], "label": [f.parent.name for f in files], "domain": "day"})
    by_frame = injerto.fit(frame, out=tmp_path / "frame", backbone=tiny_timm, steps=3, **quick)
    by_folder = injerto.fit(pictures / "day", out=tmp_path / "folder", backbone=tiny_timm, steps=3, **quick)
    assert (by_frame.path / "splits.csv").read_text() == (by_folder.path / "splits.csv").read_text()
    for file in ("adapter_model.safetensors", "head.safetensors"):
        a, b = (run.path / "adapter" / file for run in (by_frame, by_folder))
        assert a.read_bytes() == b.read_bytes()
    domains = injerto.load_domains(pictures)
    by_domains = injerto.fit(domains, source="day", out=tmp_path / "domains", backbone=tiny_timm, steps=3, **quick)
    assert (by_domains.path / "adapter" / "head.safetensors").read_bytes() == b.read_bytes()


def test_a_network_of_ones_own(
    make_backbone: Callable[..., Any], quick: dict[str, Any], pictures: Path, tmp_path: Path
) -> None:
    run = injerto.fit(
        pictures, source="day", backbone=make_backbone(), tuning="last:1", steps=5, augment="none", lr=0.05,
        out=tmp_path / "r", **quick
    )  # fmt: skip
    files = sorted((pictures / "day").rglob("*.png"))
    expected = run.predict_proba(files)
    assert np.array_equal(
        injerto.load(tmp_path / "r", backbone=make_backbone(), threads=1).predict_proba(files), expected
    )
    with pytest.raises(InjertoError, match="needs its base model module:TinyNet"):
        injerto.load(tmp_path / "r")
    with pytest.raises(InjertoError, match="other weights"):
        injerto.load(tmp_path / "r", backbone=make_backbone(seed=1))
    assert yaml.safe_load((tmp_path / "r" / "recipe.yaml").read_text())["backbone"] == "module:TinyNet"


def test_a_bare_module_takes_the_cards_preprocessing(
    make_backbone: Callable[..., Any],
    make_network: Callable[..., Any],
    quick: dict[str, Any],
    pictures: Path,
    tmp_path: Path,
) -> None:
    run = injerto.fit(pictures, source="day", backbone=make_backbone(), steps=5, out=tmp_path / "r", **quick)
    files = sorted((pictures / "day").rglob("*.png"))
    bare = injerto.load(tmp_path / "r", backbone=make_network(), threads=1)
    assert np.array_equal(bare.predict_proba(files), run.predict_proba(files))


def test_without_a_name_the_run_lies_in_runs(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = injerto.fit(pictures, source="day", backbone=tiny_timm, steps=1, seed=4, **quick)
    assert run.path == Path("runs/pictures-head-4")
    assert (tmp_path / "runs" / "pictures-head-4" / "metrics.json").exists()


def test_an_unknown_setting_suggests_a_known_one(pictures: Path) -> None:
    with pytest.raises(InjertoError, match="did you mean 'batch_size'"):
        injerto.fit(pictures, batchsize=3)


def test_load_says_what_is_wrong(tmp_path: Path, image_run: Path) -> None:
    with pytest.raises(InjertoError, match="no run at"):
        injerto.load(tmp_path / "nothing")
    with pytest.raises(InjertoError, match="holds no finished adapter"):
        injerto.load(tmp_path)
    bare = shutil.copytree(image_run / "adapter", tmp_path / "bare")
    with pytest.raises(InjertoError, match="without metrics.json"):
        _ = injerto.load(bare, backbone=yaml.safe_load((image_run / "recipe.yaml").read_text())["backbone"]).metrics


def test_info(tiny_timm: Path, image_run: Path) -> None:
    facts = injerto.info(tiny_timm)
    assert sum(stage["parameters"] for stage in facts["stages"]) == facts["parameters"]
    assert [stage["stage"] for stage in facts["stages"]] == list(range(5))
    assert facts["embedding_dim"] == 16 and facts["preprocessing"]["height"] == 32
    assert injerto.info(image_run)["labels"] == ["blue", "green", "red"]
    assert injerto.info(image_run / "adapter")["tuning"] == "last:1"
    assert "machine" in injerto.info()


def test_public_names() -> None:
    for name in injerto.__all__:
        assert getattr(injerto, name) is not None
    assert set(dir(injerto)) >= {"fit", "load", "predict", "evaluate", "load_domains", "info", "InjertoError"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = injerto.nothing


def test_wrong_types_are_told_in_words(tmp_path: Path, image_run: Path, pictures: Path) -> None:
    for call in (
        lambda: injerto.load(None),  # type: ignore[arg-type]
        lambda: injerto.report(None),  # type: ignore[arg-type]
        lambda: injerto.load_peft(None, "packaged:minilm-l6"),  # type: ignore[arg-type]
        lambda: injerto.fit(pictures, source="day", out=["x"]),  # type: ignore[arg-type]
    ):
        with pytest.raises(InjertoError, match="a path, not"):
            call()
    with pytest.raises(InjertoError, match="a list of two runs or more"):
        injerto.combine(str(image_run), tmp_path / "sum")
    with pytest.raises(InjertoError, match="weights: a list of numbers"):
        injerto.combine([image_run, image_run], tmp_path / "sum", weights="11")  # type: ignore[arg-type]
    with pytest.raises(InjertoError, match="trials: a whole number, not '2'"):
        injerto.search(pictures, source="day", trials="2", out=tmp_path / "search")  # type: ignore[arg-type]
