"""Where the pairs go, and what learns."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import injerto
import tiny
from injerto.backbones.load import load_backbone
from injerto.basics.errors import InjertoError
from injerto.domains.preprocessing import ImagePreprocessing
from injerto.recipe.grammar import parse_tuning
from injerto.tuning.base import Tuned, apply_tuning
from injerto.tuning.lora.base import LowRank
from injerto.tuning.lora.settings import read_settings
from injerto.tuning.lora.tuning import low_rank_layers

LOOKS = ImagePreprocessing(32, 32, (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)


def tune(backbone: Any, text: str, seed: int = 0) -> tuple[dict[str, LowRank], Tuned]:
    tuned = apply_tuning(backbone, parse_tuning(text), seed=seed)
    return dict(low_rank_layers(backbone.model)), tuned


@pytest.fixture
def bert(tiny_bert: Path) -> Any:
    return load_backbone(str(tiny_bert))


@pytest.fixture
def vit() -> Any:
    torch.manual_seed(0)
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0
    )
    return load_backbone(network, preprocessing=LOOKS)


def test_without_names_every_linear_layer_after_the_embeddings(bert: Any) -> None:
    layers, tuned = tune(bert, "lora")
    ends = {path.rpartition("layer.")[2] for path in layers}
    each = ["attention.output.dense", "attention.self.key", "attention.self.query", "attention.self.value"]
    assert ends == {f"{i}.{name}" for i in (0, 1) for name in [*each, "intermediate.dense", "output.dense"]}
    assert set(tuned.rates) == {f"{path}.lora_{x}" for path in layers for x in "AB"}
    assert {name for name, p in bert.model.named_parameters() if p.requires_grad} == set(tuned.rates)
    assert all(layer.variant.rank == 8 and layer.variant.scaling == 2 for layer in layers.values())


def test_without_names_every_ungrouped_convolution_after_the_stem(tiny_timm: Path) -> None:
    layers, _ = tune(load_backbone(str(tiny_timm)), "lora")
    assert layers and all(path.startswith("layer") and isinstance(layer, nn.Conv2d) for path, layer in layers.items())
    lite, _ = tune(load_backbone("packaged:efficientnet-lite0"), "lora")
    assert {path.rpartition(".")[2] for path in lite} == {"conv_pw", "conv_pwl", "conv_head"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("lora(targets=query/value)", {"query", "value"}),
        ("lora(targets=attention.output.dense)", {"dense"}),
        ("lora(targets=all-linear)", {"query", "key", "value", "dense"}),
        ("lora(targets=.*self.k.*)", {"key"}),
        ("lora(targets=word_embeddings)", {"word_embeddings"}),
        ("lora(targets=query):last:1", {"query"}),
    ],
)
def test_names(bert: Any, text: str, wanted: set[str]) -> None:
    layers, tuned = tune(bert, text)
    assert {path.rpartition(".")[2] for path in layers} == wanted
    if text.endswith("last:1"):
        assert len(layers) == 1 and tuned.frozen_stages == len(bert.stages) - 1
        assert all(bert.stage_of(name) == len(bert.stages) - 1 for name in tuned.rates)
    if "attention.output.dense" in text:
        assert len(layers) == 2


def test_a_third_of_a_fused_matrix(vit: Any) -> None:
    layers, tuned = tune(vit, "lora(r=2,targets=qkv.q/qkv.v)")
    assert len(layers) == 2
    layer = next(iter(layers.values()))
    assert layer.lora_A.shape == (4, 24) and layer.variant.scaling == 2
    before = vit(torch.ones(2, 3, 32, 32)).detach()
    optimizer = torch.optim.AdamW([p for p in vit.model.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (vit(torch.ones(2, 3, 32, 32)) ** 3).sum().backward()
        optimizer.step()
    delta = layer.delta().detach()
    assert float(delta[24:48].abs().max()) == 0 and float(delta[:24].abs().min(1).values.max()) > 0
    q, v = delta[:24], delta[48:]
    assert torch.linalg.matrix_rank(q) == 2 and torch.linalg.matrix_rank(v) == 2
    assert float((vit(torch.ones(2, 3, 32, 32)) - before).detach().abs().max()) > 1e-3


def test_patterns_and_variants(bert: Any) -> None:
    layers, tuned = tune(bert, "lora(r=4,alpha=4,variant=rslora,plus=16,ranks=query:2,alphas=1.attention.self.key:8)")
    by_end = {path.rpartition("layer.")[2]: layer for path, layer in layers.items()}
    assert by_end["0.attention.self.query"].variant.rank == 2
    assert by_end["0.attention.self.value"].variant.rank == 4
    assert by_end["0.attention.self.value"].variant.scaling == 2
    assert [by_end[f"{i}.attention.self.key"].variant.alpha for i in (0, 1)] == [4, 8]
    assert {rate for name, rate in tuned.rates.items() if name.endswith("lora_B")} == {16}
    assert {rate for name, rate in tuned.rates.items() if name.endswith("lora_A")} == {1}


def test_rsloras_default_alpha_is_a_constant() -> None:
    """alpha / sqrt(r) (Kalajdzievski 2023, eq. 4) at alpha 16: the factor falls with the root of the rank."""
    for rank in (1, 4, 16, 64, 256):
        variant = read_settings(parse_tuning(f"lora(r={rank},variant=rslora)")).variant
        assert variant.scaling == pytest.approx(16 / rank**0.5)
        assert read_settings(parse_tuning(f"lora(r={rank})")).variant.scaling == 2
    given = read_settings(parse_tuning("lora(r=64,alpha=8,variant=rslora)")).variant
    assert given.scaling == 1


def test_rsloras_alpha_stands_in_the_recipe_and_an_earlier_adapter_keeps_its_own(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    """Runs of the time when it was 2 r: finished ones are loaded with their own, unfinished ones do not go on with 16."""
    settings = {"source": "day", "backbone": tiny_timm, "augment": "none", "steps": 2, **quick}
    run = injerto.fit(pictures, tuning="lora(r=4,variant=rslora)", out=tmp_path / "new", **settings)
    assert "tuning: lora(r=4,variant=rslora,alpha=16)" in (run.path / "recipe.yaml").read_text()
    before = injerto.fit(pictures, tuning="lora(r=4,variant=rslora,alpha=8)", out=tmp_path / "old", **settings)
    recipe, card = before.path / "recipe.yaml", before.path / "adapter" / "adapter_card.json"
    for path in (recipe, card):
        path.write_text(path.read_text().replace(",alpha=8", ""))
    tiny.sign(card.parent)
    for path in (before.path / "base.json", before.path / "metrics.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in record.items() if key not in ("files", "checksum")}))
    again = injerto.load(before.path, backbone=tiny_timm)
    assert {layer.variant.scaling for _, layer in low_rank_layers(again.model.backbone.model)} == {4.0}
    with pytest.raises(InjertoError, match="started with another recipe: tuning"):
        injerto.fit(pictures, tuning="lora(r=4,variant=rslora)", out=before.path, resume=True, **settings)


def test_the_seed_draws_a(tiny_bert: Path) -> None:
    found = [tune(load_backbone(str(tiny_bert)), "lora", seed)[0] for seed in (0, 0, 1)]
    first = [next(iter(layers.values())).lora_A for layers in found]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    before = torch.random.get_rng_state()
    tune(load_backbone(str(tiny_bert)), "lora", 5)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lora(rank=3)", "unknown option 'rank'"),
        ("lora(r=0)", "r=0 must be a number from 1"),
        ("lora(r=two)", "r=two must be a number"),
        ("lora(variant=lora)", "unknown variant 'lora'"),
        ("lora(variant=pissa/dora)", "exclude each other"),
        ("lora(dropout=1)", "dropout=1 must be"),
        ("lora(ranks=query)", "layer:number"),
        ("lora(targets=quarry)", "no layer that may change is called 'quarry'; there are .*query"),
        ("lora(targets=[)", r"called '\['"),
        ("lora(targets=word_embeddings,variant=dora)", "word_embeddings: Embedding can have a plain"),
        ("lora:last:9", "choose lora:last:1 to lora:last:3"),
    ],
)
def test_what_does_not_fit_is_refused(bert: Any, text: str, words: str) -> None:
    with pytest.raises(InjertoError, match=words):
        tune(bert, text)


def test_the_tiny_baselines(bert: Any, tiny_timm: Path) -> None:
    _, biases = tune(bert, "bitfit")
    assert biases.rates and all(name.endswith(".bias") for name in biases.rates)
    _, norms = tune(bert, "norm")
    assert norms.rates and all("LayerNorm" in name for name in norms.rates)
    resnet = load_backbone(str(tiny_timm))
    _, batch_norms = tune(resnet, "norm")
    assert set(batch_norms.rates) == {
        f"{path}.{name}"
        for path, module in resnet.model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for name in ("weight", "bias")
    }


@pytest.mark.parametrize(
    "tuning", ["lora", "lora:last:1", "lora(variant=dora)", "lora(variant=pissa)", "bitfit", "norm"]
)
def test_it_learns_and_only_what_may(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, tuning: str
) -> None:
    base = load_backbone(str(tiny_timm))
    rate = {"lr": 1e-2, "head_lr": 1e-3}
    settings = {"source": "day", "augment": "none", "select": "last", **quick}
    run = injerto.fit(pictures, backbone=tiny_timm, tuning=tuning, steps=40, out=tmp_path / "run", **rate, **settings)
    assert run.metrics["domains"]["day"]["splits"]["test"]["accuracy"] > 0.6
    plain = dict(base.model.named_parameters())
    state = run.model.backbone.model.state_dict()
    moved = {name for name, before in plain.items() if not torch.equal(before, state[name])}
    wanted = {"bitfit": "bias", "norm": ""}.get(tuning)
    assert (moved == set()) if wanted is None else (moved and all(name.endswith(wanted) for name in moved))
    again = injerto.load(tmp_path / "run")
    files = sorted((pictures / "day").rglob("*.png"))
    assert (again.predict_proba(files) == run.predict_proba(files)).all()
