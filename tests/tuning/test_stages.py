from collections.abc import Callable
from typing import Any

import pytest
import torch

from injerto.basics.errors import InjertoError
from injerto.recipe.grammar import TuningSpec, parse_tuning
from injerto.tuning.base import apply_tuning, find_tuning

STAGES = {"head": (), "last:1": ("blocks.2",), "last:3": ("blocks.0", "blocks.1", "blocks.2")}
STAGES |= {"last:4": ("stem", "blocks"), "full": ("stem", "blocks")}


@pytest.mark.parametrize("tuning", STAGES)
def test_gradients_only_where_they_belong(make_backbone: Callable[..., Any], tuning: str) -> None:
    backbone = make_backbone()
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)  # whatever was before
    tuned = apply_tuning(backbone, parse_tuning(tuning))
    embedding = backbone(torch.randn(4, 3, 32, 32))
    if tuning != "head":
        embedding.pow(2).sum().backward()
    else:
        assert not embedding.requires_grad
    moved = {name for name, parameter in backbone.model.named_parameters() if parameter.grad is not None}
    expected = {name for name, _ in backbone.model.named_parameters() if name.startswith(STAGES[tuning])}
    assert moved == (expected if STAGES[tuning] else set())
    assert set(tuned.rates) == moved
    assert all(backbone.model.get_parameter(name).grad.abs().sum() > 0 for name in moved)
    assert set(tuned.rates.values()) <= {1.0}


def test_thawing_again_freezes_the_rest(make_backbone: Callable[..., Any]) -> None:
    backbone = make_backbone()
    apply_tuning(backbone, parse_tuning("full"))
    apply_tuning(backbone, parse_tuning("last:1"))
    trainable = {name for name, p in backbone.model.named_parameters() if p.requires_grad}
    assert trainable and all(name.startswith("blocks.2") for name in trainable)


def test_too_many_stages(make_backbone: Callable[..., Any]) -> None:
    with pytest.raises(InjertoError) as caught:
        apply_tuning(make_backbone(), parse_tuning("last:99"))
    assert str(caught.value) == "--tuning last:99: module:TinyNet has 4 stages; choose last:1 to last:4"


def test_every_tuning_of_the_grammar_is_there_and_no_other() -> None:
    for text in ("head", "last:1", "full", "gradual", "lp-ft", "bitfit", "norm", "lora", "lora(r=8):last:2"):
        assert callable(find_tuning(parse_tuning(text)))
    with pytest.raises(InjertoError, match="not available"):
        find_tuning(TuningSpec("sideways"))
