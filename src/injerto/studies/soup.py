"""Greedy soup: several runs from the same base model, averaged where that helps on source ``val``."""

import copy
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from injerto import api
from injerto.basics.errors import InjertoError
from injerto.basics.files import check_new
from injerto.basics.lock import hold
from injerto.basics.progress import note
from injerto.compute.batches import BatchMaker, augmentation_rng, prefetch
from injerto.compute.fold import settled
from injerto.domains.domain import Domain, Domains
from injerto.domains.load import READING
from injerto.evaluation.predictor import predict_logits
from injerto.evaluation.run import Run
from injerto.recipe.recipe import Recipe, is_balanced, load_recipe, make_recipe
from injerto.studies.combine import check_alike, ship, write_report
from injerto.tasks.classification import encode
from injerto.tasks.model import Model
from injerto.tasks.probe import Score, quick_score
from injerto.training.averages import STATISTICS
from injerto.training.folder import remove_run
from injerto.tuning.norms import norm_layers, recalibrate

SAME = ("task", "labels", "base", "preprocessing", "head", "neck", "split_seed")
"""What the cards of a soup's runs must agree in."""
Weights = dict[str, torch.Tensor]


def soup(
    runs: Sequence[str | PathLike[str]], out: str | PathLike[str], data: Any = None, allow_modified: bool = False
) -> Run:
    """Average runs greedily (Wortsman et al., "Model soups", ICML 2022, recipe 1).

    Runs are sorted by their score on source ``val``; each joins the average if the score does not fall. The score is
    the accuracy, the balanced one where all runs have balanced class weights; the NLL parts equals. Where the runs
    moved BatchNorm statistics, those of an average are estimated anew on train examples.

    Args:
        runs: Folders of two or more finished runs with the same base, classes, head and splits.
        out: The folder of the soup; it is a run like any other, its ``metrics.json`` names the ingredients.
        data: What the runs learned from, where their recipe cannot name it.
        allow_modified: Go on where files of the adapters are not as their cards say.

    Returns:
        The soup.

    Raises:
        InjertoError: Where the runs do not fit together, or ``out`` is not empty.
    """
    folder = Path(out)
    if isinstance(runs, str | PathLike) or len(runs) < 2:
        raise InjertoError("a soup needs a list of two runs or more")
    for run in runs:
        if not (Path(run) / "recipe.yaml").exists():
            raise InjertoError(f"{run} is no run's folder (no recipe.yaml); a soup needs runs, not bare adapters")
    with hold(folder, "injerto soup", lambda: check_new(folder)):
        try:
            opened = [api.load(run, allow_modified=allow_modified) for run in runs]
            return _soup(opened, folder, data)
        except BaseException:
            remove_run(folder)  # it was new or empty
            raise


def _soup(opened: Sequence[Run], folder: Path, data: Any) -> Run:
    check_alike(opened, SAME)
    if any(run.recorded_splits() != opened[0].recorded_splits() for run in opened):
        raise InjertoError(
            "the runs learned from different train examples: fit them on the same data with the same given splits"
        )
    if opened[0].card["task"] != "classification":
        raise InjertoError("a soup is chosen by accuracy on val; language models are added up by combine")
    recipe = make_recipe(**load_recipe(opened[0].path / "recipe.yaml"))
    domains = _domains(recipe, data)
    vals = _vals(opened[0], domains, recipe.source or tuple(domains))
    judge = settled(opened[0].model)
    if judge is opened[0].model:  # what is tried must not change what is added up
        judge = copy.deepcopy(judge)
    weights = [{name: tensor.clone() for name, tensor in settled(run.model).state_dict().items()} for run in opened]
    balanced = all(is_balanced(load_recipe(run.path / "recipe.yaml")) for run in opened)
    renew = _renewal(opened, domains, recipe)
    scores = [_score(opened[0], judge, state, vals, balanced) for state in weights]
    order = sorted(range(len(opened)), key=lambda index: (scores[index], -index), reverse=True)
    chosen, best, mean = [order[0]], scores[order[0]], weights[order[0]]
    for index in order[1:]:
        share = 1 / (len(chosen) + 1)
        tried = {name: _mix(tensor, weights[index][name], share) for name, tensor in mean.items()}
        if renew:
            judge.load_state_dict(tried)
            renew(judge)
            tried = {name: tensor.clone() for name, tensor in judge.state_dict().items()}
        score = _score(opened[0], judge, tried, vals, balanced)
        note(
            f"{opened[index].path}: {'balanced ' * balanced}val {100 * score[0]:.1f} % (NLL {-score[1]:.3f}) with it, "
            f"{100 * best[0]:.1f} % ({-best[1]:.3f}) without"
        )
        if score >= best:
            chosen, best, mean = [*chosen, index], score, tried
    inside = [opened[i] for i in chosen]
    result = ship(folder, inside, [1 / len(chosen)] * len(chosen), renew if len(chosen) > 1 else None)
    measured = result.evaluate(domains)
    ingredients = [{"run": str(run.path), "val": scores[i][0], "in": i in chosen} for i, run in enumerate(opened)]
    found = {"soup": {"runs": ingredients, "val": best[0]}}
    write_report(folder, result, inside, measured, ("soup", best[0]), found)
    return Run(folder)


