"""What is exported computes the same in the hands of others."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import peft
import pytest
import timm
import torch
from safetensors import safe_open
from transformers import AutoModel

import injerto
import tiny
from injerto.compute.batches import BatchMaker
from injerto.domains.texts import pad, tokenize

TEXTS = ["a good book", "bad film , very bad", "good", "the plot of the film"]


@pytest.fixture(scope="module")
def images(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("images")
    common = {"source": "day", "backbone": str(tiny_timm), "steps": 4, "lr": 1e-2, "augment": "none"} | quick
    rows = {"lora": {"tuning": "lora", "head": "native"}, "full": {"tuning": "full"}, "mlp": {"tuning": "last:1", "head": "mlp", "neck": "8"}}  # fmt: skip
    return {name: injerto.fit(pictures, out=place / name, **common, **row).path for name, row in rows.items()}


@pytest.fixture(scope="module")
def texts(
    reviews: Path, tiny_bert: Path, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("texts")
    common = {"source": "books", "backbone": str(tiny_bert), "steps": 4, "lr": 1e-2} | quick
    rows = {"lora": {"tuning": "lora"}, "dora": {"tuning": "lora(variant=dora)"}, "mlp": {"tuning": "full", "head": "mlp"}}  # fmt: skip
    return {name: injerto.fit(reviews, out=place / name, **common, **row).path for name, row in rows.items()}


def batch(run: Any, inputs: list[Any]) -> Any:
    """What the backbone takes."""
    size = run.model.backbone.preprocessing
    if run.model.backbone.modality == "text":
        return {name: torch.from_numpy(value) for name, value in pad(tokenize(inputs, size), size).items()}
    maker = BatchMaker(size, "cpu")
    return maker.collate_images([maker.image(item) for item in inputs])


def logits(run: Any, inputs: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        return run.model(batch(run, inputs)).logits


def some(pictures: Path) -> list[Any]:
    return list(injerto.load_domains(pictures)["night"].inputs[:4])


def readme(folder: Path, **names: Any) -> dict[str, Any]:
    """The names that the README's code defines."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code
    exec(code[1], names)
    return names


@pytest.mark.parametrize("name", ["lora", "full"])
def test_timm_loads_a_merged_model(images: dict[str, Path], pictures: Path, tmp_path: Path, name: str) -> None:
    run = injerto.load(images[name])
    injerto.export(images[name], tmp_path / "out", format="merged")
    found = readme(tmp_path / "out", FOLDER=tmp_path / "out")
    inputs = some(pictures)
    with torch.no_grad():
        theirs = found["model"](batch(run, inputs))
    torch.testing.assert_close(theirs, logits(run, inputs), atol=1e-5, rtol=1e-5)
    assert found["model"].pretrained_cfg["label_names"] == list(run.labels)


