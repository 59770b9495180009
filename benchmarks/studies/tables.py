"""The tables of the pages, out of the committed results beside this file.

    python benchmarks/studies/tables.py

Rewrites what stands between `<!-- NAME -->` and `<!-- /NAME -->` in the pages, so that no figure there is typed.
"""

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.files import write_text
from injerto.basics.progress import format_bytes
from injerto.recipe.defaults import defaults_for
from injerto.recipe.recipe import make_recipe
from injerto.statistics.bootstrap import bootstrap_interval
from injerto.studies.answers import BOTH
from injerto.studies.tables import gain_text

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
NAMES = {"art_painting": "art", "kitchen_housewares": "kitchen"}


def comparisons(study: str) -> list[dict[str, Any]]:
    """The comparisons of a study of `alignment.py`; none where it was not done."""
    path = HERE / f"alignment-{study}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())["comparisons"] if path.exists() else []
    return found


def gain(figures: dict[str, Any]) -> str:
    """` (+7.5 [4.8, 10.4])`, or `(none: ...)` where the interval holds 0."""
    text = gain_text(figures)
    return "" if text == "-" else f" (none: {text[1:-1]})" if text.startswith("(") else f" ({text})"


def table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def short(name: str) -> str:
    return NAMES.get(name, name)


def pairs(study: str) -> tuple[dict[Any, dict[str, Any]], dict[Any, float], list[int]]:
    """Rows by (tuning, alignment) and then pair; accuracy on a target's own labels; how many seeds."""
    rows: dict[Any, dict[str, Any]] = {}
    own: dict[Any, float] = {}
    seeds = set()
    for content in comparisons(study):
        seeds.add(len(content["seeds"]))
        for row in content["summary"]:
            tuning, alignment = row["axes"]["tuning"], row["axes"].get("alignment", "none")
            if content["target"]:
                (source,), (target,) = content["source"], content["target"]
                entry = {"domains": row["domains"], "source": source, "target": target}
                rows.setdefault((tuning, alignment), {})[f"{source} -> {target}"] = entry
            else:
                (name,) = content["source"]
                own[name, tuning] = row["domains"][name]["splits"]["test"]["accuracy"]
    return rows, own, sorted(seeds)


def mean_text(values: list[float]) -> str:
    """A mean over pairs with its interval, pairs resampled; in brackets where it holds 0."""
    mean = float(np.mean(values))
    low, high = bootstrap_interval(np.asarray(values), np.arange(len(values)))
    text = f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]".replace("-0.0", "+0.0")
    return f"({text})" if low <= 0 <= high else text


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
        return "Not measured yet.\n"
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


def interval() -> str:
    """How often a gain is claimed where there is none, from `interval.json`."""
    rows = json.loads((HERE / "interval.json").read_text())["rows"]
    ratios = list(dict.fromkeys(row["ratio"] for row in rows))
    found = {(row["seeds"], row["ratio"]): f"{100 * row['as it is']:.1f}" for row in rows}
    cells = [[str(s), *(found[s, ratio] for ratio in ratios)] for s in dict.fromkeys(row["seeds"] for row in rows)]
    return table(["seeds", *(f"{ratio:g}" for ratio in ratios)], cells)


def in_words(language: str, english: str, spanish: str) -> str:
    """A heading of a page in English or Spanish."""
    return {"en": english, "es": spanish}[language]


def role_name(language: str, role: str) -> str:
    """A domain's role in the page's language."""
    return role if language == "en" else {"source": "origen", "target": "objetivo", "unseen": "no visto"}[role]


