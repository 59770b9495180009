"""A new tuning: only vectors learn, which are the biases and the scales and shifts of the norms."""

from injerto.backbones.backbone import Backbone
from injerto.basics.errors import InjertoError
from injerto.recipe.grammar import TuningSpec
from injerto.recipe.options import Option, read_options
from injerto.tuning.base import Tuned, register_tuning

OPTIONS = {"rate": Option(10.0, 0.01, 1000.0)}
"""``affine(rate=3)``: so few parameters bear a higher rate than the default, which is that of ``full``."""


@register_tuning("affine")
def affine(backbone: Backbone, spec: TuningSpec) -> Tuned:
    """BitFit and the norms together: every parameter with one dimension.

    Args:
        backbone: The pretrained model.
        spec: The parsed setting.

    Raises:
        InjertoError: Where the backbone has none.
    """
    rate = read_options("--tuning affine", spec.options, OPTIONS)["rate"]
    names = [name for name, parameter in backbone.model.named_parameters() if parameter.ndim == 1]
    if not names:
        raise InjertoError(f"--tuning {spec}: {backbone.spec} has no biases and norms; choose another tuning")
    frozen = min(backbone.stage_of(name) for name in names)  # stages below hold nothing that moves
    return Tuned(frozen, dict.fromkeys(names, rate))  # whatever is not named stays as it is
