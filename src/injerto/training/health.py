"""Did an alignment do what it is for? The domains' distance before and after, seen by judges that had no part in it."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from injerto.basics.files import sha256
from injerto.basics.progress import note
from injerto.domains.domain import Domain
from injerto.evaluation.metrics import mean_recall
from injerto.evaluation.verdict import CLASSES, FAR
from injerto.statistics.labelshift import estimate_label_shift
from injerto.statistics.twosample import two_sample_test
from injerto.tasks.probe import fit_probe
from injerto.training.watch import Watch

HELD_OUT = 300
"""Held-out examples of each domain, at most."""
LEAST = 10
"""Held-out examples of each domain below which nothing is measured; they must be of two groups or more."""
PERMUTATIONS = 200

Embeddings = Mapping[str, np.ndarray]


class Health:
    """Looks at held-out embeddings of every domain in the run, before and after; no label of a target is used."""

    def __init__(self, parts: Mapping[str, Domain], seed: int) -> None:
        """Say who is looked at.

        Args:
            parts: Held-out examples of every domain that is trained on.
            seed: The run's seed.
        """
        self.parts, self.seed = parts, seed

    def measure(self, embeddings: Embeddings) -> dict[str, Any] | None:
        """The distance of every pair of domains, and how well a fresh probe tells all of them apart.

        Args:
            embeddings: Of the held-out examples, (n, D) by domain.

        Returns:
            ``mmd``: for each pair the unbiased MMD^2 and its permutation p-value, both by groups
            (:func:`injerto.statistics.twosample.two_sample_test`); ``probe``: the balanced accuracy of a probe fitted
            on one half of the groups and tested on the other; None where there are too few.
        """
        parts = self.parts
        if len(parts) < 2 or any(len(part) < LEAST or len(set(part.groups)) < 2 for part in parts.values()):
            return None
        pairs = []
        for one, other in combinations(embeddings, 2):
            x, y = (np.ascontiguousarray(embeddings[name], np.float32) for name in (one, other))
            groups = (np.asarray(parts[one].groups), np.asarray(parts[other].groups))
            test = two_sample_test(x, y, groups=groups, draws=PERMUTATIONS, seed=self.seed)
            pairs.append({"domains": [one, other], "value": test.mmd2, "p": test.p_value})
        return {"mmd": pairs, "probe": self._probe(embeddings)}

    def _probe(self, embeddings: Embeddings) -> float:
        values = np.concatenate(list(embeddings.values())).astype(np.float32)
        domain = np.concatenate([np.full(len(part), index) for index, part in enumerate(embeddings.values())])
        groups = [group for name in embeddings for group in self.parts[name].groups]
        count = len(embeddings)
        fitted = _half(groups, domain, count, self.seed)
        found = fit_probe(values[fitted], domain[fitted], [], count, True).logits(values[~fitted]).argmax(1)
        truth = domain[~fitted]
        return mean_recall(found == truth, truth)


def _half(groups: Sequence[str], domain: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which examples a probe is fitted on (N,): whole groups, about half of every domain.

    By the hash of each group; where that leaves a domain without examples on one side, in the order of the hash to the
    side on which the group's domains have fewer.
    """
    hashes = {group: int(sha256(seed, "probe", group)[:8], 16) for group in groups}
    fitted = np.asarray([hashes[group] % 2 == 0 for group in groups])
    if all((fitted & (domain == k)).sum() >= 2 and (~fitted & (domain == k)).any() for k in range(count)):
        return fitted
    names = np.asarray(groups)
    sizes = np.zeros((2, count))
    for group in sorted(hashes, key=lambda name: (hashes[name], name)):
        own = np.bincount(domain[names == group], minlength=count)
        side = int(sizes[0][own > 0].sum() > sizes[1][own > 0].sum())
        sizes[side] += own
        fitted[names == group] = side == 1
    return fitted


def report(
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    seen: Mapping[str, float],
    shift: dict[str, float],
    domains: int,
) -> dict[str, Any]:
    """The block ``alignment`` of ``metrics.json``.

    Args:
        before: From :meth:`Health.measure`, on the pretrained embeddings.
        after: On those of the finished model.
        seen: What the last watched step showed.
        shift: Label shift of each target, estimated before training.
        domains: Number of domains that are trained on.
    """
    finite = {name: value if math.isfinite(value) else None for name, value in seen.items()}
    result: dict[str, Any] = {"last_step": finite, "label_shift": shift}
    if before and after:
        result["probe"] = {"before": before["probe"], "after": after["probe"], "chance": 1 / domains}
        result["mmd"] = [
            {
                "domains": old["domains"],
                "before": {"value": old["value"], "p": old["p"]},
                "after": {"value": new["value"], "p": new["p"]},
            }
            for old, new in zip(before["mmd"], after["mmd"], strict=True)
        ]
    return result