def demo(language: str = "en") -> str:
    """What `injerto demo` found, from its `results.json` (without the single runs)."""
    content = json.loads((HERE / "demo.json").read_text())
    (target,) = content["target"]
    names = sorted(content["summary"][0]["domains"], key=lambda name: (name not in content["source"], name != target))
    roles = {name: role_name(language, entry["role"]) for name, entry in content["summary"][0]["domains"].items()}
    headings = [
        in_words(language, "tuning", "ajuste"),
        in_words(language, "alignment", "alineación"),
        *(f"{name} ({roles[name]})" for name in names),
        in_words(language, "gain on the target", "ganancia en el objetivo"),
        in_words(language, "adapter", "adaptador"),
    ]
    cells = []
    for row in content["summary"]:
        figures = {name: row["domains"][name]["splits"]["test"] for name in names}
        line = [f"`{row['axes']['tuning']}`", f"`{row['axes']['alignment']}`"]
        line += [f"{100 * figures[name]['accuracy']:.1f} %" for name in names]
        cells.append([*line, gain(figures[target]).strip(" ()"), format_bytes(row["adapter_bytes"])])
    return table(headings, cells)


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


FEWSHOT = {
    "emoji": "`emoji-styles`, from noto",
    "pacs": "PACS, from photo",
    "sentiment": "`sentiment-domains`, from movies",
}
"""Studies of `fewshot.py`."""
LORA = FEWSHOT | {"sentiment-all": "`sentiment-domains`, from all four"}
"""Studies of `lora.py`."""


def bold(figures: dict[str, Any]) -> str:
    """A gain in points, bold where its interval leaves out 0."""
    text = f"{100 * figures['gain']:+.1f}".replace("-0.0", "+0.0")
    return text if figures["gain_low"] <= 0 <= figures["gain_high"] else f"**{text}**"


def most(seeds: set[int]) -> str:
    """From how few to how many seeds."""
    return f"{' to '.join(map(str, sorted({min(seeds), max(seeds)})))} seeds"


def few_shots(tuning: str) -> str:
    """One tuning by examples a class: on new data of the source, and on domains no run has seen."""
    cells, seeds = [], set()
    for study, title in FEWSHOT.items():
        found = json.loads((HERE / f"fewshot-{study}.json").read_text())["shots"]
        shots, line = list(found), [title]
        seeds.update(len(entry["seeds"]) for entry in found.values())
        for name in shots:
            pair = [found[name]["rows"][tuning][part] for part in ("new", "others")]
            known = tuning == "head"
            line.append(", ".join(f"{100 * f['accuracy']:.0f} %" if known else bold(f) for f in pair))
        cells.append(line)
    what = "Accuracy of the probe" if tuning == "head" else f"Points that `{tuning}` gains over the probe"
    said = "" if tuning == "head" else "; **bold**: the 95 % interval of the paired gain leaves out 0"
    text = f"{what}: on new data of the source, and on domains that no run has seen. {most(seeds)}{said}."
    return (
        textwrap.fill(text, 124)
        + "\n\n"
        + table(["", *(f"{name} a class" if name != "all" else "all" for name in shots)], cells)
    )


def low_rank() -> str:
    """LoRA against everything moving: what is trained, shipped and lost."""
    cells, seeds = [], set()
    for study, title in LORA.items():
        content = json.loads((HERE / f"lora-{study}.json").read_text())
        found = content["rows"]
        seeds.add(len(content["seeds"]))
        for name in ("lora", "lora:last:2"):
            if name not in found:
                continue
            row = found[name]
            trained = f"{100 * row['size']['trainable'] / row['size']['total']:.1f} %"
            parts = [gain(row[part]).strip(" ()") if part in row else "-" for part in ("new", "others")]
            seconds = f"{row['seconds']:.0f} / {found['full']['seconds']:.0f}"
            cells.append([title, f"`{name}`", trained, format_bytes(row["size"]["bytes"]), *parts, seconds])
    heads = ["", "", "trained", "ships", "new data, points over `full`", "unseen domains", "seconds / `full`'s"]
    text = f"{most(seeds)}; the paired difference to `full` with its 95 % interval (none: the interval holds 0).\n\n"
    return text + table(heads, cells)


