"""Which pretrained model will transfer? Scores of several on labelled data, before any training, each with its cost."""

import time
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from injerto.adapters.card import load_card
from injerto.adapters.load import adapter_folder
from injerto.basics.errors import InjertoError
from injerto.basics.files import sha256
from injerto.basics.progress import note
from injerto.compute.embedding import embed_parts, open_backbone
from injerto.compute.inference import inference_plan
from injerto.domains.domain import Domain, Domains
from injerto.domains.load import check_reading, load_domains
from injerto.evaluation.run import Run
from injerto.evaluation.transferability import score_all
from injerto.tasks.classification import encode

MOST = 3000
"""Labelled examples of a domain that are scored, at most; whole groups, chosen by their hash."""
LEADING = "probe_accuracy"
"""The score that the list is ordered by: the one that is closest to what will be done with the model."""


def rank_backbones(
    data: Any,
    backbones: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    on: str | Sequence[str] = (),
    image_size: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    precision: str = "auto",
    skip_bad: bool = False,
    **reading: Any,
) -> dict[str, Any]:
    """Score pretrained models on labelled data by what their embeddings know of it already.

    Every score is computed within each domain and averaged over the domains. Scores of one column compare models; they
    say nothing of how much training will add. Where a finished run is among them, all are scored on what no run
    has learned from. See :mod:`injerto.evaluation.transferability` for what each is.

    Args:
        data: What :func:`injerto.fit` takes.
        backbones: Names or folders; the folder of a finished run too, which then has its classifier's LEEP beside.
        on: Names of domains; all that have labels where not given.
        image_size: Pixels a side for all of them; each model's own where not given.
        max_length: Tokens a text.
        seed: Of the probe's folds.
        threads: CPU threads, all cores where not given.
        precision: ``auto``, ``fp32`` or ``bf16``.
        skip_bad: Leave out inputs that cannot be read.
        **reading: ``input``, ``label``, ``domain``, ``group`` as for :func:`injerto.load_domains`.

    Returns:
        ``data``, ``domains`` (name to number of scored examples), ``order`` and ``backbones``, best first by
        :data:`LEADING`: each with ``scores``, ``seconds`` for embedding and for every score, ``parameters`` and
        ``embedding_dim``.

    Raises:
        InjertoError: Where a model is not there, takes the other modality, or no domain has enough labels.

    Examples:
        >>> found = injerto.rank_backbones("emoji-styles", ["packaged:efficientnet-lite0"])  # doctest: +SKIP
        >>> found["backbones"][0]["scores"]["probe_accuracy"]  # doctest: +SKIP
    """
    if not backbones:
        raise InjertoError("nothing to rank: name backbones, such as --backbones packaged:efficientnet-lite0,timm:NAME")
    names = [str(name) for name in ([backbones] if isinstance(backbones, str | PathLike) else backbones)]
    if len(set(names)) < len(names):
        raise InjertoError("--backbones names a model twice; name each once")
    check_reading(reading)
    domains = load_domains(data, **reading)
    for name in filter(_is_run, names):
        domains = _unlearned(domains, Run(name))
    parts = _labelled(domains, [on] if isinstance(on, str) else on)
    whole = Domains({part.name: part for part in parts}, domains.modality, domains.name).check(skip_bad)
    parts = list(whole.values())
    for name in names if len(names) > 1 else ():  # before any of them has cost time
        if not _is_run(name):
            _check_modality(name, open_backbone(name, data).modality, domains.modality)
    found = []
    for name in names:
        found.append(_scored(name, data, parts, domains.modality, image_size, max_length, seed, threads, precision))
    found.sort(key=lambda entry: -entry["scores"][LEADING])
    return {
        "data": str(data) if isinstance(data, str | PathLike) else domains.name,
        "domains": {part.name: len(part) for part in parts},
        "seed": seed,
        "order": LEADING,
        "backbones": found,
    }


def _unlearned(domains: Domains, run: Run) -> Domains:
    """The examples that a run has not learned from or chosen a step by: it would win on those."""
    learned = {
        name
        for name, entry in (load_card(adapter_folder(run.path)).get("metrics") or {}).items()
        if entry["role"] != "unseen"
    }
    seen = {content for name, content, side in run.recorded_rows() if name in learned and side in ("train", "val")}
    parts = {
        name: domain.subset([i for i, content in enumerate(domain.contents) if content not in seen])
        for name, domain in domains.items()
    }
    before, left = (sum(map(len, some.values())) for some in (domains, parts))
    if left < before:
        note(f"{run.path} has seen {before - left} of {before} examples: all models are scored on the other {left}")
    return Domains(parts, domains.modality, domains.name, domains.problems)


def _labelled(domains: Domains, on: Sequence[str]) -> list[Domain]:
    """The labelled examples of each domain, thinned by whole groups; domains without two classes are left out."""
    parts = []
    for name in dict.fromkeys(on or domains):
        domain = domains.named(name)
        order = sorted(range(len(domain)), key=lambda i: (sha256("rank", domain.groups[i]), i))
        rows = [i for i in order if domain.labels[i] is not None][:MOST]
        part = domain.subset(sorted(rows))
        labels = [label for label in part.labels if label is not None]
        if len(set(labels)) < 2:
            note(f"{name}: fewer than two classes have labels; it is left out")
        else:
            parts.append(part)
    if not parts:
        raise InjertoError(f"{domains.name}: no domain has labels of two classes to rank models by")
    return parts


def _scored(
    name: str,
    data: Any,
    parts: Sequence[Domain],
    modality: str,
    image_size: int | None,
    max_length: int | None,
    seed: int,
    threads: int | None,
    precision: str,
) -> dict[str, Any]:
    """One model: its embeddings of every part, and the mean of each score over the parts."""
    start = time.perf_counter()
    probabilities: list[np.ndarray | None] = [None] * len(parts)
    if _is_run(name):
        run = Run(name, precision="fp32" if precision == "auto" else precision, threads=threads)
        network = run.model.backbone
        _check_modality(name, network.modality, modality)
        each = [run.embed(part) for part in parts]
        probabilities = [run.predict_proba(part) for part in parts]
    else:
        network = open_backbone(name, data, image_size, max_length)
        _check_modality(name, network.modality, modality)
        plan = inference_plan(network, precision, threads)
        values = embed_parts(network, plan, parts, f"{name}")
        each = np.split(values, np.cumsum([len(part) for part in parts])[:-1])
    seconds = {"embedding": time.perf_counter() - start}
    scores: dict[str, list[float]] = {}
    for part, features, own in zip(parts, each, probabilities, strict=True):
        classes = tuple(sorted({str(label) for label in part.labels}))
        for score, (value, spent) in score_all(features, encode(part.labels, classes), part.groups, own, seed).items():
            scores.setdefault(score, []).append(value)
            seconds[score] = seconds.get(score, 0.0) + spent
    return {
        "backbone": name,
        "embedding_dim": int(each[0].shape[1]),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "scores": {score: float(np.mean(values)) for score, values in scores.items()},
        "seconds": {what: round(spent, 3) for what, spent in seconds.items()},
    }


def _is_run(name: str) -> bool:
    return (Path(name) / "recipe.yaml").exists() or (Path(name) / "adapter_card.json").exists()


def _check_modality(name: str, takes: str, holds: str) -> None:
    if takes != holds:
        raise InjertoError(f"--backbones {name} takes {takes}s, and the data holds {holds}s")
