"""timm: embeddings against forward_head, the hub's cache, sizes, heads."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from injerto.backbones.load import load_backbone
from injerto.basics.errors import InjertoError

FAMILIES = ["resnet", "efficientnet", "convnext", "vit", "swin"]
HEADS = {"resnet": "fc", "efficientnet": "classifier", "convnext": "head.fc", "vit": "head", "swin": "head.fc"}


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_head_and_preprocessing(family: str, timm_folder: Callable[..., Path]) -> None:
    import timm

    folder = timm_folder(family)
    backbone = load_backbone(f"timm:{folder}")
    full = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    size = backbone.preprocessing.height
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = full.forward_head(full.forward_features(images), pre_logits=True)
        assert torch.allclose(backbone(images), expected, atol=1e-6)
        assert backbone.original_head is not None
        assert torch.allclose(backbone.original_head(backbone(images)), full(images), atol=1e-5)
    assert backbone.embedding_dim == full.head_hidden_size == expected.shape[1]
    assert backbone.native_head == HEADS[family]
    assert not any(p.requires_grad for p in backbone.original_head.parameters())
    assert {n.removeprefix("model.") for n, _ in backbone.named_parameters()} == {
        n for n, _ in full.named_parameters() if not n.startswith(HEADS[family] + ".")
    }
    card = backbone.preprocessing.card()
    assert card["mean"] == (0.1, 0.2, 0.3) and card["interpolation"] == "bilinear" and card["crop"] == 0.8
    assert size == (64 if family in ("vit", "swin") else 96) and not card["squash"]
    assert (backbone.licence, backbone.hub_id, backbone.library) == ("mit", None, "timm")
    assert backbone.any_size == (family not in ("vit", "swin"))
    assert load_backbone(str(folder)).fingerprint == backbone.fingerprint


def test_from_the_hubs_cache(tmp_path: Path, timm_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    from huggingface_hub import constants
    from safetensors.torch import save_file

    repository = tmp_path / "models--timm--resnet18.a1_in1k"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    torch.manual_seed(0)
    model = timm.create_model("resnet18", pretrained=False)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(
        json.dumps({"architecture": "resnet18", "pretrained_cfg": {"num_classes": 1000}})
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for spec in ("timm:resnet18.a1_in1k", "timm:resnet18"):
        backbone = load_backbone(spec, image_size=64)
        assert torch.equal(backbone.model.conv1.weight, model.conv1.weight)
        assert backbone.hub_id == "timm/resnet18.a1_in1k" and backbone.spec == spec
        assert backbone.licence == "apache-2.0"
        assert isinstance(backbone.original_head, nn.Linear) and torch.equal(
            backbone.original_head.weight, model.fc.weight
        )
    with pytest.raises(InjertoError, match="not in the local cache"):
        load_backbone("timm:resnet18.a2_in1k")


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_a_network_with_positions_is_rebuilt_for_a_size(family: str, timm_folder: Callable[..., Path]) -> None:
    folder = timm_folder(family)
    backbone = load_backbone(f"timm:{folder}", image_size=96)
    assert (backbone.preprocessing.height, backbone.preprocessing.width) == (96, 96)
    assert backbone(torch.zeros(1, 3, 96, 96)).shape == (1, backbone.embedding_dim)
    own = load_backbone(f"timm:{folder}")
    if family == "vit":
        assert backbone.model.pos_embed.shape[1] == 37 and own.model.pos_embed.shape[1] == 17
        with pytest.raises(InjertoError, match="its own is 64"):
            load_backbone(f"timm:{folder}", image_size=4)


def test_a_convolutional_network_takes_the_size(timm_folder: Callable[..., Path]) -> None:
    folder = timm_folder("resnet")
    backbone = load_backbone(f"timm:{folder}", image_size=40)
    assert backbone.preprocessing.height == 40
    assert backbone.fingerprint == load_backbone(f"timm:{folder}").fingerprint


def test_squash_and_a_checkpoint_without_classifier(tmp_path: Path, timm_folder: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(timm_folder("vit"), tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_classes"] = config["pretrained_cfg"]["num_classes"] = 0
    config["pretrained_cfg"]["crop_mode"] = "squash"
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: t for name, t in weights.items() if not name.startswith("head.")}, tmp_path / "model.safetensors")
    backbone = load_backbone(str(tmp_path))
    assert backbone.preprocessing.squash
    assert backbone.native_head == "head" and backbone.original_head is None