def test_a_neck_and_an_mlp_stand_beside_the_network(images: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    run, inputs = injerto.load(images["mlp"]), some(pictures)
    injerto.export(images["mlp"], tmp_path / "out", format="merged")
    with torch.no_grad():
        found = readme(tmp_path / "out", FOLDER=tmp_path / "out", IMAGES=batch(run, inputs))
    torch.testing.assert_close(found["logits"], logits(run, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["lora", "dora", "mlp"])
def test_transformers_loads_a_merged_text_model(texts: dict[str, Path], tmp_path: Path, name: str) -> None:
    run = injerto.load(texts[name])
    injerto.export(texts[name], tmp_path / "out", format="merged")
    with torch.no_grad():
        found = readme(tmp_path / "out", FOLDER=str(tmp_path / "out"), TEXTS=TEXTS)
    torch.testing.assert_close(found["logits"], logits(run, TEXTS), atol=1e-5, rtol=1e-5)


def test_peft_loads_its_form(images: dict[str, Path], pictures: Path, tiny_timm: Path, tmp_path: Path) -> None:
    run, inputs = injerto.load(images["lora"]), some(pictures)
    injerto.export(images["lora"], tmp_path / "out", format="peft")
    base = timm.create_model(f"local-dir:{tiny_timm}", pretrained=True, num_classes=len(run.labels)).eval()
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(batch(run, inputs)), logits(run, inputs), atol=1e-5, rtol=1e-5)
    assert "library_name: peft" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_integers_are_a_quarter_and_nearly_the_same(
    texts: dict[str, Path], tiny_bert: Path, tmp_path: Path, name: str
) -> None:
    found = injerto.export(texts[name], tmp_path / "out", format="int8")
    assert 0 < found["weight_error"] <= found["worst_weight_error"] < 0.02
    assert found["same_predictions"] > 0.9 and found["checked_on"] > 0
    run, small = injerto.load(texts[name]), injerto.load(tmp_path / "out", backbone=tiny_bert)
    torch.testing.assert_close(logits(small, TEXTS), logits(run, TEXTS), atol=0.05, rtol=0.05)
    assert not torch.equal(logits(small, TEXTS), logits(run, TEXTS))
    with safe_open(tmp_path / "out" / "adapter_int8.safetensors", framework="pt") as file:
        kept = sum(file.get_tensor(key).nbytes for key in file.keys())  # noqa: SIM118
    with safe_open(texts[name] / "adapter" / "adapter_model.safetensors", framework="pt") as file:
        full = sum(file.get_tensor(key).nbytes for key in file.keys())  # noqa: SIM118
    assert kept < 0.55 * full  # these pairs are tiny: their scales weigh more than in a real model
    with pytest.raises(Exception):  # noqa: B017  PEFT must not take integers for weights
        peft.PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_bert), tmp_path / "out")
    again = injerto.export(tmp_path / "out", tmp_path / "back", format="peft", backbone=tiny_bert)
    assert again["format"] == "peft"
    assert injerto.load(tmp_path / "back", backbone=tiny_bert).predict(TEXTS) == small.predict(TEXTS)


def test_a_difference_of_pairs_survives_rounding(
    reviews: Path, tiny_bert: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"backbone": str(tiny_bert), "steps": 4, "lr": 1e-3, "tuning": "lora(variant=pissa)"} | quick
    run = injerto.fit(reviews, source="books", out=tmp_path / "run", **settings)
    assert injerto.export(run.path, tmp_path / "out", format="int8")["worst_weight_error"] < 0.02


def test_onnx_says_the_same(images: dict[str, Path], texts: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    cases: list[tuple[Path, list[Any]]] = [(images["lora"], some(pictures)), (texts["lora"], TEXTS)]
    for place, inputs in cases:
        out = tmp_path / place.parent.name
        found = injerto.export(place, out, format="onnx")
        assert found["largest_logit_difference"] < 1e-3
        run = injerto.load(place)
        session = onnxruntime.InferenceSession(str(out / "model.onnx"))
        for count in (1, 3):  # the number of examples is free
            given = batch(run, inputs[:count])
            feed = given if isinstance(given, dict) else {"pixel_values": given}
            theirs = session.run(None, {name: value.numpy() for name, value in feed.items()})[0]
            np.testing.assert_allclose(theirs, logits(run, inputs[:count]).numpy(), atol=1e-4)


def test_what_has_no_such_form_is_refused(
    images: dict[str, Path], texts: dict[str, Path], reviews: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    assert "use --format merged" in refused("export", images["full"], "--format", "peft", "--out", out)
    assert "use --format merged" in refused("export", images["full"], "--format", "int8", "--out", out)
    assert "did you mean" in refused("export", images["full"], "--format", "merge", "--out", out)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("x")
    assert "exists already" in refused("export", images["full"], "--format", "merged", "--out", out)
    assert "holds texts" in refused(
        "export", images["full"], "--format", "onnx", "--out", tmp_path / "o", "--data", reviews
    )


def test_a_damaged_file_of_integers_is_refused(texts: dict[str, Path], tiny_bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    injerto.export(texts["lora"], tmp_path / "out", format="int8")
    path = tmp_path / "out" / "adapter_int8.safetensors"
    tensors = load_file(path)
    scale = next(name for name in tensors if name.endswith(".scale"))
    damaged: dict[str, dict[str, torch.Tensor]] = {
        "shape": tensors | {scale: torch.ones(3)},
        "NaN": tensors | {scale: tensors[scale] * float("nan")},
        "type": {name: tensor for name, tensor in tensors.items() if name != scale},
    }
    for says, content in damaged.items():
        save_file(content, path)
        tiny.sign(path.parent)
        with pytest.raises(injerto.InjertoError, match=says):
            injerto.load(tmp_path / "out", backbone=tiny_bert)