def settings(tuning: str) -> str:
    """What a tuning's settings are where they are not given, with some hundred labelled examples."""
    names = ["lr", "head_lr", "epochs", "batch_size", "weight_decay", "augment", "views"]
    if tuning == "head":
        names.remove("lr")
    recipes = [make_recipe(data="", tuning=tuning).resolved(modality, examples=500) for modality in ("image", "text")]
    cells = []
    for name in names:
        values = [getattr(recipe, name) for recipe in recipes]
        line = [value if isinstance(value, str) else f"{value:g}" for value in values]
        cells.append([f"`--{name.replace('_', '-')}`", *line])
    least = [defaults_for(modality, recipes[0].tuning_spec.kind).least_steps for modality in ("image", "text")]
    cells.append(["steps, at least", *map(str, least)])
    return table(["where it is not given", "pictures", "texts"], cells)


ALIGNED = (
    ("emoji", "head", "head"),
    ("emoji-lora", "lora:last:2", "lora:last:2"),
    ("emoji-full", "full", "full"),
    ("pacs", "last:2", "last:2"),
)
"""Studies whose pairs have a row of their own: study, tuning, how the tuning is named."""
MEANS = (
    ("sentiment-terms", "head", "`sentiment-domains`, mean of 12 pairs"),
    ("reviews", "head", "reviews of FDU-MTL, mean of 4 pairs"),
)
"""Studies of which the mean over pairs is shown."""


def aligned(*terms: str) -> str:
    """What terms gain over the same run without them, on every target they were measured on."""
    cells, seeds = [], set()
    for study, tuning, named in ALIGNED:
        found, _, counts = pairs(study)
        for pair, entry in found[tuning, "none"].items():
            rows = [found.get((tuning, term), {}).get(pair) for term in terms]
            if not rows[0]:
                continue
            seeds.update(counts)
            figures = [row["domains"][row["target"]]["splits"]["test"] if row else None for row in (entry, *rows)]
            plain = f"{100 * figures[0]['accuracy']:.1f}"
            gains = [gain_text(one) if one else "-" for one in figures[1:]]
            title = " -> ".join(map(short, pair.split(" -> ")))
            cells.append([title, f"`{named}`", plain, *(text.replace("-0.0", "+0.0") for text in gains)])
    for study, tuning, title in MEANS:
        found, _, counts = pairs(study)
        if (tuning, terms[0]) not in found:
            continue
        seeds.update(counts)
        values = {
            term: [one["domains"][one["target"]]["splits"][BOTH] for one in found.get((tuning, term), {}).values()]
            for term in ("none", *terms)
        }
        plain = f"{100 * np.mean([one['accuracy'] for one in values['none']]):.1f}"
        gains = [mean_text([one["gain"] for one in values[term]]) if values[term] else "-" for term in terms]
        cells.append([title, f"`{tuning}`", plain, *gains])
    text = (
        "Accuracy on the target without alignment, and the points a term adds to it with the 95 % interval, paired; "
        f"(in round brackets: the interval holds 0). {most(seeds)}; all are oracle numbers, "
        "used for nothing but this table."
    )
    return (
        textwrap.fill(text, 124)
        + "\n\n"
        + table(["source -> target", "tuning", "`none`", *(f"`{term}`" for term in terms)], cells)
    )


def method_blocks() -> dict[tuple[str, str], str]:
    """The tables of the pages of docs/methods."""
    found = {}
    for page, tuning in (("head", "head"), ("last", "last:2"), ("gradual",) * 2, ("lp-ft",) * 2, ("full",) * 2):
        found[f"methods/{page}.md", "measured"] = few_shots(tuning)
        found[f"methods/{page}.md", "defaults"] = settings(tuning)
    found["methods/lora.md", "measured"] = low_rank()
    found["methods/lora.md", "defaults"] = settings("lora")
    found["methods/mmd.md", "measured"] = aligned("mmd", "lmmd", "mmd(frequencies=estimated)")
    found["methods/coral.md", "measured"] = aligned("coral")
    found["methods/dann.md", "measured"] = aligned("dann", "cdan", "cdan-e")
    found["methods/mcc.md", "measured"] = aligned("mcc", "mmd+mcc")
    found["methods/self-training.md", "measured"] = aligned("self-training", "mmd+self-training", "mmd")
    return found


NOT_YET = "Not measured yet.\n"


def lesson(part: str, name: str) -> Any:
    """A part of `lesson.json`; None where it was not run."""
    path = HERE / "lesson.json"
    found = json.loads(path.read_text())[part] if path.exists() else {}
    return found.get(name) if found else None


