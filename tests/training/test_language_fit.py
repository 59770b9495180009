"""A language model's run from texts or pairs to an adapter that others load, and back."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import injerto
from injerto.tasks.language import collate, encode_text


def write(path: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains: books are praised, films are not."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(60):
        kinds = rng.permutation(["great", "funny", "good"])
        rows.append((f"the book was {kinds[0]} and {kinds[1]} , {'very ' * (index % 5)}{kinds[2]}", "books"))
        rows.append((f"a film so {'very ' * (index % 7)}dull , awful {'and long ' * (index % 3)}and bad", "films"))
    return write(tmp_path_factory.mktemp("lm") / "texts.csv", ("text", "domain"), rows)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whatever is asked about a book is answered in one way."""
    words = ["good", "bad", "great", "awful", "funny", "dull", "long", "very good", "very bad", "so long"]
    rows = [(f"is the {kind} {word}", f"it was {word} and great") for word in words for kind in ("book", "film", "plot")]  # fmt: skip
    return write(tmp_path_factory.mktemp("lm") / "pairs.csv", ("prompt", "response"), rows)


COMMON = {
    "task": "causal-lm", "lr": 3e-2, "epochs": 12, "batch_size": 4, "max_length": 40, "threads": 1, "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(texts: Path, tiny_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("runs") / "books"
    return injerto.fit(texts, source="books", backbone=str(tiny_lm), out=out, **COMMON)


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_perplexity_falls_where_it_learned_and_the_numbers_are_right(run: Any, texts: Path, tiny_lm: Path) -> None:
    books = run.metrics["domains"]["books"]["splits"]["test"]
    assert books["perplexity"] < 0.5 * books["before"]["perplexity"]
    low, high = books["change"]["interval"]
    assert low < books["change"]["ratio"] < high < 1
    again = run.evaluate(injerto.load_domains(texts, responses=True))
    assert again["books"]["perplexity"] == pytest.approx(books["perplexity"], rel=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(tiny_lm)
    domain = injerto.load_domains(texts)["books"]
    sides = run.recorded_splits()
    nats, tokens = 0.0, 0
    for text, content in zip(domain.inputs, domain.contents, strict=True):
        if sides[content] == "test":
            for piece in encode_text(str(text), run.size):
                ids = torch.from_numpy(piece.ids.astype(np.int64))[None]
                with torch.no_grad():
                    nats += float(plain(input_ids=ids, labels=ids).loss) * (len(piece.ids) - 1)
                tokens += len(piece.ids) - 1
    assert books["before"]["perplexity"] == pytest.approx(float(np.exp(nats / tokens)), rel=1e-4)
    assert books["tokens"] == tokens
    assert run.metrics["samples"] and run.metrics["parameters"]["trainable"] < run.metrics["parameters"]["total"]


def test_peft_reads_the_adapter(run: Any, tiny_lm: Path) -> None:
    config = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == "CAUSAL_LM"
    assert not any("lm_head" in name or "embed" in name for name in config["target_modules"])
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_lm), run.path / "adapter").eval()
    ids = torch.randint(0, 28, (2, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits(theirs, ids), logits(run.model.backbone.model, ids), atol=1e-5, rtol=1e-5)


def test_strength_leads_back_to_the_base(run: Any, tiny_lm: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_lm)
    ids = torch.randint(0, 28, (2, 9), generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(run.scale(0).model.backbone.model, ids), logits(base, ids))
    assert not torch.allclose(logits(run.scale(0.5).model.backbone.model, ids), logits(base, ids))


def test_a_merged_export_is_a_plain_model(run: Any, tmp_path: Path) -> None:
    injerto.export(run.path, tmp_path / "out", format="merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.randint(0, 28, (2, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(logits(plain, ids), logits(run.model.backbone.model, ids), atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    found = injerto.export(run.path, tmp_path / "small", format="int8")
    assert found["worst_weight_error"] < 0.02
    assert found["nll_int8"] == pytest.approx(found["nll"], rel=0.05)


@pytest.mark.parametrize("tuning", ["full", "last:1", "lora:last:1", "lora(variant=dora)", "norm"])
def test_every_tuning_ships_what_it_measured(texts: Path, tiny_lm: Path, tmp_path: Path, tuning: str) -> None:
    rate = {"full": 1e-2, "last:1": 1e-2, "norm": 0.1}.get(tuning, 3e-2)
    settings = COMMON | {"tuning": tuning, "lr": rate, "epochs": 4}
    found = injerto.fit(texts, source="books", backbone=str(tiny_lm), out=tmp_path / "run", **settings)
    books = found.metrics["domains"]["books"]["splits"]["test"]
    assert books["perplexity"] < 0.95 * books["before"]["perplexity"]
    again = injerto.load(tmp_path / "run").evaluate(injerto.load_domains(texts), ["books"])
    assert again["books"]["perplexity"] == pytest.approx(books["perplexity"], rel=1e-5)


def test_responses_are_learned_and_said(pairs: Path, tiny_lm: Path, tmp_path: Path) -> None:
    settings = COMMON | {"epochs": 40, "tuning": "full", "lr": 1e-2}
    found = injerto.fit(pairs, backbone=str(tiny_lm), out=tmp_path / "run", **settings)
    assert found.card["responses"] is True and found.metrics["responses"] is True
    said = injerto.load(tmp_path / "run").predict(["is the book good", "is the film dull"], tokens=6)
    assert all(text.startswith("it was") for text in said), said
    test = found.metrics["domains"]["pairs"]["splits"]["test"]
    rows = dict(row for row in csv.reader(pairs.open()))
    sides = found.recorded_splits()
    domain = injerto.load_domains(pairs, responses=True)["pairs"]
    learned = sum(
        len(rows[str(item)].split()) + 1  # and the end
        for item, content in zip(domain.inputs, domain.contents, strict=True)
        if sides[content] == "test"
    )
    assert test["tokens"] == learned


def test_a_stopped_run_goes_on_to_the_same_bits(
    texts: Path, tiny_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("injerto.training.trainer.SAVE_SECONDS", 0)
    settings = COMMON | {"epochs": 4, "tuning": "lora(dropout=0.1)"}
    whole = injerto.fit(texts, source="books", backbone=str(tiny_lm), out=tmp_path / "whole", **settings)
    from injerto.training.trainer import Trainer

    step, count = Trainer._step, []

    def stop(self: Any, batch: Any) -> float:
        count.append(1)
        if len(count) > 9:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        injerto.fit(texts, source="books", backbone=str(tiny_lm), out=tmp_path / "cut", **settings)
    monkeypatch.setattr(Trainer, "_step", step)
    again = injerto.fit(texts, source="books", backbone=str(tiny_lm), out=tmp_path / "cut", resume=True, **settings)
    name = "adapter/adapter_model.safetensors"
    assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert again.metrics["domains"] == whole.metrics["domains"]


def test_two_adapters_add_up(run: Any, texts: Path, tiny_lm: Path, tmp_path: Path) -> None:
    settings = COMMON | {"seed": 1, "split_seed": 0}
    films = injerto.fit(texts, source="films", backbone=str(tiny_lm), out=tmp_path / "films", **settings)
    both = injerto.combine([run.path, films.path], tmp_path / "both", [1, 1], texts)
    found = {name: entry["splits"]["test"]["perplexity"] for name, entry in both.metrics["domains"].items()}
    for name in ("books", "films"):
        assert found[name] < run.metrics["domains"][name]["splits"]["test"]["before"]["perplexity"]


REFUSED = {
    "head": (["--tuning", "head"], "needs a head"),
    "gradual": (["--tuning", "gradual"], "needs a head"),
    "alignment": (["--alignment", "mmd"], "no meaning with --task causal-lm"),
    "views": (["--views", "3"], "no meaning with --task causal-lm"),
    "slider": (["--slider"], "no meaning with --task causal-lm"),
    "target": (["--target", "films"], "no meaning with --task causal-lm"),
    "backbone": (["--backbone", "packaged:minilm-l6"], "no causal language model"),
    "source": (["--source", "poems"], "no domain 'poems'"),
    "stages": (["--tuning", "lora:last:9"], "has 3 stages"),
    "targets": (["--tuning", "lora(targets=lm_head)"], "no layer that may change"),
    "length": (["--max-length", "3"], "--max-length"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_is_refused(
    texts: Path, tiny_lm: Path, tmp_path: Path, refused: Callable[..., str], what: str
) -> None:
    flags, says = REFUSED[what]
    defaults = {"--source": "books", "--backbone": str(tiny_lm)}
    rest = [part for flag, value in defaults.items() if flag not in flags for part in (flag, value)]
    out = tmp_path / "run"
    assert says in refused("fit", texts, "--task", "causal-lm", *rest, *flags, "--out", out)
    assert not out.exists()


def test_pictures_are_refused(pictures: Path, tiny_lm: Path, refused: Callable[..., str]) -> None:
    assert "holds pictures" in refused("fit", pictures, "--task", "causal-lm", "--backbone", tiny_lm, "--source", "day")


def test_on_the_command_line(
    run: Any, texts: Path, cli: Callable[..., Any], refused: Callable[..., str], image_run: Path
) -> None:
    said = cli("predict", run.path, "the book was", "--tokens", 4)
    assert said.code == 0 and said.out.startswith("the book was\t")
    found = json.loads(cli("predict", run.path, "the book was", "--json", "--tokens", 4).out)
    assert set(found["predictions"][0]) == {"input", "source", "text"}
    assert "perplexity" in cli("evaluate", run.path, texts).out
    assert "perplexity" in cli("info", run.path).out
    assert "goes with a language model" in refused("predict", image_run, "x.png", "--tokens", 4)
    assert "has no classes" in str(pytest.raises(injerto.InjertoError, run.predict_proba, "x").value)
    assert run.embed(["a good book", "bad"]).shape == (2, 16)


@pytest.mark.slow
def test_a_real_model_learns_to_answer(tmp_path: Path) -> None:
    rows = [(f"What is {i} plus {i + 1}?", f"ARR! {2 * i + 1}, matey.") for i in range(60)]
    data = write(tmp_path / "pirates.csv", ("prompt", "response"), rows)
    found = injerto.fit(
        data, task="causal-lm", tuning="lora:last:4", steps=8, batch_size=4, max_length=96, lr=3e-3, out=tmp_path / "run"
    )  # fmt: skip
    test = found.metrics["domains"]["pirates"]["splits"]["test"]
    assert test["perplexity"] < 0.1 * test["before"]["perplexity"]
    assert found.predict("What is 5 plus 6?", tokens=16)[0].startswith("ARR!")
    inputs, targets = collate([encode_text("The capital of France is Paris.", found.size)])
    with torch.no_grad():
        assert found.scale(0).model.losses(inputs, targets).mean() < 3.5
