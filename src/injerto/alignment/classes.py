"""Terms about the classes: fewer confusions on the target, pseudo-labels, same class close whatever the domain."""

import torch
from torch import Tensor
from torch.nn import functional

from injerto.alignment.base import PLAIN, SECOND, Alignment, StepOutputs, register_alignment
from injerto.recipe.options import Option


@register_alignment("mcc")
class Mcc(Alignment):
    """Minimum class confusion on the target (Jin et al., ECCV 2020, eq. 3-9).

    Probabilities at a temperature, examples weighted by certainty, the class correlation normalized row by row; what
    lies off its diagonal is the loss.

    Use it: alone or beside a distance, also under label shift, which it does not assume away. Not: with batches of
    fewer examples than classes.
    """

    needs = frozenset({"target"})
    options = {"temperature": Option(2.5, 0.1, 100.0)}
    temperature: float

    def loss(self, outputs: StepOutputs, p: float) -> Tensor:
        """The mean over the targets in the step.

        Args:
            outputs: The step's.
            p: Not used.
        """
        values = [self._confusion(outputs.logits[rows]) for rows in outputs.rows_by_domain("target").values()]
        return torch.stack(values).mean() if values else outputs.logits.sum() * 0

    def _confusion(self, logits: Tensor) -> Tensor:
        guess = (logits / self.temperature).softmax(1)
        entropy = -(guess.detach() * guess.detach().clamp_min(1e-12).log()).sum(1)
        weight = 1 + torch.exp(-entropy)
        weight = weight * len(logits) / weight.sum()
        correlation = guess.T @ (weight[:, None] * guess)
        rows = correlation / correlation.sum(1, keepdim=True).clamp_min(1e-12)
        return (rows.sum() - rows.trace()) / logits.shape[1]


@register_alignment("self-training")
class SelfTraining(Alignment):
    """Confident guesses on one view of a target example are the labels of a second, stronger view.

    FixMatch's loss (Sohn et al., NeurIPS 2020, eq. 4) in AdaMatch's form for two domains (Berthelot et al., ICLR 2022,
    section 3.3): the step's guesses are rescaled so that the classes are on average as frequent as among the guesses on
    the source, and a guess counts where its confidence reaches ``threshold`` times the source's mean confidence. The
    mean over all target examples, ramped.

    Use it: where the plain model is right about most of what it is sure of, or after a distance has brought the domains
    together (``mmd+self-training``). Not: under a large shift from the start, for it then learns its own mistakes; nor
    where class frequencies differ much.
    """

    needs = frozenset({"target", "views"})
    options = {"threshold": Option(0.9, 0.0, 1.0)}
    ramped = True
    matches_frequencies = True  # the rescaling takes the classes to be as frequent in the target as in the source
    threshold: float

    def loss(self, outputs: StepOutputs, p: float) -> Tensor:
        """See the class.

        Args:
            outputs: The step's, with second views of the targets.
            p: Not used.
        """
        second = outputs.logits[outputs.view == SECOND]
        if not len(second):
            return outputs.logits.sum() * 0
        guess, sure = self._guesses(outputs)
        return (functional.cross_entropy(second, guess, reduction="none") * sure).mean()

    @torch.no_grad()
    def _guesses(self, outputs: StepOutputs) -> tuple[Tensor, Tensor]:
        """The guess on each target example's first view, and whether it is sure enough."""
        target = torch.isin(outputs.domain, outputs.domain[outputs.view == SECOND].unique())
        guess = outputs.logits[(outputs.view == PLAIN) & target].softmax(1)
        known = outputs.logits[(outputs.view == PLAIN) & ~target].softmax(1)
        if not len(known):
            return guess.argmax(1), guess.max(1).values >= self.threshold
        guess = guess * known.mean(0) / guess.mean(0).clamp_min(1e-6)
        sure, classes = (guess / guess.sum(1, keepdim=True)).max(1)
        return classes, sure >= self.threshold * known.max(1).values.mean()

    @torch.no_grad()
    def health(self, outputs: StepOutputs) -> dict[str, float]:
        """The share of the target examples whose guess is confident enough.

        Args:
            outputs: A step's.
        """
        _, sure = self._guesses(outputs)
        return {"confident": float(sure.float().mean()) if len(sure) else 0.0}


@register_alignment("supcon")
class SupCon(Alignment):
    """Metric learning: examples of a class close, whatever their domain (Khosla et al., NeurIPS 2020, eq. 2, "out").

    On L2-normalized embeddings of all labelled examples; those without a partner of their class are left out.

    Use it: over several sources, or with labelled target examples. Not: with batches that hold each class once.
    """

    needs = frozenset({"labels", "gradient"})
    options = {"temperature": Option(0.1, 0.01, 10.0)}
    default_weight = 0.1
    weight_range = (0.01, 1.0)
    temperature: float

    def loss(self, outputs: StepOutputs, p: float) -> Tensor:
        """See the class.

        Args:
            outputs: The step's.
            p: Not used.
        """
        rows = outputs.labelled
        labels, values = outputs.labels[rows], functional.normalize(outputs.embedding[rows].float(), dim=1)
        with torch.autocast(values.device.type, enabled=False):
            alike = values @ values.T / self.temperature
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        logs = alike.masked_fill(itself, float("-inf")).log_softmax(1).masked_fill(itself, 0.0)
        partner = (labels[:, None] == labels[None, :]) & ~itself
        count = partner.sum(1)
        each = -(logs * partner).sum(1) / count.clamp_min(1)
        return each[count > 0].sum() / (count > 0).sum().clamp_min(1)
