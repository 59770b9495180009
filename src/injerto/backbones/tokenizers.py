"""What a tokenizer does: by its behaviour, for comparison across versions; exactly, for the caches of this machine."""

import json
from collections.abc import Iterator
from typing import Any

from injerto.basics.files import sha256

TEXTS = (
    "The quick brown Fox, 3.14 times: don't STOP! camelCase snake_case",
    "  two  spaces\tand\na line ",
    "Déjà vu ÉCOLE straße Ǆ ﬁ ① Å ñ",
    "日本語のテキスト 한국어 中文字",
    "😀👩\u200d👧 🇪🇸 zero\u200bwidth so\u00adft",
    "русский текст العربية हिन्दी ไทย",
    "[MASK] <mask> [SEP] </s> <s> <pad> [PAD] [UNK] <unk> <|endoftext|> <|im_start|>",
    "100,000 1e-5 0x1F https://example.org/a_b?c=d#e @name #tag",
    "",
)
"""Cases, accents, scripts, emoji, digits, white space and the usual special tokens."""
SAMPLE = 400
"""Entries of the vocabulary that are read as words."""


def behaviour(tokenizer: Any) -> str:
    """Digest of the vocabulary and of the ids of varied texts; the same for all versions that divide texts alike.

    What earlier calls asked for (truncation, padding) leaves no trace in it. The side on which long texts are cut is
    part of it; the side of the padding is not, for batches are padded by Injerto.

    Args:
        tokenizer: As :class:`injerto.domains.preprocessing.TextPreprocessing` has it.
    """
    from injerto.backbones.transformers_models import quiet

    entries: dict[str, int] = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    vocabulary = sorted(entries)
    with quiet():
        ids = [[int(i) for i in tokenizer(text)["input_ids"]] for text in (*TEXTS, *_own_words(vocabulary))]
    places = " ".join(map(str, map(entries.__getitem__, vocabulary)))
    side = getattr(tokenizer, "truncation_side", "right")
    return sha256("\0".join(vocabulary), places, json.dumps(ids), side)


def _own_words(vocabulary: list[str]) -> Iterator[str]:
    """Words of the vocabulary, alone and joined, so that the rules by which pieces are merged show."""
    words = [token.strip("Ġ▁Ċ").removeprefix("##") for token in vocabulary[:: max(1, len(vocabulary) // SAMPLE)]]
    yield " ".join(words)
    yield " ".join(first + second for first, second in zip(words[::2], words[1::2], strict=False))


def exact_form(tokenizer: Any) -> str:
    """Everything that a tokenizer is made of, as text; what earlier calls asked for is left out.

    Args:
        tokenizer: As :class:`injerto.domains.preprocessing.TextPreprocessing` has it.
    """
    sides = [
        getattr(tokenizer, name, None) for name in ("truncation_side", "padding_side", "pad_token_id", "chat_template")
    ]
    special = sorted(map(int, getattr(tokenizer, "all_special_ids", ())))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return json.dumps([behaviour(tokenizer), sides, special], default=str)
    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    try:
        return json.dumps([backend.to_str(), sides, special], default=str)
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)
