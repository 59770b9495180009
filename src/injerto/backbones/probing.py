"""Questions that a network must answer before anything is computed with it; each is answered by a word to the user."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from injerto.basics.errors import InjertoError
from injerto.basics.progress import warn

if TYPE_CHECKING:
    from injerto.backbones.backbone import Backbone

COMPANY = 1e-3
"""Largest change of an embedding in other company, relative to the largest number, that rounding explains."""


def check_weights(model: nn.Module, spec: str) -> None:
    """Refuse a network whose weights are not there.

    Args:
        model: The network.
        spec: Its name, for the message.

    Raises:
        InjertoError: Where a weight is on the meta device, or its shape is not known before the first batch.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if nn.parameter.is_lazy(tensor):
            raise InjertoError(f"{spec}: the shape of '{name}' is not known yet; run one batch through it first")
        if tensor.is_meta:
            raise InjertoError(f"{spec}: '{name}' is on the meta device and has no values; load the weights first")


def check_output(output: Any, spec: str) -> None:
    """Refuse an embedding of the probe that cannot be used.

    Args:
        output: What the network returned for two inputs.
        spec: Its name, for the message.

    Raises:
        InjertoError: Where it is no real tensor (2, D) of finite numbers.
    """
    if not isinstance(output, Tensor):
        raise InjertoError(f"{spec} must return a tensor (B, D), not {type(output).__name__}; wrap it so")
    if output.ndim != 2 or len(output) != 2:
        raise InjertoError(f"{spec} must return embeddings (B, D), not {tuple(output.shape)}; remove its head")
    if not output.is_floating_point():
        raise InjertoError(f"{spec} must return real numbers, not {output.dtype}; wrap it so")
    if not torch.isfinite(output).all():
        raise InjertoError(
            f"{spec} computes NaN or infinity on a probe batch; check that its weights are whole, or choose another"
        )


@torch.no_grad()
def check_company(backbone: "Backbone", batch: Any) -> None:
    """Warn where an embedding depends on the other inputs of its batch, or on the padding beside it.

    Args:
        backbone: The pretrained model.
        batch: Two inputs that it takes.
    """
    together = backbone(batch).float()
    if isinstance(batch, Tensor):
        alone = [backbone(batch[i : i + 1]) for i in range(2)]
    else:
        counts = batch["attention_mask"].sum(1).tolist()
        alone = [backbone({name: rows[i : i + 1, : counts[i]] for name, rows in batch.items()}) for i in range(2)]
    change = float((torch.cat(alone).float() - together).abs().max() / together.abs().max().clamp_min(1e-12))
    if not change <= COMPANY:
        beside = "beside other inputs" if isinstance(batch, Tensor) else "beside a longer text"
        warn(f"{backbone.spec} embeds an input otherwise {beside} than alone (by {change:.1g} of its largest number)")


def embedding_rows(model: nn.Module) -> int | None:
    """Rows of a text network's table of tokens; None where it has no such table.

    Args:
        model: A transformers network.
    """
    try:
        table: Any = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return table.num_embeddings if isinstance(table, nn.Embedding) else None


def check_vocabulary(tokenizer: Any, rows: int | None, spec: str) -> None:
    """Refuse a tokenizer of another network: words for which the network has no embedding.

    Special tokens beyond the table (a padding token that somebody added) are harmless until a text holds one, which is
    refused when it is read.

    Args:
        tokenizer: A transformers tokenizer.
        rows: Of the network's table.
        spec: The network's name, for the message.

    Raises:
        InjertoError: Where words are beyond the table.
    """
    if rows is None or not hasattr(tokenizer, "__len__") or len(tokenizer) <= rows:
        return
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = set(tokenizer.all_special_tokens) | {str(token) for token in added.values() if token.special}
    beyond = sorted((index, word) for word, index in tokenizer.get_vocab().items() if index >= rows)
    words = [word for _, word in beyond if word not in special]
    if words:
        raise InjertoError(
            f"{spec} has embeddings for {rows} tokens, its tokenizer knows {len(words)} more, as '{words[0]}'; give "
            "the tokenizer of this network, or save the network after resize_token_embeddings(len(tokenizer))"
        )
