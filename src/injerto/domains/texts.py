"""Texts: from sentences to rows of token ids, and from rows to padded arrays."""

from collections.abc import Sequence

import numpy as np

from injerto.domains.preprocessing import TextPreprocessing

CHUNK = 1024


def tokenize(texts: Sequence[str], preprocessing: TextPreprocessing) -> list[np.ndarray]:
    """Token ids of each text, special tokens included, cut to the longest input.

    Args:
        texts: The texts.
        preprocessing: Tokenizer and longest input.

    Returns:
        One int32 array per text, shape (tokens,), at most ``max_length`` long.
    """
    rows: list[np.ndarray] = []
    for start in range(0, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        encoded = preprocessing.tokenizer(chunk, truncation=True, max_length=preprocessing.max_length)
        rows += [np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]
    return rows


def pad(
    rows: Sequence[np.ndarray], preprocessing: TextPreprocessing, length: int | None = None
) -> dict[str, np.ndarray]:
    """Pad rows of token ids on the right to one length.

    Args:
        rows: Token ids, each of shape (tokens,).
        preprocessing: Whose tokenizer's padding token is used (0 where it has none).
        length: The length to pad to; that of the longest row by default.

    Returns:
        ``input_ids`` and ``attention_mask`` (1 on tokens), int64 arrays of shape (rows, length).

    Raises:
        ValueError: Where a row is longer than ``length``.
    """
    longest = max((len(row) for row in rows), default=0)
    length = longest if length is None else length
    if longest > length:
        raise ValueError(f"a row has {longest} tokens, more than the {length} to pad to")
    filler = preprocessing.tokenizer.pad_token_id
    ids = np.full((len(rows), length), 0 if filler is None else filler, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
