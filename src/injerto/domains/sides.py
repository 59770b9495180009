"""The names of splits, in tables, data sets and folders."""

from collections.abc import Mapping

SIDES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "unlabeled": "train",
    "unlabelled": "train",
    "unsupervised": "train",
}
"""Split by its name in lower case; an unlabelled part belongs to ``train``, without its labels."""
UNLABELLED_SIDES = frozenset(("unlabeled", "unlabelled", "unsupervised"))