def count(language: str, value: int) -> str:
    """`3,381,256`; in Spanish with (unbreakable) spaces, from five digits on."""
    if language == "en":
        return f"{value:,}"
    return str(value) if value < 10_000 else f"{value:,}".replace(",", "\N{NO-BREAK SPACE}")


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def within(figures: dict[str, Any]) -> str:
    """`78.4 % [70.3, 86.5]`."""
    return f"{percent(figures['accuracy'])} [{100 * figures['low']:.1f}, {100 * figures['high']:.1f}]"


def lesson_transfer(language: str) -> str:
    """One network with random and with pretrained weights."""
    names = {
        "untrained": in_words(language, "random weights", "pesos aleatorios"),
        "probe": in_words(language, "pretrained weights", "pesos preentrenados"),
    }
    runs = {name: lesson("runs", name) for name in names}
    if None in runs.values():
        return NOT_YET
    tested = runs["probe"]["domains"]["noto"]["n"]
    said = in_words(language, f"noto, {tested} test drawings [95 %]", f"noto, {tested} dibujos de prueba [95 %]")
    head = [in_words(language, "backbone", "red troncal"), said]
    return table(head, [[names[name], within(run["domains"]["noto"])] for name, run in runs.items()])


def lesson_runs(language: str, rows: dict[str, str]) -> str:
    """Runs beside each other: accuracy, what learned, what ships, what was forgotten."""
    found = {name: lesson("runs", name) for name in rows}
    if None in found.values():
        return NOT_YET
    source, *others = "noto", "twemoji", "openmoji-line"
    headings = [
        in_words(language, "run", "ejecución"),
        f"{source} [95 %]",
        *others,
        in_words(language, "weights that learned", "pesos que aprendieron"),
        in_words(language, "ships", "se entrega"),
        in_words(language, "agrees", "coincide"),
        in_words(language, "seconds", "segundos"),
    ]
    cells = []
    for name, run in found.items():
        learned = count(language, run["parameters"]["trainable"])
        line = [rows[name], within(run["domains"][source]), *(percent(run["domains"][o]["accuracy"]) for o in others)]
        agrees = percent(run["forgetting"]["agreement"])
        cells.append([*line, learned, format_bytes(run["adapter_bytes"]), agrees, f"{run['seconds']:.0f}"])
    return table(headings, cells)


def lesson_full(language: str) -> str:
    """Fine-tuning."""
    return lesson_runs(language, {"full": "`full`"})


def lesson_head(language: str) -> str:
    """The probe with all pictures and with five a class."""
    few = in_words(language, "5 a class", "5 por clase")
    return lesson_runs(language, {"probe": in_words(language, "`head`, all", "`head`, todos"), "few": f"`head`, {few}"})


def lesson_lora(language: str) -> str:
    """The adapter beside the whole model, and one layer's pair."""
    text = lesson_runs(language, {"full": "`full`", "lora": "`lora:last:2`"})
    run = lesson("runs", "lora")
    if text == NOT_YET or "pair" not in run:
        return NOT_YET
    (rank, wide), (out, _) = run["pair"]["A"], run["pair"]["B"]
    w, pair = count(language, wide * out), count(language, rank * (wide + out))
    shapes = f"$m = {wide}$, $n = {out}$, $r = {rank}$"
    english = f"The layer `{run['pair']['layer']}`: {shapes}; {w} numbers in W, {pair} in A and B.\n"
    spanish = f"La capa `{run['pair']['layer']}`: {shapes}; {w} números en W, {pair} en A y B.\n"
    return f"{text}\n{in_words(language, english, spanish)}"


