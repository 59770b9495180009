"""The samples that ship inside the package and load by name (licences: samples/README.md)."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """A bundled data set.

    Attributes:
        path: Its file inside the package.
        group: The default of ``group``: a regular expression, or None.
    """

    path: Path
    group: str | None = None


_FOLDER = Path(__file__).parent / "samples"

# Every code point is drawn in every style: grouped by file name, a drawing is on one side of the split in all of them.
SAMPLES = {
    "emoji-styles": Sample(_FOLDER / "emoji-styles.zip", group=r"([^/]+)\.[^./]+$"),
    "sentiment-domains": Sample(_FOLDER / "sentiment-domains.csv.gz"),
}
