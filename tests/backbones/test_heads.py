"""Heads by comparison."""

from collections.abc import Callable
from pathlib import Path

import pytest

from injerto.backbones.heads import common_path, head_keys, transformers_head_keys
from injerto.backbones.load import load_backbone

TEXT = {
    "bert": ["bert.pooler.dense", "classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "roberta": ["classifier.dense", "classifier.out_proj"],
    "deberta": ["pooler.dense", "classifier"],
    "deberta-v2": ["pooler.dense", "classifier"],
}


@pytest.mark.parametrize("family", TEXT)
def test_texts(family: str, text_folder: Callable[..., Path]) -> None:
    backbone = load_backbone(str(text_folder(family)))
    keys = transformers_head_keys(backbone.model.config, backbone.model.state_dict(), "text")
    assert sorted(keys) == sorted(f"{layer}.{kind}" for layer in TEXT[family] for kind in ("weight", "bias"))


VISION = {"vit": "classifier", "swin": "classifier", "resnet": "classifier.1"}


@pytest.mark.parametrize(("family", "layer"), VISION.items())
def test_vision(family: str, layer: str, vision_folder: Callable[..., Path]) -> None:
    backbone = load_backbone(str(vision_folder(family, classifier=True)))
    keys = transformers_head_keys(backbone.model.config, backbone.model.state_dict(), "image")
    assert keys == [f"{layer}.weight", f"{layer}.bias"]


def test_by_hand() -> None:
    body = ["conv.weight", "norm.weight"]
    assert head_keys(["conv.weight", "norm.weight", "fc.weight"], body) == ["fc.weight"]
    # A name of the body outside its prefix is head.
    full = ["base.conv.weight", "base.norm.weight", "norm.weight", "out.fc.bias"]
    assert head_keys(full, body) == ["norm.weight", "out.fc.bias"]
    assert head_keys(body, body) == [] and head_keys([], body) == []
    assert common_path(["head.fc.weight", "head.fc.bias"]) == "head.fc"
    assert common_path(["head.norm.weight", "head.fc.bias"]) == "head"
    assert common_path(["head.weight", "head_dist.bias"]) is None
    assert common_path([]) is None and common_path(["weight"]) is None