def lesson_gap(language: str) -> str:
    """Pairs of domains, farthest last; the probe is that of each pair's domain on the other."""
    found = lesson("gaps", "emoji-styles")
    if found is None:
        return NOT_YET
    headings = [
        in_words(language, "domains", "dominios"),
        "MMD² [95 %]",
        "p",
        in_words(language, "told apart", "se distinguen"),
        in_words(language, "probe: at home -> in the other", "sonda: en casa -> en el otro"),
    ]
    cells = []
    for pair in sorted(found["pairs"], key=lambda pair: pair["mmd2"]):
        ways = [f"{one['from']}: {percent(one['home'])} -> {percent(one['away'])}" for one in pair["transfer"]]
        cells.append(
            [
                f"{pair['a']}, {pair['b']}",
                f"{pair['mmd2']:.3f} [{pair['mmd2_low']:.3f}, {pair['mmd2_high']:.3f}]",
                f"{pair['p_value']:.3f}",
                percent(0.5 + 0.25 * pair["a_distance"]),
                "<br>".join(ways),
            ]
        )
    return table(headings, cells)


def lesson_comparison(language: str, name: str, domains: list[str], distance: bool = False) -> str:
    """Rows of a comparison; how far apart the domains were before and after."""
    found = lesson("comparisons", name)
    if found is None:
        return NOT_YET
    roles = {key: role_name(language, one["role"]) for key, one in found["rows"][0]["domains"].items()}
    headings = [in_words(language, "alignment", "alineación"), *(f"{key} ({roles[key]})" for key in domains)]
    chance = next(row["probe"]["chance"] for row in found["rows"] if "probe" in row)
    said = in_words(language, "told apart, before -> after", "se distinguen, antes -> después")
    headings.append(f"{'MMD²; ' if distance else ''}{said} ({in_words(language, 'chance', 'azar')}: {percent(chance)})")
    cells = []
    for row in found["rows"]:
        line = [f"`{row['axes']['alignment']}`"]
        for key in domains:
            figures = row["domains"][key]
            text = "" if figures["gain"] is None else f" {gain_text(figures)}"
            line.append(percent(figures["accuracy"]) + text)
        apart = f"{percent(row['probe']['before'])} -> {percent(row['probe']['after'])}" if "probe" in row else ""
        if distance and apart:
            before, after = (f"{row['mmd2'][side]:.3f}" for side in ("before", "after"))
            apart = f"{before} -> {after}; {apart}"
        cells.append([*line, apart])
    seeds = len(found["seeds"])
    english = f"\nMean over {seeds} seeds; test split; gain in points [95 %].\n"
    spanish = f"\nMedia de {seeds} semillas; partición de prueba; ganancia en puntos [95 %].\n"
    return table(headings, cells) + in_words(language, english, spanish)


def lesson_unseen(language: str) -> str:
    """Three sources, an adversary, a style that nobody has seen."""
    return lesson_comparison(language, "unseen", ["noto", "twemoji", "fluent-3d", "openmoji-line"])


def lesson_brightness(language: str) -> str:
    """Day and night: the gap, then what alignment makes of it."""
    found = lesson("gaps", "brightness")
    after = lesson_comparison(language, "night", ["day", "night"], distance=True)
    if found is None or after == NOT_YET:
        return NOT_YET
    (pair,) = found["pairs"]
    way = next(one for one in pair["transfer"] if one["from"] == "day")
    light = next(one for one in pair["causes"] if one["what"] == "brightness")
    numbers = f"MMD² {pair['mmd2']:.3f} [{pair['mmd2_low']:.3f}, {pair['mmd2_high']:.3f}], p {pair['p_value']:.3f}"
    home, away = percent(way["home"]), percent(way["away"])
    mean_light = f"{light['a']:.2f} -> {light['b']:.2f}"
    english = f"`injerto gap`: {numbers}; mean brightness {mean_light}; a probe of day's drawings: {home} at home, "
    english += f"{away} by night (balanced over the classes).\n"
    spanish = f"`injerto gap`: {numbers}; brillo medio {mean_light}; una sonda de los dibujos de día: {home} en casa, "
    spanish += f"{away} de noche (con igual peso para cada clase).\n"
    return f"{in_words(language, english, spanish)}\n{after}"


