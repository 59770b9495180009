"""Greedy soup: several runs from the same base model, averaged where that helps on source ``val``."""

import json
import shutil
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from injerto import api
from injerto.adapters.artifact import save_parts
from injerto.adapters.card import save_card
from injerto.basics.errors import InjertoError
from injerto.basics.files import write_text
from injerto.basics.progress import note
from injerto.domains.domain import Domain, Domains
from injerto.evaluation.predictor import predict_logits
from injerto.evaluation.run import Run
from injerto.recipe.recipe import load_recipe, make_recipe
from injerto.tasks.classification import encode
from injerto.tasks.probe import Score, quick_score

SAME = ("labels", "base", "preprocessing", "head", "neck", "split_seed")
"""What the cards of a soup's runs must agree in."""
Weights = dict[str, torch.Tensor]


def soup(runs: Sequence[str | PathLike[str]], out: str | PathLike[str], data: Any = None) -> Run:
    """Average runs greedily (Wortsman et al., "Model soups", ICML 2022, recipe 1).

    Runs are sorted by their score on source ``val``; each joins the average if the score does not fall.

    Args:
        runs: Folders of two or more finished runs with the same base, classes, head and splits.
        out: The folder of the soup; it is a run like any other, its ``metrics.json`` names the ingredients.
        data: What the runs learned from, where their recipe cannot name it.

    Returns:
        The soup.

    Raises:
        InjertoError: Where the runs do not fit together, or ``out`` is not empty.
    """
    folder = Path(out)
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise InjertoError(f"--out {folder} exists already; name another folder")
    if len(runs) < 2:
        raise InjertoError("a soup needs two runs or more")
    for run in runs:
        if not (Path(run) / "recipe.yaml").exists():
            raise InjertoError(f"{run} is no run's folder (no recipe.yaml); a soup needs runs, not bare adapters")
    opened = [api.load(run) for run in runs]
    _check(opened)
    recipe = make_recipe(**load_recipe(opened[0].path / "recipe.yaml"))
    domains = _domains(recipe, data)
    vals = _vals(opened[0], domains, recipe.source or tuple(domains))
    weights = [{name: tensor.clone() for name, tensor in run.model.state_dict().items()} for run in opened]
    scores = [_score(opened[0], state, vals) for state in weights]
    order = sorted(range(len(runs)), key=lambda index: (scores[index], -index), reverse=True)
    chosen, best, mean = [order[0]], scores[order[0]], weights[order[0]]
    for index in order[1:]:
        share = 1 / (len(chosen) + 1)
        tried = {name: _mix(tensor, weights[index][name], share) for name, tensor in mean.items()}
        score = _score(opened[0], tried, vals)
        note(f"{opened[index].path}: val {100 * score[0]:.1f} % with it, {100 * best[0]:.1f} % without")
        if score >= best:
            chosen, best, mean = [*chosen, index], score, tried
    first = opened[order[0]]
    first.model.load_state_dict(mean)
    _ship(folder, first, opened, mean)
    result = Run(folder)
    ingredients = [{"run": str(run.path), "val": scores[i][0], "in": i in chosen} for i, run in enumerate(opened)]
    measured = result.evaluate(domains)
    _describe(folder, first.card, len(chosen), measured)
    metrics = {"soup": {"runs": ingredients, "val": best[0]}, "test": measured}
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    return result


def _mix(mean: torch.Tensor, other: torch.Tensor, share: float) -> torch.Tensor:
    return torch.lerp(mean, other, share) if mean.is_floating_point() else mean


def _check(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for key in SAME:
            if run.card.get(key) != first.card.get(key):
                raise InjertoError(f"{run.path} and {first.path} differ in {key}: they can't be averaged")
        if run.recorded_splits() != first.recorded_splits():
            raise InjertoError(f"{run.path} and {first.path} learned from other splits: give them one --split-seed")


def _domains(recipe: Any, data: Any) -> Domains:
    given = recipe.data if data is None else data
    names = ("input", "label", "domain", "group", "split_column", "split_file")
    try:
        domains = api.load_domains(given, **{name: getattr(recipe, name) for name in names})
    except InjertoError as error:
        if data is None:
            raise InjertoError(f"the runs' data: {error}; give it with --data") from None
        raise
    return domains.check(recipe.skip_bad)


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


def _score(run: Run, state: Weights, vals: Sequence[Domain]) -> Score:
    run.model.load_state_dict(state)
    scores = [
        quick_score(predict_logits(run.model, run.plan, part.inputs, part.contents), encode(part.labels, run.labels))
        for part in vals
    ]
    return float(np.mean([one for one, _ in scores])), float(np.mean([other for _, other in scores]))


def _ship(folder: Path, best: Run, runs: Sequence[Run], mean: Weights) -> None:
    """Write the soup as a run: what any of the runs changed, and the new layers."""
    changed = {name for run in runs for name in run.changed}
    prefix = "backbone.model."
    base = {name: mean[prefix + name] for name in sorted(changed)}
    new = {n: t for n, t in mean.items() if not n.startswith("backbone.") and n not in ("head.shift", "head.scale")}
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("recipe.yaml", "splits.csv"):
        shutil.copyfile(best.path / name, folder / name)
    save_parts(folder / "adapter", base, new)
    _describe(folder, best.card, 0, {})


def _describe(folder: Path, card: dict[str, Any], count: int, measured: dict[str, Any]) -> None:
    """Write the card: the best run's, with what the soup scores on test."""
    metrics = {
        name: {
            "role": card["metrics"].get(name, {}).get("role", "unseen"),
            "oracle": card["metrics"].get(name, {}).get("oracle", True),
            "test": {key: values[key] for key in ("accuracy", "balanced_accuracy", "n")},
        }
        for name, values in measured.items()
    }
    save_card(folder / "adapter", card | {"metrics": metrics, "soup": count})
