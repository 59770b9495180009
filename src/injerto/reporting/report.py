"""The page of a comparison or of one run: verdict, table, figures, maps, and every strategy in detail."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from injerto.basics.checksums import read_sealed
from injerto.basics.errors import InjertoError
from injerto.basics.files import as_path
from injerto.basics.progress import note, quiet, warn
from injerto.domains.domain import Domain, Domains
from injerto.evaluation.recorded import AGAIN, check_recorded
from injerto.recipe.command import fit_command
from injerto.recipe.recipe import Recipe, load_recipe
from injerto.reporting.evidence import evidence_of
from injerto.reporting.maps import layouts_of, shown, small
from injerto.reporting.page import check_page, write_page
from injerto.reporting.words import ORDER, axes_told, headline, short, verdict
from injerto.studies.grid import label_of
from injerto.studies.tables import ORACLE
from injerto.training.reading import read_domains

MOST = 800
"""Examples on the map, at most."""
DETAILED = 24
"""Strategies with confusion, mistakes and curves on the page, at most; the table has all."""
NAME = "report.html"
NEEDED = ("metrics.json", "predictions.csv", "recipe.yaml")
"""Files of a finished run that the page is made of."""


def report(
    path: str | PathLike[str], out: str | PathLike[str] | None = None, *, examples: bool = True, seed: int = 0
) -> Path:
    """Write the page of a comparison, or of one run, as one HTML file that needs nothing else.

    Args:
        path: The folder of a comparison or of a finished run.
        out: The page; ``report.html`` in that folder where not given.
        examples: Whether pictures and texts stand in the page; without, it can be shown where the data must not.
        seed: Of the map's t-SNE.

    Returns:
        The page.

    Raises:
        InjertoError: Where the folder is neither, or the page cannot be written.
    """
    if seed < 0:
        raise InjertoError("--seed must be 0 or more")
    folder = as_path(path)
    content = _content(folder)
    page = Path(out) if out is not None else folder / NAME
    check_page(page, "--out")
    rows = [_row(content, row, folder) for row in content["summary"]]
    evidence = {
        row["row"]: evidence_of([folder / run for run in row["runs"]]) for row in rows[:DETAILED] if row["runs"]
    }
    told: dict[str, Any] = {
        "kind": content["kind"],
        "title": content["data"],
        "headline": headline(content),
        "verdict": verdict(content),
        "rows": rows,
        "domains": _domains(content),
        "evidence": evidence,
        "chosen": (content.get("choice") or {}).get("row"),
        "leftOut": _left_out(content),
        "fairness": content["fairness"],
        "command": content["command"],
        "made": [content["machine"], ", ".join(f"{name} {number}" for name, number in content["versions"].items())],
        "oracle": ORACLE,
        "axes": axes_told(content["summary"]),
        "most": max((len(row["seeds"]) for row in content["summary"]), default=0),
    }
    told |= _looks(content, rows, evidence, folder, examples, seed)
    return write_page("report.html", told, page)


def _content(folder: Path) -> dict[str, Any]:
    """What ``results.json`` holds, or the same for one run."""
    for name, read in (("results.json", _comparison), ("metrics.json", _run)):
        if (folder / name).exists():
            content = read_sealed(folder / name, "call the comparison again" if read is _comparison else AGAIN)
            try:
                return read(content, folder)
            except (ValueError, LookupError, TypeError, AttributeError):
                raise InjertoError(f"{folder / name} is damaged; do the run again") from None
    if not folder.is_dir():
        raise InjertoError(f"no folder {folder}; name the folder of a comparison or of a run")
    raise InjertoError(f"{folder} has neither results.json nor metrics.json: it is no comparison and no finished run")


def _comparison(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    _ = content["summary"], content["grid"], content["rows"], content["fairness"]
    return {**content, "kind": "comparison"}


def _run(metrics: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run as a comparison of one row."""
    from injerto.adapters.card import load_card

    check_recorded(folder)
    recipe = load_recipe(folder / "recipe.yaml")
    if recipe.get("task", "classification") != "classification":
        raise InjertoError(f"{folder} is a language model's run; report shows classifiers")
    card = load_card(folder / "adapter")
    axes = {"tuning": recipe["tuning"], "alignment": recipe.get("alignment") or "none"}
    label = label_of(axes)
    domains: dict[str, Any] = {}
    for name, entry in metrics["domains"].items():
        splits = {}
        for side, values in entry["splits"].items():
            low, high = values.get("accuracy_interval") or (None, None)
            splits[side] = {"accuracy": values["accuracy"], "low": low, "high": high, "ece": values.get("ece")}
        domains[name] = {"role": entry["role"], "oracle": entry["oracle"], "splits": splits}
    row = {"row": label, "axes": axes, "baseline": None, "seeds": [recipe["seed"]], "failed": [], "domains": domains}
    row |= {"trainable": metrics["parameters"]["trainable"], "adapter_bytes": metrics["adapter_bytes"]}
    row |= {"seconds": sum(metrics["seconds"].values()), "forgetting": metrics.get("forgetting")}
    given = {name: value for name, value in recipe.items() if value not in (None, [], (), False)}
    for name in ("data", "defaults_version", "split_seed"):
        given.pop(name, None)
    return {
        "kind": "run", "data": recipe["data"], "source": recipe["source"], "target": recipe["target"],
        "grid": {axis: [value] for axis, value in axes.items()}, "settings": given, "seeds": [recipe["seed"]],
        "fairness": [], "summary": [row], "command": fit_command(recipe["data"], given),
        "rows": [{"row": label, "seed": recipe["seed"], "status": "ok", "run": ".", "reason": None, "recipe": recipe}],
        "machine": "", "versions": card["versions"], "choice": None,
    }  # fmt: skip


