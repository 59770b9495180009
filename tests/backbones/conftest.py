"""Tiny models of every family, built from a configuration and saved as upstream saves them: nothing is downloaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

torch.set_num_threads(1)

WORDS = ["a", "probe", "longer", "of", "words", "the", "cat", "sat", "on", "mat", "dog", "ran", "far", ",", "."]
SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 37}
TIMM: dict[str, tuple[str, dict[str, Any], int]] = {  # family: architecture, arguments, stages
    "resnet": ("resnet18", {"channels": [8, 8, 16, 16]}, 5),
    "efficientnet": ("tf_efficientnet_lite0", {}, 8),
    "convnext": ("convnext_atto", {"dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}, 5),
    "vit": ("vit_tiny_patch16_224", {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 64}, 4),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 8, "depths": (1, 2, 1), "num_heads": (1, 2, 2), "img_size": 64, "window_size": 4},
        4,
    ),
}


def randomize(model: nn.Module) -> nn.Module:
    """Spread every weight, so that no path through the network is dead (layer scales start at 1e-6, biases at 0)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def timm_model(family: str, **extra: Any) -> nn.Module:
    import timm

    architecture, arguments, _ = TIMM[family]
    torch.manual_seed(0)
    return randomize(timm.create_model(architecture, pretrained=False, **(arguments | extra)))


def text_config(family: str) -> Any:
    import transformers as t

    longest = {"max_position_embeddings": 40}
    if family == "distilbert":
        return t.DistilBertConfig(vocab_size=40, dim=32, n_layers=3, n_heads=4, hidden_dim=37, **longest)
    deberta = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    return {
        "bert": lambda: t.BertConfig(**SIZES, **longest),
        "roberta": lambda: t.RobertaConfig(**SIZES, **longest, pad_token_id=0, bos_token_id=2, eos_token_id=3),
        "deberta": lambda: t.DebertaConfig(**SIZES, **longest, **deberta),
        "deberta-v2": lambda: t.DebertaV2Config(
            **SIZES, **longest, **deberta, norm_rel_ebd="layer_norm", position_buckets=8, conv_kernel_size=3
        ),
    }[family]()


def vision_config(family: str) -> Any:
    import transformers as t

    sizes = {key: value for key, value in SIZES.items() if key != "vocab_size"}
    return {
        "vit": lambda: t.ViTConfig(**sizes, image_size=32, patch_size=8),
        "swin": lambda: t.SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[1, 2, 1], num_heads=[2, 2, 2], window_size=4
        ),
        "convnext": lambda: t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], image_size=64),
        "resnet": lambda: t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
    }[family]()


def save_tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate(special + WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, mask_token="[MASK]", **names)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="session")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that saves a tiny timm model as timm does, with its classifier, and returns the folder."""

    def save(family: str, **extra: Any) -> Path:
        from safetensors.torch import save_file

        folder = tmp_path_factory.mktemp(family)
        model = timm_model(family, num_classes=7, **extra)
        cfg = {"classifier": model.pretrained_cfg["classifier"], "first_conv": model.pretrained_cfg["first_conv"]}
        size = 64 if family in ("vit", "swin") else 96
        cfg |= {"input_size": [3, size, size], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "num_classes": 7}
        cfg |= {"interpolation": "bilinear", "crop_pct": 0.8, "license": "mit", "fixed_input_size": size == 64}
        config = {"architecture": TIMM[family][0], "num_classes": 7, "pretrained_cfg": cfg}
        config["model_args"] = TIMM[family][1] | extra
        (folder / "config.json").write_text(json.dumps(config))
        save_file(model.state_dict(), folder / "model.safetensors")
        return folder

    return save


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that saves a tiny text encoder with its tokenizer as transformers does, and returns the folder."""

    def save(family: str) -> Path:
        from transformers import AutoModel

        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        randomize(AutoModel.from_config(text_config(family))).save_pretrained(folder)
        save_tokenizer(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that saves a tiny vision model, a plain one or a classifier, and returns the folder."""

    def save(family: str, classifier: bool = False, preprocessor: dict[str, Any] | None = None) -> Path:
        from transformers import AutoModel, AutoModelForImageClassification

        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        kind = AutoModelForImageClassification if classifier else AutoModel
        randomize(kind.from_config(vision_config(family))).save_pretrained(folder)
        if preprocessor:
            (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        return folder

    return save
