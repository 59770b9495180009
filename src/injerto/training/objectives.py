"""What a step minimizes: from a part of a batch to the labelled loss plus what the alignments ask for."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from injerto.alignment.base import PLAIN, Alignment, StepOutputs
from injerto.compute.batches import Inputs
from injerto.compute.crew import crew
from injerto.compute.plan import ComputePlan
from injerto.tasks.classification import classification_losses
from injerto.tasks.language import LanguageModel
from injerto.tasks.model import Model
from injerto.training.examples import Batch, embed_by_length
from injerto.training.mixing import MixStyle, mixup
from injerto.training.robust import Erm
from injerto.training.taps import Taps


class Objective(nn.Module):
    """From a part of a batch and the run's progress to a scalar.

    Its own parameters (discriminators) learn at the rate of the new layers; its state is part of every checkpoint.

    Attributes:
        watching: Whether this step's :attr:`seen` is wanted.
        seen: What the last watched step showed.
        supervised: The labelled loss of the last call, without what alignments add; None where it is all there is.
        number: Seeds what is drawn behind the embedding, where several processes compute a step.
        shared: Whether every process computes the loss of the whole batch, not its share of it.
    """

    shared = True

    def __init__(self) -> None:
        """Nothing is watched at first."""
        super().__init__()
        self.watching, self.seen = False, dict[str, float]()
        self.supervised: Tensor | None = None
        self.number = 0

    def forward(self, part: Batch, p: float) -> Tensor:
        """The loss of a part of a batch, a mean over it.

        Args:
            part: The examples.
            p: Share of the run that is done.
        """
        raise NotImplementedError

    def live(self) -> str:
        """What the progress line says beside the loss."""
        return ""


class Classification(Objective):
    """Cross-entropy of the head on the embedding, and the alignments' terms on the same forward pass."""

    def __init__(
        self,
        model: Model,
        plan: ComputePlan,
        weights: Tensor | None = None,
        smoothing: float = 0.0,
        *,
        terms: Iterable[tuple[str, Alignment]] = (),
        roles: Sequence[str] = ("source",),
        labelled: Erm | None = None,
        mixing: Sequence[str] = (),
    ) -> None:
        """Put it together.

        Args:
            model: What is trained; not a part of this module.
            plan: How to compute.
            weights: Weight of each class.
            smoothing: Share of the probability spread over all classes.
            terms: The alignments by name.
            roles: ``source`` or ``target`` of every domain of a batch.
            labelled: How the losses of the labelled examples become one; their mean where not given.
            mixing: ``mixup``, ``mixstyle``.
        """
        super().__init__()
        self._model, self.plan, self.weights, self.smoothing = (model,), plan, weights, smoothing
        self.terms, self.roles = nn.ModuleDict(dict(terms)), tuple(roles)
        self.labelled, self.mixing = labelled or Erm(), tuple(mixing)
        stages = sorted({stage for term in self._terms().values() for stage in term.stages})
        self.taps = Taps(model.backbone, stages)
        self.style = MixStyle(model.backbone) if "mixstyle" in self.mixing else None

    def _terms(self) -> dict[str, Alignment]:
        return dict(self.terms.items())  # type: ignore[arg-type]

    def weights_of_terms(self) -> dict[str, float]:
        """The weight of each term by name."""
        return {name: term.weight for name, term in self._terms().items()}

    def matching(self) -> list[str]:
        """The terms that pull classes apart from themselves where their frequencies differ."""
        return [name for name, term in self._terms().items() if term.matches_frequencies and term.weight]

    def live(self) -> str:
        """How well each discriminator tells the domains apart, against chance, and the terms without one."""
        words = []
        for name in self._terms():
            if f"{name}/discriminator" in self.seen:
                found, chance = self.seen[f"{name}/discriminator"], self.seen[f"{name}/chance"]
                words.append(f"{name} tells {100 * found:.0f} % (chance {100 * chance:.0f} %)")
            elif f"loss/{name}" in self.seen:
                words.append(f"{name} {self.seen[f'loss/{name}']:.3f}")
        return "".join(f", {word}" for word in words)

    def forward(self, part: Batch, p: float) -> Tensor:
        """The labelled loss plus every term.

        Args:
            part: The examples.
            p: Share of the run that is done.
        """
        model = self._model[0]
        inputs, labels, domain = part.inputs, part.labels, part.domain
        if "mixup" in self.mixing:
            inputs, labels, domain = self._mixed(part)
        embed = part.cut.embed if part.cut else model.backbone
        mixing = self.style.mixing(domain) if self.style else nullcontext()
        precision = torch.autocast(self.plan.device, torch.bfloat16, enabled=self.plan.precision == "bf16")
        with precision, mixing, self.taps.open(inputs) as stages:
            embedding = embed(inputs) if self.taps.stages else embed_by_length(embed, inputs)
        embedding = crew().gather(embedding, part.dealt)
        stages = {stage: crew().gather(values, part.dealt) for stage, values in stages.items()}
        if part.dealt is not None:
            torch.manual_seed(self.number)  # from here on all processes draw alike
        outputs = model.classify(embedding)
        each, known = classification_losses(outputs.logits, labels, self.weights, self.smoothing)
        loss = self.labelled(each, outputs.logits, labels, domain, known, p)
        if not self.terms:
            return loss
        self.supervised = loss.detach()
        step = StepOutputs(outputs.embedding, outputs.logits, labels, domain, self.roles, part.view, stages)
        if "mixup" in self.mixing:
            step = self._unmixed(step, part)
        plain = step if bool((part.view == PLAIN).all()) else step.select(part.view == PLAIN)
        whole = {"views", "labels"}
        given = {name: step if whole & term.needs else plain for name, term in self._terms().items()}
        values = {name: term(given[name], p) for name, term in self._terms().items()}
        if self.watching:
            self._look(loss, values, given, step)
        return torch.stack([loss, *values.values()]).sum()

    def _mixed(self, part: Batch) -> tuple[Inputs, Tensor, Tensor]:
        """Inputs, labels and domains under mixup; with terms the examples as they are, and after them the mixtures.

        Mixtures vary less than examples do: terms that saw mixtures of the sources beside targets as they are would
        align a difference that only mixup has made.
        """
        mixed, soft = mixup(part.inputs, part.labels, len(self._model[0].labels))
        if not self.terms:
            return mixed, soft, part.domain
        assert isinstance(part.inputs, Tensor) and isinstance(mixed, Tensor)
        known = part.labelled
        inputs = torch.cat([part.inputs, mixed[known]])
        return inputs, torch.cat([torch.zeros_like(soft), soft[known]]), torch.cat([part.domain, part.domain[known]])

    def _unmixed(self, step: StepOutputs, part: Batch) -> StepOutputs:
        """What the terms see under mixup: the examples as they are, with whole labels."""
        count = len(part.labels)
        stages = {stage: values[:count] for stage, values in step.stages.items()}
        embedding, logits = step.embedding[:count], step.logits[:count]
        return StepOutputs(embedding, logits, part.labels, part.domain, self.roles, part.view, stages)

    def _look(self, loss: Tensor, values: dict[str, Tensor], given: dict[str, StepOutputs], step: StepOutputs) -> None:
        """Note each term's value, its own health, and the norm of its gradient at the encoder's outputs."""
        self.seen = {"loss/labelled": float(loss.detach())}
        at = [tensor for tensor in (step.embedding, *step.stages.values()) if tensor.requires_grad]
        for name, value in {"labelled": loss, **values}.items():
            if name in given:
                self.seen[f"loss/{name}"] = float(value.detach())
                with torch.no_grad():
                    health = self._terms()[name].health(given[name])
                self.seen |= {f"{name}/{what}": number for what, number in health.items()}
            if at and value.requires_grad:
                gradients = torch.autograd.grad(value, at, retain_graph=True, allow_unused=True)
                square = sum(float(g.square().sum()) for g in gradients if g is not None)
                self.seen[f"gradient/{name}"] = square**0.5


class LanguageModelling(Objective):
    """Cross-entropy of the next token, over the tokens that are learned."""

    shared = False

    def __init__(self, model: LanguageModel, plan: ComputePlan) -> None:
        """Keep both.

        Args:
            model: What is trained; not a part of this module.
            plan: How to compute.
        """
        super().__init__()
        self._model, self.plan = (model,), plan

    def forward(self, part: Batch, p: float) -> Tensor:
        """The mean over the tokens that are learned.

        Args:
            part: The rows.
            p: Not used.
        """
        assert not isinstance(part.inputs, Tensor)
        with torch.autocast(self.plan.device, torch.bfloat16, enabled=self.plan.precision == "bf16"):
            if part.dealt is None:
                return self._model[0].losses(part.inputs, part.labels).mean()
            own = part.labels[torch.from_numpy(part.dealt[crew().rank]).to(part.labels.device)]
            return self._model[0].losses(part.inputs, own).sum() / part.labelled.sum()
