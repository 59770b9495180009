import numpy as np
import pytest

from injerto.domains.preprocessing import TextPreprocessing
from injerto.domains.texts import pad, tokenize


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
