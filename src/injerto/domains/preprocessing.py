"""How a model wants its inputs: read from the model's own configuration, stored in the adapter card."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class ImagePreprocessing:
    """Resize, crop and normalization of an image model.

    Attributes:
        height: Input height in pixels.
        width: Input width in pixels.
        mean: Mean per channel, on the 0..1 scale.
        std: Standard deviation per channel, on the 0..1 scale.
        interpolation: ``bilinear``, ``bicubic`` or another PIL filter's name, lower case.
        crop: Share of the resized picture that the centre crop keeps; 1.0 keeps everything.
        squash: True where the picture is resized to height x width without keeping its aspect ratio.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop: float = 1.0
    squash: bool = False

    def card(self) -> dict[str, Any]:
        """The JSON form that the adapter card carries."""
        return {"modality": "image", **asdict(self)}


@dataclass(frozen=True)
class TextPreprocessing:
    """Tokenizer and length of a text model.

    Attributes:
        tokenizer: A ``transformers`` tokenizer (``__call__`` yields ``input_ids``; has ``pad_token_id``).
        max_length: Longest input in tokens, special tokens included; longer texts are cut.
        name: The tokenizer's name for the card (no path of this machine).
        rows: How many tokens the network has embeddings for; None where that is not known.
    """

    tokenizer: Any
    max_length: int
    name: str
    rows: int | None = None

    def card(self) -> dict[str, Any]:
        """The JSON form that the adapter card carries."""
        return {"modality": "text", "tokenizer": self.name, "max_length": self.max_length}
