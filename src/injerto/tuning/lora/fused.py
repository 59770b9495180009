"""Which rows of a fused matrix are the query's, the key's and the value's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

SLICES = ("q", "k", "v")
"""Parts of a fused matrix, in the order in which all known layouts stack them."""


@dataclass(frozen=True)
class Layout:
    """How the outputs of a fused projection are stacked: so many times q, then k, then v rows.

    Attributes:
        groups: How often; 1 where all of q comes first, the number of heads where every head has its own three parts.
        q: Rows of the query in each.
        k: Of the key.
        v: Of the value.
    """

    groups: int
    q: int
    k: int
    v: int

    def rows(self, part: str) -> tuple[int, ...]:
        """The rows of a part.

        Args:
            part: One of :data:`SLICES`.
        """
        place = SLICES.index(part)
        sizes = (self.q, self.k, self.v)
        first, whole = sum(sizes[:place]), sum(sizes)
        return tuple(g * whole + first + i for g in range(self.groups) for i in range(sizes[place]))


Reader = Callable[[Any, int], Layout]


def _thirds(attention: Any, out: int) -> Layout:
    """All of q, all of k, all of v: ``reshape(..., 3, heads, width)``."""
    return Layout(1, out // 3, out // 3, out // 3)


def _by_head(attention: Any, out: int) -> Layout:
    """Head after head, each with its q, k and v: ``view(..., heads, 3, width)``."""
    heads = getattr(attention, "num_heads", None) or getattr(attention, "num_attention_heads", None)
    heads = heads or attention.config.num_attention_heads
    width = out // (3 * heads)
    return Layout(heads, width, width, width)


def _grouped_query(attention: Any, out: int) -> Layout:
    """All of q, then the fewer heads of k and v."""
    config, width = attention.config, attention.head_dim
    queries = getattr(config, "num_attention_heads", None) or attention.num_heads
    shared = getattr(attention, "num_key_value_heads", None) or config.num_key_value_heads
    return Layout(1, queries * width, shared * width, shared * width)


def _falcon(attention: Any, out: int) -> Layout:
    """Falcon's three: grouped (40B), one k and v for all heads (7B), or head after head (RW-1B)."""
    heads, width = attention.num_heads, attention.head_dim
    if attention.new_decoder_architecture:
        return Layout(attention.num_kv_heads, heads // attention.num_kv_heads * width, width, width)
    return Layout(1, heads * width, width, width) if attention.multi_query else _by_head(attention, out)


def _bigcode(attention: Any, out: int) -> Layout:
    if attention.multi_query:
        return Layout(1, attention.embed_dim, attention.kv_dim, attention.kv_dim)
    return _by_head(attention, out)


def _head_first(attention: Any, out: int) -> Layout:
    return _by_head(attention, out) if attention.head_first else _thirds(attention, out)


_TRANSFORMERS: dict[str, tuple[str, Reader]] = {
    **dict.fromkeys(("gpt2", "imagegpt", "decision_transformer", "openai"), ("c_attn", _thirds)),
    **dict.fromkeys(("gpt_neox", "gpt_neox_japanese", "bloom", "persimmon"), ("query_key_value", _by_head)),
    "falcon": ("query_key_value", _falcon),
    "gpt_bigcode": ("c_attn", _bigcode),
    **dict.fromkeys(("mpt", "modernbert"), ("Wqkv", _thirds)),
    "dbrx": ("Wqkv", _grouped_query),
    **dict.fromkeys(("phi3", "phi4_multimodal"), ("qkv_proj", _grouped_query)),
    **dict.fromkeys(
        (
            "blip", "blip_2", "florence2", "glm4v", "got_ocr2", "hiera", "instructblip", "instructblipvideo", "mgp_str",
            "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "sam", "sam2", "sam_hq", "seggpt", "timesformer", "vitdet",
        ),
        ("qkv", _thirds),
    ),
}  # fmt: skip
"""The layer's name and its layout, by the file of ``transformers`` that the attention is from."""
_TIMM: dict[str, tuple[str, Reader]] = {
    **dict.fromkeys(
        (
            "attention", "beit", "cait", "coat", "convit", "davit", "diff_attention", "edgenext", "eva", "fastvit",
            "gcvit", "hiera", "hieradet_sam2", "metaformer", "mvitv2", "nest", "swin_transformer",
            "swin_transformer_v2", "swin_transformer_v2_cr", "twins", "vision_transformer",
            "vision_transformer_relpos", "vision_transformer_sam", "volo", "xcit",
        ),
        ("qkv", _thirds),
    ),
    "maxxvit": ("qkv", _head_first),
    "efficientformer": ("qkv", lambda attention, out: Layout(
        attention.num_heads, attention.key_dim, attention.key_dim, attention.val_dim
    )),
    "tiny_vit": ("qkv", lambda attention, out: Layout(
        attention.num_heads, attention.key_dim, attention.key_dim, attention.val_dim
    )),
}  # fmt: skip
"""The same of timm."""


def layout_of(network: nn.Module, path: str) -> Layout | None:
    """How a fused projection stacks query, key and value; None where that is not known.

    Args:
        network: That it is in.
        path: Its name: ``nn.MultiheadAttention``, or a linear layer (transformers' ``Conv1D`` too) of an attention
            whose code is known here.
    """
    layer = network.get_submodule(path)
    if isinstance(layer, nn.MultiheadAttention):
        width = layer.embed_dim
        return Layout(1, width, width, width) if layer.in_proj_weight is not None else None
    if isinstance(layer, nn.Linear):
        out, wide = layer.out_features, layer.in_features
    elif type(layer).__name__ == "Conv1D":
        wide, out = layer.weight.shape  # type: ignore[misc]
    else:
        return None
    above, _, name = path.rpartition(".")
    attention: Any = network.get_submodule(above)
    library, _, rest = type(attention).__module__.partition(".")
    file = rest.rpartition(".")[2].removeprefix("modeling_")
    known = {"timm": _TIMM, "transformers": _TRANSFORMERS}.get(library, {}).get(file)
    if known is None or known[0] != name:
        return None
    found = known[1](attention, out)
    if known[1] is _thirds and library == "timm" and file == "gcvit" and out != 3 * wide:
        return None  # its global attention has k and v alone
    if getattr(attention, "is_cross_attention", False):
        return None
    return found if found.groups * (found.q + found.k + found.v) == out else None
