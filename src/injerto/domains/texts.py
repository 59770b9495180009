"""Texts: from sentences to rows of token ids, and from rows to padded arrays."""

from collections.abc import Sequence

import numpy as np

from injerto.basics.errors import InjertoError
from injerto.basics.progress import note
from injerto.domains.preprocessing import TextPreprocessing

CHUNK = 1024
MEASURED = 256
"""Texts whose tokens are counted to report how many are cut."""


def clean_text(text: str) -> str:
    """The text with every lone half of a surrogate pair as U+FFFD, and two halves in a row as their character.

    All other characters stay, invisible ones and control characters too.

    Args:
        text: Any string; JSON of scraped posts may hold half a character.
    """
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def clean_texts(texts: Sequence[str], where: str = "") -> list[str]:
    """:func:`clean_text` of each, with one note that counts those that changed.

    Args:
        texts: Any strings.
        where: What the note calls them, such as the table.
    """
    cleaned = [clean_text(text) for text in texts]
    changed = [place for place, (text, new) in enumerate(zip(texts, cleaned, strict=True), 1) if text != new]
    if changed:
        prefix = f"{where}: " if where else ""
        note(f"{prefix}half characters in {len(changed)} texts are read as U+FFFD, first: text {changed[0]}")
    return cleaned


def tokenize(texts: Sequence[str], preprocessing: TextPreprocessing) -> list[np.ndarray]:
    """Token ids of each text, special tokens included, cut to the longest input.

    Args:
        texts: The texts.
        preprocessing: Tokenizer and longest input.

    Returns:
        One int32 array per text, shape (tokens,), 1 to ``max_length`` long: a text of no tokens (a tokenizer without
        special ones has none for an empty text) is its end, or padding, alone.

    Raises:
        InjertoError: Where a text holds a token that the network has no embedding for.
    """
    rows: list[np.ndarray] = []
    for start in range(0, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        encoded = preprocessing.tokenizer(chunk, truncation=True, max_length=preprocessing.max_length)
        rows += [np.asarray(check_ids(ids, preprocessing), dtype=np.int32) for ids in encoded["input_ids"]]
    blank = np.asarray([_blank(preprocessing)], dtype=np.int32)
    return [row if len(row) else blank for row in rows]


def check_ids(ids: list[int], preprocessing: TextPreprocessing) -> list[int]:
    """Refuse tokens that the network has no embedding for.

    Args:
        ids: Of one text.
        preprocessing: Tokenizer, and the number of embeddings.

    Returns:
        The same.

    Raises:
        InjertoError: For a token beyond the table.
    """
    if preprocessing.rows is not None and ids and max(ids) >= preprocessing.rows:
        word = preprocessing.tokenizer.convert_ids_to_tokens(max(ids))
        raise InjertoError(
            f"a text holds '{word}', token {max(ids)} of the tokenizer, and the network has embeddings for "
            f"{preprocessing.rows}; take it out of the texts, or give the tokenizer of this network"
        )
    return ids


def _blank(preprocessing: TextPreprocessing) -> int:
    """The token that stands for padding; the mask hides it, but the network must have an embedding for it."""
    tokenizer, rows = preprocessing.tokenizer, preprocessing.rows
    known = [getattr(tokenizer, f"{name}_token_id", None) for name in ("pad", "eos", "unk")]
    return next((index for index in known if index is not None and (rows is None or index < rows)), 0)


def note_cut(texts: Sequence[str], preprocessing: TextPreprocessing) -> None:
    """Report in one line how many of the first texts are longer than the longest input, and so are cut.

    Args:
        texts: All of them; the tokens of the first :data:`MEASURED` are counted.
        preprocessing: Tokenizer and longest input.
    """
    limit, some = preprocessing.max_length, texts[:MEASURED]
    long = [text for text in some if len(text.encode()) > limit - 4]  # a token has a byte, but for special ones
    counts = [len(preprocessing.tokenizer(text, verbose=False)["input_ids"]) for text in long]
    cut = [count for count in counts if count > limit]
    if cut:
        of = f"{len(some)} texts" if len(some) == len(texts) else f"the first {len(some)} texts"
        note(f"data: {len(cut)} of {of} are longer than {limit} tokens and are cut there (the longest has {max(cut)})")


def pad(
    rows: Sequence[np.ndarray], preprocessing: TextPreprocessing, length: int | None = None
) -> dict[str, np.ndarray]:
    """Pad rows of token ids on the right to one length.

    Args:
        rows: Token ids, each of shape (tokens,).
        preprocessing: Whose tokenizer's padding token is used (its end where it has none).
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
    ids = np.full((len(rows), length), _blank(preprocessing), dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def augment_tokens(ids: np.ndarray, special: frozenset[int], policy: str, rng: np.random.Generator) -> np.ndarray:
    """One random version of a text for training: tokens are dropped, as in EDA (Wei & Zou, EMNLP 2019, section 2).

    ``light`` drops each token with probability 0.1; ``standard`` also swaps a tenth of the tokens with their neighbour.

    Args:
        ids: Token ids (L,).
        special: Ids that stay where they are.
        policy: ``none``, ``light`` or ``standard``.
        rng: The source of all randomness.

    Returns:
        Token ids, int32, at least one of them not special where there was one.
    """
    if policy == "none":
        return ids
    fixed = np.isin(ids, list(special))
    keep = fixed | (rng.random(len(ids)) >= 0.1)
    if not (keep & ~fixed).any():
        keep[:] = True
    ids, fixed = ids[keep].copy(), fixed[keep]
    if policy == "standard":
        free = np.flatnonzero(~fixed[:-1] & ~fixed[1:])
        for place in rng.permutation(free)[: len(ids) // 10]:
            ids[[place, place + 1]] = ids[[place + 1, place]]
    return ids
