"""What the numbers of a gap mean, in plain words, and what to try first."""

from collections.abc import Mapping, Sequence
from typing import Any

from injerto.evaluation.causes import DIRECTIONS
from injerto.recipe.command import fit_command

SIGNIFICANT = 0.05
FAR = 0.1
"""MMD^2 from which two domains are called far apart."""
CLASSES = 0.25
"""Total variation from which the classes' frequencies are called different."""
LEVELS = ("same", "close", "far")
LOST = 0.15
"""Accuracy that a probe may lose on the way to the other domain before an alignment is advised between close ones."""
MOST = 4
"""Pairs that a verdict names."""


def judge_pair(pair: Mapping[str, Any], languages: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The level of one pair and why, in a sentence or two.

    Args:
        pair: Its numbers, as in ``pairs`` of :func:`injerto.evaluation.gap.measure_gap`.
        languages: Of texts: language to its share, by domain.
    """
    a, b = pair["a"], pair["b"]
    apart = "far" if pair["mmd2"] >= FAR else "close"
    level = "same" if pair["p_value"] > SIGNIFICANT else apart
    tells = 50 + 25 * pair["a_distance"]
    numbers = (
        f"MMD^2 {max(pair['mmd2'], 0.0):.3f}, p {pair['p_value']:.3f}; a classifier tells them apart {tells:.0f} %"
    )
    head = {
        "same": f"'{a}' and '{b}' look the same ({numbers})",
        "close": f"'{a}' and '{b}' are close ({numbers})",
        "far": f"'{a}' and '{b}' are far apart ({numbers})",
    }[level]
    words = [head]
    seen = [entry for entry in pair["causes"] if entry["large"]][:3]
    if seen:
        what = ", ".join(DIRECTIONS[entry["what"]][entry["effect"] > 0] for entry in seen)
        words.append(f"'{b}' is {what}")
    tongues = [next(iter(languages[name]), None) for name in (a, b) if name in languages]
    if len(tongues) == 2 and None not in tongues and tongues[0] != tongues[1]:
        words.append(f"the language is another one ({tongues[0]}, {tongues[1]})")
    shift = pair["label_shift"]
    if shift and shift["value"] > CLASSES and not (shift["estimated"] and level == "far"):
        how = "seem to be" if shift["estimated"] else "are"
        words.append(f"the classes {how} distributed differently ({100 * shift['value']:.0f} % of examples)")
    lost = _lost(pair)
    if lost:
        words.append(
            f"a probe from '{lost['from']}' is right on {100 * lost['home']:.0f} % at home and on "
            f"{100 * lost['away']:.0f} % of '{lost['to']}'"
        )
    return {"level": level, "says": "; ".join(words)}


def _lost(pair: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The probe that lost most on its way to the other domain."""
    return max(pair.get("transfer", ()), key=lambda probe: probe["home"] - probe["away"], default=None)


def choose_alignment(pair: Mapping[str, Any], modality: str = "text") -> tuple[str, str]:
    """What must match across two domains, and why; fixed on `emoji-styles` and `sentiment-domains` (docs/alignment.md).

    Args:
        pair: With its ``level`` and ``label_shift``. An estimated shift counts between close texts only: far apart, and
            on pictures, it reads a poor classifier as shift (0.4 to 0.7 on drawings where the truth is 0), and ``mmd``
            gained more than ``mcc`` on all of them.
        modality: ``image`` or ``text``.
    """
    shift, unsure = pair["label_shift"], pair["level"] == "far" or modality == "image"
    if pair["level"] == "same":
        return "none", "no difference can be seen: there is nothing to align"
    if shift and shift["value"] > CLASSES and not (shift["estimated"] and unsure):
        how = "seem to be" if shift["estimated"] else "are"
        return "mcc", f"the classes {how} distributed differently: a term that does not match their frequencies"
    return "mmd", f"the domains are {pair['level']}: pull them together while the classifier learns"


def judge_all(
    pairs: Sequence[Mapping[str, Any]],
    domains: Mapping[str, Mapping[str, Any]],
    data: str,
    given: Mapping[str, Any],
    modality: str = "text",
) -> dict[str, Any]:
    """The verdict over all pairs, and what to try first with each reason.

    Args:
        pairs: With their levels.
        domains: What is known of each domain.
        data: Its name, for commands.
        given: How it is read, for commands.
        modality: ``image`` or ``text``.
    """
    if not pairs:
        return {"verdict": "too few examples to compare anything", "advice": []}
    measured = {name for pair in pairs for name in (pair["a"], pair["b"])}
    few = [f"'{name}'" for name in domains if name not in measured]
    domains = {name: about for name, about in domains.items() if name in measured}
    far = sorted((pair for pair in pairs if pair["level"] == "far"), key=lambda pair: -pair["mmd2"])
    same = [pair for pair in pairs if pair["level"] == "same"]
    if not far:
        verdict = "the domains look the same" if len(same) == len(pairs) else "the domains are close to each other"
    else:
        odd = _odd_one_out(pairs)
        listed = ", ".join(f"'{pair['a']}' and '{pair['b']}'" for pair in far[:MOST])
        listed += f" and {len(far) - MOST} pairs more" if len(far) > MOST else ""
        verdict = f"'{odd}' is far from all others, which are closer to each other" if odd else f"far apart: {listed}"
    advice = _advice(pairs, domains, data, given, modality)
    if not advice:
        verdict += "; nothing can be trained on them yet: none has labels of two classes"
    if few:
        verdict += f" ({', '.join(few)} not measured: too few examples)"
    return {"verdict": verdict, "advice": advice}


def _odd_one_out(pairs: Sequence[Mapping[str, Any]]) -> str | None:
    """The one domain that every far pair has, where all its pairs are far and there are others."""
    names = {name for pair in pairs for name in (pair["a"], pair["b"])}
    if len(names) < 3:
        return None
    for name in sorted(names):
        if all((pair["level"] == "far") == (name in (pair["a"], pair["b"])) for pair in pairs):
            return name
    return None


def _advice(
    pairs: Sequence[Mapping[str, Any]],
    domains: Mapping[str, Mapping[str, Any]],
    data: str,
    given: Mapping[str, Any],
    modality: str,
) -> list[dict[str, str]]:
    worst = max(pairs, key=lambda pair: pair["mmd2"])
    source, target = worst["a"], worst["b"]
    learnable = [name for name, about in domains.items() if about["classes"] > 1 and not about.get("path")]
    lost = _lost(worst)
    more = domains[target]["labelled"] > domains[source]["labelled"]
    if lost and {source, target} <= set(learnable):
        source, target = lost["from"], lost["to"]  # the way of which the verdict speaks
    elif (target in learnable and more) or source not in learnable:
        source, target = target, source
    if source not in learnable:
        return []

    def entry(why: str, **settings: Any) -> dict[str, str]:
        return {"why": why, "command": fit_command(data, {**given, **settings})}

    path = domains[target].get("path")
    if worst["level"] == "same" and len(learnable) > 1:
        return [entry("learn from all labelled domains together: no difference can be seen", source=learnable)]
    if worst["level"] == "same":
        return [entry(f"no difference can be seen: what is learned from '{source}' carries over", source=source)]
    pair = {"source": source, "target": f"{target}={path}" if path else target}
    lora = {**pair, "tuning": "lora:last:2"}
    alignment, reason = choose_alignment(worst, modality)
    found = []
    pull = worst["level"] == "far" or bool(lost and lost["home"] - lost["away"] > LOST)
    if pull:
        found.append(entry(f"{reason} (the farthest pair)", **lora, alignment=alignment))
        found.append(entry("plain training: what any alignment must beat", **lora, alignment="none"))
    else:
        found.append(entry("close domains: plain training usually carries over; measure it first", **pair))
        found.append(entry(f"{reason}, where plain training does not carry over", **lora, alignment=alignment))
    looks = {cause["what"] for cause in worst["causes"] if cause["large"]}
    if looks & {"brightness", "contrast", "colour"}:
        why = "brightness, contrast or colour differ: train on pictures in which they vary"
        aligned = {**lora, "alignment": alignment} if pull else pair
        found.append(entry(why, **aligned, augment="standard"))
    if others := [name for name in learnable if name not in (source, target)]:
        why = "more labelled domains make a model that depends less on one"
        found.append(entry(why, **{**pair, "source": [source, *others]}))
    return found
