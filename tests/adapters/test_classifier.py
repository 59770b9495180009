"""Merged folders open as transformers' own classifiers, with names, where the head fits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import injerto


def fitted(kind: str, tiny_bert: Path, reviews: Path, place: Path, quick: dict[str, Any]) -> Any:
    import transformers as t

    tokenizer = t.AutoTokenizer.from_pretrained(tiny_bert)
    words = len(tokenizer)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    network = {
        "gpt2": lambda: t.GPT2Model(t.GPT2Config(vocab_size=words, n_embd=16, n_layer=2, n_head=2)),
        "bert": lambda: t.BertModel(t.BertConfig(vocab_size=words, **small)),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(vocab_size=words, pad_token_id=0, **small)),
        "electra": lambda: t.ElectraModel(t.ElectraConfig(vocab_size=words, embedding_size=16, **small)),
        "distilbert": lambda: t.DistilBertModel(
            t.DistilBertConfig(vocab_size=words, dim=16, n_layers=2, n_heads=2, hidden_dim=16)
        ),
    }[kind]()
    base = place / "base"
    network.save_pretrained(base)
    tokenizer.save_pretrained(base)
    if kind != "gpt2":
        (base / "1_Pooling").mkdir()
        (base / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
        kinds = {"Transformer": "", "Pooling": "1_Pooling"}
        rows = [{"path": path, "type": f"sentence_transformers.models.{name}"} for name, path in kinds.items()]
        (base / "modules.json").write_text(json.dumps(rows))
    common = {"source": "books", "backbone": str(base), "tuning": "lora", "steps": 4, "lr": 1e-2} | quick
    return injerto.fit(reviews, out=place / "run", **common)


TEXTS = ["a good book", "bad film , very bad", "good", "the plot of the film"]


@pytest.mark.parametrize("kind", ["gpt2", "bert", *[pytest.param(k, marks=pytest.mark.slow) for k in ("roberta", "electra", "distilbert")]])  # fmt: skip
def test_a_pipeline_gives_the_same_label_and_score(
    kind: str, tiny_bert: Path, reviews: Path, tmp_path: Path, quick: dict[str, Any]
) -> None:
    from transformers import pipeline

    run = fitted(kind, tiny_bert, reviews, tmp_path, quick)
    folder = tmp_path / "merged"
    injerto.export(run.path, folder, format="merged")
    found = pipeline("text-classification", model=str(folder))(TEXTS, batch_size=3, top_k=None)
    wanted = run.predict_proba(TEXTS)
    for row, expected in zip(found, wanted, strict=True):
        scores = {entry["label"]: entry["score"] for entry in row}
        np.testing.assert_allclose([scores[label] for label in run.labels], expected, atol=2e-4)


def test_a_head_that_does_not_fit_is_said(
    tiny_bert: Path, reviews: Path, tmp_path: Path, quick: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    common = {"source": "books", "backbone": str(tiny_bert), "tuning": "lora", "steps": 2} | quick
    run = injerto.fit(reviews, out=tmp_path / "run", **common)
    injerto.export(run.path, tmp_path / "merged", format="merged")
    assert capsys.readouterr().err.count("random head") == 1
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert not set(run.labels) & set(config.get("id2label", {}).values())  # named, a random head would look like ours
    network = injerto.load_backbone(str(tmp_path / "merged"))
    assert network._embed.modes == ("mean",)


@pytest.mark.parametrize("kind", ["vit", pytest.param("convnext", marks=pytest.mark.slow)])
def test_pictures_in_transformers_own_class(kind: str, pictures: Path, tmp_path: Path, quick: dict[str, Any]) -> None:
    import transformers as t

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    network = {
        "vit": lambda: t.ViTModel(t.ViTConfig(image_size=32, patch_size=8, **small), add_pooling_layer=False),
        "convnext": lambda: t.ConvNextModel(
            t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], image_size=64)
        ),
    }[kind]()
    network.save_pretrained(tmp_path / "base")
    common = {"source": "day", "backbone": str(tmp_path / "base"), "steps": 4, "augment": "none"} | quick
    run = injerto.fit(pictures, out=tmp_path / "run", tuning="last:1", **common)
    injerto.export(run.path, tmp_path / "merged", format="merged")
    whole = t.AutoModelForImageClassification.from_pretrained(tmp_path / "merged").eval()
    assert list(whole.config.id2label.values()) == list(run.labels)
    size = run.model.backbone.preprocessing
    images = torch.randn(3, 3, size.height, size.width)
    with torch.no_grad():
        torch.testing.assert_close(whole(pixel_values=images).logits, run.model(images).logits, rtol=1e-3, atol=1e-4)
    again = injerto.load_backbone(str(tmp_path / "merged")).preprocessing
    np.testing.assert_allclose([*again.mean, *again.std], [*size.mean, *size.std], rtol=1e-6)
    assert (again.height, again.width, again.squash, again.interpolation) == (
        size.height, size.width, size.squash, size.interpolation,
    )  # fmt: skip
