"""The commands to use before training: how far apart the domains are, which model will transfer, what to try first."""

from pathlib import Path
from typing import Annotated, Any

from injerto.basics.progress import say
from injerto.cli.commands import (
    AllowOutside,
    BackboneName,
    Column,
    Data,
    DomainColumn,
    Json,
    LabelColumn,
    Precision,
    Threads,
    _option,
    app,
    given,
)

SkipBad = Annotated[bool, _option("Go on without examples that cannot be read.", "--skip-bad")]
ImageSize = Annotated[int | None, _option("Pixels a side; the backbone's own where not given.")]
Group = Annotated[str | None, _option("Column or pattern of what belongs together.")]
MaxLength = Annotated[int | None, _option("Tokens of a text, at most.")]
MOST = 6
"""Pairs that are described in words on the screen."""


@app.command()
def gap(
    data: Data,
    on: Annotated[list[str] | None, _option("Domain to measure, or NAME=PATH; all where not given.")] = None,
    backbone: BackboneName = None,
    report: Annotated[Path | None, _option("Write a page with a map of the examples: FILE.html.")] = None,
    image_size: ImageSize = None,
    max_length: MaxLength = None,
    input: Column = None,
    label: LabelColumn = None,
    domain: DomainColumn = None,
    group: Group = None,
    seed: Annotated[int, _option("Seed of permutations and folds.")] = 0,
    precision: Precision = None,
    threads: Threads = None,
    skip_bad: SkipBad = False,
    allow_outside: AllowOutside = False,
    as_json: Json = False,
) -> None:
    """How far apart the domains are before anything is trained, why, and what to try first."""
    from injerto.cli.show import print_json
    from injerto.evaluation.gap import measure_gap
    from injerto.reporting.gap import report_gap
    from injerto.reporting.page import check_page

    if report is not None:
        check_page(report)
    options = given(
        backbone=backbone, image_size=image_size, max_length=max_length, input=input, label=label, domain=domain,
        group=group, precision=precision, threads=threads,
    )  # fmt: skip
    found = measure_gap(data, on=on or (), seed=seed, skip_bad=skip_bad, allow_outside=allow_outside, **options)
    if as_json:
        print_json(found.content)
    else:
        print_gap(found.content)
    if report is not None:  # what was measured is shown by then, whatever becomes of the page
        report_gap(found, report, seed)
        if not as_json:
            say(f"map and all numbers: {report}")


@app.command()
def rank(
    data: Data,
    backbones: Annotated[str, _option("Names or folders with commas between them; finished runs too.")],
    on: Annotated[list[str] | None, _option("Domain to score on; all with labels where not given.")] = None,
    image_size: ImageSize = None,
    max_length: MaxLength = None,
    input: Column = None,
    label: LabelColumn = None,
    domain: DomainColumn = None,
    group: Group = None,
    seed: Annotated[int, _option("Seed of the probe's folds.")] = 0,
    precision: Precision = None,
    threads: Threads = None,
    skip_bad: SkipBad = False,
    allow_outside: AllowOutside = False,
    as_json: Json = False,
) -> None:
    """Which pretrained model knows most of the data already: several scores, each with its cost."""
    from injerto.cli.show import print_json
    from injerto.evaluation.rank import rank_backbones

    names = [name.strip() for name in backbones.split(",") if name.strip()]
    options = given(
        image_size=image_size, max_length=max_length, input=input, label=label, domain=domain, group=group,
        precision=precision, threads=threads,
    )  # fmt: skip
    found = rank_backbones(
        data, names, on=on or (), seed=seed, skip_bad=skip_bad, allow_outside=allow_outside, **options
    )
    if as_json:
        print_json(found)
    else:
        print_rank(found)


def print_rank(content: dict[str, Any]) -> None:
    """The models, best first.

    Args:
        content: From :func:`injerto.evaluation.rank.rank_backbones`.
    """
    from injerto.basics.progress import format_seconds
    from injerto.cli.show import percent, table

    rows = []
    for entry in content["backbones"]:
        scores, seconds = entry["scores"], entry["seconds"]
        spent = sum(value for name, value in seconds.items() if name != "embedding")
        rows.append(
            [
                entry["backbone"],
                percent(scores["probe_accuracy"]),
                percent(scores["knn_accuracy"]),
                f"{scores['logme']:.3f}",
                f"{scores['h_score']:.2f}",
                f"{scores['leep']:.3f}" if "leep" in scores else "-",
                f"{entry['parameters'] / 1e6:.1f} M",
                format_seconds(seconds["embedding"]),
                format_seconds(spent),
            ]
        )
    columns = ("backbone", "probe", "kNN", "LogME", "H-score", "LEEP", "parameters", "embedding", "scores")
    domains = ", ".join(f"{name} ({count})" for name, count in content["domains"].items())
    table(f"{content['data']}: {domains}", columns, rows, ("H-score", "LEEP", "scores", "LogME", "embedding"))
    say("probe and kNN: balanced accuracy on held-out groups, mean over domains; higher is better in every column")


