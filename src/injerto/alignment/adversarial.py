"""Adversaries that try to tell the domain from the embedding, and what they teach the encoder to hide."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from injerto.alignment.base import Alignment, Setting, StepOutputs, register_alignment
from injerto.alignment.schedule import ramp, reverse_gradient
from injerto.recipe.options import Option

LARGEST_MAP = 4096
"""Entries of CDAN's multilinear map, at most; beyond that it is drawn at random (Long et al. 2018, section 3.1)."""
RANDOM_WIDTH = 1024
"""Width of the random map."""


class Discriminator(nn.Sequential):
    """From an embedding to logits of the domains (n, K): two hidden layers, no BatchNorm, cross-entropy on logits."""

    def __init__(self, width: int, domains: int, hidden: int = 256) -> None:
        """Build the layers.

        Args:
            width: Numbers in an input.
            domains: K.
            hidden: Width of the hidden layers.
        """
        layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden, domains))


class Adversary(Alignment):
    """Base of the adversaries.

    The discriminator's own loss has weight 1 from the first step on; the weight and the ramp act once, in the reversal
    of the gradient on its way to the encoder. Every domain of a step counts the same, however many examples it has.

    Without more, the game need not settle: the encoder runs round the discriminator and the domains stay apart. So the
    discriminator, and it alone, also pays ``penalty`` times its squared input gradient (R1, Mescheder et al., ICML
    2018, eq. 9), which makes the game converge where the domains can be matched. The square is taken in units of the
    inputs' own spread, so that one value serves embeddings of every width and scale.
    """

    needs = frozenset({"domains", "gradient"})
    options = {"hidden": Option(256, 1, 8192), "penalty": Option(3.0)}
    hidden: int
    penalty: float

    def __init__(self, setting: Setting, weight: float, **options: object) -> None:
        """Build the discriminator.

        Args:
            setting: What it is built for.
            weight: On the gradient that reaches the encoder.
            **options: See :attr:`options`.
        """
        super().__init__(setting, weight, **options)
        self.discriminator = Discriminator(self.width(), len(setting.roles), self.hidden)

    def width(self) -> int:
        """Numbers in what the discriminator sees."""
        return self.setting.width

    def seen(self, outputs: StepOutputs, strength: float) -> Tensor:
        """What the discriminator sees (n, width), its gradient reversed.

        Args:
            outputs: The step's.
            strength: Of the reversal.
        """
        return reverse_gradient(outputs.embedding, strength)

    def importance(self, outputs: StepOutputs) -> Tensor | None:
        """Positive weight of each example (n,) among those of its domain, without gradient; None for equal ones.

        Args:
            outputs: The step's.
        """
        return None

    def loss(self, outputs: StepOutputs, p: float) -> Tensor:
        """Cross-entropy of the domains, the mean over domains of the (weighted) mean over their examples.

        Args:
            outputs: The step's.
            p: Share of the run that is done.
        """
        strength = self.weight * ramp(p)
        weights = self.importance(outputs)
        return self._game(outputs, strength, by_group(outputs.domain, len(outputs.roles), weights))

    def _game(self, outputs: StepOutputs, strength: float, weights: Tensor) -> Tensor:
        """Weighted cross-entropy, and the discriminator's penalty, whose gradient no one else gets."""
        seen = self.seen(outputs, strength)
        loss = (functional.cross_entropy(self.discriminator(seen), outputs.domain, reduction="none") * weights).sum()
        if not (self.penalty and torch.is_grad_enabled()):
            return loss
        inputs, shares = seen.detach().requires_grad_(), weights.detach()
        each = functional.cross_entropy(self.discriminator(inputs), outputs.domain, reduction="sum")
        (gradient,) = torch.autograd.grad(each, inputs, create_graph=True)
        spread = inputs.detach().var(0, correction=0).sum()
        return loss + self.penalty * spread * (gradient.square().sum(1) * shares).sum()

    def forward(self, outputs: StepOutputs, p: float) -> Tensor:
        """What is added to the labelled loss: the weight is in the reversal, not here.

        Args:
            outputs: The step's.
            p: Share of the run that is done.
        """
        return self.loss(outputs, p)

    @torch.no_grad()
    def health(self, outputs: StepOutputs) -> dict[str, float]:
        """Balanced accuracy of the discriminator on the step's examples; ``chance`` is one over the domains.

        Args:
            outputs: A step's.
        """
        found = self.discriminator(self.seen(outputs, 1.0)).argmax(1) == outputs.domain
        weights = by_group(outputs.domain, len(outputs.roles), None)
        return {"discriminator": float((found * weights).sum()), "chance": 1 / len(outputs.domain.unique())}


def by_group(group: Tensor, groups: int, weights: Tensor | None) -> Tensor:
    """Weights (n,) that sum to 1 and give every group that is there the same share.

    Args:
        group: Index of each example's group, (n,).
        groups: Number of groups.
        weights: Of each example within its group; None for equal ones.
    """
    own = torch.ones_like(group, dtype=torch.float32) if weights is None else weights
    sums = torch.zeros(groups, dtype=own.dtype, device=own.device).index_add(0, group, own)
    present = (torch.bincount(group, minlength=groups) > 0).sum()
    return own / sums.clamp_min(1e-12)[group] / present


