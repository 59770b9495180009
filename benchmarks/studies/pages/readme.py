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


SPEED = (
    # results, row, peer, and both in the languages of the READMEs
    ("foundation", "frozen embedding, 224 px", "timm eager float32",
     "embedding 224 px pictures, frozen EfficientNet-Lite0", "timm, eager, float32",
     "representaciones de imágenes de 224 px, EfficientNet-Lite0 congelada", "timm, eager, float32"),
    ("foundation", "frozen embedding, 224 px", "hand-written channels_last loop in the best type",
     "the same", "a hand-written channels_last loop in the best type",
     "lo mismo", "un bucle channels_last escrito a mano, en el mejor tipo"),
    ("foundation", "frozen embedding, MiniLM", "transformers, batches as they come",
     "embedding sentences, frozen MiniLM, tokenizer included", "transformers, batches as they come",
     "representaciones de frases, MiniLM congelado, con el tokenizador", "transformers, lotes según llegan"),
    ("foundation", "frozen embedding, MiniLM", "transformers, batches of similar length in the best type",
     "the same", "transformers, batches sorted by length by hand, in the best type",
     "lo mismo", "transformers, lotes ordenados a mano por longitud, en el mejor tipo"),
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
    ("losses", "MMD, forward and backward, n = 256", "pytorch-adapt",
     "the same", "pytorch-adapt", "lo mismo", "pytorch-adapt"),
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
    place = start["machine"]
    for english, spanish in MACHINE.items():
        place = place.replace(english, in_words(language, english, spanish))
    said = in_words(
        language,
        f"`injerto --help` takes {more} more than a bare Python. {place}.",
        f"`injerto --help` tarda {more} más que Python a secas. {place}.",
    )
    return table(["", in_words(language, "against", "frente a"), ahead], cells) + f"\n{said}\n"


MACHINE = {
    "cores, cpu": "núcleos, CPU",
    "bf16 in hardware: no": "sin bf16 en el procesador",
    "bf16 in hardware: yes": "con bf16 en el procesador",
}
"""What results say of a machine, in Spanish."""


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
