"""Weighted sums of runs as a run."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from injerto import api
from injerto.adapters.artifact import save_tensors
from injerto.adapters.card import save_card
from injerto.adapters.combine import combine as add_up
from injerto.adapters.load import load_base
from injerto.backbones.identity import difference
from injerto.basics.errors import InjertoError
from injerto.basics.files import check_new
from injerto.basics.lock import hold
from injerto.basics.progress import note
from injerto.evaluation.recorded import save_metrics, save_rows
from injerto.evaluation.run import Run
from injerto.tasks.model import Model
from injerto.training.folder import remove_run

SAME = ("task", "labels", "base", "preprocessing", "head", "neck", "responses")
"""What the cards of combined adapters must agree in."""
KEPT = {"classification": ("accuracy", "balanced_accuracy", "n"), "causal-lm": ("perplexity", "tokens", "n")}


def combine(
    runs: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    weights: Sequence[float] | None = None,
    data: Any = None,
    backbone: Any = None,
    allow_modified: bool = False,
) -> Run:
    """A weighted sum of adapters with the same classes on one base.

    Every change of the base is added with its weight; heads are averaged with the same weights.

    Args:
        runs: Folders of two or more runs or adapters, whatever they learned from.
        out: The folder of the sum, a run like any other; what any of the runs learned from is no test example of it.
        weights: One for each run; equal shares of 1 where not given.
        data: What to measure it on.
        backbone: The base where the cards cannot name it on this machine.
        allow_modified: Go on where files of the adapters are not as their cards say.

    Raises:
        InjertoError: Where the runs do not fit together, or ``out`` is not empty.
    """
    folder = Path(out)
    if isinstance(runs, str | PathLike) or len(runs) < 2:
        raise InjertoError("a sum needs a list of two runs or more")
    if isinstance(weights, str):
        raise InjertoError(f"weights: a list of numbers, one for each run, not the text '{weights}'")
    shares = [1 / len(runs)] * len(runs) if weights is None else [float(weight) for weight in weights]
    if len(shares) != len(runs):
        raise InjertoError(f"{len(runs)} runs need as many weights, not {len(shares)}")
    if not all(abs(share) < 1e3 for share in shares):
        raise InjertoError(f"weights {shares} are out of bounds")
    with hold(folder, "injerto combine", lambda: check_new(folder)):
        try:
            opened = [api.load(run, backbone=backbone, allow_modified=allow_modified) for run in runs]
            return _combine(opened, folder, shares, data)
        except BaseException:
            remove_run(folder)  # it was new or empty
            raise


def _combine(opened: Sequence[Run], folder: Path, shares: Sequence[float], data: Any) -> Run:
    check_alike(opened, SAME)
    domains = None
    if data is not None:
        domains = api.load_domains(data, responses=opened[0].card["task"] == "causal-lm").check()
        modality = opened[0].model.backbone.modality
        if domains.modality != modality:
            raise InjertoError(f"{domains.name} holds {domains.modality}s, {opened[0].path} takes {modality}s")
    result = ship(folder, opened, shares)
    measured = {} if domains is None else result.evaluate(domains)
    parts = [{"run": str(run.path), "weight": share} for run, share in zip(opened, shares, strict=True)]
    write_report(folder, result, opened, measured, ("combined", None), {"combined": parts})
    return type(result)(folder, result.given_backbone)


def check_alike(runs: Sequence[Run], keys: Sequence[str]) -> None:
    """Refuse runs that cannot be added up.

    Args:
        runs: Opened.
        keys: What their cards must agree in.

    Raises:
        InjertoError: Where they differ.
    """
    first = runs[0]
    for run in runs[1:]:
        for key in keys:
            if key == "base":
                words = _bases_apart(run.card, first.card)
            else:
                words = key if run.card.get(key) != first.card.get(key) else None
            if words:
                cure = "; fit them with one --split-seed" if key == "split_seed" else ""
                raise InjertoError(f"{run.path} and {first.path} differ in {words}: they can't be added up{cure}")


def _bases_apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """In what the bases of two cards differ; None where they are the same."""
    before, now = (card["base"].get("identity") or {} for card in (one, other))
    apart = difference(before, now, chat=one["responses"] or other["responses"])
    if apart:
        return f"base ({apart})"
    plain = [{key: value for key, value in card["base"].items() if key != "identity"} for card in (one, other)]
    return "base" if plain[0] != plain[1] else None


def ship(
    folder: Path, runs: Sequence[Run], weights: Sequence[float], finish: Callable[[Model], None] | None = None
) -> Run:
    """Write a weighted sum of runs as a run without ``metrics.json``.

    Args:
        folder: Where it goes.
        runs: What is added up; the recipe of the first is copied.
        weights: One for each.
        finish: What is done to the sum before it is written.
    """
    best = runs[0]
    if any((run.path / "metrics.json").exists() and (run.metrics.get("forgetting") or {}).get("path") for run in runs):
        note("the sliders of the runs do not add up; the sum has none")
    model = add_up([run.model for run in runs], weights, load_base(best.path, best.given_backbone, best.card))
    if finish:
        finish(model)
    changed = sorted({name for run in runs for name in run.changed})
    folder.mkdir(parents=True, exist_ok=True)
    if (best.path / "recipe.yaml").exists():
        shutil.copyfile(best.path / "recipe.yaml", folder / "recipe.yaml")
    rank = {"train": 0, "val": 1, "unused": 2, "test": 3}
    rows: dict[str, str] = {}
    for run in runs:
        for name, content, side in run.recorded_rows():
            role = (run.card["metrics"].get(name) or {}).get("role")
            side = "test" if role == "unseen" else side  # the run never learned from that domain
            rows[content] = min(side, rows.get(content, side), key=lambda side: rank.get(side, 2))
    save_rows(folder, [("", content, side) for content, side in sorted(rows.items())])
    save_tensors(folder / "adapter", model, changed, None, best.card["head"] == "native")
    save_card(folder / "adapter", best.card | {"metrics": {}})
    return type(best)(folder, best.given_backbone)


def write_report(
    folder: Path,
    run: Run,
    parts: Sequence[Run],
    measured: Mapping[str, Any],
    selected: tuple[str, float | None],
    more: Mapping[str, Any],
) -> None:
    """Complete a run's folder: the card's figures and ``metrics.json``.

    Args:
        folder: The run's.
        run: It.
        parts: The runs that were added up.
        measured: Metrics of the test split, by domain.
        selected: The rule, and the score it went by.
        more: What the way it was made adds to ``metrics.json``.
    """
    card = run.card
    roles = {name: _role(parts, name) for name in measured}
    kept = KEPT[card["task"]]
    quality = {
        name: {"role": roles[name], "oracle": roles[name] != "source", "test": {key: values[key] for key in kept}}
        for name, values in measured.items()
    }
    save_card(folder / "adapter", card | {"metrics": quality})
    parameters = list(run.model.parameters())
    metrics = {
        "task": card["task"],
        "domains": {
            name: {"role": roles[name], "oracle": roles[name] != "source", "splits": {"test": values}}
            for name, values in measured.items()
        },
        "selection": {"rule": selected[0], "step": None, "steps": None, "score": selected[1]},
        "parameters": {"total": sum(p.numel() for p in parameters), "trainable": 0},
        "adapter_bytes": sum(file.stat().st_size for file in (folder / "adapter").iterdir()),
        "seconds": {},
        "forgetting": None,
        "warnings": [],
        **more,
    }
    save_metrics(folder, metrics)


def _role(parts: Sequence[Run], name: str) -> str:
    """What a domain was to any of the runs, a source before a target."""
    told = {(part.card["metrics"].get(name) or {}).get("role") for part in parts}
    return next((role for role in ("source", "target") if role in told), "unseen")
