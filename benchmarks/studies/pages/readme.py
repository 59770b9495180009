"""The READMEs' tables, in both languages."""

import json

from injerto.basics.progress import format_bytes
from pages.parts import HERE, gain, in_words, role_name, table


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


def strategies(study: str, language: str = "en") -> str:
    """Accuracy of each tuning by domain and the gain over the probe, from `foundation-<study>.json`."""
    result = json.loads((HERE / f"foundation-{study}.json").read_text())
    names = list(next(iter(result["rows"].values()))["domains"])
    alone = len(result["sources"]) < len(names)
    names.sort(key=lambda name: alone and name not in result["sources"])
    source = in_words(language, "source", "origen")
    cells = []
    for title, entry in result["rows"].items():
        line = [title]
        for name in names:
            one = {key: 100 * value for key, value in entry["domains"][name].items() if isinstance(value, float)}
            text = f"{one['accuracy']:.1f} % [{one['low']:.1f}, {one['high']:.1f}]"
            if "gain" in one:
                beside = f"{one['gain']:+.1f} [{one['gain_low']:+.1f}, {one['gain_high']:+.1f}]"
                sure = one["gain_low"] > 0 or one["gain_high"] < 0
                text = f"{one['accuracy']:.1f} % " + (beside if sure else f"({beside})")
            line.append(text)
        cells.append(line)
    return table(["", *(f"{n} ({source})" if alone and n in result["sources"] else n for n in names)], cells)
