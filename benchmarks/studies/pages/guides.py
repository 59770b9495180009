"""The tables of the guides: alignment, gap, compare, bank."""

import json
from typing import Any

import numpy as np

from injerto.studies.answers import BOTH
from pages.parts import HERE, NOT_YET, comparisons, gain, mean_text, pairs, short, table


def pacs() -> str:
    """Photo to every other domain, two stages and all, with the target's own labels as the ceiling."""
    text = ""
    for study in ("pacs", "pacs-full"):
        rows, own, seeds = pairs(study)
        if not rows:
            continue
        names = [entry["target"] for entry in next(iter(rows.values())).values()]
        cells = []
        for (tuning, alignment), found in rows.items():
            line = [f"`{tuning}`: `none`" if alignment == "none" else f"`{alignment}`"]
            by_target = {entry["target"]: entry for entry in found.values()}
            for name in names:
                figures = by_target[name]["domains"][name]["splits"]["test"] if name in by_target else None
                line.append(f"{100 * figures['accuracy']:.1f}{gain(figures)}" if figures else "-")
            kept = [entry["domains"][entry["source"]]["splits"]["test"]["accuracy"] for entry in found.values()]
            cells.append([*line, f"{100 * np.mean(kept):.1f}"])
            last = [key for key in rows if key[0] == tuning][-1]
            if (tuning, alignment) == last and own:
                known = [f"{100 * own[name, tuning]:.1f}" if (name, tuning) in own else "-" for name in names]
                cells.append(["on the target's own labels", *known, ""])
        steps = {"pacs": 300, "pacs-full": 200}[study]
        numbers = " or ".join(map(str, seeds))
        text += f"EfficientNet-Lite0 at 128 px, own 60/20/20 splits, {steps} steps, seeds: {numbers}; target test.\n\n"
        text += table(["photo ->", *map(short, names), "source"], cells) + "\n"
    return text.rstrip("\n") + "\n"


def unseen() -> str:
    """PACS' own lists, every domain left out in turn."""
    rows: dict[Any, dict[str, Any]] = {}
    for content in comparisons("pacs-unseen"):
        for row in content["summary"]:
            name = next(one for one in row["domains"] if one not in content["source"])
            key = row["axes"]["tuning"], row["axes"]["alignment"]
            rows.setdefault(key, {})[name] = row["domains"][name]["splits"]["test"]
    names = sorted(next(iter(rows.values())))
    cells = []
    for (tuning, alignment), found in rows.items():
        line = [f"`{tuning}`, `none`" if alignment == "none" else f"`{alignment}`"]
        line += [f"{100 * found[name]['accuracy']:.1f}{gain(found[name])}" for name in names]
        cells.append([*line, f"{100 * np.mean([found[name]['accuracy'] for name in names]):.1f}"])
    return table(["accuracy on the unseen domain", *map(short, names), "mean"], cells)


def texts(name: str) -> str:
    """Every pair: accuracy without alignment, and the gains of MMD and DANN, for each tuning that was measured."""
    rows: dict[Any, dict[str, Any]] = {}
    said = []
    for study in (name, f"{name}-full"):
        found, _, seeds = pairs(study)
        rows |= found
        for tuning in dict.fromkeys(key[0] for key in found):
            said.append(f"`{tuning}` {' or '.join(map(str, seeds))}")
    if not rows:
        return NOT_YET
    keys = list(rows)
    headings = ["pair"] + [f"`{tuning}`: none" if alignment == "none" else alignment for tuning, alignment in keys]
    cells = []
    for pair in dict.fromkeys(pair for found in rows.values() for pair in found):
        line = [" -> ".join(map(short, pair.split(" -> ")))]
        for key in keys:
            if pair not in rows[key]:
                line.append("-")
                continue
            figures = rows[key][pair]["domains"][rows[key][pair]["target"]]["splits"][BOTH]
            if figures.get("gain") is None:
                line.append(f"{100 * figures['accuracy']:.1f}")
            else:
                text = f"{100 * figures['gain']:+.1f}".replace("-0.0", "+0.0")
                line.append(f"({text})" if figures["gain_low"] <= 0 <= figures["gain_high"] else text)
        cells.append(line)
    line = ["**mean** [95 %, pairs resampled]"]
    for key in keys:
        values = [entry["domains"][entry["target"]]["splits"][BOTH] for entry in rows[key].values()]
        if values[0].get("gain") is None:
            line.append(f"{100 * np.mean([figures['accuracy'] for figures in values]):.1f}")
        else:
            line.append(mean_text([figures["gain"] for figures in values]))
    return f"Seeds: {', '.join(said)}.\n\n" + table(headings, [*cells, line])


def terms() -> str:
    """All terms on all pairs of texts: mean gain, how often it is one, and the worst pair."""
    rows, _, seeds = pairs("sentiment-terms")
    cells = []
    for (_, alignment), found in rows.items():
        values = {pair: entry["domains"][entry["target"]]["splits"][BOTH] for pair, entry in found.items()}
        if alignment == "none":
            cells.append(["`none`", f"{100 * np.mean([v['accuracy'] for v in values.values()]):.1f}", "", "", ""])
            continue
        better = sum(v["gain_low"] > 0 for v in values.values())
        worse = sum(v["gain_high"] < 0 for v in values.values())
        pair, least = min(values.items(), key=lambda item: item[1]["gain"])
        mean = mean_text([v["gain"] for v in values.values()])
        cells.append([f"`{alignment}`", mean, str(better), str(worse), f"{100 * least['gain']:+.1f} ({pair})"])
    head = f"Head with neck, {len(next(iter(rows.values())))} pairs, seeds: {' or '.join(map(str, seeds))}.\n\n"
    headings = ["", "mean gain over pairs, points [95 %]", "pairs gained", "pairs lost", "worst"]
    return head + table(headings, cells)


