"""Tiny networks and tiny data, written to folders: the tests use them, and the campaign."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

WORDS = "a good bad book film , very the plot of is it was great awful story and end but so funny dull long".split()  # noqa: SIM905


# --- networks ---


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
"""Of a tiny vision transformer, as timm takes it."""


def save_timm(folder: Path, seed: int, architecture: str = "resnet18", arguments: dict[str, Any] | None = None) -> Path:
    """Write a tiny ResNet (or what is named) as timm saves it, 32 px."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    arguments = arguments or {"channels": [8, 8, 16, 16]}
    first, last = ("conv1", "fc") if architecture.startswith("resnet") else ("patch_embed.proj", "head")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "num_classes": 0, "license": "mit"}
    cfg |= {"interpolation": "bilinear", "crop_pct": 1.0, "first_conv": first, "classifier": last}
    config = {"architecture": architecture, "num_classes": 0, "model_args": arguments, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def save_lm(folder: Path) -> Path:
    """Write a tiny causal language model (2 layers, width 16, 64 positions) with a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "<end>", "<user>", "<model>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=64
    )
    fast.add_special_tokens({"additional_special_tokens": ["<user>", "<model>"]})
    fast.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}<user> {{ m.content }} {% else %}<model> {{ m.content }} <end>"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=64, max_position_embeddings=64, tie_word_embeddings=True, **sizes)
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def save_bert(folder: Path) -> Path:
    """Write a tiny BERT (2 layers, width 16, 40 positions) and its tokenizer as transformers saves them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(BertConfig(vocab_size=40, max_position_embeddings=40, **sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, mask_token="[MASK]", **names).save_pretrained(folder)
    return folder


# --- data ---

CLASSES = ("blue", "green", "red")


def picture(label: str, seed: int, light: int = 0, noise: int = 40) -> np.ndarray:
    """A noisy square of one colour, uint8 (32, 32, 3)."""
    rng = np.random.default_rng([CLASSES.index(label) if label in CLASSES else 7, seed, abs(light)])
    colour = {"blue": (50, 60, 190), "green": (50, 190, 60), "red": (190, 50, 60)}.get(label, (120, 120, 30))
    base = np.asarray(colour) + light + rng.normal(0, noise / 3, 3)
    return np.clip(base + rng.normal(0, noise, (32, 32, 3)), 0, 255).astype(np.uint8)


def write_pictures(root: Path, per_class: int = 10, domains: tuple[str, ...] = ("day", "dusk", "night")) -> Path:
    """``root/<domain>/<class>/<n>.png``; the domains differ in light."""
    from PIL import Image

    for index, domain in enumerate(domains):
        for label in CLASSES:
            folder = root / domain / label
            folder.mkdir(parents=True)
            for number in range(per_class):
                Image.fromarray(picture(label, number, -25 * index)).save(folder / f"{number}.png")
    return root


def write_reviews(path: Path, per_class: int = 24, domains: tuple[str, ...] = ("books", "films")) -> Path:
    """A table text,label,domain of three to thirty words; the label can be read off the words."""
    rng = np.random.default_rng(3)
    filler = ["the", "a", "was", "is", "very", "so", "plot", "ending", "and", "but", ",", "."]
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label", "domain"))
        for domain in domains:
            for label, words in (("good", ("good", "great", "fine")), ("bad", ("bad", "poor", "dull"))):
                for _ in range(per_class):
                    count = int(rng.integers(2, 28))
                    said = [str(rng.choice(words if rng.random() < 0.5 else filler)) for _ in range(count)]
                    row = ("book" if domain == "books" else "film", str(rng.choice(words)), *said)
                    writer.writerow((" ".join(row), label, domain))
    return path


# --- adapters ---


def timeless(content: dict[str, Any]) -> dict[str, Any]:
    """A record of a run or of a study without what tells the time, and without the checksums over that."""
    kept = {key: value for key, value in content.items() if key not in ("seconds", "command", "checksum")}
    files = {name: value for name, value in kept.get("files", {}).items() if name != "log.jsonl"}
    return kept | {"files": files} if files else kept


def sign(adapter: Path) -> Path:
    """Write an adapter's card anew, with the checksums of the files as they are now."""
    from injerto.adapters.card import save_card

    save_card(adapter, json.loads((adapter / "adapter_card.json").read_text()))
    return adapter
