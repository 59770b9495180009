"""The table of defaults, pinned: a change here is a change of results and raises DEFAULTS_VERSION."""

from dataclasses import astuple

import pytest

from injerto.recipe.defaults import (
    BACKBONES,
    DEFAULTS_VERSION,
    SAMPLE_IMAGE_SIZE,
    TABLE,
    augmentation_for,
    defaults_for,
)

PINNED_VERSION = 3
PINNED = {  # lr, head_lr, weight_decay, epochs, batch_size, least_steps, augment, views, norm
    ("image", "head"): (1e-3, 1e-3, 1e-2, 30, 32, 300, "none", 1, "frozen"),
    ("image", "last"): (3e-4, 3e-4, 1e-2, 10, 32, 60, "auto", 4, "frozen"),
    ("image", "full"): (1e-4, 3e-4, 1e-2, 8, 32, 60, "auto", 0, "frozen"),
    ("image", "gradual"): (1e-4, 3e-4, 1e-2, 10, 32, 60, "auto", 0, "frozen"),
    ("image", "lora"): (1e-3, 3e-4, 1e-2, 10, 32, 60, "auto", 4, "frozen"),
    ("image", "bitfit"): (1e-3, 3e-4, 1e-2, 10, 32, 60, "auto", 0, "frozen"),
    ("image", "norm"): (1e-3, 3e-4, 1e-2, 10, 32, 60, "auto", 0, "frozen"),
    ("text", "head"): (1e-3, 1e-3, 1e-2, 30, 32, 300, "none", 1, "frozen"),
    ("text", "last"): (1e-4, 1e-3, 1e-2, 3, 32, 60, "auto", 4, "frozen"),
    ("text", "full"): (1e-4, 1e-3, 1e-2, 2, 32, 60, "auto", 0, "frozen"),
    ("text", "gradual"): (1e-4, 1e-3, 1e-2, 3, 32, 60, "auto", 0, "frozen"),
    ("text", "lora"): (1e-3, 1e-3, 1e-2, 3, 32, 60, "auto", 4, "frozen"),
    ("text", "bitfit"): (1e-3, 1e-3, 1e-2, 3, 32, 60, "auto", 0, "frozen"),
    ("text", "norm"): (1e-3, 1e-3, 1e-2, 3, 32, 60, "auto", 0, "frozen"),
    ("language", "full"): (3e-5, 3e-5, 1e-2, 1, 8, 1, "none", 0, "frozen"),
    ("language", "last"): (1e-4, 1e-4, 1e-2, 1, 8, 1, "none", 0, "frozen"),
    ("language", "lora"): (1e-3, 1e-3, 1e-2, 1, 8, 1, "none", 0, "frozen"),
}


def test_the_table_is_pinned() -> None:
    assert {key: astuple(row) for key, row in TABLE.items()} == PINNED
    assert DEFAULTS_VERSION == PINNED_VERSION
    assert SAMPLE_IMAGE_SIZE == 128
    assert BACKBONES == {
        "image": "packaged:efficientnet-lite0",
        "text": "packaged:minilm-l6",
        "language": "packaged:smollm2-135m",
    }


def test_augmentation_by_modality_and_size() -> None:
    assert [augmentation_for("image", count) for count in (1, 2000, 2001)] == ["light", "light", "standard"]
    assert [augmentation_for("text", count) for count in (1, 10**6)] == ["none", "none"]


@pytest.mark.parametrize("kind", ["lp-ft", "registered-elsewhere"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_kind_without_a_row_uses_that_of_full(modality: str, kind: str) -> None:
    assert defaults_for(modality, kind) == TABLE[modality, "full"]
