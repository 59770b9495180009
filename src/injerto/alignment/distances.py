"""Distances between the domains' distributions: MMD, its class-wise form, and CORAL."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from injerto.alignment.base import Alignment, Setting, StepOutputs, register_alignment
from injerto.recipe.options import Option
from injerto.statistics.covariance import coral
from injerto.statistics.labelshift import likeliest_frequencies
from injerto.statistics.mmd import Estimator, class_mmd2, mmd2

NEWS = 0.05
"""What a step counts in a running average."""
RARE = 1e-4
"""The least share of a class."""
ROUNDS = 30


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
    it then pulls examples of one class onto another. ``frequencies=estimated`` is for that case (weighted MMD, Yan et
    al., CVPR 2017): each source example counts as much as its class is more frequent in the target, as estimated from
    the guesses of the steps so far and from what the same guesses are worth on the source. It loses much of the gain
    where the frequencies are the same after all and the guesses poor.
    """

    needs = frozenset({"domains", "gradient"})
    options = {
        "stages": Option((), several=True),
        "estimator": Option("unbiased", choices=("unbiased", "biased", "linear")),
        "frequencies": Option("same", choices=("same", "estimated")),
    }
    estimator: Estimator
    frequencies: str

    def __init__(self, setting: Setting, weight: float, **options: Any) -> None:
        """Keep the running averages that frequencies are estimated from.

        Args:
            setting: What it is built for.
            weight: Its weight.
            **options: See the class.
        """
        super().__init__(setting, weight, **options)
        estimated = self.frequencies == "estimated"
        self.tracker = FrequencyTracker(setting.classes, len(setting.roles)) if estimated else None
        self.matches_frequencies = not estimated

    def loss(self, outputs: StepOutputs, p: float) -> Tensor:
        """See the class.

        Args:
            outputs: The step's.
            p: Not used.
        """
        total = outputs.embedding.sum() * 0
        pairs = list(_enough(outputs))
        counts = self.tracker.weights(outputs, pairs) if self.tracker else [None] * len(pairs)
        for values in (outputs.embedding, *(outputs.stages[stage] for stage in self.stages)):
            each = (
                mmd2(values[x], values[y], estimator=self.estimator, weights=count)
                for (x, y), count in zip(pairs, counts, strict=True)
            )
            total = total + _mean(each, values)
        return total


class FrequencyTracker(nn.Module):
    """How frequent each class is in every domain, from the steps so far.

    Attributes:
        joint: How often a source example of a class (row) is guessed as each class (column), (C, C).
        shares: Per domain: of a source the classes' shares, of a target the mean guess, (domains, C).
    """

    joint: Tensor
    shares: Tensor

    def __init__(self, classes: int, domains: int) -> None:
        """Begin with equal frequencies and perfect guesses.

        Args:
            classes: Number of classes.
            domains: Number of domains.
        """
        super().__init__()
        self.register_buffer("joint", torch.eye(classes) / classes)
        self.register_buffer("shares", torch.full((domains, classes), 1 / classes))

    @torch.no_grad()
    def weights(self, outputs: StepOutputs, pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """What each example of the first domain of every pair counts, after learning from this step.

        Args:
            outputs: The step's.
            pairs: Positions of the examples of two domains; between two sources the shares of both are known.
        """
        known, guess = outputs.weights().float(), outputs.logits.float().softmax(1)
        rows = torch.cat(list(outputs.rows_by_domain("source").values()))
        self.joint.lerp_(known[rows].T @ guess[rows] / len(rows), NEWS)
        frequencies = {}
        for index, own in outputs.rows_by_domain().items():
            labelled = outputs.roles[index] == "source"
            self.shares[index].lerp_((known if labelled else guess)[own].mean(0), NEWS)
            found = self.shares[index]
            if not labelled:
                found = likeliest_frequencies(self.joint + RARE, found, ROUNDS)
            frequencies[index] = found.clamp_min(RARE)
        ends = ((x, int(outputs.domain[x[0]]), int(outputs.domain[y[0]])) for x, y in pairs)
        return [known[x] @ (frequencies[other] / frequencies[one]) for x, one, other in ends]


@register_alignment("lmmd")
class Lmmd(Alignment):
    """Class by class: local MMD (DSAN, Zhu et al., TNNLS 2021, eq. 7), target classes being the model's own guess.

    Ramped from 0 to its weight, for early guesses are poor.

    Use it: like ``mmd``, where the classifier is right about half of the target at the start. Not: with very many
    classes and small batches (a class met once on either side says little).
    """

    needs = frozenset({"target", "gradient"})
    ramped = True
    matches_frequencies = True

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
