"""What a comparison found, in words: which strategy to take, what it gains, and how sure that is."""

from collections.abc import Mapping, Sequence
from typing import Any

from injerto.studies.choice import all_turned_away, in_hindsight
from injerto.studies.grid import text_of
from injerto.studies.tables import LEVEL, overrun

ORDER = ("source", "rotating", "target", "unseen")


def short(axes: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """A strategy by what sets it apart: ``lora:last:2 · mmd``.

    Args:
        axes: Axis to value.
        rows: All strategies; axes that are the same for all are not told.
    """
    told = [axis for axis in axes if axis in axes_told(rows)]
    if told == ["alignment"] and axes["alignment"] == "none":
        return "no alignment"
    return " \u00b7 ".join(text_of(axes[axis]) for axis in told)


def axes_told(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The axes that set strategies apart; all where there is only one.

    Args:
        rows: The strategies.
    """
    axes = list(rows[0]["axes"])
    return [axis for axis in axes if len({text_of(row["axes"][axis]) for row in rows}) > 1] or axes


def focus(content: Mapping[str, Any]) -> list[str]:
    """The domains that the comparison is about: its targets, else what is unseen, else its sources.

    Args:
        content: Of ``results.json``.
    """
    roles: dict[str, set[str]] = {}
    for row in content["summary"]:
        for name, entry in row["domains"].items():
            if _accuracy(row, name) is not None:
                roles.setdefault(name, set()).add(entry["role"])
    for role in ("target", "unseen", "source"):
        found = [name for name, own in roles.items() if role in own]
        if found:
            return found
    return []


def _figures(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    splits = row["domains"].get(name, {}).get("splits", {})
    found: Mapping[str, Any] = splits.get("test") or splits.get("val") or {}
    return found


def _accuracy(row: Mapping[str, Any], name: str) -> float | None:
    return _figures(row, name).get("accuracy")


def headline(content: Mapping[str, Any]) -> str:
    """The verdict in a sentence.

    Args:
        content: Of ``results.json``.
    """
    if content.get("left_out"):
        return _headline_left_out(content)
    names = focus(content)
    done = [row for row in content["summary"] if row["seeds"]]
    if not done or not names:
        return "No run is finished yet" if not done else "No domain with labels was left to test on"
    if content["kind"] == "run":
        return f"{_name(content, done[0])}: {_listed(done[0], names)}"
    row = _chosen(content, done)
    if row is None:
        best = max(done, key=lambda one: _accuracy(one, names[0]) or 0.0)
        return f"With hindsight, {_name(content, best)} is best on {names[0]}: {_percent(_figures(best, names[0]))}"
    name, reached = _name(content, row), _listed(row, names)
    choice = content.get("choice") or {}
    if choice and all_turned_away(choice):
        return f"No strategy passed the guard; {name}, best on the source, reaches {reached}"
    if not row["baseline"]:
        return f"The plain way is chosen: {name} reaches {reached}"
    gains = [figures for one in names if (figures := _figures(row, one)).get("gain") is not None]
    if gains and all(map(_better, gains)):
        gained = 100 * sum(figures["gain"] for figures in gains) / len(gains)
        return f"Take {name}: {reached}, {gained:+.1f} points over {_base(content, row)}"
    return f"{name} is chosen, with {reached}; its gain over {_base(content, row)} is not sure"


def verdict(content: Mapping[str, Any]) -> list[str]:
    """What stands below the headline: how the strategy was chosen, its gain, and the best one with hindsight.

    Args:
        content: Of ``results.json``.
    """
    if content.get("left_out"):
        return [*_verdict_left_out(content), *_failed(content)]
    done = [row for row in content["summary"] if row["seeds"]]
    names = focus(content)
    if content["kind"] == "run" or not done or not names:
        return []
    lines = []
    row = _chosen(content, done)
    choice = content.get("choice")
    if choice and row is not None:
        how, blind = choice.get("validator") or choice["rule"], "without looking at a label of another domain"
        count, away = len(choice["scores"]), len(choice["turned_away"])
        if all_turned_away(choice):
            lines.append(
                f"The guard of {how} turned all {count} strategies away (collapsed, or the source is forgotten): "
                "none of them is to be trusted on the target."
            )
        else:
            said = f", {away} turned away by its guard" if away else ""
            lines.append(f"Chosen by {how} among {count} strategies{said}, {blind}.")
    for name in names:
        if row is None or not row["baseline"]:
            break
        lines.append(_gain(_figures(row, name), name, content, row))
    for name in names if row is not None else ():
        assert row is not None
        if found := in_hindsight(content["rows"], row["row"], name):
            best = next(one for one in done if one["row"] == found[0])
            better = f"{_name(content, best)} is better on {name} by {100 * found[1]:.1f} points"
            lines.append(f"With hindsight (oracle) {better}, on the seeds that both have{_unsure(best, name, row)}.")
    return [*lines, *_failed(content)]


def _unsure(best: Mapping[str, Any], name: str, row: Mapping[str, Any]) -> str:
    """That a difference is none, where its interval is known and holds 0."""
    figures = _figures(best, name)
    known = best["baseline"] == row["row"] and figures.get("gain") is not None
    return "; that is no sure difference" if known and not _better(figures) else ""


def _failed(content: Mapping[str, Any]) -> list[str]:
    failed = sum(len(one["failed"]) for one in content["summary"])
    lines = [f"{failed} run{'s' * (failed > 1)} failed; the table says why."] if failed else []
    done = sum(one["status"] == "ok" for one in content["rows"])
    if content["kind"] != "run" and done < content["planned"]:
        lines.append(f"Not finished: {done} of {content['planned']} runs are there.")
    lines += [f"{line[0].upper()}{line[1:]}." for line in overrun(content)]
    if dropped := content.get("dropped"):
        lines.append(
            f"To keep the budget {len(dropped)} strategies were dropped before their last seed, by the same rule."
        )
    return lines


def _rotated(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[Mapping[str, Any]], Mapping[str, Any] | None]:
    """Strategies in place of rows, those with a mean over all domains, and the one that is chosen for every domain."""
    found = content["left_out"]
    done = [row for row in found["rows"] if row["seeds"]]
    chosen = set((found["choice"] or {"rows": {}})["rows"].values())
    row = next((row for row in done if len(chosen) == 1 and row["row"] in chosen), None)
    return {**content, "summary": found["rows"]}, done, row


def _headline_left_out(content: Mapping[str, Any]) -> str:
    content, done, row = _rotated(content)
    choice = content["left_out"]["choice"]
    if not done:
        return "No strategy is finished on all domains yet"
    if row is None and choice and choice["accuracy"] is not None:
        return f"Chosen for each domain left out, strategies reach {_percent(choice)} on average"
    if row is None:
        best = max(done, key=lambda one: one["mean"]["accuracy"])
        return (
            f"With hindsight, {_name(content, best)} is best: {_percent(best['mean'])} on average on domains left out"
        )
    name, reached = _name(content, row), f"{_percent(row['mean'])} on average on domains left out"
    if not row["baseline"]:
        return f"The plain way is chosen: {name} reaches {reached}"
    if row["mean"].get("gain") is not None and _better(row["mean"]):
        return f"Take {name}: {reached}, {100 * row['mean']['gain']:+.1f} points over {_base(content, row)}"
    return f"{name} is chosen, with {reached}; its gain over {_base(content, row)} is not sure"


def _verdict_left_out(content: Mapping[str, Any]) -> list[str]:
    content, done, row = _rotated(content)
    choice, lines = content["left_out"]["choice"], []
    short_of = {one["row"]: _name(content, one) for one in done}
    if not done:
        return []
    if choice:
        named = "; ".join(f"{name}: {short_of.get(label, label)}" for name, label in choice["rows"].items())
        lines.append(f"Chosen by accuracy on source val, without looking at the domain left out: {named}.")
    if row is not None and row["baseline"]:
        lines.append(_gain(row["mean"], "average", content, row))
    best = max(done, key=lambda one: one["mean"]["accuracy"])
    if choice and best is not row:
        lines.append(
            f"With hindsight (oracle) the best on average is {_name(content, best)}: {_percent(best['mean'])}."
        )
    return lines


def _name(content: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    return short(row["axes"], content["summary"])


def _chosen(content: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    wanted = (content.get("choice") or {}).get("row")
    return next((row for row in done if row["row"] == wanted), None)


def _better(figures: Mapping[str, Any]) -> bool:
    corrected = figures.get("p_adjusted")
    return figures["gain_low"] > 0 and (corrected is None or corrected < LEVEL)


def _gain(figures: Mapping[str, Any], name: str, content: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    if figures.get("gain") is None:
        return f"On {name} there is no gain to tell: it was not tested on the same examples as {_base(content, row)}."
    text = f"{100 * figures['gain']:+.1f} points [{100 * figures['gain_low']:+.1f}, {100 * figures['gain_high']:+.1f}]"
    said = f"On {name}: {text} over {_base(content, row)}"
    corrected = figures.get("p_adjusted")
    if corrected is not None:
        said += f", p = {corrected:.3f} after Holm's correction"
    return said + ("." if _better(figures) else ": that is no sure gain." if figures["gain_high"] > 0 else ": a loss.")


def _base(content: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    base = next((one for one in content["summary"] if one["row"] == row["baseline"]), None)
    if base is None:
        return "the first row"
    same = {**row["axes"], "alignment": "none"} == dict(base["axes"])
    return "the same without alignment" if same else _name(content, base)


def _listed(row: Mapping[str, Any], names: Sequence[str]) -> str:
    return " and ".join(
        f"{_percent(_figures(row, name))} on {name}" for name in names[:3] if _accuracy(row, name) is not None
    )


def _percent(figures: Mapping[str, Any]) -> str:
    return f"{100 * figures['accuracy']:.1f} %"
