"""How a model wants its inputs: read from the model's own configuration, stored in the adapter card."""

from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from injerto.basics.errors import shown
from injerto.basics.limits import PICTURE_SIDE


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

    Raises:
        ValueError: Where a value is of the wrong kind or out of bounds: it comes from a file of the model.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop: float = 1.0
    squash: bool = False

    def __post_init__(self) -> None:
        """Check what was read."""
        if not all(type(side) is int and 1 <= side <= PICTURE_SIDE for side in (self.height, self.width)):
            raise ValueError(f"pictures of {shown(self.height, 20)} x {shown(self.width, 20)} pixels")
        for values in (self.mean, self.std):
            numbers = len(values) == 3 and all(isinstance(one, float | int) and abs(one) < 1e3 for one in values)
            if not numbers or (values is self.std and not min(values) > 0):
                raise ValueError(f"{shown(values, 60)} is no mean or deviation of three channels")
        if not (isinstance(self.crop, float | int) and 0.05 < self.crop <= 4):
            raise ValueError(f"a crop of {shown(self.crop, 20)}")
        if str(self.interpolation).upper() not in Image.Resampling.__members__:
            raise ValueError(f"unknown interpolation {shown(self.interpolation, 20)}")

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
