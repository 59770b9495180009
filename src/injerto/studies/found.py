"""What a search found: which trial wins without a target label, as JSON, CSV and a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from injerto.basics.checksums import CHECKSUM, content_checksum
from injerto.basics.errors import InjertoError
from injerto.evaluation.recorded import load_metrics
from injerto.studies.choice import choose, measure_of, source_val
from injerto.studies.grid import text_of
from injerto.studies.space import Dimension, point_at
from injerto.studies.tables import csv_text

TIE = 1e-9
"""What a nat of NLL counts beside the accuracy: it parts trials with the same accuracy, and no others."""
OUT = -100.0
"""Added to the source accuracy of a trial that the guard turns away: below the bounds of every validator."""
ENOUGH = 10
"""Trials from which importances are computed."""
STATES = {"COMPLETE": "ok", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
Rows = Sequence[Mapping[str, Any]]
"""One row for every seed of a trial, see :func:`read_run`."""


def read_run(run: Path, seed: int, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a search keeps of a finished run; all that needed labels of other domains is marked oracle.

    Args:
        run: Its folder.
        seed: Its seed.
        settings: What all trials of the search share; their class weights say by which accuracy trials are judged.
    """
    metrics = load_metrics(run)
    domains = {
        name: {
            "role": entry["role"],
            "oracle": entry["oracle"],
            "splits": {
                side: {metric: values.get(metric) for metric in ("accuracy", "balanced_accuracy", "nll")}
                for side, values in entry["splits"].items()
            },
        }
        for name, entry in metrics["domains"].items()
    }
    judged = metrics.get("validators") or {}
    scores = {f"scores/{name}": score for name, score in judged.get("scores", {}).items()}
    row = {"seed": seed, "domains": domains, "validators": {"rejected": judged.get("rejected"), **scores}}
    row["recipe"] = {"class_weights": (settings or {}).get("class_weights")}
    return row | {"trainable": metrics["parameters"]["trainable"], "adapter_bytes": metrics["adapter_bytes"]}


