import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import injerto
from injerto.backbones.load import load_backbone
from injerto.basics.files import sha256
from injerto.compute.inference import IMAGE_CHUNK, Embedder, inference_plan
from injerto.compute.lowering import lower
from injerto.compute.machine import Machine, machine
from injerto.compute.plan import ComputePlan, make_plan

PLAN = ComputePlan("cpu", "fp32", True, 1)
TEXT_PLAN = ComputePlan("cpu", "fp32", False, 1)


def embed(embedder: Embedder, items: Sequence[Any], keys: Sequence[str]) -> np.ndarray:
    rows: dict[int, np.ndarray] = {}
    for positions, values in embedder.embed(items, keys):
        assert len(positions) == len(values)
        for position, value in zip(positions.tolist(), values, strict=True):
            assert position not in rows  # every input once
            rows[position] = value
    assert len(rows) == len(items)
    return np.stack([rows[position] for position in range(len(items))])


@pytest.fixture(scope="module")
def images(data_writers: SimpleNamespace) -> list[Image.Image]:
    return [Image.fromarray(data_writers.picture(label, seed)) for label in data_writers.classes for seed in range(15)]


@pytest.fixture(scope="module", params=["module", "timm"])
def backbone(request: Any, make_backbone: Callable[..., Any], tiny_timm: Path) -> Any:
    return make_backbone() if request.param == "module" else load_backbone(str(tiny_timm))


def eager(backbone: Any, images: Sequence[Image.Image]) -> np.ndarray:
    """One at a time, contiguous, float32, nothing folded."""
    from torchvision.transforms import functional

    looks = backbone.preprocessing
    rows = []
    with torch.no_grad():
        for image in images:
            tensor = functional.normalize(functional.to_tensor(image), looks.mean, looks.std)
            rows.append(backbone.eval()(tensor[None])[0].numpy())
    return np.stack(rows)


