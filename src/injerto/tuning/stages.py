"""The tunings that choose whole stages: head, last:K, full, gradual, lp-ft."""

from dataclasses import replace

from injerto.backbones.backbone import Backbone
from injerto.recipe.grammar import TuningSpec
from injerto.tuning.base import Tuned, first_of_last, register_tuning


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
    return _from_stage(backbone, first_of_last(backbone, spec))


@register_tuning("full")
def full(backbone: Backbone, spec: TuningSpec) -> Tuned:
    """Fine-tuning of everything.

    Args:
        backbone: The pretrained model.
        spec: The parsed setting.
    """
    return _from_stage(backbone, 0)


@register_tuning("gradual")
def gradual(backbone: Backbone, spec: TuningSpec) -> Tuned:
    """Thaw from the top (gradual unfreezing, Howard & Ruder, ACL 2018, section 3.3), in thirds of the backbone.

    The head learns alone in the first fifth of the steps, with the last third of the stages in the second, the last two
    thirds in the third; then everything moves.

    Args:
        backbone: The pretrained model.
        spec: The parsed setting.
    """
    count = len(backbone.stages)
    frozen = [count, -(-2 * count // 3), -(-count // 3), 0]
    thaws = [(0.2 * step, below) for step, below in enumerate(frozen) if below not in frozen[:step]]
    return replace(_from_stage(backbone, 0), thaws=tuple(thaws))


@register_tuning("lp-ft")
def lp_ft(backbone: Backbone, spec: TuningSpec) -> Tuned:
    """Linear probing, then fine-tuning of everything (Kumar et al., ICLR 2022, section 3).

    A head that starts at the probe's solution sends small gradients into the backbone, so less is distorted.

    Args:
        backbone: The pretrained model.
        spec: The parsed setting.
    """
    return replace(_from_stage(backbone, 0), probe_first=True)