@app.command()
def advise(
    data: Data,
    source: Annotated[list[str] | None, _option("Domain to learn from, with labels; repeat for several.")] = None,
    target: Annotated[list[str] | None, _option("Domain without labels, or NAME=PATH; repeat for several.")] = None,
    backbone: BackboneName = None,
    minutes: Annotated[float, _option("What a run may take on this machine; 30 where not given.")] = 30,
    image_size: ImageSize = None,
    max_length: MaxLength = None,
    input: Column = None,
    label: LabelColumn = None,
    domain: DomainColumn = None,
    group: Group = None,
    seed: Annotated[int, _option("Seed of what is measured, and of the recipes.")] = 0,
    threads: Threads = None,
    skip_bad: SkipBad = False,
    allow_outside: AllowOutside = False,
    as_json: Json = False,
) -> None:
    """What to try first on this data: recipes with their reasons, minutes and commands."""
    from injerto.cli.show import print_json
    from injerto.studies.advise import advise as find

    options = given(
        backbone=backbone, image_size=image_size, max_length=max_length, input=input, label=label, domain=domain,
        group=group, threads=threads,
    )  # fmt: skip
    found = find(
        data,
        source=source or (),
        target=target or (),
        minutes=minutes,
        seed=seed,
        skip_bad=skip_bad,
        allow_outside=allow_outside,
        **options,
    )
    if as_json:
        print_json(found)
    else:
        print_advice(found)


def print_advice(content: dict[str, Any]) -> None:
    """The recipes, best guess first.

    Args:
        content: From :func:`injerto.studies.advise.advise`.
    """
    from injerto.basics.progress import format_seconds

    facts = content["facts"]
    widest = facts["gap"]
    say(f"{facts['labelled']} labelled examples, {facts['a_class']:.0f} a class")
    if widest:
        say(f"widest gap to a target: {widest['says']}")
    for number, recipe in enumerate(content["recipes"], 1):
        late = " (longer than --minutes)" if recipe["minutes"] > content["minutes"] else ""
        say(f"{number}. --tuning {recipe['tuning']} --alignment {recipe['alignment']}: {recipe['why']}")
        say(f"   about {format_seconds(60 * recipe['minutes'])}{late}")
        say(f"   {recipe['command']}")


def print_gap(content: dict[str, Any]) -> None:
    """The gap as a table, a verdict and what to try.

    Args:
        content: Of :attr:`injerto.evaluation.gap.Gap.content`.
    """
    from injerto.cli.show import percent, table

    columns = ("pair", "level", "MMD^2", "95 % interval", "p", "told apart", "A-distance", "Frechet", "class shift")
    rows = []
    for pair in sorted(content["pairs"], key=lambda pair: -pair["mmd2"]):
        shift = pair["label_shift"]
        rows.append(
            [
                f"{pair['a']} - {pair['b']}",
                pair["level"],
                f"{pair['mmd2']:.3f}",
                f"{pair['mmd2_low']:.3f} to {pair['mmd2_high']:.3f}",
                f"{pair['p_value']:.3f}",
                percent(0.5 + 0.25 * pair["a_distance"]),
                f"{pair['a_distance']:.2f}",
                f"{pair['frechet_relative']:.2f}",
                "-" if shift is None else f"{'~' if shift['estimated'] else ''}{shift['value']:.2f}",
            ]
        )
    spare = ("Frechet", "A-distance", "95 % interval", "class shift", "p")
    table(f"gap between the domains of {content['data']}, seen by {content['backbone']}", columns, rows, spare, words=2)
    say(f"verdict: {content['verdict']}")
    for pair in sorted(content["pairs"], key=lambda pair: -pair["mmd2"])[:MOST]:
        say(f"  - {pair['says']}")
    if len(content["pairs"]) > MOST:
        say(f"  - ... and {len(content['pairs']) - MOST} pairs more: --json or --report has them")
    for number, advice in enumerate(content["advice"], 1):
        say(f"{number}. {advice['why']}\n   {advice['command']}")
