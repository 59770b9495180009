"""How far apart domains are, before anything is trained: a number with its uncertainty, plain causes, a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from os import PathLike
from typing import Any

import numpy as np

from injerto.backbones.backbone import Backbone
from injerto.backbones.load import load_backbone
from injerto.basics.errors import InjertoError
from injerto.basics.files import sha256
from injerto.basics.progress import note, progress, warn
from injerto.compute.embedding import embed_parts, open_backbone
from injerto.compute.inference import inference_plan
from injerto.domains.check import no_classes
from injerto.domains.domain import Domain, Domains
from injerto.domains.elsewhere import named_in, paths_elsewhere
from injerto.domains.load import check_reading, load_domains
from injerto.evaluation.causes import Vocabulary, differences, look_at
from injerto.evaluation.metrics import mean_recall
from injerto.evaluation.verdict import judge_all, judge_pair
from injerto.recipe.defaults import BACKBONES
from injerto.statistics.distance import a_distance, frechet_distance
from injerto.statistics.labelshift import estimate_label_shift
from injerto.statistics.twosample import two_sample_test
from injerto.tasks.probe import Probe, fit_probe

LARGEST = 999.0
"""An effect is cut here: where each side is one point it is infinite."""
LEAST = 10
"""Groups of examples in a domain below which its distance to others is not measured."""


@dataclass(frozen=True)
class Gap:
    """What :func:`measure_gap` found.

    Attributes:
        content: Ready for JSON: ``domains``, ``pairs``, ``verdict``, ``advice`` and how they were measured.
        domains: What was measured.
        embeddings: float32 (n, D) by domain.
    """

    content: dict[str, Any]
    domains: Domains
    embeddings: dict[str, np.ndarray]

    def __repr__(self) -> str:
        """The verdict, not all numbers."""
        return f"<Gap {self.content['data']!r}, {len(self.content['pairs'])} pairs: {self.content['verdict']}>"


def measure_gap(
    data: Any,
    *,
    on: str | Sequence[str] = (),
    backbone: Any = None,
    image_size: int | None = None,
    max_length: int | None = None,
    seed: int = 0,
    draws: int = 200,
    threads: int | None = None,
    precision: str = "auto",
    skip_bad: bool = False,
    **reading: Any,
) -> Gap:
    """Measure how far apart the domains of some data are, as a pretrained model sees them.

    For every pair: MMD^2 with a permutation test, its size and interval
    (:func:`injerto.statistics.twosample.two_sample_test`), the proxy A-distance, the Frechet distance, the shift of the
    classes' frequencies (known where both have labels, else estimated), what a person would see (brightness, colour,
    length, words ...), and, where both have labels, how a probe of one does on the other. Embeddings come from the same
    cache as a run's.

    Args:
        data: What :func:`injerto.fit` takes.
        on: Names of domains, or ``NAME=PATH`` for one that comes from elsewhere; all of the data's where not given.
        backbone: A name, a folder or any ``nn.Module``; the modality's default where not given.
        image_size: Pixels a side.
        max_length: Tokens a text.
        seed: Of permutations, folds and resampling.
        draws: Permutations of each test.
        threads: CPU threads, all cores where not given.
        precision: ``auto``, ``fp32`` or ``bf16``.
        skip_bad: Leave out inputs that cannot be read.
        **reading: ``input``, ``label``, ``domain``, ``group`` as for :func:`injerto.load_domains`.

    Returns:
        The measured gap; ``gap.content`` is what ``injerto gap --json`` prints.

    Raises:
        InjertoError: Where there are fewer than two domains, or none has enough examples.

    Examples:
        >>> gap = injerto.measure_gap("emoji-styles")  # doctest: +SKIP
        >>> print(gap.content["verdict"])  # doctest: +SKIP
    """
    check_reading(reading)
    items = [on] if isinstance(on, str) else list(on)
    elsewhere = paths_elsewhere(items, "--on")
    domains = load_domains(data, **reading, extra=elsewhere)
    chosen = {name: domains[name] for name in dict.fromkeys(named_in(domains, items, "--on") or domains)}
    if len(chosen) < 2 and len(domains) > 1:
        others = ", ".join(f"'{name}'" for name in domains if name not in chosen)
        raise InjertoError(f"a gap is between two domains or more, and --on names one; there are also {others}")
    if len(chosen) < 2:
        raise InjertoError(
            f"a gap is between two domains or more, and {domains.name} has {', '.join(chosen)} only; a folder of "
            "pictures is read as DOMAIN/CLASS/PICTURE, a table by --domain; --on NAME=PATH adds a domain from elsewhere"
        )
    domains = Domains(chosen, domains.modality, domains.name, domains.problems, domains.used).check(skip_bad)
    labels = [label for domain in domains.values() for label in domain.labels if label is not None]
    if why := no_classes(labels, domains.used.get("label"), reading.get("label") is not None):
        warn(f"{why}; the labels are left out")
        blank = {name: replace(domain, labels=(None,) * len(domain)) for name, domain in domains.items()}
        domains = Domains(blank, domains.modality, domains.name, domains.problems)
    if backbone is None or isinstance(backbone, str | PathLike):
        network = open_backbone(str(backbone or BACKBONES[domains.modality]), data, image_size, max_length)
    else:
        network = backbone if isinstance(backbone, Backbone) else load_backbone(backbone, image_size=image_size)
        if network is backbone:
            network.identify()  # it may have been trained since it was loaded
    if network.modality != domains.modality:
        raise InjertoError(f"{domains.name} holds {domains.modality}s, and {network.spec} takes {network.modality}s")
    plan = inference_plan(network, precision, threads)
    names = list(domains)
    values = embed_parts(network, plan, list(domains.values()), f"{domains.modality}s of {len(names)} domains")
    ends = np.cumsum([len(domains[name]) for name in names])
    embeddings = dict(zip(names, np.split(values, ends[:-1]), strict=True))
    shown = str(data) if isinstance(data, str | PathLike) else domains.name
    sizes = {"image_size": image_size, "max_length": max_length, "skip_bad": skip_bad}
    named = str(backbone) if isinstance(backbone, str | PathLike) else None
    given = {"backbone": named, **sizes, **reading}
    content = _content(domains, embeddings, seed, draws)
    for name, path in elsewhere.items():
        content["domains"][name]["path"] = path
    content |= judge_all(content["pairs"], content["domains"], shown, given, domains.modality)
    about = {"data": shown, "modality": domains.modality, "backbone": network.spec, "seed": seed}
    return Gap({**about, "preprocessing": network.preprocessing.card(), **content}, domains, embeddings)


def _content(domains: Domains, embeddings: Mapping[str, np.ndarray], seed: int, draws: int) -> dict[str, Any]:
    large = [name for name in domains if len(set(domains[name].groups)) >= LEAST]
    for name in set(domains) - set(large):
        what = "different examples" if len(domains[name]) < LEAST else "groups (examples that belong together are one)"
        note(f"{name}: fewer than {LEAST} {what}; its distance to others is not measured")
    looks = {name: look_at(domains[name], domains.modality) for name in domains}
    words = {name: Vocabulary(domains[name]) for name in domains} if domains.modality == "text" else {}
    probes = {name: probe for name in large if (probe := _Home.of(domains[name], embeddings[name], seed))}
    pairs = []
    all_pairs = list(combinations(large, 2))
    with progress("comparing", len(all_pairs), "pairs") as bar:
        for a, b in all_pairs:
            pair = {"a": a, "b": b, **_distances(domains[a], domains[b], embeddings[a], embeddings[b], seed, draws)}
            pair["label_shift"] = _label_shift(domains[a], domains[b], embeddings[a], embeddings[b], probes)
            pair["transfer"] = _transfer(domains, embeddings, probes, a, b)
            pair["causes"] = differences(looks[a], looks[b])
            if words:
                pair["words"] = {"of_b_in_a": words[a].covers(words[b]), "of_a_in_b": words[b].covers(words[a])}
            pairs.append(pair | judge_pair(pair, {name: words[name].languages for name in (a, b)} if words else {}))
            bar.advance()
    about = {
        name: {
            "n": len(domain),
            "labelled": sum(label is not None for label in domain.labels),
            "classes": len({label for label in domain.labels if label is not None}),
            "looks": {what: float(values.mean()) if len(values) else None for what, values in looks[name].items()},
            **({"languages": words[name].languages} if words else {}),
        }
        for name, domain in domains.items()
    }
    return {"domains": about, "pairs": pairs}


def _distances(a: Domain, b: Domain, x: np.ndarray, y: np.ndarray, seed: int, draws: int) -> dict[str, Any]:
    groups = (np.asarray(a.groups), np.asarray(b.groups))
    test = tested = two_sample_test(x, y, groups=groups, draws=draws, seed=seed)
    both = set(a.contents) & set(b.contents)
    if both:  # what both hold says nothing of a difference, and may hide it: the hypothesis is tested on the rest
        note(f"{a.name} and {b.name}: {len(both)} examples are in both")
        keep, other = _without(a, both), _without(b, both)
        rest = (groups[0][keep], groups[1][other])
        tested = two_sample_test(x[keep], y[other], groups=rest, draws=draws, seed=seed)
    apart, frechet = a_distance(x, y, groups=groups, seed=seed), frechet_distance(x, y)
    return {
        "n": [len(a), len(b)],
        "mmd2": test.mmd2,
        "mmd2_low": test.low,
        "mmd2_high": test.high,
        "mmd2_estimator": test.estimator,
        "mmd2_error": test.error,
        "p_value": tested.p_value,
        "paired": tested.paired,
        "in_both": len(both),
        "effect": float(np.clip(test.effect, -LARGEST, LARGEST)),
        "a_distance": apart.value,
        "a_distance_low": apart.low,
        "a_distance_high": apart.high,
        "frechet": frechet.distance,
        "frechet_relative": frechet.relative,
    }


def _without(domain: Domain, both: set[str]) -> np.ndarray:
    """Rows that another domain does not hold; all where too few would be left."""
    rows = np.asarray([row for row, content in enumerate(domain.contents) if content not in both], dtype=np.int64)
    return rows if len({domain.groups[row] for row in rows}) >= LEAST else np.arange(len(domain))


@dataclass(frozen=True)
class _Home:
    """A probe on one half of a domain's groups, and what is left to test it on."""

    probe: Probe
    classes: list[str]
    held_out: np.ndarray
    fitted: frozenset[str]

    @staticmethod
    def of(domain: Domain, values: np.ndarray, seed: int) -> "_Home | None":
        known = np.asarray([label is not None for label in domain.labels])
        half = np.asarray([int(sha256(seed, "gap", group)[:8], 16) % 2 == 0 for group in domain.groups])
        classes = sorted({str(label) for label in np.asarray(domain.labels, dtype=object)[known & half]})
        if len(classes) < 2 or not (known & ~half).any():
            return None
        labels = np.asarray([classes.index(str(label)) for label in np.asarray(domain.labels, object)[known & half]])
        probe = fit_probe(values[known & half], labels, [], len(classes))
        fitted = frozenset(group for group, inside in zip(domain.groups, half, strict=True) if inside)
        return _Home(probe, classes, np.flatnonzero(known & ~half), fitted)

    def accuracy(self, domain: Domain, values: np.ndarray, rows: np.ndarray) -> float | None:
        """Balanced over the classes that the probe knows; None where there are none."""
        rows = np.asarray([row for row in rows if domain.labels[row] in self.classes], dtype=np.int64)
        if not len(rows):
            return None
        truth = np.asarray([self.classes.index(str(domain.labels[row])) for row in rows])
        return mean_recall(self.probe.logits(values[rows]).argmax(axis=1) == truth, truth)