def lesson_register(language: str) -> str:
    """News to tweets: the classes' frequencies, and what each term makes of them."""
    after = lesson_comparison(language, "register", ["news", "tweets"])
    found = lesson("positive", "news"), lesson("positive", "tweets")
    if after == NOT_YET or None in found:
        return NOT_YET
    news, tweets = map(percent, found)
    english = f"Positive sentences: {news} of the news, {tweets} of the tweets.\n"
    spanish = f"Frases positivas: {news} de las noticias, {tweets} de los tuits.\n"
    return f"{in_words(language, english, spanish)}\n{after}"


LESSON = {
    "lesson-transfer": lesson_transfer,
    "lesson-full": lesson_full,
    "lesson-head": lesson_head,
    "lesson-gap": lesson_gap,
    "lesson-lora": lesson_lora,
    "lesson-unseen": lesson_unseen,
    "lesson-brightness": lesson_brightness,
    "lesson-register": lesson_register,
    "demo": demo,
}
"""The blocks of the lesson, in both languages."""


SPEED = (
    # results, row, peer, and both in the languages of the READMEs
    ("foundation", "frozen embedding, 224 px", "timm eager float32",
     "embedding 224 px pictures, frozen EfficientNet-Lite0", "timm, eager, float32",
     "representaciones de imágenes de 224 px, EfficientNet-Lite0 congelada", "timm, eager, float32"),
    ("foundation", "frozen embedding, 224 px", "hand-written float32 channels_last loop",
     "the same", "a hand-written channels_last loop", "lo mismo", "un bucle channels_last escrito a mano"),
    ("foundation", "head, 30 epochs, files to metrics", "one pass over the data, ours",
     "`--tuning head --epochs 30`, files to metrics", "one pass over the files, ours",
     "`--tuning head --epochs 30`, de los archivos a las métricas", "una pasada por los archivos, nuestra"),
    ("foundation", "head, 30 epochs, files to metrics", "one pass over the data, plain timm",
     "the same", "one pass over the files, plain timm", "lo mismo", "una pasada por los archivos, con timm sin más"),
    ("tuning", "head on a frozen MiniLM, 160 texts to the trained head, 30 epochs", "transformers.Trainer",
     "`--tuning head --epochs 30`, MiniLM", "`transformers.Trainer` with a frozen body",
     "`--tuning head --epochs 30`, MiniLM", "`transformers.Trainer` con el cuerpo congelado"),
    ("tuning", "prefix cache, Lite0 last:1", "no cache",
     "`--tuning last:1`, EfficientNet-Lite0, from the cache", "the prefix computed anew",
     "`--tuning last:1`, EfficientNet-Lite0, desde la caché", "el prefijo calculado de nuevo"),
    ("tuning", "full step, MiniLM", "transformers.Trainer",
     "`--tuning full`, MiniLM", "`transformers.Trainer` with its defaults",
     "`--tuning full`, MiniLM", "`transformers.Trainer` con sus valores por defecto"),
    ("tuning", "full step, MiniLM", "hand-tuned loop",
     "the same", "a hand-tuned loop", "lo mismo", "un bucle afinado a mano"),
    ("lora", "LoRA step, Lite0, 32 x 96 px", "peft",
     "a LoRA step, EfficientNet-Lite0", "PEFT", "un paso de LoRA, EfficientNet-Lite0", "PEFT"),
    ("lora", "LoRA step, MiniLM, 32 x 64 tokens", "peft",
     "a LoRA step, MiniLM", "PEFT", "un paso de LoRA, MiniLM", "PEFT"),
    ("lora", "lora:last:2 epoch, MiniLM, 64 tokens", "peft",
     "an epoch of `lora:last:2`, MiniLM", "PEFT", "una época de `lora:last:2`, MiniLM", "PEFT"),
    ("losses", "MMD, forward and backward, n = 256", "n x n x d differences",
     "MMD of two times 256 embeddings", "differences of all pairs, n x n x d",
     "MMD de dos veces 256 representaciones", "diferencias de todos los pares, n x n x d"),
    ("bank", "bank: 64 adapters in a batch of 64", "PEFT adapter_names",
     "64 adapters in one batch", "PEFT's mixed batches",
     "64 adaptadores en un lote", "los lotes mixtos de PEFT"),
)  # fmt: skip
"""The rows of the READMEs' table of speed; what a row loses stays in it."""


