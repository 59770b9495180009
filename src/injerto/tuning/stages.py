"""The tunings that choose whole stages: head, last:K, full."""

from injerto.backbones.backbone import Backbone
from injerto.basics.errors import InjertoError
from injerto.recipe.grammar import TuningSpec
from injerto.tuning.base import Tuned, register_tuning


def _from_stage(backbone: Backbone, first: int) -> Tuned:
    names = [name for name, _ in backbone.model.named_parameters() if backbone.stage_of(name) >= first]
    return Tuned(first, dict.fromkeys(names, 1.0))


@register_tuning("head")
def head(backbone: Backbone, spec: TuningSpec) -> Tuned:
    """Feature extraction: the whole backbone is frozen, only the new layers learn.

    Args:
        backbone: The pretrained model.
        spec: The parsed setting.
    """
    return _from_stage(backbone, len(backbone.stages))


@register_tuning("last")
def last(backbone: Backbone, spec: TuningSpec) -> Tuned:
    """Fine-tuning of the last K stages.

    Args:
        backbone: The pretrained model.
        spec: The parsed setting.

    Raises:
        InjertoError: Where the backbone has fewer stages.
    """
    count = len(backbone.stages)
    assert spec.last is not None
    if spec.last > count:
        raise InjertoError(f"--tuning {spec}: {backbone.spec} has {count} stages; choose last:1 to last:{count}")
    return _from_stage(backbone, count - spec.last)


@register_tuning("full")
def full(backbone: Backbone, spec: TuningSpec) -> Tuned:
    """Fine-tuning of everything.

    Args:
        backbone: The pretrained model.
        spec: The parsed setting.
    """
    return _from_stage(backbone, 0)