def validators() -> str:
    """The table of `validators.md`."""
    lines = [line for line in (HERE / "validators.md").read_text().splitlines() if line.startswith("|")]
    head = "| validator | points lost with the guard | most | without the guard | most | rank correlation |"
    return "\n".join([head, *lines[1:]]) + "\n"


def selection() -> str:
    """The table of `selection.md`."""
    lines = [line for line in (HERE / "selection.md").read_text().splitlines() if line.startswith("|")]
    return "\n".join(lines) + "\n"


def rank() -> str:
    """The first table of `rank.md`: how often scores order models as fine-tuning does."""
    return (HERE / "rank.md").read_text().split("\n\n")[1] + "\n" if (HERE / "rank.md").exists() else NOT_YET


def advise() -> str:
    """Whether the first recipe of `injerto advise` was near the best row, from `advise.md`."""
    path = HERE / "advise.md"
    return path.read_text().rstrip("\n") + "\n" if path.exists() else NOT_YET


def interval() -> str:
    """How often a gain is claimed where there is none, from `interval.json`."""
    rows = json.loads((HERE / "interval.json").read_text())["rows"]
    rows = [row for row in rows if not row["shared"]]
    ratios = list(dict.fromkeys(row["ratio"] for row in rows))
    found = {(row["seeds"], row["ratio"]): f"{100 * row['as it is']:.1f}" for row in rows}
    cells = [[str(s), *(found[s, ratio] for ratio in ratios)] for s in dict.fromkeys(row["seeds"] for row in rows)]
    return table(["seeds", *(f"{ratio:g}" for ratio in ratios)], cells)


def bank() -> str:
    """What the bank costs, from `results/bank.json`."""
    rows = json.loads((HERE.parent / "results" / "bank.json").read_text())
    cells = []
    for row in rows:
        times = f"{1 / row['ratio']:.2f} [{1 / row['ratio_high']:.2f}, {1 / row['ratio_low']:.2f}]"
        peer = f"{row['peer']} {row['peer_version']}".strip()
        cells.append([row["name"], peer, times, f"{row['ours']:g}", f"{row['theirs']:g}", row["unit"]])
    heads = ["ours", "against", "our time over theirs [95 %]", "ours", "theirs", "unit"]
    return table(heads, cells) + f"\n{rows[0]['machine']}.\n"


def load() -> str:
    """What became of requests under load, from `results/load.json`."""
    found = json.loads((HERE.parent / "results" / "load.json").read_text())
    churn = f"loaded {found['loaded']:,} times and taken away {found['unloaded']:,} times"
    wrong = f"{found['wrong']} were answered by another adapter and {found['lost']} were lost"
    right = f"{found['right']:,} answers were right and {found['away']:,} said that the ninth was away"
    return (
        f"Under load, while a ninth adapter was {churn}: of {found['requests']:,} requests {wrong}; {right} "
        f"([benchmarks/load.py](../benchmarks/load.py); peak memory {found['peak_megabytes'] / 1000:.1f} GB).\n"
    )


def drift() -> str:
    """Alarms by style, and what heeding them gained, from `drift.json`."""
    seeds = json.loads((HERE / "drift.json").read_text())["seeds"]
    cells = []
    for name in ("noto", "twemoji", "fluent-3d", "openmoji-line"):
        found = [seed["alarms"][name] for seed in seeds]
        alarms, windows = (sum(one[what] for one in found) for what in ("alarms", "windows"))
        cells.append([name, f"{alarms} of {windows}"])
    before, after, kept = (100 * np.mean([seed[what] for seed in seeds]) for what in ("before", "after", "kept"))
    gained = f"{before:.1f} % before and {after:.1f} % after the second `fit`, on {kept / 100:.0f} drifted pictures"
    text = f"\nOther line drawings: {gained} (mean over {len(seeds)} seeds; [study](../benchmarks/studies/drift.py)).\n"
    return table(["pictures of", "windows that raised an alarm"], cells) + text


def campaign() -> str:
    """Attacks and how they ended, by part of the campaign."""
    path = HERE.parent / "results" / "campaign.json"
    if not path.exists():
        return NOT_YET
    content = json.loads(path.read_text())
    titles = {
        "kills": "the process is killed at a write, a rename, ...",
        "disks": "the disk is full, read-only, or fails",
        "flips": "a bit of a file flips; a file is cut or exchanged",
        "inputs": "mutated archives, pictures, tables, adapters, recipes",
        "settings": "a random walk over the settings",
        "server": "requests while adapters come, go and are replaced",
    }
    cells = []
    for name, part in content["parts"].items():
        found = part["outcomes"]
        bad = sum(found.values()) - found["same"] - found["refused"]
        cells.append([titles[name], f"{part['attacks']:,}", f"{found['same']:,}", f"{found['refused']:,}", f"{bad:,}"])
    where = f"seed {content['seed']}, {content['minutes']:g} minutes on {content['machine']}"
    headings = ["attack", "tried", "the same answer", "refused in a sentence", "anything else"]
    sittings = content["sittings"]
    begun = f"; begun at commit {sittings[0]['commit']}, {len(sittings)} sittings" if len(sittings) > 1 else ""
    return table(headings, cells) + f"\nCommit {content['commit']}, {where}{begun}.\n"