def test_images_equal_the_plain_loop(backbone: Any, images: list[Image.Image]) -> None:
    keys = [sha256(i) for i in range(len(images))]
    found, expected = embed(Embedder(backbone, PLAN), images, keys), eager(backbone, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.median(expected.std(axis=0)) > 1e-2  # pictures really differ


def test_an_images_embedding_does_not_depend_on_its_company(backbone: Any, images: list[Image.Image]) -> None:
    keys = [sha256("picture", i) for i in range(len(images))]
    embedder = Embedder(backbone, PLAN)
    everything = embed(embedder, images, keys)
    rng = np.random.default_rng(0)
    for size in (1, 2, IMAGE_CHUNK - 1, IMAGE_CHUNK, IMAGE_CHUNK + 1, 40):
        chosen = rng.permutation(len(images))[:size]
        some = embed(Embedder(backbone, PLAN), [images[i] for i in chosen], [keys[i] for i in chosen])
        assert np.array_equal(some, everything[chosen])  # bitwise
    other = [sha256("other names", i) for i in range(len(images))]  # other chunks
    assert np.array_equal(embed(embedder, images, other), everything)


def test_the_backbone_itself_is_not_touched(make_backbone: Callable[..., Any], images: list[Image.Image]) -> None:
    backbone = make_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    embed(Embedder(backbone, PLAN), images[:3], ["a", "b", "c"])
    after = backbone.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert all(v.is_contiguous() for v in after.values())
    assert not any("forward" in vars(module) for module in backbone.model.modules())


def test_an_embedder_is_a_snapshot_of_the_moment(make_backbone: Callable[..., Any], images: list[Image.Image]) -> None:
    backbone = make_backbone()
    embedder = Embedder(backbone, PLAN)
    before = embed(embedder, images[:3], ["a", "b", "c"])
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(2)
    assert np.array_equal(embed(embedder, images[:3], ["a", "b", "c"]), before)
    changed = embed(Embedder(backbone, PLAN), images[:3], ["a", "b", "c"])
    np.testing.assert_allclose(changed, eager(backbone, images[:3]), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not machine().bf16, reason="no bfloat16 in hardware")
def test_bf16_points_the_same_way(backbone: Any, images: list[Image.Image]) -> None:
    keys = [sha256(i) for i in range(len(images))]
    found = embed(Embedder(backbone, ComputePlan("cpu", "bf16", True, 1)), images, keys)
    expected = eager(backbone, images)
    assert cosines(found, expected).min() > 0.999


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


class Lowered(nn.Module):
    """Convolutions over pixels, a linear layer, and perhaps a weight outside of all layers."""

    def __init__(self, loose: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.third = nn.Conv2d(6, 8, 3, padding=1)
        self.shift = nn.Parameter(torch.zeros(8, 8)) if loose else None
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.third(self.second(self.first(x)).relu()).mean((2, 3))
        return self.last(x if self.shift is None else x @ self.shift)


def test_the_first_convolutions_are_not_rounded() -> None:
    torch.manual_seed(0)
    plain, x = Lowered().eval(), torch.randn(4, 3, 16, 16)
    network = lower(copy.deepcopy(plain), x)
    types = {name: value.dtype for name, value in network.named_parameters()}
    assert {name for name, dtype in types.items() if dtype == torch.float32} == {
        "first.weight", "first.bias", "second.weight", "second.bias",
    }  # fmt: skip
    assert torch.equal(network.second.weight, plain.second.weight)  # type: ignore[union-attr]
    assert network(x).dtype == torch.bfloat16
    np.testing.assert_allclose(network(x).detach().float(), plain(x).detach(), atol=0.05)
    for everything in (lower(copy.deepcopy(plain), None), lower(Lowered(loose=True), x)):
        assert {value.dtype for value in everything.parameters()} == {torch.bfloat16}
        assert everything(x).dtype == torch.bfloat16


@pytest.mark.skipif(not machine().bf16, reason="no bfloat16 in hardware")
def test_bf16_embeddings_of_real_pictures_point_the_same_way() -> None:
    backbone = load_backbone("packaged:efficientnet-lite0")
    inputs = list(injerto.load_domains("emoji-styles")["noto"].inputs[:64])
    keys = [sha256(i) for i in range(len(inputs))]
    found = [embed(Embedder(backbone, make_plan(backbone, p, 1)), inputs, keys) for p in ("bf16", "fp32")]
    assert cosines(*found).min() > 0.999


WORDS = ["a", "film", "book", "good", "bad", "very", "dull", "plot", "ending", ".", "unheard-of"]


def sentences(lengths: Sequence[int]) -> list[str]:
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


@pytest.fixture(scope="module")
def bert(tiny_bert: Path) -> Any:
    return load_backbone(f"hf:{tiny_bert}")


def masked_mean(bert: Any, texts: Sequence[str]) -> np.ndarray:
    """One text at a time without any padding: the mean over all its tokens."""
    rows = []
    with torch.no_grad():
        for text in texts:
            given = bert.preprocessing.tokenizer(text, return_tensors="pt", truncation=True, max_length=40)
            hidden = bert.model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
            rows.append(hidden[0].mean(dim=0).numpy())
    return np.stack(rows)


def test_texts_equal_the_plain_masked_mean(bert: Any) -> None:
    texts = sentences(
        [1, 2, 5, 6, 7, 13, 14, 15, 21, 22, 23, 30, 31, 32, 33, 38, 39, 60, 200] * 2
    )  # edges on both sides
    found = embed(Embedder(bert, TEXT_PLAN), texts, [sha256(i) for i in range(len(texts))])
    np.testing.assert_allclose(found, masked_mean(bert, texts), rtol=1e-4, atol=1e-4)


def test_an_empty_text_has_an_embedding(bert: Any) -> None:
    found = embed(Embedder(bert, TEXT_PLAN), ["", "a"], ["x", "y"])
    np.testing.assert_allclose(found, masked_mean(bert, ["", "a"]), rtol=1e-4, atol=1e-4)


def test_a_texts_embedding_does_not_depend_on_its_company(bert: Any) -> None:
    rng = np.random.default_rng(2)
    texts = sentences([int(n) for n in rng.integers(1, 30, 400)])
    keys = [sha256(i) for i in range(len(texts))]
    everything = embed(Embedder(bert, TEXT_PLAN), texts, keys)
    for size in (1, 7, 130):
        chosen = rng.permutation(len(texts))[:size]
        some = embed(Embedder(bert, TEXT_PLAN), [texts[i] for i in chosen], [keys[i] for i in chosen])
        assert np.array_equal(some, everything[chosen])
    assert np.array_equal(embed(Embedder(bert, TEXT_PLAN), texts, keys[::-1]), everything)


def test_the_measured_time_is_a_time(bert: Any, make_backbone: Callable[..., Any]) -> None:
    assert 0 < Embedder(bert, TEXT_PLAN).seconds_per_input() < 1
    assert 0 < Embedder(make_backbone(), PLAN).seconds_per_input() < 1


def test_a_model_shorter_than_the_first_edges(bert: Any) -> None:
    from dataclasses import replace

    short = load_backbone(f"hf:{bert.spec.partition(':')[2]}")
    short.preprocessing = replace(short.preprocessing, max_length=7)
    short.model.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(
        bert.model.embeddings.position_embeddings.weight[:7].detach()
    )
    assert Embedder(short, TEXT_PLAN).seconds_per_input() > 0
    assert np.isfinite(embed(Embedder(short, TEXT_PLAN), sentences([1, 20]), ["x", "y"])).all()


class Fourier(torch.nn.Module):
    """A network with an operation that bfloat16 has no kernel for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(3, 4, 8, 8), torch.nn.Linear(4, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(torch.fft.fft2(self.first(images)).real.abs().mean((2, 3)))


def test_what_does_not_run_in_bf16_is_planned_in_fp32(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make_backbone: Callable[..., Any]
) -> None:
    monkeypatch.setattr("injerto.compute.plan.machine", lambda: Machine("cpu", "a processor", 2, True))
    backbone = load_backbone(Fourier(), image_size=32)
    assert inference_plan(backbone, "auto", 1).precision == "fp32"
    assert "does not run in bf16" in capsys.readouterr().err
    assert inference_plan(make_backbone(), "auto", 1).precision == "bf16"
    assert inference_plan(backbone, "fp32", 1).precision == "fp32" and capsys.readouterr().err == ""