def kept_rows(rows: Rows, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Rows as the storage keeps them: with a checksum, of their trial's parameters too.

    Args:
        rows: Of a trial.
        parameters: As drawn.
    """
    return {"rows": list(rows), CHECKSUM: content_checksum([list(rows), dict(parameters)])}


def rows_of(trial: FrozenTrial) -> list[dict[str, Any]]:
    """The rows of a trial; empty where no seed of it is finished.

    Args:
        trial: Of the storage; one of an earlier version has no checksum.

    Raises:
        InjertoError: Where they are not those that were kept.
    """
    kept = trial.user_attrs.get("rows", [])
    if isinstance(kept, list):
        return kept
    rows: list[dict[str, Any]] = kept.get("rows", [])
    if kept.get(CHECKSUM) != content_checksum([rows, trial.params]):
        raise InjertoError(
            f"trial {trial.number} in the search's storage is damaged: its checksum does not fit; restore the storage "
            "(search.db, where none was named), or name another --out"
        )
    return rows


def mean_val(rows: Rows, metric: str | None = None) -> float | None:
    """A metric on source ``val``, the mean over seeds; None where there is none.

    Args:
        rows: Of a trial.
        metric: ``nll``; the accuracy that trials are judged by where not given.
    """
    metric = metric or measure_of(rows)
    values = [value for row in rows if (value := source_val(row, metric)) is not None]
    return float(np.mean(values)) if values else None


def score_of(rows: Rows, validator: str | None) -> float | None:
    """The score of a trial: the mean over its seeds; None where it cannot be judged.

    Args:
        rows: Of the trial.
        validator: Its name; None for the accuracy on source ``val``.
    """
    if validator is None:
        return mean_val(rows)
    values = [row["validators"].get(f"scores/{validator}") for row in rows]
    return float(np.mean(values)) if values and None not in values else None


def winner(trials: Mapping[int, Rows], validator: str | None) -> tuple[int | None, list[int]]:
    """The best trial, and those that the guard turns away. No label of a target is looked at.

    Without a validator the highest mean accuracy on source ``val`` wins, among equals the lowest NLL. With one it is
    :func:`injerto.studies.choice.choose`, the rule of ``injerto compare``. The earlier of equals.

    Args:
        trials: Number to rows, of finished trials.
        validator: Its name, None for source ``val``.
    """
    if not trials:
        return None, []
    if validator is None:
        return max(trials, key=lambda number: value_of(trials[number])), []
    rows = [{"row": str(number), "status": "ok", **row} for number, own in trials.items() for row in own]
    chosen = choose(rows, validator)
    if chosen is None:  # there is one only
        number, own = next(iter(trials.items()))
        rejected = sum(row["validators"]["rejected"] is not None for row in own)
        return number, [number] if 2 * rejected >= len(own) else []
    return int(chosen["row"]), [int(number) for number in chosen["turned_away"]]


def value_of(rows: Rows) -> float:
    """What a search without a validator goes by: accuracy on source ``val``, less a trifle for the NLL.

    Args:
        rows: Of a trial that has a ``val``.
    """
    return with_ties(mean_val(rows) or 0.0, mean_val(rows, "nll") or 0.0)


def with_ties(accuracy: float, nll: float) -> float:
    """An accuracy, less a trifle for the NLL.

    Args:
        accuracy: On source ``val``.
        nll: There too, in nats.
    """
    return accuracy - TIE * min(nll, 1e3)


def told_value(rows: Rows, others: Mapping[int, Rows], validator: str | None) -> float:
    """What the sampler is told of a trial: its score, or far less where the guard turns it away.

    Args:
        rows: Of the trial, perhaps of its first seeds only.
        others: Of the finished trials before it.
        validator: Its name, None for source ``val``.
    """
    if validator is None:
        return value_of(rows)
    same = {number: own[: len(rows)] for number, own in others.items()}
    turned = winner(same | {-1: rows}, validator)[1]
    score = score_of(rows, validator)
    assert score is not None
    return OUT + (mean_val(rows) or 0.0) if -1 in turned else score


def importances(points: Sequence[Mapping[str, Any]], scores: Sequence[float], space: Any) -> dict[str, float] | None:
    """How much of the score each dimension decides, as shares; None for fewer than :data:`ENOUGH` trials.

    fANOVA (Hutter et al., ICML 2014) as Optuna has it, on the trials that were finished and not turned away.

    Args:
        points: Of the trials, as drawn.
        scores: Theirs.
        space: Optuna's distributions.
    """
    if len(points) < ENOUGH or len(set(scores)) == 1:
        return None
    import optuna

    study = optuna.create_study(direction="maximize")
    for point, score in zip(points, scores, strict=True):
        study.add_trial(optuna.trial.create_trial(params=dict(point), distributions=space, value=score))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return {
        name: float(share)
        for name, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


def entry_of(trial: FrozenTrial, space: Sequence[Dimension], validator: str | None) -> dict[str, Any]:
    """A trial as ``search.json`` has it.

    Args:
        trial: Of the storage.
        space: The dimensions.
        validator: What the search goes by, None for source ``val``.
    """
    rows: Rows = rows_of(trial)
    entry: dict[str, Any] = {"number": trial.number, "state": STATES[trial.state.name]}
    drawn = all(one.name in trial.params for one in space)  # another process may be drawing it at this moment
    entry |= {"parameters": point_at(trial.params, space) if drawn else None}
    entry |= {"score": score_of(rows, validator) if rows else None, "source_val": mean_val(rows) if rows else None}
    rejected = [row["validators"]["rejected"] for row in rows if row["validators"]["rejected"]]
    entry |= {
        "rejected": rejected[0] if rejected else None,
        "seconds": trial.duration.total_seconds() if trial.duration else None,
    }
    entry |= {name: trial.user_attrs.get(name) for name in ("reason", "same_as")} | {"seeds": [r["seed"] for r in rows]}
    accuracies: dict[str, dict[str, list[float]]] = {"source": {}, "oracle": {}}
    for row in rows:
        for name, domain in row["domains"].items():
            for side, values in domain["splits"].items():
                if values["accuracy"] is not None and side != "val":
                    part = accuracies["oracle" if domain["oracle"] else "source"]
                    part.setdefault(f"{name}/{side}", []).append(values["accuracy"])
    means = {kind: {name: float(np.mean(v)) for name, v in found.items()} for kind, found in accuracies.items()}
    return entry | {"accuracy": means["source"], "oracle": means["oracle"]}


def csv_of(content: Mapping[str, Any]) -> str:
    """A line for every trial; names of columns that needed labels of other domains begin with ``oracle:``.

    Args:
        content: Of ``search.json``.
    """
    lines = []
    for trial in content["trials"]:
        line = {"number": trial["number"], "state": trial["state"], **(trial["parameters"] or {})}
        names = ("score", "source_val", "rejected", "seconds", "reason", "same_as")
        line |= {name: trial[name] for name in names} | trial["accuracy"]
        lines.append(line | {f"oracle:{name}": value for name, value in trial["oracle"].items()})
    columns = list(dict.fromkeys(name for line in lines for name in line)) or ["number"]
    columns.sort(key=lambda name: name.startswith("oracle:"))
    return csv_text(lines, columns)


def ranked(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Finished trials, the winner first, those that the guard turned away last.

    Args:
        content: Of ``search.json``.
    """
    best = content["best"]["number"] if content["best"] else None
    away = set(content["turned_away"])
    ok = [trial for trial in content["trials"] if trial["state"] == "ok"]
    return sorted(ok, key=lambda one: (one["number"] != best, one["number"] in away, -one["score"]))


def table_of(content: Mapping[str, Any], most: int = 5) -> tuple[str, list[str], list[list[str]], list[str]]:
    """The best trials as a table for people.

    Args:
        content: Of ``search.json``.
        most: How many.

    Returns:
        Title, headings, cells, and lines to stand below.
    """
    best = ranked(content)[:most]
    names = [name for name in (best[0]["oracle"] if best else {}) if name.endswith("/test")]
    headings = ["trial", *content["space"], "score", "source val", *(f"{name}*" for name in names)]
    cells = []
    for one in best:
        line = [str(one["number"]), *(text_of(one["parameters"].get(name)) for name in content["space"])]
        line += [f"{one['score']:.4f}", _percent(one["source_val"])]
        cells.append(line + [_percent(one["oracle"].get(name)) for name in names])
    ok = sum(trial["state"] == "ok" for trial in content["trials"])
    count = len(content["seeds"])
    title = f"the best of {ok} trials by {content['objective']}, mean over {count} seed{'s' * (count > 1)}"
    below = ["* oracle: needed labels of a domain that was not learned from; nothing was chosen by it"] if names else []
    if content["turned_away"]:
        below.append(f"the guard turned {len(content['turned_away'])} trials away: they never win")
    pruned = sum(trial["state"] == "pruned" for trial in content["trials"])
    below += [f"{pruned} trials were cut short"] if pruned else []
    failed = [trial for trial in content["trials"] if trial["state"] == "failed"]
    below += [f"failed: trial {trial['number']}: {trial['reason']}" for trial in failed]
    if content["importance"]:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in content["importance"].items())
        below.append(f"what decides the score: {shares}")
    return title, headings, cells, below


def _percent(value: float | None) -> str:
    """A share for people."""
    return "-" if value is None else f"{100 * value:.1f} %"
