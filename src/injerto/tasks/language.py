"""Causal language modelling: examples as tokens of which some are learned, packing, loss, generation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from injerto.backbones.backbone import Backbone, first_line
from injerto.backbones.language import body
from injerto.backbones.pooling import accepted
from injerto.basics.errors import InjertoError
from injerto.domains.preprocessing import TextPreprocessing
from injerto.domains.texts import check_ids

IGNORED = -1
"""The target of a position whose next token is not learned."""
CHUNK = 1024
"""Positions whose logits are held at once."""
PROBE = 1e-4
"""Largest difference of the probe's logits, relative to the largest, that rounding explains."""


@dataclass(frozen=True)
class Encoded:
    """One example.

    Attributes:
        ids: Token ids (T,), int32.
        first: The first token that is learned; those before it are only read.
        whole: False where something was cut off.
    """

    ids: np.ndarray
    first: int = 1
    whole: bool = True


def encode_text(text: str, size: TextPreprocessing) -> list[Encoded]:
    """A text in pieces of at most the model's length; the end of the text is learned too.

    Args:
        text: Any.
        size: Tokenizer and longest example.
    """
    tokenizer = size.tokenizer
    ids = check_ids(tokenizer(text, add_special_tokens=True)["input_ids"], size)
    if tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids = [*ids, tokenizer.eos_token_id]
    pieces = [ids[start : start + size.max_length] for start in range(0, len(ids), size.max_length)]
    return [Encoded(np.asarray(piece, np.int32)) for piece in pieces if len(piece) > 1]


def encode_pair(prompt: str, response: str, size: TextPreprocessing) -> Encoded | None:
    """A prompt that is read and a response that is learned, in the model's chat template where it has one.

    Args:
        prompt: What the user says.
        response: What the model is to say.
        size: Tokenizer and longest example.

    Returns:
        The example, its end cut where it is too long; None where the prompt leaves no room for a response.
    """
    head = prompt_ids(prompt, size)
    tokenizer = size.tokenizer
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        ids = tokenizer(_chat(tokenizer, messages), add_special_tokens=False)["input_ids"]
        same = next((i for i, (a, b) in enumerate(zip(head, ids, strict=False)) if a != b), min(len(head), len(ids)))
    else:
        ids = [*head, *tokenizer(response, add_special_tokens=False)["input_ids"]]
        ids += [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        same = len(head)
    check_ids(ids, size)
    if same >= min(len(ids), size.max_length):
        return None
    return Encoded(np.asarray(ids[: size.max_length], np.int32), max(1, same), len(ids) <= size.max_length)


def prompt_ids(prompt: str, size: TextPreprocessing) -> list[int]:
    """Token ids of a prompt, up to where the response begins.

    Args:
        prompt: What the user says.
        size: Tokenizer.
    """
    tokenizer = size.tokenizer
    if tokenizer.chat_template:
        text = _chat(tokenizer, [{"role": "user", "content": prompt}], add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer(f"{prompt}\n", add_special_tokens=True)["input_ids"])


def _chat(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> str:
    """A conversation in the model's own template."""
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except TemplateError as error:
        raise InjertoError(f"the model's chat template fails ({' '.join(str(error).split())[:100]}); mend it") from None


def pack(examples: Sequence[Encoded], length: int) -> list[list[int]]:
    """Put examples together into rows of at most ``length`` tokens, the longest first into the fullest row with room.

    Args:
        examples: Each of at most ``length`` tokens.
        length: Of a row.

    Returns:
        Positions in ``examples``, row by row.
    """
    rows: list[list[int]] = []
    rooms: dict[int, list[int]] = {}  # tokens free -> rows
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].ids), i))
    for index in order:
        need = len(examples[index].ids)
        room = next((free for free in range(need, length + 1) if rooms.get(free)), None)
        if room is None:
            row, room = len(rows), length
            rows.append([])
        else:
            row = rooms[room].pop()
        rows[row].append(index)
        rooms.setdefault(room - need, []).append(row)
    return rows


