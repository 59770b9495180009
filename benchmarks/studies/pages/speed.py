"""The tables of speed: of the READMEs in both languages, and of the pages on tuning and LoRA."""

import json
from collections.abc import Sequence
from typing import Any

from pages.parts import HERE, in_words, table

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

PREFIX = "the prefix computed anew"
BARE = "the trained stage's own steps, batches in memory"
TUNING = (
    ("tuning", "prefix cache, Lite0 last:1", "no cache", "`last:1`, EfficientNet-Lite0, from the cache", PREFIX),
    ("tuning", "prefix cache, MiniLM last:1", "no cache", "`last:1`, MiniLM, from the cache", PREFIX),
    ("tuning", "prefix cache, MiniLM last:2", "no cache", "`last:2`, MiniLM, from the cache", PREFIX),
    ("tuning", "prefix cache, Lite0 last:1", "suffix alone", "a cached epoch, EfficientNet-Lite0 `last:1`", BARE),
    ("tuning", "prefix cache, MiniLM last:1", "suffix alone", "a cached epoch, MiniLM `last:1`", BARE),
    ("tuning", "prefix cache, MiniLM last:2", "suffix alone", "a cached epoch, MiniLM `last:2`", BARE),
    ("tuning", "full step, MiniLM", "transformers.Trainer", "a `full` step, MiniLM", "`transformers.Trainer`"),
    ("tuning", "full step, MiniLM", "hand-tuned loop", "the same", "a hand-tuned loop: lengths sorted, fused AdamW"),
    ("tuning", "fit from files, Lite0 last:1, 6 epochs", "hand-tuned loop",
     "`fit` from files, `last:1`, 6 epochs", "a hand-tuned loop: loading workers, channels_last"),
    ("tuning", "fit from files, Lite0 full, 2 epochs", "hand-tuned loop",
     "`fit` from files, `full`, 2 epochs", "the same loop"),
)  # fmt: skip
LORA = (
    ("lora", "LoRA step, MiniLM, 32 x 64 tokens", "peft", "a step, MiniLM, 32 texts of 64 tokens", "PEFT"),
    ("lora", "LoRA step, Lite0, 32 x 96 px", "peft", "a step, EfficientNet-Lite0, 32 pictures of 96 px", "PEFT"),
    ("lora", "lora:last:2 epoch, MiniLM, 64 tokens", "peft",
     "an epoch of `lora:last:2` after the first, MiniLM, 64 tokens", "PEFT"),
    ("lora", "lora:last:2 epoch, MiniLM, 64 tokens, PEFT without dropout", "peft", "the same", "PEFT without dropout"),
    ("memory", "peak memory: LoRA steps, MiniLM", "peft", "memory that training adds, MiniLM", "PEFT"),
    ("memory", "peak memory: LoRA steps, Lite0", "peft", "memory that training adds, EfficientNet-Lite0", "PEFT"),
    ("lora", "attach, MiniLM", "peft", "attaching, MiniLM", "PEFT"),
    ("lora", "attach, Lite0", "peft", "attaching, EfficientNet-Lite0", "PEFT"),
    ("lora", "adapter file, MiniLM", "peft", "the adapter's file", "PEFT"),
)  # fmt: skip
"""Rows of a table in English alone."""


def _rows(file: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of `results/<file>.json` by name and peer."""
    path = HERE.parent / "results" / f"{file}.json"
    return {(one["name"], one["peer"]): one for one in json.loads(path.read_text())}


def _table(entries: Sequence[tuple[str, ...]], language: str = "en") -> str:
    cells, found = [], {file: _rows(file) for file in dict.fromkeys(entry[0] for entry in entries)}
    for file, name, peer, *texts in entries:
        row = found[file][name, peer]
        ratio = f"{row['ratio']:.2f}x [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
        cells.append([*(texts[:2] if language == "en" else texts[2:]), ratio])
    ahead = in_words(
        language,
        "ahead by (interleaved runs, 95 % interval)",
        "ventaja (ejecuciones intercaladas, intervalo del 95 %)",
    )
    return table(["", in_words(language, "against", "frente a"), ahead], cells)


def speed(language: str = "en") -> str:
    """How much faster than others, from `results/*.json`."""
    start = _rows("foundation")["injerto --help", "python -c pass"]
    more = f"{1 / start['ours'] - 1 / start['theirs']:.2f} s"
    place = start["machine"]
    for english, spanish in MACHINE.items():
        place = place.replace(english, in_words(language, english, spanish))
    said = in_words(
        language,
        f"`injerto --help` takes {more} more than a bare Python. {place}.",
        f"`injerto --help` tarda {more} más que Python a secas. {place}.",
    )
    return _table(SPEED, language) + f"\n{said}\n"


def of_tunings() -> str:
    """The rows of `tuning.md`."""
    return _table(TUNING) + f"\n{_rows('tuning')['full step, MiniLM', 'hand-tuned loop']['machine']}.\n"


def of_lora() -> str:
    """The rows of `lora.md`."""
    one = _rows("lora")["attach, MiniLM", "peft"]
    return _table(LORA) + f"\nPEFT {one['peer_version']}; {one['machine']}.\n"


MACHINE = {
    "cores, cpu": "núcleos, CPU",
    "bf16 in hardware: no": "sin bf16 en el procesador",
    "bf16 in hardware: yes": "con bf16 en el procesador",
}
"""What results say of a machine, in Spanish."""
