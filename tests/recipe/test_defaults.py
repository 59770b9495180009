"""The table of defaults, pinned: a change here is a change of results and raises DEFAULTS_VERSION."""

from dataclasses import astuple

import pytest

from injerto.recipe.defaults import BACKBONES, DEFAULTS_VERSION, SAMPLE_IMAGE_SIZE, TABLE, defaults_for

PINNED_VERSION = 2
PINNED = {  # lr, head_lr, weight_decay, epochs, batch_size, augment, views, norm
    ("image", "head"): (1e-3, 1e-3, 1e-2, 30, 32, "none", 1, "frozen"),
    ("image", "last"): (3e-4, 3e-4, 1e-2, 10, 32, "light", 4, "frozen"),
    ("image", "full"): (1e-4, 3e-4, 1e-2, 8, 32, "light", 0, "frozen"),
    ("text", "head"): (1e-3, 1e-3, 1e-2, 30, 32, "none", 1, "frozen"),
    ("text", "last"): (1e-4, 1e-3, 1e-2, 3, 32, "none", 1, "frozen"),
    ("text", "full"): (1e-4, 1e-3, 1e-2, 2, 32, "none", 1, "frozen"),
}


def test_the_table_is_pinned() -> None:
    assert {key: astuple(row) for key, row in TABLE.items()} == PINNED
    assert DEFAULTS_VERSION == PINNED_VERSION
    assert SAMPLE_IMAGE_SIZE == 128
    assert BACKBONES == {"image": "packaged:efficientnet-lite0", "text": "packaged:minilm-l6"}


@pytest.mark.parametrize("kind", ["gradual", "lp-ft", "bitfit", "norm", "lora", "registered-elsewhere"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_kind_without_a_row_uses_that_of_full(modality: str, kind: str) -> None:
    assert defaults_for(modality, kind) == TABLE[modality, "full"]