def _domains(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every domain with its role: sources, targets, unseen ones."""
    found = {name: entry for row in content["summary"] for name, entry in row["domains"].items()}
    several = {
        name: {row["domains"][name]["role"] for row in content["summary"] if name in row["domains"]} for name in found
    }
    domains = [
        {
            "name": name,
            "role": entry["role"] if len(several[name]) == 1 else "rotating",
            "oracle": several[name] != {"source"},
        }
        for name, entry in found.items()
    ]
    return sorted(domains, key=lambda domain: ORDER.index(domain["role"]))


def _left_out(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Strategies on the domains that were left out in turn, with names for the table."""
    found = content.get("left_out")
    if not found:
        return None
    return {**found, "rows": [{**row, "short": short(row["axes"], found["rows"])} for row in found["rows"]]}


def _row(content: Mapping[str, Any], row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A strategy for the table: its figures, the runs that are there, and the command that fits it again."""
    own = [one for one in content["rows"] if one["row"] == row["row"]]
    done = [one for one in own if one["status"] == "ok"]
    for one in done:
        for name in NEEDED:
            if not (folder / one["run"] / name).exists():
                again = "the same compare does the run again" if content["kind"] != "run" else "do the run again"
                raise InjertoError(f"{folder / one['run'] / name} is missing; {again}")
    kept = {name: row.get(name) for name in ("row", "baseline", "seeds", "seconds", "trainable", "adapter_bytes")}
    found = {**kept, "axes": row["axes"], "short": short(row["axes"], content["summary"]), "domains": row["domains"]}
    found["failed"] = [f"seed {one['seed']}: {one['reason']}" for one in own if one["status"] == "failed"]
    found["forgetting"] = row.get("forgetting")
    found["runs"] = [one["run"] for one in done]
    found["command"] = _command(content, own[0]) if own else ""
    return found


def _command(content: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    """What fits a strategy's first run by itself."""
    if content["kind"] == "run":
        return str(content["command"])
    recipe = one["recipe"]
    given = {"source": content["source"], "target": content["target"], **content["settings"], **one["axes"]}
    for name in ("select", "neck"):  # set by the comparison, so that rows are fair
        if name not in given and recipe.get(name) not in (None, "none"):
            given[name] = recipe[name]
    return fit_command(content["data"], {**given, "seed": one["seed"]})


def _looks(
    content: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    evidence: Mapping[str, Any],
    folder: Path,
    examples: bool,
    seed: int,
) -> dict[str, Any]:
    """What needs the data: the map, and what was mistaken. Data that are gone leave a page without them."""
    empty: dict[str, Any] = {"map": None, "examples": {}, "modality": None}
    done = [row for row in rows if row["runs"]]
    if not done:
        return {**empty, "without": "no run is finished yet"}
    recipe = Recipe.model_validate(load_recipe(folder / done[0]["runs"][0] / "recipe.yaml"))
    try:
        with quiet():
            domains = read_domains(recipe, recipe.data).check(recipe.skip_bad)
        found = {"modality": domains.modality, "examples": _mistaken(domains, evidence) if examples else {}}
        return {**empty, **found, "map": _map(_pair(content, done), domains, folder, examples, seed)}
    except InjertoError as error:
        warn(f"the page has no map: {error}")
        return {**empty, "without": str(error)}


def _mistaken(domains: Domains, evidence: Mapping[str, Any]) -> dict[str, str]:
    """What the mistakes look like, by content."""
    wanted: dict[str, set[str]] = {}
    for one in evidence.values():
        for name, entry in one["domains"].items():
            wanted.setdefault(name, set()).update(mistake["example"] for mistake in entry["mistakes"])
    found = {}
    for name, contents in wanted.items():
        if name in domains:
            domain = domains[name]
            for item, content in zip(domain.inputs, domain.contents, strict=True):
                if content in contents:
                    found[content] = small(item, domains.modality)
    return found


def _pair(content: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The strategies on the map: without alignment, and with it; no label decides which are shown."""
    by_name = {row["row"]: row for row in done}
    aligned = [row for row in done if row["axes"].get("alignment", "none") != "none"]
    chosen = by_name.get((content.get("choice") or {}).get("row"))
    row = chosen or (aligned or done)[0]
    if row not in aligned:  # with what aligns it, where there is such
        return [row, *[other for other in aligned if other["baseline"] == row["row"]][:1]]
    base = by_name.get(row["baseline"])
    return [base, row] if base and base is not row else [row]


def _map(
    pair: Sequence[Mapping[str, Any]], domains: Domains, folder: Path, examples: bool, seed: int
) -> dict[str, Any] | None:
    """Test examples of the first seed as the pretrained model sees them, and as the strategies do."""
    from injerto.evaluation.run import Run

    runs = {row["short"]: Run(folder / row["runs"][0]) for row in pair}
    run = list(runs.values())[-1]
    with quiet():
        tested = run.unseen_parts(domains, None)
    share = max(1, MOST // len(tested))
    parts = {name: part.first(share) for name, part in tested.items()}
    note(f"map of {sum(map(len, parts.values()))} examples, {len(runs) + 1} times")
    with quiet():
        values = {"pretrained": _pretrained(run, parts)}
        for name, one in runs.items():
            values[name] = one.embed([item for part in parts.values() for item in part.inputs])
        if len(values["pretrained"]) < 2:
            return None
        views: list[dict[str, Any]] = []
        for name, embedding in values.items():
            same = name != "pretrained" and embedding.shape == values["pretrained"].shape
            if not (same and np.allclose(embedding, values["pretrained"], atol=1e-3)):
                views.append({"name": name, "layouts": layouts_of(embedding, seed)})
        return {"examples": shown(parts, domains.modality, examples), "views": views}


def _pretrained(run: Any, parts: Mapping[str, Domain]) -> np.ndarray:
    from injerto.compute.embedding import embed_parts, open_backbone

    recipe = load_recipe(run.path / "recipe.yaml")
    backbone = open_backbone(recipe["backbone"], recipe["data"], recipe["image_size"], recipe["max_length"])
    return embed_parts(backbone, run.plan, list(parts.values()), "pretrained embeddings")
