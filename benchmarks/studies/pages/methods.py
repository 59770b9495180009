"""The tables of docs/methods."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from injerto.basics.progress import format_bytes
from injerto.recipe.defaults import defaults_for
from injerto.recipe.recipe import make_recipe
from injerto.studies.answers import BOTH
from injerto.studies.tables import gain_text
from pages.parts import HERE, gain, mean_text, pairs, short, table

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


def aligned(*terms: str, studies: Sequence[tuple[str, str, str]] | None = None) -> str:
    """What terms gain over the same run without them, on every target they were measured on, or in some studies."""
    cells, seeds = [], set()
    for study, tuning, named in ALIGNED if studies is None else studies:
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
    for study, tuning, title in MEANS if studies is None else ():
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
    found["methods/self-training.md", "measured"] = aligned(
        "self-training", "mmd+self-training", "mmd", studies=[("emoji-self-training", "head", "head")]
    )
    return found