def speed(language: str = "en") -> str:
    """How much faster than others, from `results/*.json`."""
    found = {}
    for file in dict.fromkeys(entry[0] for entry in SPEED):
        path = HERE.parent / "results" / f"{file}.json"
        rows = json.loads(path.read_text()) if path.exists() else []
        found |= {(file, one["name"], one["peer"]): one for one in rows}
    cells = []
    for file, name, peer, *texts in SPEED:
        row = found.get((file, name, peer))
        if row is None:
            continue
        ratio = f"{row['ratio']:.2f}x [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
        cells.append([*(texts[:2] if language == "en" else texts[2:]), ratio])
    ahead = in_words(
        language,
        "ahead by (interleaved runs, 95 % interval)",
        "ventaja (ejecuciones intercaladas, intervalo del 95 %)",
    )
    start = found["foundation", "injerto --help", "python -c pass"]
    more = f"{1 / start['ours'] - 1 / start['theirs']:.2f} s"
    said = in_words(
        language,
        f"`injerto --help` takes {more} more than a bare Python. {start['machine']}.",
        f"`injerto --help` tarda {more} más que Python a secas. {start['machine']}.",
    )
    return table(["", in_words(language, "against", "frente a"), ahead], cells) + f"\n{said}\n"


def strategies(study: str, language: str = "en") -> str:
    """Accuracy of each tuning by domain and the gain over the probe, from `foundation-<study>.json`."""
    result = json.loads((HERE / f"foundation-{study}.json").read_text())
    names = list(next(iter(result["rows"].values()))["domains"])
    alone = len(result["sources"]) < len(names)
    names.sort(key=lambda name: alone and name not in result["sources"])
    source = in_words(language, "source", "origen")
    to = in_words(language, "to", "a")
    cells = []
    for title, entry in result["rows"].items():
        line = [title]
        for name in names:
            one = {key: 100 * value for key, value in entry["domains"][name].items() if isinstance(value, float)}
            text = f"{one['accuracy']:.1f} % [{one['low']:.1f}, {one['high']:.1f}]"
            if "gain" in one:
                beside = f"{one['gain']:+.1f}, {one['gain_low']:+.1f} {to} {one['gain_high']:+.1f}"
                text = f"{one['accuracy']:.1f} % ({beside})"
            line.append(text)
        cells.append(line)
    return table(["", *(f"{n} ({source})" if alone and n in result["sources"] else n for n in names)], cells)


def put(page: Path, name: str, block: str) -> None:
    """Write a block between its marks."""
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = text.partition(start)
    _, found, after = rest.partition(end)
    assert found, f"{page.name} has no block {name}"
    write_text(page, before + start + block + end + after)


def blocks() -> dict[tuple[str, str], str]:
    """Every table by page and name."""
    return {
        ("alignment.md", "pacs"): pacs(),
        ("alignment.md", "unseen"): unseen(),
        ("alignment.md", "sentiment"): texts("sentiment"),
        ("alignment.md", "terms"): terms(),
        ("alignment.md", "reviews"): texts("reviews"),
        ("gap.md", "validators"): validators(),
        ("compare.md", "interval"): interval(),
        ("bank.md", "bank"): bank(),
        ("bank.md", "load"): load(),
        ("bank.md", "drift"): drift(),
        ("../README.md", "demo"): demo(),
        **method_blocks(),
        ("../README.es.md", "demo"): demo("es"),
        ("../README.md", "speed"): speed(),
        ("../README.es.md", "speed"): speed("es"),
        **{("../README.md", name): strategies(name) for name in ("emoji", "sentiment")},
        **{("../README.es.md", name): strategies(name, "es") for name in ("emoji", "sentiment")},
        **{("lesson.md", name): block("en") for name, block in LESSON.items()},
        **{("lesson.es.md", name): block("es") for name, block in LESSON.items()},
    }


def main() -> None:
    for (page, name), block in blocks().items():
        put(DOCS / page, name, block)


if __name__ == "__main__":
    main()
