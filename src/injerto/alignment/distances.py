"""Distances between the domains' distributions: MMD, its class-wise form, and CORAL."""

from collections.abc import Iterator

import torch
from torch import Tensor

from injerto.alignment.base import Alignment, StepOutputs, register_alignment
from injerto.recipe.options import Option
from injerto.statistics.covariance import coral
from injerto.statistics.mmd import Estimator, class_mmd2, mmd2


def _mean(values: Iterator[Tensor], like: Tensor) -> Tensor:
    found = list(values)
    return torch.stack(found).mean() if found else like.sum() * 0


def _enough(outputs: StepOutputs) -> Iterator[tuple[Tensor, Tensor]]:
    """The pairs of domains that have two or more examples each in the step."""
    return ((x, y) for x, y in outputs.pairs() if len(x) > 1 and len(y) > 1)


@register_alignment("mmd")
class Mmd(Alignment):
    """Maximum mean discrepancy (Gretton et al., JMLR 2012, Lemma 6) between the embeddings of the domains.

    A mean over pairs of domains. Five Gaussian kernels around the median distance of the step, equally weighted; with
    ``stages=5/6`` also the sum over those stages' outputs (DAN, Long et al., ICML 2015, eq. 3 with equal betas).

    Use it: where the classes are about as frequent in the target as in the source. Not: under strong label shift, for
    it then pulls examples of one class onto another.
    """

    needs = frozenset({"domains", "gradient"})
    options = {
        "stages": Option((), several=True),
        "estimator": Option("unbiased", choices=("unbiased", "biased", "linear")),
    }
    estimator: Estimator

    def loss(self, outputs: StepOutputs, p: float) -> Tensor:
        """See the class.

        Args:
            outputs: The step's.
            p: Not used.
        """
        total = outputs.embedding.sum() * 0
        for values in (outputs.embedding, *(outputs.stages[stage] for stage in self.stages)):
            each = (mmd2(values[x], values[y], estimator=self.estimator) for x, y in _enough(outputs))
            total = total + _mean(each, values)
        return total


@register_alignment("lmmd")
class Lmmd(Alignment):
    """Class by class: local MMD (DSAN, Zhu et al., TNNLS 2021, eq. 7), target classes being the model's own guess.

    Ramped from 0 to its weight, for early guesses are poor.

    Use it: like ``mmd``, where the classifier is right about half of the target at the start. Not: with very many
    classes and small batches (a class met once on either side says little).
    """

    needs = frozenset({"target", "gradient"})
    ramped = True

    def loss(self, outputs: StepOutputs, p: float) -> Tensor:
        """See the class.

        Args:
            outputs: The step's.
            p: Not used.
        """
        known, guessed = outputs.weights(), outputs.logits.detach().softmax(1)
        values = outputs.embedding
        each = (class_mmd2(values[x], values[y], known[x], guessed[y]) for x, y in _enough(outputs))
        return _mean(each, values)


@register_alignment("coral")
class Coral(Alignment):
    """Squared distance of the domains' covariances over 4 d^2 (Deep CORAL, Sun & Saenko, ECCVW 2016, eq. 1).

    A mean over pairs of domains; ``mean=true`` adds the squared distance of their means over d, which is not the
    paper's.

    Use it: as ``mmd``; it is the cheapest, and steady over several sources. Not: where the domains differ in their
    means only (covariances do not see that, unless ``mean=true``).
    """

    needs = frozenset({"domains", "gradient"})
    options = {"mean": Option("false", choices=("false", "true"))}
    mean: str

    def loss(self, outputs: StepOutputs, p: float) -> Tensor:
        """See the class.

        Args:
            outputs: The step's.
            p: Not used.
        """
        values = outputs.embedding
        each = (coral(values[x], values[y], mean=self.mean == "true") for x, y in _enough(outputs))
        return _mean(each, values)