def _mix(mean: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    return torch.lerp(mean, other, share) if mean.is_floating_point() else mean


def _domains(recipe: Any, data: Any) -> Domains:
    given = recipe.data if data is None else data
    try:
        domains = api.load_domains(given, **{name: getattr(recipe, name) for name in READING})
    except InjertoError as error:
        if data is None:
            raise InjertoError(f"the runs' data: {error}; give it with --data") from None
        raise
    return domains.check(recipe.skip_bad)


def _renewal(runs: Sequence[Run], domains: Domains, recipe: Recipe) -> Callable[[nn.Module], None] | None:
    """Estimates BatchNorm statistics of an average, where the runs moved theirs: those of several networks fit none.

    From the examples that the statistics of a run came from, in the runs' own augmentation.
    """
    layers = norm_layers(runs[0].model.backbone)
    only = {name for name in layers if any(f"{name}.running_mean" in run.changed for run in runs)}
    if not only:
        return None
    recorded, norm = runs[0].recorded_splits(), recipe.norm or "frozen"
    names = recipe.target if norm.endswith(":target") else recipe.source or tuple(domains)
    plan = runs[0].plan
    maker = BatchMaker(runs[0].model.backbone.preprocessing, plan.device, plan.channels_last)
    policy = recipe.policy if norm == "train" else "none"
    items = sorted(
        (content, domain.inputs[i])
        for domain in map(domains.named, names)
        for i, content in enumerate(domain.contents)
        if recorded.get(content) == "train"
    )

    def load(item: tuple[str, Any]) -> np.ndarray:
        return maker.image(item[1], policy, augmentation_rng(recipe.seed, item[0], 0))

    def renew(model: nn.Module) -> None:
        assert isinstance(model, Model)
        count = max(1, len(items) // (recipe.batch_size or 32))
        chunks = [[items[i] for i in rows] for rows in np.array_split(np.arange(len(items)), count)]
        batches = (maker.collate_images(rows) for rows in prefetch(chunks[:STATISTICS], load, maker.workers))
        recalibrate(model.backbone, batches, only)

    return renew


def _vals(run: Run, domains: Domains, sources: Sequence[str]) -> list[Domain]:
    recorded = run.recorded_splits()
    found = []
    for name in sources:
        domain = domains.named(name)
        sides = [recorded.get(content) for content in domain.contents]
        keep = [i for i, (side, label) in enumerate(zip(sides, domain.labels, strict=True)) if side == "val" and label]
        if keep:
            found.append(domain.subset(keep))
    if not found:
        raise InjertoError("no source val example of the runs is in the data: nothing to choose by")
    return found


def _score(run: Run, judge: nn.Module, state: Weights, vals: Sequence[Domain], balanced: bool) -> Score:
    judge.load_state_dict(state)
    assert isinstance(judge, Model)
    scores = []
    for part in vals:
        logits = predict_logits(judge, run.plan, part.inputs, part.contents)
        scores.append(quick_score(logits, encode(part.labels, run.labels), balanced))
    return float(np.mean([one for one, _ in scores])), float(np.mean([other for _, other in scores]))
