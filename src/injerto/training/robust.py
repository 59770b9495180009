"""How the labelled losses of several sources become one: their mean, or one that looks at the worst or the spread."""

from typing import Any

import torch
from torch import Tensor, nn

from injerto.basics.errors import InjertoError, suggest
from injerto.recipe.grammar import AlignmentTerm, parse_alignment
from injerto.recipe.options import Option, read_options


class Erm(nn.Module):
    """Empirical risk minimization: the mean over the labelled examples."""

    options: dict[str, Option] = {}

    def forward(self, each: Tensor, logits: Tensor, labels: Tensor, domain: Tensor, known: Tensor, p: float) -> Tensor:
        """One loss of many.

        Args:
            each: Loss of each labelled example, (n,), computed from ``logits``.
            logits: Of all examples, (B, C).
            labels: Class indices (B,), or soft (B, C).
            domain: Index of each example's domain, (B,).
            known: Which examples are labelled, (B,).
            p: Share of the run that is done.

        Returns:
            A scalar.
        """
        return each.sum() / known.sum().clamp_min(1)


class _ByDomain(Erm):
    """Base of those that look at each source's mean loss."""

    def _means(self, each: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the domains that are there, and their mean losses."""
        names, place = domain.unique(return_inverse=True)
        sums = torch.zeros(len(names), device=each.device).index_add(0, place, each)
        return names, sums / torch.bincount(place)


class GroupDro(_ByDomain):
    """Group distributionally robust optimization (Sagawa et al., ICLR 2020, algorithm 1): the worst source weighs most.

    Use it: where one source is small or hard and must not be left behind. Not: where a source's labels are noisy, for
    it then learns the noise.
    """

    options = {"eta": Option(0.1, 1e-6, 10.0)}
    weights: Tensor

    def __init__(self, domains: int, eta: float) -> None:
        """Start with equal weights.

        Args:
            domains: Number of domains.
            eta: Step size of the weights.
        """
        super().__init__()
        self.eta = eta
        self.register_buffer("weights", torch.full((domains,), 1 / domains))

    def forward(self, each: Tensor, logits: Tensor, labels: Tensor, domain: Tensor, known: Tensor, p: float) -> Tensor:
        """See :class:`Erm`; the weights take their step first."""
        names, means = self._means(each, domain[known])
        with torch.no_grad():
            self.weights[names] *= (self.eta * means.detach()).exp()
            self.weights /= self.weights.sum()
        return (self.weights[names].clone() * means).sum() / self.weights[names].sum()


class _Penalized(_ByDomain):
    """Base of those that add a penalty after a share of the run."""

    def __init__(self, domains: int, penalty: float, anneal: float) -> None:
        """Keep the settings.

        Args:
            domains: Not used.
            penalty: Its weight.
            anneal: Share of the run without it.
        """
        super().__init__()
        self.penalty, self.anneal = penalty, anneal


class Vrex(_Penalized):
    """Risk extrapolation (Krueger et al., ICML 2021, eq. 8): the mean of the sources' losses plus their variance.

    The penalty begins after a share ``anneal`` of the run, as the authors do.

    Use it: where the sources differ in how strongly a misleading feature goes with the class. Not: with one source.
    """

    options = {"penalty": Option(10.0, 0.0, 1e5), "anneal": Option(0.2, 0.0, 1.0)}

    def forward(self, each: Tensor, logits: Tensor, labels: Tensor, domain: Tensor, known: Tensor, p: float) -> Tensor:
        """See :class:`Erm`."""
        _, means = self._means(each, domain[known])
        penalty = self.penalty if p >= self.anneal else 0.0
        loss = means.mean() + penalty * means.var(correction=0)
        return loss / max(1.0, penalty)


class Irm(_Penalized):
    """Invariant risk minimization, IRMv1 (Arjovsky et al. 2019, section 3.1): one head must suit every source best.

    The squared gradient of each source's loss by a scale of 1 on the logits, estimated without bias from two halves of
    its examples (section 3.2 and appendix D); the loss is that of the risk, with its class weights and label smoothing.
    The penalty begins after a share ``anneal`` of the run.

    Use it: as ``vrex``. Not: with one source, or few examples of each in a step.
    """

    options = {"penalty": Option(100.0, 0.0, 1e6), "anneal": Option(0.2, 0.0, 1.0)}

    def forward(self, each: Tensor, logits: Tensor, labels: Tensor, domain: Tensor, known: Tensor, p: float) -> Tensor:
        """See :class:`Erm`."""
        names, means = self._means(each, domain[known])
        if p < self.anneal or self.penalty == 0:
            return means.mean()
        slopes = self._slopes(each, logits)[known]
        penalties = [self._penalty(slopes[domain[known] == name]) for name in names]
        return (means.mean() + self.penalty * torch.stack(penalties).mean()) / max(1.0, self.penalty)

    def _slopes(self, each: Tensor, logits: Tensor) -> Tensor:
        """Derivative of each example's loss, whatever that is, by a scale of 1 on its logits (B,)."""
        gradient = torch.autograd.grad(each.sum(), logits, create_graph=True)[0]
        return (gradient * logits).sum(1)

    def _penalty(self, slopes: Tensor) -> Tensor:
        """The product of the mean slopes of two halves; the square where there is one example."""
        halves = (slopes[0::2], slopes[1::2]) if len(slopes) > 1 else (slopes, slopes)
        return halves[0].mean() * halves[1].mean()


OBJECTIVES: dict[str, Any] = {"erm": Erm, "group-dro": GroupDro, "vrex": Vrex, "irm": Irm}


def read_objective(text: str) -> tuple[AlignmentTerm, dict[str, Any]]:
    """Read ``erm``, ``group-dro(eta=0.1)``, ``vrex(penalty=10,anneal=0.2)`` or ``irm(...)``.

    Args:
        text: As the user wrote it.

    Raises:
        InjertoError: Where it is none of these.
    """
    terms = parse_alignment(text)
    if len(terms) != 1 or terms[0].weight is not None or terms[0].name not in OBJECTIVES:
        raise InjertoError(f"unknown --objective '{text}'; {suggest(text, list(OBJECTIVES))}")
    return terms[0], read_options(f"--objective {terms[0].name}", terms[0].options, OBJECTIVES[terms[0].name].options)


def make_objective(text: str, domains: int) -> Erm:
    """Build what ``--objective`` names.

    Args:
        text: As the user wrote it.
        domains: Number of domains in a batch.
    """
    term, options = read_objective(text)
    return Erm() if term.name == "erm" else OBJECTIVES[term.name](domains, **options)
