"""The demo: what each tuning learns from one drawing style, how far that carries, and what an alignment adds."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from injerto import api
from injerto.basics.errors import InjertoError
from injerto.basics.files import remove_tree, write_text
from injerto.basics.progress import format_bytes, format_seconds, note
from injerto.cli.show import percent, print_json, table
from injerto.compute.machine import machine
from injerto.evaluation.run import Run
from injerto.reporting.grid import Shown, prediction_grid

DATA, SOURCE, TARGET, BACKBONE = "emoji-styles", "noto", "openmoji-line", "packaged:efficientnet-lite0"
ROWS: dict[str, dict[str, Any]] = {
    "head": {"tuning": "head", "head": "probe"},
    "last:2": {"tuning": "last:2"},
    "lora": {"tuning": "lora"},
    "full": {"tuning": "full"},
    "head + dann": {"tuning": "head", "alignment": "dann", "target": TARGET},
    "lora:last:2 + mmd": {"tuning": "lora:last:2", "alignment": "mmd", "target": TARGET},
}
PICTURES = 9


def run_demo(out: Path, seed: int, as_json: bool) -> None:
    """Fit the demo's rows, print the table, draw the grid.

    Args:
        out: Folder of the runs, the table (``demo.json``) and the picture (``predictions.png``).
        seed: Seed of splits and training.
        as_json: Print one JSON object instead of the table.

    Raises:
        InjertoError: Where ``out`` holds something else.
    """
    if out.exists() and any(out.iterdir()):
        if not (out / "demo.json").exists():
            raise InjertoError(f"--out {out} holds other things than a demo; name another folder")
        remove_tree(out)
    write_text(out / "demo.json", "{}\n")
    runs: dict[str, Run] = {}
    for name, settings in ROWS.items():
        note(f"\n{name}: injerto fit {DATA} --source {SOURCE} --backbone {BACKBONE} {_flags(settings)} --seed {seed}")
        runs[name] = api.fit(
            DATA,
            source=SOURCE,
            backbone=BACKBONE,
            seed=seed,
            out=out / name.replace(":", "-").replace(" + ", "-"),
            **settings,
        )
    results = {name: run.metrics for name, run in runs.items()}
    scores = {name: found["selection"]["score"] for name, found in results.items()}
    best = max(scores, key=lambda name: scores[name] or 0.0)  # an aligned run keeps its last step, without a score
    picture = out / "predictions.png"
    _draw(runs[best], best, picture)
    summary: dict[str, Any] = {"data": DATA, "source": SOURCE, "backbone": BACKBONE, "seed": seed}
    summary |= {"best_on_source_val": best, "picture": picture.name, "command": f"injerto demo --seed {seed}"}
    summary |= {"machine": str(machine()), "versions": runs[best].card["versions"]}
    summary["rows"] = {name: _row(metrics) for name, metrics in results.items()}
    write_text(out / "demo.json", json.dumps(summary, indent=1) + "\n")
    if as_json:
        print_json(summary)
        return
    _print(summary, out)


def _flags(settings: dict[str, Any]) -> str:
    return " ".join(f"--{name} {value}" for name, value in settings.items())


def _row(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "accuracy": {name: entry["splits"]["test"]["accuracy"] for name, entry in metrics["domains"].items()},
        "source_val": metrics["selection"]["score"],
        "forgetting": metrics["forgetting"],
        "trainable": metrics["parameters"]["trainable"],
        "adapter_bytes": metrics["adapter_bytes"],
        "seconds": sum(metrics["seconds"].values()),
    }


def _print(summary: dict[str, Any], out: Path) -> None:
    rows = summary["rows"]
    domains = sorted(next(iter(rows.values()))["accuracy"], key=lambda name: name != SOURCE)
    cells = [
        [
            name,
            *(percent(row["accuracy"][domain]) for domain in domains),
            percent(row["forgetting"]["agreement"]),
            f"{row['forgetting']['cka']:.2f}",
            f"{row['trainable']:,}",
            format_bytes(row["adapter_bytes"]),
            format_seconds(row["seconds"]),
        ]
        for name, row in rows.items()
    ]
    headings = [f"{name} (source)" if name == SOURCE else name for name in domains]
    table(
        f"learned from '{SOURCE}', accuracy on test; rows with + also saw '{TARGET}' drawings, without their labels",
        ("tuning", *headings, "agrees", "CKA", "trained", "adapter", "time"),
        cells,
        spare=("time", "trained", "adapter", "CKA", "agrees"),
    )
    print("agrees: held-out drawings that the original ImageNet classifier, on the tuned embedding, calls what it did")
    print("CKA: similarity of the tuned embedding to the pretrained one, 1 for none forgotten")
    print(
        f"best on the source's val split: {summary['best_on_source_val']}; its predictions: {out / summary['picture']}"
    )


def _draw(run: Run, name: str, picture: Path) -> None:
    """The same test drawings in every style, one of each class in turn."""
    domains = api.load_domains(DATA)
    recorded = run.recorded_splits()
    rows = {}
    order = None
    for domain_name in sorted(domains, key=lambda item: item != SOURCE):
        domain = domains[domain_name]
        where = {group: i for i, group in enumerate(domain.groups) if recorded.get(domain.contents[i]) == "test"}
        if order is None:
            order = _spread([(group, str(domain.labels[i])) for group, i in sorted(where.items())])
        positions = [where[group] for group in order if group in where][:PICTURES]
        chances = run.predict_proba([domain.inputs[i] for i in positions])
        rows[domain_name] = [
            Shown(domain.inputs[i], str(domain.labels[i]), run.labels[int(np.argmax(row))], float(row.max()))
            for i, row in zip(positions, chances, strict=True)
        ]
    prediction_grid(picture, rows, f"tuning {name}, learned from {SOURCE}: \u2713 right, \u2717 wrong")


def _spread(pairs: list[tuple[str, str]]) -> list[str]:
    """Groups, one of each class in turn."""
    queues: dict[str, list[str]] = {}
    for group, label in pairs:
        queues.setdefault(label, []).append(group)
    order = []
    while any(queues.values()):
        order += [queue.pop(0) for _, queue in sorted(queues.items()) if queue]
    return order
