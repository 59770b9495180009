"""Which spec is which model; modules given as objects; errors in one line."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from injerto.backbones.backbone import fingerprint
from injerto.backbones.load import load_backbone
from injerto.basics.errors import InjertoError
from injerto.basics.plugins import plugins
from injerto.domains.preprocessing import TextPreprocessing


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("timm:resnet81", ["unknown backbone 'timm:resnet81'", "resnet18"]),
        ("timm:resnet18.a9_in1k", ["'a9_in1k'", "resnet18.a1_in1k"]),
        ("timm:resnet18.a3_in1k", ["not in the local cache", "packaged:efficientnet-lite0", "injerto[offline]"]),
        ("hf:nobody/nothing-of-the-kind", ["not in the local cache", "packaged:minilm-l6"]),
        ("resnet18", ["timm:resnet18"]),
        ("resnet18.a1_in1k", ["timm:resnet18.a1_in1k"]),
        ("timm/resnet18.a1_in1k", ["write timm:resnet18.a1_in1k"]),
        ("bert-base-uncased", ["hf:bert-base-uncased"]),
        ("minilm-l6", ["packaged:minilm-l6"]),
        ("packaged:minilm", ["did you mean 'minilm-l6'"]),
        ("packaged:smollm2-135m", ["goes with --task causal-lm"]),
        ("tmm:resnet18", ["unknown kind of backbone 'tmm'"]),
        ("timm:", ["names no model"]),
        ("./nowhere", ["no folder ./nowhere"]),
        ("hf:/nowhere/at/all", ["no folder /nowhere/at/all"]),
    ],
)
def test_what_is_unknown_is_said_in_one_line(spec: str, parts: list[str]) -> None:
    with pytest.raises(InjertoError) as caught:
        load_backbone(spec)
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in parts), message
    assert "smollm2" in spec or "smollm2" not in message.replace(spec, "").replace("'smollm2-135m'", "")


def test_folders_that_are_no_models(tmp_path: Path, timm_folder: Callable[..., Path]) -> None:
    with pytest.raises(InjertoError, match="without config.json"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InjertoError, match="no valid JSON"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InjertoError, match="neither timm's"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "something-new"}')
    with pytest.raises(InjertoError, match="cannot load"):
        load_backbone(str(tmp_path))
    folder = timm_folder("resnet")
    with pytest.raises(InjertoError, match="is it timm:"):
        load_backbone(f"hf:{folder}")
    (folder / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(InjertoError, match="cannot load") as caught:
        load_backbone(f"timm:{folder}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "t5"}, "encoder-decoder"),
        ({"model_type": "clip"}, "tower"),
        ({"model_type": "wav2vec2"}, "reads input_values"),
        ({"model_type": "timm_wrapper", "architecture": "resnet18", "num_classes": 10}, "timm:"),
    ],
)
def test_what_is_no_encoder_of_pictures_or_texts(tmp_path: Path, config: dict[str, object], reason: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InjertoError, match=reason) as caught:
        load_backbone(f"hf:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_strangers_code_is_not_run(tmp_path: Path) -> None:
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"open({str(mark)!r}, 'w')")
    with pytest.raises(InjertoError):
        load_backbone(f"hf:{tmp_path}")
    assert not mark.exists()


class Net(nn.Module):
    def __init__(self, map_only: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.map_only = map_only

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        return features if self.map_only else features.mean((2, 3))


def test_any_module() -> None:
    net = Net()
    backbone = load_backbone(net)
    assert (backbone.spec, backbone.modality, backbone.embedding_dim, backbone.library) == (
        "module:Net",
        "image",
        6,
        "torch",
    )
    assert backbone.preprocessing.height == 224 and backbone.preprocessing.mean == (0.485, 0.456, 0.406)
    assert backbone.any_size and backbone.original_head is None and backbone.model is net
    images = torch.randn(2, 3, 32, 32)
    mapped = Net(map_only=True)
    mapped.load_state_dict(net.state_dict())
    assert torch.equal(load_backbone(mapped, image_size=32)(images), backbone(images))
    net.default_cfg = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "input_size": (3, 48, 48)}
    assert load_backbone(net).preprocessing.height == 48
    assert load_backbone(net).preprocessing.std == (0.2,) * 3


def test_modules_that_are_no_backbones() -> None:
    class Tokens(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(2)

    class Failing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise ValueError("no\nway")

    with pytest.raises(InjertoError, match=r"must return a tensor \(B, D\)"):
        load_backbone(Tokens())
    with pytest.raises(InjertoError, match="does not run on a probe batch .*: no$"):
        load_backbone(Failing())
    with pytest.raises(InjertoError, match="at least 1"):
        load_backbone(Net(), image_size=0)


def test_transformers_and_timm_objects(text_folder: Callable[..., Path], timm_folder: Callable[..., Path]) -> None:
    import timm
    from transformers import AutoModel, AutoTokenizer

    folder = text_folder("distilbert")
    model = AutoModel.from_pretrained(folder)
    with pytest.raises(InjertoError, match="TextPreprocessing"):
        load_backbone(model)
    given = TextPreprocessing(AutoTokenizer.from_pretrained(folder), 12, "tiny")
    backbone = load_backbone(model, preprocessing=given)
    named = load_backbone(str(folder))
    assert backbone.fingerprint == named.fingerprint and backbone.preprocessing is given
    with pytest.raises(InjertoError, match="brings its own"):
        load_backbone(str(folder), preprocessing=given)
    with pytest.raises(InjertoError, match="must be a transformers model"):
        load_backbone(Net(), preprocessing=given)
    folder = timm_folder("convnext")
    classifier = timm.create_model(f"local-dir:{folder}", pretrained=True)  # its head stays, unused
    images = torch.randn(2, 3, 96, 96)
    backbone = load_backbone(classifier)
    assert backbone.embedding_dim == 32
    assert torch.equal(backbone(images), load_backbone(str(folder))(images))
    assert backbone.stage_of("head.fc.weight") == 4


def test_fingerprint_is_of_names_types_shapes_and_values() -> None:
    base = {"a": torch.arange(6.0), "b": torch.tensor(1)}
    others = [
        {"a": torch.arange(6.0), "c": torch.tensor(1)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)},
        {"a": torch.arange(6.0), "b": torch.tensor(2)},
        {"a": torch.arange(6.0).view(torch.int32), "b": torch.tensor(1)},
        {"a": torch.arange(6.0).to(torch.bfloat16), "b": torch.tensor(1)},
    ]
    prints = {fingerprint(tensors) for tensors in [base, *others]}
    assert len(prints) == len(others) + 1
    assert fingerprint(dict(reversed(base.items()))) == fingerprint(base)
    strided = torch.stack([torch.arange(6.0), torch.zeros(6)], dim=1)[:, 0]
    assert fingerprint({"a": strided, "b": torch.tensor(1)}) == fingerprint(base)


def test_fingerprint_stays_while_weights_move(timm_folder: Callable[..., Path]) -> None:
    folder = timm_folder("resnet")
    backbone = load_backbone(str(folder))
    before = backbone.fingerprint
    with torch.no_grad():
        backbone.model.conv1.weight.add_(1)
    assert backbone.fingerprint == before == load_backbone(str(folder)).fingerprint
    assert fingerprint(backbone.model.state_dict()) != before


def test_loading_leaves_the_random_state(timm_folder: Callable[..., Path]) -> None:
    folder = timm_folder("resnet")
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    load_backbone(str(folder))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_ready_to_use(timm_folder: Callable[..., Path]) -> None:
    backbone = load_backbone(str(timm_folder("resnet")))
    assert not any(module.training for module in backbone.modules() if module is not backbone)
    assert all(p.requires_grad for p in backbone.parameters())
    assert all(name.startswith("model.") for name in backbone.state_dict())


def test_another_package_brings_its_own_kind(monkeypatch: pytest.MonkeyPatch, make_network: Callable[..., Any]) -> None:
    import importlib.metadata as metadata

    asked: list[tuple[str, int | None]] = []

    def load(name: str, image_size: int | None) -> Any:
        asked.append((name, image_size))
        return load_backbone(make_network(), image_size=image_size)

    class Point:
        name = "mine"

        def load(self) -> Any:
            return load

    monkeypatch.setattr(metadata, "entry_points", lambda group: [Point()] if group == "injerto.backbones" else [])
    plugins.cache_clear()
    assert load_backbone("mine:net/v2", image_size=48).preprocessing.height == 48
    assert asked == [("net/v2", 48)]
    with pytest.raises(InjertoError, match="unknown kind of backbone 'yours'"):
        load_backbone("yours:net")
    monkeypatch.undo()
    plugins.cache_clear()


def test_a_configuration_that_asks_for_too_much_is_refused_at_once(
    tiny_timm: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    for base, path, value, says in (
        (tiny_timm, ("model_args", "channels"), [10**6] * 4, "its configuration asks for"),
        (tiny_timm, ("model_args", "layers"), [10**6] * 4, "layers"),
        (tiny_timm, ("pretrained_cfg", "input_size"), [3, 10**6, 10**6], "pixels"),
        (tiny_timm, ("pretrained_cfg", "input_size"), [3, 32, " "], "pixels"),
        (tiny_bert, ("num_hidden_layers",), 10**7, "layers"),
    ):
        folder = Path(shutil.copytree(base, tmp_path / f"{base.name}-{path[-1]}-{len(list(tmp_path.iterdir()))}"))
        config = json.loads((folder / "config.json").read_text())
        part = config
        for name in path[:-1]:
            part = part.setdefault(name, {})
        part[path[-1]] = value
        (folder / "config.json").write_text(json.dumps(config))
        begun = time.perf_counter()
        with pytest.raises(InjertoError, match=says) as caught:
            load_backbone(str(folder))
        assert "\n" not in str(caught.value) and time.perf_counter() - begun < 5