def label_shift(
    source: np.ndarray, labels: np.ndarray, targets: Embeddings, classes: int, groups: Sequence[str] | None = None
) -> dict[str, float]:
    """Estimated total variation between the classes' frequencies in the sources and in each target, by target.

    By two probes, each fitted on one half of the source groups and asked about the other half and the targets. Before
    an alignment: afterwards the frequencies of the guesses have been made equal, and nothing could be seen.

    Args:
        source: Embeddings of held-out source examples before training, (n, D).
        labels: Their labels (n,), -1 where there is none.
        targets: Embeddings of target examples, (m, D) by target.
        classes: Number of classes.
        groups: Group of each source example (n,); None where each is its own.
    """
    names = np.arange(len(labels)) if groups is None else np.asarray(groups)
    source, labels, names = source[labels >= 0], labels[labels >= 0], names[labels >= 0]
    _, first, place = np.unique(names, return_index=True, return_inverse=True)
    halves = np.argsort(np.argsort(first))[place] % 2  # groups take turns in the order in which they come
    if len(labels) < LEAST or any(len(np.unique(labels[halves == half])) < 2 for half in (0, 1)):
        return {}
    probes = [fit_probe(source[halves == half], labels[halves == half], [], classes) for half in (0, 1)]
    guessed = np.where(halves, *(probe.logits(source).argmax(1) for probe in probes))  # each half by the other's probe
    return {
        name: estimate_label_shift(
            guessed, labels, np.concatenate([probe.logits(values).argmax(1) for probe in probes]), classes
        )[2]
        for name, values in targets.items()
        if len(values) >= LEAST
    }


HALF = 0.5
NEAR = 0.1
FALL = 0.05
DROWNED = 10


def warn_about(
    block: dict[str, Any], terms: Mapping[str, float], watch: Watch, best: float, last: float, classes: int
) -> None:
    """Say in plain words what the numbers mean where they mean trouble.

    Args:
        block: From :func:`report`.
        terms: Names of the alignments, with the weight of each.
        watch: Says each warning once.
        best: Best accuracy on source val during the run.
        last: The last one.
        classes: Number of classes.
    """
    seen, probe = block["last_step"], block.get("probe")
    for name in terms:
        accuracy, chance = seen.get(f"{name}/discriminator"), seen.get(f"{name}/chance", 1.0)
        if accuracy is None or probe is None:
            continue
        tells = probe["after"] - probe["chance"]
        if accuracy < chance + NEAR and tells > 0.5 * (1 - probe["chance"]):
            watch.say(
                f"dead adversary {name}",
                f"{name}: its discriminator is at chance ({100 * accuracy:.0f} %), yet a fresh probe still tells the "
                f"domains apart ({100 * probe['after']:.0f} %): the adversary is weak, the embedding is not blind; use "
                f"more --steps, a higher --head-lr or a lower weight ({name}:{terms[name] / 2:g})",
            )
    unlearned = seen.get("loss/labelled", 0.0) > HALF * math.log(classes)
    if unlearned or best - last > FALL:
        _warn_of_drowning(seen, terms, watch, "they are not learned" if unlearned else "accuracy on source val fell")
    if best - last > FALL:
        watch.say(
            "negative transfer",
            f"accuracy on source val fell from {100 * best:.0f} % to {100 * last:.0f} % during the alignment: it costs "
            "what the model knew; lower its weight or use a smaller --tuning",
        )
    note(describe(block))


def warn_of_frequencies(block: dict[str, Any], matching: Sequence[str], watch: Watch) -> None:
    """Say where the classes seem to be distributed differently and a term takes them not to be.

    Between domains far apart the estimate reads a poor classifier as shift (measured: 0.4 to 0.7 where the truth is 0),
    and nothing is said.

    Args:
        block: From :func:`report`.
        matching: Names of the terms that match the classes' frequencies.
        watch: Says each warning once.
    """
    for name, value in block["label_shift"].items():
        apart = [pair["before"]["value"] for pair in block.get("mmd", ()) if name in pair["domains"]]
        if matching and value > CLASSES and max(apart, default=0.0) < FAR:
            watch.say(
                f"label shift {name}",
                f"the classes of target '{name}' may be distributed differently (estimated shift {value:.2f} of 1): if "
                f"so, {', '.join(matching)} pulls different classes together; compare with mcc, which assumes less, "
                "and with mmd(frequencies=estimated)",
            )


def _warn_of_drowning(seen: Mapping[str, float], terms: Mapping[str, float], watch: Watch, trouble: str) -> None:
    """Name the terms whose gradient at the embedding leaves the labelled loss no say."""
    own = seen.get("gradient/labelled", 0.0)
    for name, weight in terms.items():
        pull = seen.get(f"gradient/{name}", 0.0)
        if pull > DROWNED * own > 0:
            less = weight / 10 ** math.floor(math.log10(pull / own))
            watch.say(
                f"drowned by {name}",
                f"{name} pulls {pull / own:.0f} times as hard at the embedding as the labels do, and {trouble}: lower "
                f"its weight ({name}:{less:g})",
            )


def describe(block: dict[str, Any]) -> str:
    """One line for people.

    Args:
        block: From :func:`report`.
    """
    words = []
    if "probe" in block:
        probe = block["probe"]
        words.append(
            f"a fresh probe tells the domains apart {100 * probe['before']:.0f} % in the pretrained embedding, "
            f"{100 * probe['after']:.0f} % in what the head sees now (chance {100 * probe['chance']:.0f} %)"
        )
        old, new = (float(np.mean([pair[when]["value"] for pair in block["mmd"]])) for when in ("before", "after"))
        largest = max(pair["after"]["p"] for pair in block["mmd"])
        words.append(f"MMD^2 {old:.3f} -> {new:.3f} (p {largest:.3f})")
    return "alignment: " + (
        ", ".join(words)
        or f"a domain has fewer than {LEAST} held-out examples, or all of one group: their distance is not measured"
    )
