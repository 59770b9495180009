"""transformers: pooling against hand-written references, preprocessing, lengths, checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from injerto.backbones.load import load_backbone
from injerto.backbones.pooling import pooling_modes
from injerto.basics.errors import InjertoError

FAMILIES = ["bert", "distilbert", "roberta", "deberta", "deberta-v2"]
TEXTS = ["the cat sat on the mat .", "dog ran"]


def encode(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoTokenizer

    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


def tokens(folder: Path, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The last hidden states of each text, run through the network alone and so without padding."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        lengths = batch["attention_mask"].sum(1).tolist()
        return [
            model(row[:n].unsqueeze(0)).last_hidden_state[0] for row, n in zip(batch["input_ids"], lengths, strict=True)
        ]


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_mean(family: str, text_folder: Callable[..., Path]) -> None:
    folder = text_folder(family)
    backbone, batch = load_backbone(f"hf:{folder}"), encode(folder)
    assert batch["attention_mask"][1].sum() < batch["attention_mask"].shape[1]
    expected = torch.stack([hidden.mean(0) for hidden in tokens(folder, batch)])
    with torch.no_grad():
        assert torch.allclose(backbone(batch), expected, atol=1e-5)
    assert (backbone.modality, backbone.embedding_dim, backbone.library) == ("text", 32, "transformers")
    assert not any("pooler" in name for name in backbone.model.state_dict())
    assert backbone.preprocessing.name == folder.name
    assert backbone.preprocessing.max_length == (40 - 1 if family == "roberta" else 40)


def sentence(folder: Path, pooling: dict[str, Any], length: int | None = None) -> Path:
    base = "sentence_transformers.models."
    modules = [{"idx": 0, "path": "", "type": base + "Transformer"}, {"path": "1_Pooling", "type": base + "Pooling"}]
    modules.append({"idx": 2, "path": "2_Normalize", "type": base + "Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}))
    return folder


def test_the_models_own_pooling(text_folder: Callable[..., Path]) -> None:
    folder = text_folder("bert")
    batch = encode(folder)
    hidden = tokens(folder, batch)
    cls = torch.stack([h[0] for h in hidden])
    biggest = torch.stack([h.amax(0) for h in hidden])
    mean = torch.stack([h.mean(0) for h in hidden])
    root = torch.stack([h.sum(0) / len(h) ** 0.5 for h in hidden])
    flags = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": False}
    cases: list[tuple[dict[str, Any], torch.Tensor]] = [
        (flags | {"pooling_mode_cls_token": True}, cls),
        (flags | {"pooling_mode_max_tokens": True}, biggest),
        (flags | {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, torch.cat([cls, mean], 1)),
        (flags | {"pooling_mode_mean_sqrt_len_tokens": True}, root),
        ({"pooling_mode": "cls"}, cls),
        ({"pooling_mode_lasttoken": True}, torch.stack([h[-1] for h in hidden])),
        ({"pooling_mode": "weightedmean"}, torch.stack([rising(h) for h in hidden])),
    ]
    for config, expected in cases:
        backbone = load_backbone(f"hf:{sentence(folder, config, 16)}")
        with torch.no_grad():
            assert torch.allclose(backbone(batch), expected, atol=1e-5), config
        assert backbone.embedding_dim == expected.shape[1] and backbone.preprocessing.max_length == 16
    assert load_backbone(f"hf:{sentence(folder, {}, 999)}").preprocessing.max_length == 40  # no position beyond
    with pytest.raises(InjertoError, match="colbert"):
        pooling_modes({"pooling_mode_colbert": True}, "x")


def rising(hidden: torch.Tensor) -> torch.Tensor:
    """The mean with weights 1, 2, 3, ..."""
    weights = torch.arange(1.0, len(hidden) + 1)[:, None]
    return (hidden * weights).sum(0) / weights.sum()


def test_a_layer_behind_the_pooling_is_refused(text_folder: Callable[..., Path]) -> None:
    folder = sentence(text_folder("bert"), {})
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InjertoError, match="Dense"):
        load_backbone(str(folder))


def test_an_old_sentence_transformers_folder(text_folder: Callable[..., Path], tmp_path: Path) -> None:
    inner = text_folder("bert")
    sentence(tmp_path, {"pooling_mode_cls_token": True})
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "0_Transformer").symlink_to(inner)
    for spec in (str(tmp_path), f"hf:{tmp_path}"):
        assert load_backbone(spec).fingerprint == load_backbone(str(inner)).fingerprint


def test_checkpoints(text_folder: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = text_folder("bert")
    before = load_backbone(str(folder)).fingerprint
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InjertoError, match="no model.safetensors"):
        load_backbone(str(folder))
    torch.save(weights, folder / "pytorch_model.bin")
    assert load_backbone(str(folder)).fingerprint == before

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({**weights, "evil": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(InjertoError) as caught:
        load_backbone(str(folder))
    assert not (tmp_path / "ran").exists() and "\n" not in str(caught.value)
    half = {name: tensor for name, tensor in weights.items() if "encoder.layer.1." not in name}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InjertoError, match="lacks 16 of its weights"):
        load_backbone(str(folder))


def test_half_precision_is_loaded_as_float32_and_the_licence_is_read(text_folder: Callable[..., Path]) -> None:
    from transformers import AutoModel

    folder = text_folder("bert")
    AutoModel.from_pretrained(folder).half().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\nlicense: other\n")
    backbone = load_backbone(str(folder))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert backbone.licence == "apache-2.0" and backbone.hub_id is None


def test_a_text_model_has_no_image_size(text_folder: Callable[..., Path]) -> None:
    with pytest.raises(InjertoError, match="takes texts"):
        load_backbone(str(text_folder("bert")), image_size=64)


@pytest.mark.parametrize(
    ("family", "classifier", "pick"),
    [
        ("vit", False, lambda out: out.pooler_output),
        ("vit", True, lambda out: out.last_hidden_state[:, 0]),  # a classifier's checkpoint has no pooler
        ("swin", True, lambda out: out.last_hidden_state.mean(1)),
        ("convnext", True, lambda out: out.pooler_output),
        ("resnet", True, lambda out: out.pooler_output.flatten(1)),
    ],
)
def test_vision(family: str, classifier: bool, pick: Callable[..., Any], vision_folder: Callable[..., Path]) -> None:
    from transformers import AutoModel

    folder = vision_folder(family, classifier)
    backbone = load_backbone(f"hf:{folder}")
    reference = AutoModel.from_pretrained(folder).eval()
    size = backbone.preprocessing.height
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.allclose(backbone(images), pick(reference(images)), atol=1e-5)
    assert backbone.modality == "image" and backbone.any_size == (family in ("convnext", "resnet"))
    assert any("pooler" in name for name in backbone.model.state_dict()) == (family == "vit" and not classifier)
    assert size == (224 if family == "resnet" else 64 if family == "convnext" else 32)


def test_a_size_other_than_the_vision_models_own(vision_folder: Callable[..., Path]) -> None:
    folder = vision_folder("vit")
    backbone = load_backbone(str(folder), image_size=48)
    assert backbone(torch.zeros(1, 3, 48, 48)).shape == (1, 32)
    assert backbone.fingerprint == load_backbone(str(folder)).fingerprint
    with pytest.raises(InjertoError, match="4x4 px"):
        load_backbone(str(folder), image_size=4)


PLAIN = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"image_processor_type": "ViTImageProcessor", "size": 32, "resample": 2}, (32, 1.0, True, "bilinear")),
        (
            {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 40}, "resample": 3}
            | {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
            (32, 0.8, False, "bicubic"),
        ),
        (
            {
                "image_processor_type": "ConvNextImageProcessor",
                "size": {"shortest_edge": 32},
                "crop_pct": 0.875,
                "resample": 2,
            },
            (32, 0.875, False, "bilinear"),
        ),
        (
            {
                "image_processor_type": "ConvNextImageProcessor",
                "size": {"shortest_edge": 384},
                "crop_pct": 0.875,
                "resample": 2,
            },
            (384, 1.0, True, "bilinear"),
        ),
    ],
)
def test_vision_preprocessing(config: dict[str, Any], expected: Any, vision_folder: Callable[..., Path]) -> None:
    folder = vision_folder("resnet", preprocessor=PLAIN | config)
    got = load_backbone(str(folder)).preprocessing
    assert (got.height, got.crop, got.squash, got.interpolation) == expected
    assert got.mean == pytest.approx((0.5,) * 3) and got.std == pytest.approx((0.25,) * 3)


def test_scale_of_pixels(vision_folder: Callable[..., Path]) -> None:
    config = {"image_processor_type": "ViTImageProcessor", "size": 32, "rescale_factor": 1 / 127.5}
    got = load_backbone(str(vision_folder("resnet", preprocessor=PLAIN | config))).preprocessing
    assert got.mean == pytest.approx((0.25,) * 3) and got.std == pytest.approx((0.125,) * 3)  # (2x - 0.5) / 0.25