def collate(rows: Iterable[Sequence[Encoded]], filler: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Rows of examples as one batch, padded on the right.

    Args:
        rows: Each holds one or more examples.
        filler: The padding token.

    Returns:
        ``input_ids``, ``position_ids`` and ``segments`` (the example's number in its row, from 1; 0 is padding), int64
        (B, T); and targets (B, T), the next token where it is learned, else -1.
    """
    rows = list(rows)
    longest = max(sum(len(example.ids) for example in row) for row in rows)
    shape = len(rows), longest
    ids, places, segments = np.full(shape, filler, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    targets = np.full(shape, IGNORED, np.int64)
    for r, row in enumerate(rows):
        start = 0
        for number, example in enumerate(row, 1):
            count = len(example.ids)
            part = slice(start, start + count)
            ids[r, part], places[r, part], segments[r, part] = example.ids, np.arange(count), number
            targets[r, start + example.first - 1 : start + count - 1] = example.ids[example.first :]
            start += count
    arrays = {"input_ids": ids, "position_ids": places, "segments": segments}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, torch.from_numpy(targets)


class LanguageModel(nn.Module):
    """A causal language model that is trained and measured by its tokens.

    Attributes:
        backbone: The model with its output layer.
        labels: Empty; there are no classes.
        unpacked: Why rows hold one example each; None where several share a row.
    """

    def __init__(self, backbone: Backbone) -> None:
        """Probe the model: whether its output layer takes chosen positions alone, and whether examples share a row.

        Args:
            backbone: From :func:`injerto.backbones.language.load_language`.

        Raises:
            InjertoError: Where the model sees later tokens, or computes other values beside padding.
        """
        super().__init__()
        self.backbone = backbone
        self.labels: tuple[str, ...] = ()
        self._direct = self._plain_output()
        self.unpacked = self._probe_packing()

    @torch.no_grad()
    def _plain_output(self) -> bool:
        """Whether the logits are the output layer's values of the last hidden states."""
        model: Any = self.backbone.model
        ids = torch.zeros((1, 2), dtype=torch.int64, device=next(model.parameters()).device)
        logits = model(**self._arguments(input_ids=ids)).logits
        try:
            found = model.get_output_embeddings()(body(model)(**self._arguments(input_ids=ids)).last_hidden_state)
        except Exception:  # the output layer is called in another way
            return False
        return bool(found.shape == logits.shape and torch.allclose(found, logits, atol=1e-4))

    def _arguments(self, **given: Any) -> dict[str, Any]:
        """The arguments without those that the model's forward does not take."""
        return accepted(self.backbone.model, given | {"use_cache": False})

    @torch.no_grad()
    def _probe_packing(self) -> str | None:
        """Compare packed and padded rows with the same examples alone; None where packed rows give the same values."""
        alone = [self._logits(self._arguments(input_ids=ids)) for ids in (row[None] for row in self._probe_rows())]
        first = self._probe_rows()[0]
        cut = self._logits(self._arguments(input_ids=first[None, :-1]))
        if not _close(cut[0], alone[0][0, :-1]):
            raise InjertoError(
                f"{self.backbone.spec} sees the tokens that it is to predict: it is not a causal language model; "
                "choose another"
            )
        examples = [Encoded(row.cpu().numpy()) for row in self._probe_rows()]
        wanted = torch.cat([values[0] for values in alone])
        self.unpacked = None
        try:
            why = self._difference([examples[:2], examples[2:]], wanted)
        except Exception as error:
            why = first_line(error)
        if why is None:
            return None
        self.unpacked = why
        try:
            lost = self._difference([[example] for example in examples], wanted)
        except Exception as error:
            lost = first_line(error)
        if lost:
            raise InjertoError(f"{self.backbone.spec} computes other values in a padded batch ({lost}); choose another")
        return why

    def _probe_rows(self) -> list[Tensor]:
        """Three rows of random tokens; the first is longer than a sliding window that an example may exceed."""
        model: Any = self.backbone.model
        size = self.backbone.preprocessing
        assert isinstance(size, TextPreprocessing)
        window = getattr(model.config, "sliding_window", None) or 0
        longest = window + 4 if 0 < window < size.max_length else 7
        generator = torch.Generator().manual_seed(0)
        count = model.get_input_embeddings().num_embeddings
        device = next(model.parameters()).device
        lengths = [min(length, size.max_length) for length in (longest, 5, 3)]
        return [torch.randint(0, count, (length,), generator=generator).to(device) for length in lengths]

    def _difference(self, rows: list[list[Encoded]], wanted: Tensor) -> str | None:
        """How far rows of examples are from the same examples alone, (tokens, V); None where they agree."""
        inputs, _ = collate(rows)
        inputs = {name: value.to(wanted.device) for name, value in inputs.items()}
        found = self._logits(self._given(inputs))[inputs["segments"] > 0]
        if _close(found, wanted):
            return None
        return f"the logits of examples beside each other differ by {float((found - wanted).abs().max()):.1g}"

    def _logits(self, given: dict[str, Any]) -> Tensor:
        logits: Tensor = self.backbone.model(**given).logits
        return logits.float()

    def _given(self, inputs: dict[str, Tensor]) -> dict[str, Any]:
        """The model's arguments for rows from :func:`collate`."""
        segments = inputs["segments"]
        if self.unpacked is not None:
            return self._arguments(input_ids=inputs["input_ids"], attention_mask=(segments > 0).long())
        dtype = next(self.backbone.model.parameters()).dtype
        return {
            "input_ids": inputs["input_ids"],
            "position_ids": inputs["position_ids"],
            "attention_mask": block_mask(segments, dtype),
            "use_cache": False,
        }

    def new_layers(self) -> dict[str, nn.Parameter]:
        """There are none."""
        return {}

    def losses(self, inputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Negative log-likelihood of every learned token, (N,), row by row.

        Examples in one row do not see each other.

        Args:
            inputs: From :func:`collate`.
            targets: (B, T), -1 where nothing is learned.
        """
        model: Any = self.backbone.model
        given = self._given(inputs)
        chosen = targets != IGNORED
        if not self._direct:
            return functional.cross_entropy(model(**given).logits[chosen].float(), targets[chosen], reduction="none")
        hidden, wanted = body(model)(**given).last_hidden_state[chosen], targets[chosen]
        head = model.get_output_embeddings()

        def losses(hidden: Tensor, wanted: Tensor) -> Tensor:
            return functional.cross_entropy(head(hidden).float(), wanted, reduction="none")

        if len(wanted) <= CHUNK:
            return losses(hidden, wanted)
        chunks = zip(hidden.split(CHUNK), wanted.split(CHUNK), strict=True)
        if torch.is_grad_enabled():
            return torch.cat([checkpoint(losses, h, w, use_reentrant=False) for h, w in chunks])
        return torch.cat([losses(h, w) for h, w in chunks])


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Whether logits agree, but for rounding."""
    return found.shape == wanted.shape and float((found - wanted).abs().max()) <= PROBE * float(wanted.abs().max())


def block_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention adds: 0 where a token may look, the least number elsewhere; (B, 1, T, T).

    Args:
        segments: Number of the example that each token belongs to, (B, T).
        dtype: Of the model.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    seen = (segments[:, None, :, None] == segments[:, None, None, :]) & causal
    return torch.zeros(seen.shape, dtype=dtype, device=segments.device).masked_fill_(~seen, torch.finfo(dtype).min)


@torch.no_grad()
def generate(backbone: Backbone, ids: Sequence[int], tokens: int, temperature: float = 0.0, seed: int = 0) -> str:
    """Go on from a prompt.

    Args:
        backbone: A causal language model.
        ids: The prompt's token ids.
        tokens: At most so many new ones.
        temperature: 0 takes the likeliest token every time.
        seed: Of the draws.

    Returns:
        What was added.
    """
    model: Any = backbone.model
    assert isinstance(backbone.preprocessing, TextPreprocessing)
    tokenizer = backbone.preprocessing.tokenizer
    prompt = torch.tensor([list(ids)], device=next(model.parameters()).device)
    drawn: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens,
            pad_token_id=filler,
            **drawn,
        )
    return str(tokenizer.decode(found[0, prompt.shape[1] :], skip_special_tokens=True))
