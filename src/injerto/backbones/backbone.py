"""The one interface that every pretrained network is put behind."""

import hashlib
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from injerto.backbones.identity import identify
from injerto.backbones.probing import check_company, check_output, check_vocabulary, check_weights, embedding_rows
from injerto.backbones.stages import Stage, find_stages
from injerto.basics.errors import InjertoError
from injerto.domains.preprocessing import ImagePreprocessing, TextPreprocessing
from injerto.domains.texts import pad, tokenize

if TYPE_CHECKING:
    from injerto.backbones.split import Prefix, Suffix

PROBE_TEXTS = ("a probe", "a longer probe, of words")

Embed = Callable[[nn.Module, Any], Tensor]


class Backbone(nn.Module):
    """A headless pretrained network that turns a batch into embeddings.

    It is created in eval mode, in float32, with every parameter trainable; what may move is a tuning's decision.
    Its stages' blocks run in order; :meth:`split` cuts it between them.

    Attributes:
        spec: What the user named, ``timm:resnet18``; ``module:<class>`` for a network given as an object.
        modality: ``image`` or ``text``.
        library: Where the network's class comes from: ``timm``, ``transformers`` or ``torch``.
        embedding_dim: Width of the embedding.
        preprocessing: How the inputs are prepared; from the model's own configuration.
        model: The headless network; its names are upstream's own.
        stages: Its ordered slices.
        hub_id: The model's name on the hub, where it is known.
        licence: The weights' licence as their publisher states it, where it is known.
        any_size: True where an image network takes any input size.
        native_head: Path of the classifier in the network's own class (``fc``, ``head.fc``); None where it has none.
            For transformers see :func:`injerto.backbones.heads.transformers_head_keys`.
        fingerprint: SHA-256 of the weights as loaded.
        identity: The weights and everything else that decides what the network computes, as loaded.
    """

    def __init__(
        self,
        model: nn.Module,
        embed: Embed,
        *,
        spec: str,
        library: Literal["timm", "transformers", "torch"],
        preprocessing: ImagePreprocessing | TextPreprocessing,
        hub_id: str | None = None,
        licence: str | None = None,
        native_head: str | None = None,
        load_head: Callable[[], nn.Module | None] | None = None,
        fixed_size: bool = False,
    ) -> None:
        """Probe the network for its width and stages, and take its fingerprint.

        Args:
            model: The headless network.
            embed: ``embed(model, inputs) -> (B, D)``.
            spec: What the user named.
            library: Where the network's class comes from.
            preprocessing: How the inputs are prepared.
            hub_id: The model's name on the hub.
            licence: The weights' licence.
            native_head: Path of the classifier in the network's own class.
            load_head: Reads the pretrained classifier when it is asked for.
            fixed_size: True where another input size would run but is not what the network was made for.

        Raises:
            InjertoError: Where the network does not take its own input or yields no embedding.
        """
        super().__init__()
        check_weights(model, spec)
        if isinstance(preprocessing, TextPreprocessing):
            check_vocabulary(preprocessing.tokenizer, embedding_rows(model), spec)
        self.spec, self.library, self.preprocessing = spec, library, preprocessing
        self.modality: Literal["image", "text"] = "text" if isinstance(preprocessing, TextPreprocessing) else "image"
        self.hub_id, self.licence, self.native_head = hub_id, licence, native_head
        self.model = model.eval()
        self._embed, self._load_head = embed, load_head
        self.fingerprint = fingerprint(model.state_dict())
        batch = probe_batch(preprocessing, next((p.device for p in model.parameters()), torch.device("cpu")))
        self.embedding_dim = 0  # the probe says
        self.stages: tuple[Stage, ...] = find_stages(model, lambda: self._probe(batch))
        self._stage_of = {name: i for i, stage in enumerate(self.stages) for name in stage.parameters}
        self.any_size = not fixed_size and isinstance(batch, Tensor) and takes_any_size(self, batch)
        self.identity = identify(self)
        if self.identity.steady:
            check_company(self, batch)

    def identify(self) -> None:
        """Take fingerprint and identity again: the network may have changed since it was loaded."""
        self.fingerprint = fingerprint(self.model.state_dict())
        self.identity = identify(self)

    def _probe(self, batch: Any) -> Tensor:
        try:
            output = self(batch)
        except InjertoError:
            raise
        except Exception as error:
            shape = tuple(batch.shape) if isinstance(batch, Tensor) else "input_ids, attention_mask"
            raise InjertoError(f"{self.spec} does not run on a probe batch ({shape}): {first_line(error)}") from error
        check_output(output, self.spec)
        self.embedding_dim = output.shape[1]
        return output

    def forward(self, inputs: Any) -> Tensor:
        """Embed a batch.

        Args:
            inputs: Images: float (B, 3, H, W), already normalized. Texts: a mapping with ``input_ids`` and
                ``attention_mask``, each int64 (B, T).

        Returns:
            (B, embedding_dim).
        """
        return self._embed(self.model, inputs)

    def stage_of(self, name: str) -> int:
        """The stage that a parameter or buffer belongs to.

        Args:
            name: Its name in ``model``.

        Returns:
            Index into ``stages``.

        Raises:
            KeyError: Where ``model`` has no such name.
        """
        return self._stage_of[name]

    def adopt(self, name: str, like: str) -> None:
        """Make a parameter known that was added to the network.

        Args:
            name: Its name in ``model``.
            like: The name of one in the same stage.
        """
        self._stage_of[name] = self._stage_of[like]

    def split(self, k: int) -> "tuple[Prefix, Suffix] | None":
        """Cut the network below stage ``k``: ``suffix(prefix(x))`` is ``forward(x)``, which is checked here.

        Args:
            k: The first stage of the suffix, 1 to the number of stages - 1.

        Returns:
            Two modules over this backbone's own weights; None where it can't be cut.
        """
        from injerto.backbones.split import split

        return split(self, k)

    @cached_property
    def numbers(self) -> int:
        """How many numbers the network's tensors hold, as it was when first asked."""
        return sum(tensor.numel() for tensor in self.model.state_dict().values())

    @cached_property
    def original_head(self) -> nn.Module | None:
        """The pretrained classifier, (B, embedding_dim) -> (B, classes), frozen; None where it is no plain ``Linear``.

        It is read when first asked for and is no part of the backbone's parameters.
        """
        head = self._load_head() if self._load_head else None
        if not isinstance(head, nn.Linear) or head.in_features != self.embedding_dim:
            return None
        return head.requires_grad_(False).eval()


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the sorted names, with each tensor's dtype, shape and bytes.

    Args:
        tensors: A state dict.

    Returns:
        64 hex digits.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def probe_batch(preprocessing: ImagePreprocessing | TextPreprocessing, device: torch.device) -> Any:
    """Two inputs that a network must be able to take: noise, or two short texts of unequal length.

    Args:
        preprocessing: What the network expects.
        device: Where the network is.

    Returns:
        Float (2, 3, height, width), or ``input_ids`` and ``attention_mask``, int64 (2, T).
    """
    if isinstance(preprocessing, ImagePreprocessing):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(2, 3, preprocessing.height, preprocessing.width, generator=generator).to(device)
    arrays = pad(tokenize(PROBE_TEXTS, preprocessing), preprocessing)
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def takes_any_size(run: Callable[[Tensor], Tensor], batch: Tensor) -> bool:
    """Whether a network also embeds pictures of two other, odd sizes.

    Args:
        run: The network.
        batch: Pictures (B, 3, H, W) that it takes.
    """
    try:
        with torch.no_grad():
            return all(torch.isfinite(run(batch[:1].new_zeros(1, 3, side, side))).all() for side in (97, 128))
    except Exception:
        return False


def pool(output: Any, spec: str) -> Tensor:
    """An embedding from what a network returns: (B, D) as it is, a map (B, C, H, W) averaged over space.

    Args:
        output: The network's output.
        spec: Its name, for the message.

    Raises:
        InjertoError: For anything else.
    """
    if isinstance(output, Tensor) and output.ndim == 4:
        output = output.mean((2, 3))
    if not isinstance(output, Tensor) or output.ndim != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InjertoError(f"{spec} must return a tensor (B, D) or (B, C, H, W), not {found}; wrap it so")
    return output


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters, without a final full stop.

    Args:
        error: The error.
    """
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    return (next((line for line in lines if line), "") or type(error).__name__)[:200].rstrip(".")