def _transfer(
    domains: Mapping[str, Domain], embeddings: Mapping[str, np.ndarray], probes: Mapping[str, _Home], a: str, b: str
) -> list[dict[str, Any]]:
    """How a probe of each domain does at home and away, on examples whose groups it never saw; oracle numbers."""
    found = []
    for one, other in ((a, b), (b, a)):
        if one not in probes or not any(label is not None for label in domains[other].labels):
            continue
        home = probes[one]
        away = domains[other]
        rows = [i for i, (y, g) in enumerate(zip(away.labels, away.groups, strict=True)) if y and g not in home.fitted]
        entry = {
            "from": one,
            "to": other,
            "home": home.accuracy(domains[one], embeddings[one], home.held_out),
            "away": home.accuracy(away, embeddings[other], np.asarray(rows, dtype=np.int64)),
            "oracle": True,
        }
        if entry["away"] is not None:
            found.append(entry)
    return found


def _label_shift(
    a: Domain, b: Domain, x: np.ndarray, y: np.ndarray, probes: Mapping[str, _Home]
) -> dict[str, Any] | None:
    """Total variation between the classes' frequencies: counted where both have labels, else estimated."""
    counted = [np.asarray([str(label) for label in part.labels if label is not None]) for part in (a, b)]
    if all(len(labels) >= LEAST for labels in counted):
        classes = sorted(set(counted[0]) | set(counted[1]))
        shares = [np.asarray([(labels == name).mean() for name in classes]) for labels in counted]
        return {"value": float(np.abs(shares[0] - shares[1]).sum() / 2), "estimated": False}
    for one, values, other in ((a, x, y), (b, y, x)):
        home = probes.get(one.name)
        if home is None:
            continue
        rows = np.asarray([row for row in home.held_out if one.labels[row] in home.classes], dtype=np.int64)
        truth = np.asarray([home.classes.index(str(one.labels[row])) for row in rows], dtype=np.int64)
        guessed, away = (home.probe.logits(part).argmax(axis=1) for part in (values[rows], other))
        shift = estimate_label_shift(guessed, truth, away, len(home.classes))[2]
        return {"value": shift, "estimated": True, "from": one.name}
    return None
