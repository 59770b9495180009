"""Perplexity of domains, and a finished run of a language model: generate and evaluate."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import torch

from injerto.adapters.load import Loaded, load_language_model
from injerto.adapters.slider import set_strength
from injerto.backbones.transformers_models import positions
from injerto.basics.errors import InjertoError
from injerto.basics.files import sha256
from injerto.basics.progress import progress
from injerto.compute.plan import ComputePlan, make_plan
from injerto.domains.domain import Domain, Domains
from injerto.domains.preprocessing import TextPreprocessing
from injerto.evaluation.run import Run
from injerto.statistics.bootstrap import ratio_interval
from injerto.tasks.language import Encoded, LanguageModel, collate, encode_pair, encode_text, generate, prompt_ids
from injerto.tuning.lora.tuning import low_rank_layers

TOKENS = 2048
"""Tokens in one forward pass."""


def encode_domain(domain: Domain, size: TextPreprocessing) -> list[list[Encoded]]:
    """Examples of a domain as tokens: prompt and response where it has responses, else its texts.

    Args:
        domain: Its labels are the responses.
        size: Tokenizer and longest example.

    Returns:
        The pieces of every example; none of one that is too long or too short to learn from.
    """
    found: list[list[Encoded]] = []
    for item, response in zip(domain.inputs, domain.labels, strict=True):
        if response is None:
            found.append(encode_text(str(item), size))
        else:
            pair = encode_pair(str(item), response, size)
            found.append([] if pair is None else [pair])
    return found


def token_losses(
    model: LanguageModel, plan: ComputePlan, examples: Sequence[Sequence[Encoded]], title: str
) -> tuple[np.ndarray, np.ndarray]:
    """Summed negative log-likelihood of each example's learned tokens, and how many there are.

    Args:
        model: In eval mode.
        plan: How to compute.
        examples: The pieces of every example.
        title: What the progress line says.

    Returns:
        Nats and tokens, float64 (N,) each.
    """
    pieces = [(i, piece) for i, parts in enumerate(examples) for piece in parts]
    pieces.sort(key=lambda pair: (len(pair[1].ids), pair[0]))
    nats, tokens = np.zeros(len(examples)), np.zeros(len(examples))
    with progress(title, len(pieces), "texts") as bar, torch.inference_mode():
        start = 0
        while start < len(pieces):
            stop = start + 1
            while stop < len(pieces) and (stop + 1 - start) * len(pieces[stop][1].ids) <= TOKENS:
                stop += 1
            batch = pieces[start:stop]
            inputs, targets = collate([[piece] for _, piece in batch])
            with torch.autocast(plan.device, torch.bfloat16, enabled=plan.precision == "bf16"):
                moved = {name: value.to(plan.device) for name, value in inputs.items()}
                losses = model.losses(moved, targets.to(plan.device)).double().cpu().numpy()
            counts = (targets >= 0).sum(1).numpy()
            sums = np.add.reduceat(losses, np.concatenate([[0], np.cumsum(counts)[:-1]]))
            for (i, _), value, count in zip(batch, sums, counts, strict=True):
                nats[i] += value
                tokens[i] += count
            bar.advance(stop - start)
            start = stop
    return nats, tokens


def perplexity(nats: np.ndarray, tokens: np.ndarray, groups: Sequence[str]) -> dict[str, Any]:
    """Perplexity per token with its interval.

    Args:
        nats: Summed negative log-likelihood of each example (N,).
        tokens: Learned tokens of each example (N,).
        groups: What is resampled together (N,); the interval is None where that is one.
    """
    if not tokens.sum():
        return {"perplexity": None, "perplexity_interval": None, "nll": None, "tokens": 0, "n": len(nats)}
    mean, low, high = ratio_interval(nats, tokens, groups)
    return {
        "perplexity": float(np.exp(mean)),
        "perplexity_interval": [float(np.exp(low)), float(np.exp(high))] if len(set(groups)) > 1 else None,
        "nll": mean,
        "tokens": int(tokens.sum()),
        "n": len(nats),
    }


@contextmanager
def merged(model: LanguageModel) -> Iterator[None]:
    """Low-rank pairs added to the weights, for many small forward passes in a row.

    Args:
        model: As before afterwards, to the bit.
    """
    layers = [layer for _, layer in low_rank_layers(model.backbone.model)]
    for layer in layers:
        layer.merge()
    try:
        yield
    finally:
        for layer in layers:
            layer.unmerge()


class LanguageRun(Run):
    """A language model's run (or adapter), opened when first needed.

    Attributes:
        path: The folder.
    """

    @cached_property
    def _opened(self) -> tuple[Loaded[LanguageModel], ComputePlan]:  # type: ignore[override]
        found = load_language_model(self.path, self._backbone, self._allow_modified)
        model = found.model
        plan = make_plan(model.backbone, self._precision, self._threads)
        if self._t is not None and not set_strength(model.backbone.model, self._t):
            raise InjertoError(f"{self.path} has no low-rank layers whose strength could be set; fit it with LoRA")
        model.to(plan.device)
        return found, plan

    @property
    def model(self) -> LanguageModel:  # type: ignore[override]
        """The model in eval mode."""
        return self._opened[0].model

    @property
    def labels(self) -> tuple[str, ...]:
        """Empty: there are no classes."""
        return ()

    def predict_proba(self, inputs: Any, input: str | None = None, allow_outside: bool = False) -> NoReturn:
        """Not to be had.

        Args:
            inputs: Anything.
            input: Anything.
            allow_outside: Anything.

        Raises:
            InjertoError: Always.
        """
        raise InjertoError(f"{self.path} is a language model and has no classes; use predict, or evaluate")

    @property
    def size(self) -> TextPreprocessing:
        """Tokenizer and longest example."""
        size = self.model.backbone.preprocessing
        assert isinstance(size, TextPreprocessing)
        return size

    def predict(  # type: ignore[override]
        self, prompts: Any, tokens: int = 64, temperature: float = 0.0, seed: int = 0, input: str | None = None
    ) -> list[str]:
        """What the model goes on with: its response in a chat, else the rest of the text.

        Args:
            prompts: One or several, in any form that a classifier of texts takes.
            tokens: At most so many new tokens.
            temperature: 0 takes the likeliest token every time.
            seed: Of the draws.
            input: The column of a table to read; that which the run was fitted with where not given.
        """
        if tokens < 1 or not (temperature == 0 or 0.01 <= temperature < 1000):
            raise InjertoError(
                f"tokens must be 1 or more, the temperature 0 or from 0.01 to 1000, not {tokens} and {temperature}"
            )
        model, card = self.model, self.card
        items = [str(item) for item in self.read(prompts, input).settle().items]
        limit = positions(model.backbone.model)
        found = []
        with merged(model):
            for prompt in items:
                ids = prompt_ids(prompt, self.size) if card["responses"] else self.size.tokenizer(prompt)["input_ids"]
                if not ids:
                    raise InjertoError("an empty prompt has nothing to go on from")
                if len(ids) + tokens > limit:
                    raise InjertoError(
                        f"the prompt's {len(ids)} tokens and {tokens} new ones are more than the model's {limit:g}; "
                        "lower --tokens or shorten the prompt"
                    )
                found.append(generate(model.backbone, ids, tokens, temperature, seed))
        return found

    def embed(self, inputs: Any, input: str | None = None, allow_outside: bool = False) -> np.ndarray:
        """The mean of the last hidden states of each text, float32 (N, D).

        Args:
            inputs: A text, or a list of texts, in any form that a classifier of texts takes.
            input: The column of a table to read; that which the run was fitted with where not given.
            allow_outside: Of no use, as texts are in the table itself.
        """
        from injerto.compute.inference import Embedder

        texts = self.read(inputs, input, allow_outside).settle().items
        result = np.empty((len(texts), self.model.backbone.embedding_dim), np.float32)
        keys = [sha256(index) for index in range(len(texts))]
        for rows, values in Embedder(self.model.backbone, self.plan, constant=False).embed(texts, keys):
            result[rows] = values
        return result

    def evaluate(self, domains: Domains, on: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Perplexity of domains: on the recorded test split where the content is known, else on all of it.

        Args:
            domains: From :func:`injerto.load_domains`.
            on: Names of domains; all where not given.

        Raises:
            InjertoError: Where a domain is not there, or holds pictures.
        """
        if domains.modality != "text":
            raise InjertoError(f"{domains.name} holds pictures, {self.path} is a language model")
        results = {}
        for name, part in self.unseen_parts(domains, on).items():
            examples = encode_domain(part, self.size)
            results[name] = perplexity(
                *token_losses(self.model, self.plan, examples, f"evaluating {name}"), part.groups
            )
        return results