@register_alignment("dann")
class Dann(Adversary):
    """Domain-adversarial training (Ganin et al., JMLR 2016, eq. 9-10), K-way: one code path for any roles.

    Over a source and a target it adapts; over several sources it generalizes to domains nobody has seen.

    Use it: where a linear or kernel distance no longer sees the shift. Not: on tiny batches or under strong label
    shift; watch the fresh probe, for an adversary at chance may as well be dead.
    """

    matches_frequencies = True


class _Conditional(Adversary):
    """The discriminator sees the embedding together with the model's own guess of the class.

    The frequencies of the guesses are part of what it sees, so where the classes' frequencies differ between the
    domains, hiding the domain means making the guesses equally frequent.
    """

    matches_frequencies = True
    left: Tensor
    right: Tensor

    def __init__(self, setting: Setting, weight: float, **options: object) -> None:
        """Build the discriminator; the random map's matrices are buffers: fixed over the run, saved and resumed.

        Args:
            setting: What it is built for.
            weight: On the gradient that reaches the encoder.
            **options: See :attr:`options`.
        """
        super().__init__(setting, weight, **options)
        if self.random:
            self.register_buffer("left", torch.randn(setting.width, RANDOM_WIDTH))
            self.register_buffer("right", torch.randn(setting.classes, RANDOM_WIDTH))

    @property
    def random(self) -> bool:
        """Whether the map is drawn at random."""
        return self.setting.width * self.setting.classes > LARGEST_MAP

    def width(self) -> int:
        """Numbers in the map."""
        return RANDOM_WIDTH if self.random else self.setting.width * self.setting.classes

    def seen(self, outputs: StepOutputs, strength: float) -> Tensor:
        """The multilinear map of embedding and class probabilities (Long et al., NeurIPS 2018, eq. 6 and 8).

        The probabilities carry no gradient, as in the authors' implementation.

        Args:
            outputs: The step's.
            strength: Of the reversal.
        """
        embedding = reverse_gradient(outputs.embedding, strength)
        guess = outputs.logits.detach().softmax(1)
        if self.random:
            return (embedding @ self.left) * (guess @ self.right) / math.sqrt(RANDOM_WIDTH)
        return (guess[:, :, None] * embedding[:, None, :]).flatten(1)


@register_alignment("cdan")
class Cdan(_Conditional):
    """Conditional adversarial adaptation (Long et al., NeurIPS 2018): each class is matched with its own.

    Use it: as ``dann``, where classes would otherwise be matched with one another. Not: where the first guesses on the
    target are mostly wrong.
    """

    needs = frozenset({"target", "gradient"})


@register_alignment("cdan-e")
class CdanE(_Conditional):
    """CDAN whose adversary listens to confident guesses (Long et al., NeurIPS 2018, eq. 9): weight 1 + exp(-entropy).

    The weights are constants, normalized in each domain: no gradient goes through the entropy, as in TLlib. (The
    authors' code lets it through, reversed, which makes every guess more confident.)

    Use it: as ``cdan``. Not: where the model is confidently wrong on the target.
    """

    needs = frozenset({"target", "gradient"})

    def importance(self, outputs: StepOutputs) -> Tensor:
        """One plus e to the minus entropy of the guess, (n,).

        Args:
            outputs: The step's.
        """
        logs = outputs.logits.detach().log_softmax(1)
        return 1 + torch.exp((logs.exp() * logs).sum(1))


@register_alignment("cdann")
class Cdann(Adversary):
    """Class-conditional adversary over several sources (Li et al., ECCV 2018, eq. 3): domains are hidden in each class.

    The discriminator is told the true class; each class weighs the same, and in it each domain. Targets, which have no
    labels, take no part.

    Use it: over several sources whose class frequencies differ, where ``dann`` would mix the classes. Not: with one
    source.
    """

    needs = frozenset({"sources", "labels", "gradient"})

    def width(self) -> int:
        """Embedding and class."""
        return self.setting.width + self.setting.classes

    def seen(self, outputs: StepOutputs, strength: float) -> Tensor:
        """Embedding, and the true class one-hot.

        Args:
            outputs: The step's.
            strength: Of the reversal.
        """
        return torch.cat([reverse_gradient(outputs.embedding, strength), outputs.weights()], dim=1)

    def loss(self, outputs: StepOutputs, p: float) -> Tensor:
        """See the class.

        Args:
            outputs: The step's.
            p: Share of the run that is done.
        """
        outputs = outputs.select(outputs.labelled)
        classes, domains = self.setting.classes, len(outputs.roles)
        cell = by_group(outputs.labels * domains + outputs.domain, classes * domains, None)  # class and domain alike
        return self._game(outputs, self.weight * ramp(p), by_group(outputs.labels, classes, cell))

    @torch.no_grad()
    def health(self, outputs: StepOutputs) -> dict[str, float]:
        """Balanced accuracy of the discriminator on the labelled examples.

        Args:
            outputs: A step's.
        """
        return super().health(outputs.select(outputs.labelled))
