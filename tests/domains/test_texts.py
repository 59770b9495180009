from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import injerto
from injerto.domains.preprocessing import TextPreprocessing
from injerto.domains.texts import note_cut, pad, tokenize


class Words:
    """A tokenizer of one letter per token between 101 and 102."""

    pad_token_id = 7

    def __call__(self, texts: list[str], truncation: bool, max_length: int) -> dict[str, list[list[int]]]:
        assert truncation
        return {"input_ids": [[101, *map(ord, text[: max_length - 2]), 102] for text in texts]}


def test_tokenize_and_pad() -> None:
    preprocessing = TextPreprocessing(Words(), 5, "words")
    rows = tokenize(["a", "abcdef", ""] * 1000, preprocessing)
    assert len(rows) == 3000 and rows[0].dtype == np.int32
    assert [row.tolist() for row in rows[:3]] == [[101, 97, 102], [101, 97, 98, 99, 102], [101, 102]]
    batch = pad(rows[:3], preprocessing)
    assert batch["input_ids"].tolist() == [[101, 97, 102, 7, 7], [101, 97, 98, 99, 102], [101, 102, 7, 7, 7]]
    assert batch["attention_mask"].sum(1).tolist() == [3, 5, 2] and batch["attention_mask"].dtype == np.int64
    assert pad(rows[:1], preprocessing, length=8)["input_ids"].shape == (1, 8)
    with pytest.raises(ValueError, match="5 tokens, more than the 4"):
        pad(rows[:3], preprocessing, length=4)
    assert tokenize([], preprocessing) == []


def test_texts_that_are_cut_are_counted(tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preprocessing = replace(injerto.load_backbone(tiny_bert).preprocessing, max_length=6)
    texts = ["good film " * 10, "good", "a fine book with words", "dull " * 3]
    wanted = [len(preprocessing.tokenizer(text)["input_ids"]) for text in texts]
    note_cut(texts, preprocessing)
    cut = [count for count in wanted if count > 6]
    said = capsys.readouterr().err
    assert cut and said == (
        f"data: {len(cut)} of 4 texts are longer than 6 tokens and are cut there (the longest has {max(cut)})\n"
    )
    note_cut(texts, replace(preprocessing, max_length=100))
    assert capsys.readouterr().err == ""
