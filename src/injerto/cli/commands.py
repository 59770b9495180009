"""The commands. Heavy imports happen inside, so that ``--help`` answers at once; a test holds the defaults it names."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from injerto.basics.progress import say
from injerto.cli.once import App

app = App(
    help="Adapt a pretrained image or text model to your data, and measure that it worked.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[
    str, typer.Argument(help="Folder, .zip/.tar, table (.csv .tsv .jsonl .parquet) or sample name.", show_default=False)
]
RunPath = Annotated[Path, typer.Argument(help="Folder of a finished run, or its adapter.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def _option(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, show_default=False, **more)


Column = Annotated[str | None, _option("Column of texts or image paths.")]
LabelColumn = Annotated[str | None, _option("Column of labels.")]
DomainColumn = Annotated[str | None, _option("Column of domain names.")]
BackboneName = Annotated[
    str | None, _option("timm:NAME, hf:NAME, packaged:NAME or a folder; a small packaged one where not given.")
]
Precision = Annotated[str | None, _option("auto (bf16 where the hardware has it), fp32 or bf16; default auto.")]
Threads = Annotated[int | None, _option("CPU threads; OMP_NUM_THREADS or all cores where not given.")]
AllowModified = Annotated[
    bool, _option("Go on with adapter files that are not as they were written.", "--allow-modified")
]
AllowOutside = Annotated[bool, _option("Let a table name pictures outside of its folder.", "--allow-outside")]
Slider = Annotated[float | None, _option("0 for the pretrained model, 1 for the tuned one.")]


def _number(text: str, flag: str) -> float:
    try:
        return float(text)
    except ValueError:
        other = " nor auto" if flag == "--lr" else ""
        raise typer.BadParameter(f"{flag} '{text}' is no number{other}") from None


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave.

    Args:
        **options: Each as typed, None where not.
    """
    return {name: value for name, value in options.items() if value is not None}


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        print(version("injerto"))
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notes and no progress, only warnings.")] = False,
) -> None:
    if quiet:
        from injerto.basics.progress import set_quiet

        set_quiet(True)
    if context.invoked_subcommand != "recipes" and sys.stderr.isatty() and "--help" not in sys.argv:
        from injerto.basics.progress import note

        note("starting ...")  # the libraries take some seconds to load


@app.command()
def fit(
    data: Data,
    source: Annotated[
        list[str] | None,
        _option("Domain to learn from, with labels; repeat for several; needless for one domain."),
    ] = None,
    target: Annotated[list[str] | None, _option("Domain without labels, or NAME=PATH; repeat for several.")] = None,
    out: Annotated[Path | None, _option("The run's folder; runs/<data>-<tuning>-<seed> where not given.")] = None,
    backbone: BackboneName = None,
    task: Annotated[
        str | None, _option("classification, or causal-lm: a language model's next tokens; default classification.")
    ] = None,
    tuning: Annotated[
        str | None,
        _option(
            "What may move: head, last:K, full, gradual, lp-ft, lora, lora:last:K, bitfit or norm; "
            "default head (causal-lm: lora)."
        ),
    ] = None,
    alignment: Annotated[
        str | None, _option("What must match across domains: mmd, dann, mcc:0.5+coral, and so on; default none.")
    ] = None,
    objective: Annotated[
        str | None, _option("How sources' losses become one: erm, group-dro, vrex or irm; default erm.")
    ] = None,
    target_labels: Annotated[str | None, _option("Labelled target examples a class, or a CSV path,label.")] = None,
    head: Annotated[str | None, _option("linear, mlp, probe (converged) or native; default linear.")] = None,
    neck: Annotated[
        str | None,
        _option("none, or the width of a projection before the head; 256 for a frozen backbone with an alignment."),
    ] = None,
    norm: Annotated[str | None, _option("frozen, train or recalibrate[:source|:target]; default frozen.")] = None,
    epochs: Annotated[float | None, _option("Passes over the source's train split; by the tuning.")] = None,
    steps: Annotated[int | None, _option("Optimizer steps, instead of --epochs.")] = None,
    batch_size: Annotated[int | None, _option("Labelled source examples per step; default 32 (causal-lm: 8).")] = None,
    lr: Annotated[str | None, _option("Learning rate; auto for a range test; by the tuning.")] = None,
    head_lr: Annotated[float | None, _option("Learning rate of the new layers; by the tuning.")] = None,
    weight_decay: Annotated[float | None, _option("Decoupled weight decay; default 0.01.")] = None,
    layer_decay: Annotated[
        float | None, _option("Factor on the rate from each stage to the one below; default 1.")
    ] = None,
    l2_sp: Annotated[
        float | None, _option("Pull to the pretrained weights, in place of weight decay; default 0.")
    ] = None,
    optimizer: Annotated[str | None, _option("adamw or sgd; default adamw.")] = None,
    warmup: Annotated[float | None, _option("Share of the steps in which the rate rises; default 0.1.")] = None,
    clip: Annotated[float | None, _option("Largest gradient norm; 0 for no clipping; default 1.")] = None,
    accumulate: Annotated[
        int | None, _option("Compute a step in this many parts, to save memory; alignments see a part; default 1.")
    ] = None,
    class_weights: Annotated[str | None, _option("none or balanced; default none.")] = None,
    label_smoothing: Annotated[
        float | None, _option("Share of the probability spread over all classes; default 0.")
    ] = None,
    image_size: Annotated[int | None, _option("Pixels a side; the model's own where not given.")] = None,
    max_length: Annotated[
        int | None, _option("Longest text in tokens; the model's own, at most 512, where not given.")
    ] = None,
    augment: Annotated[
        str | None, _option("none, light, standard or auto, and +mixup or +mixstyle; default auto (head: none).")
    ] = None,
    views: Annotated[
        int | None, _option("Augmented versions of each example; 0 for new ones every epoch; by the tuning.")
    ] = None,
    average: Annotated[str | None, _option("Keep an average of the weights: none, ema or swad; default none.")] = None,
    slider: Annotated[bool, _option("Keep the probe too, to scale back towards the base.", "--slider")] = False,
    remember: Annotated[str | None, _option("Data the backbone should still tell apart; measured.")] = None,
    track: Annotated[list[str] | None, _option("tensorboard, wandb or mlflow; repeat for several.")] = None,
    select: Annotated[
        str | None,
        _option(
            "Kept step: best-source-val, last, or a validator such as infomax; default best-source-val (aligned: last)."
        ),
    ] = None,
    patience: Annotated[int | None, _option("Stop after so many evaluations without improvement.")] = None,
    precision: Precision = None,
    threads: Threads = None,
    seed: Annotated[int | None, _option("Seed of everything random; default 0.")] = None,
    split_seed: Annotated[int | None, _option("Seed of the splits; --seed where not given.")] = None,
    input: Column = None,
    label: LabelColumn = None,
    domain: DomainColumn = None,
    group: Annotated[str | None, _option("Column, or regex on path or text, of what a split must not part.")] = None,
    split_column: Annotated[str | None, _option("Column that says train, val, test or unlabeled.")] = None,
    split_file: Annotated[str | None, _option("CSV path,split.")] = None,
    shots: Annotated[int | None, _option("Train and val examples a class; all where not given.")] = None,
    skip_bad: Annotated[bool, _option("Go on without examples that cannot be read.", "--skip-bad")] = False,
    allow_outside: AllowOutside = False,
    resume: Annotated[bool, _option("Go on from the last checkpoint.", "--resume")] = False,
    overwrite: Annotated[bool, _option("Replace an earlier run.", "--overwrite")] = False,
    config: Annotated[
        Path | None, _option("YAML file with these settings, or a name of `injerto recipes`; flags win.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Adapt a pretrained model to data: train, measure, write the run's folder."""
    given = {name: value for name, value in locals().items() if name not in ("data", "as_json")}
    given["lr"] = lr if lr is None or lr == "auto" else _number(lr, "--lr")
    settings: dict[str, Any] = {n: v for n, v in given.items() if v is not None and v is not False and v != []}
    from injerto import api
    from injerto.basics.launcher import leads
    from injerto.cli.show import print_json, print_metrics

    run = api.fit(data, **settings)
    if not leads():
        return
    if (run.metrics.get("forgetting") or {}).get("path"):  # a recipe's slider counts as the flag does
        from injerto.reporting.path import draw_path

        draw_path(run.metrics, run.path / "forgetting.png")
    if as_json:
        print_json({"run": str(run.path), **run.metrics})
    else:
        print_metrics(run.metrics)


@app.command()
def evaluate(
    run: RunPath,
    data: Data,
    on: Annotated[list[str] | None, _option("Domain to measure on; all where not given.")] = None,
    input: Column = None,
    label: LabelColumn = None,
    domain: DomainColumn = None,
    backbone: BackboneName = None,
    precision: Precision = None,
    threads: Threads = None,
    slider: Slider = None,
    allow_modified: AllowModified = False,
    skip_bad: Annotated[bool, _option("Go on without examples that cannot be read.", "--skip-bad")] = False,
    allow_outside: AllowOutside = False,
    as_json: Json = False,
) -> None:
    """Measure a run on domains (the recorded test split where the content is known, else everything)."""
    from injerto import api
    from injerto.cli.show import print_evaluation, print_json

    options = given(
        input=input, label=label, domain=domain, backbone=backbone, precision=precision, threads=threads, slider=slider
    )
    results = api.evaluate(
        run,
        data,
        on=on or None,
        skip_bad=skip_bad,
        allow_modified=allow_modified,
        allow_outside=allow_outside,
        **options,
    )
    if as_json:
        print_json({"run": str(run), "domains": results})
    else:
        print_evaluation(results)


@app.command()
def predict(
    run: RunPath,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Images or texts, folders, archives, tables, globs; - reads lines from stdin.", show_default=False
        ),
    ],
    input: Annotated[str | None, _option("Column of a table; the one that the run was fitted with.")] = None,
    backbone: BackboneName = None,
    precision: Precision = None,
    threads: Threads = None,
    slider: Slider = None,
    allow_modified: AllowModified = False,
    tokens: Annotated[int | None, _option("A language model's new tokens, at most; 64 where not given.")] = None,
    temperature: Annotated[float | None, _option("0 for a language model's likeliest words; higher is freer.")] = None,
    seed: Annotated[int | None, _option("Seed of what is drawn at a temperature.")] = None,
    skip_bad: Annotated[bool, _option("Leave out empty texts and unreadable pictures.", "--skip-bad")] = False,
    allow_outside: AllowOutside = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a CSV table.")] = False,
    as_json: Json = False,
) -> None:
    """Class and probabilities of each input; of a language model, what it says to it."""
    from injerto import api
    from injerto.cli.show import print_predictions, print_texts
    from injerto.cli.stdin import expand

    options = given(backbone=backbone, precision=precision, threads=threads, slider=slider)
    opened = api.load(run, allow_modified=allow_modified, **options)
    drawing = given(tokens=tokens, temperature=temperature, seed=seed)
    speaks = opened.card["task"] == "causal-lm"
    if drawing and not speaks:
        raise typer.BadParameter(f"--{next(iter(drawing))} goes with a language model, and {run} predicts classes")
    found = expand(inputs, opened.reading(input, allow_outside), skip_bad)
    if speaks:
        print_texts(found, opened.predict(found, **drawing), as_csv, as_json)
        return
    print_predictions(found, opened.labels, opened.predict_proba(found), as_csv, as_json)


@app.command()
def soup(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs on the same base.", show_default=False)],
    out: Annotated[Path, _option("The soup's folder.")],
    data: Annotated[str | None, _option("What the runs learned from, where their recipe cannot say.")] = None,
    allow_modified: AllowModified = False,
    as_json: Json = False,
) -> None:
    """Average runs greedily, as long as source val does not fall."""
    from injerto.cli.show import print_evaluation, print_json
    from injerto.studies.soup import soup as cook

    found = cook(runs, out, data, allow_modified)
    if as_json:
        print_json({"run": str(found.path), **found.metrics})
        return
    for entry in found.metrics["soup"]["runs"]:
        say(f"{'in ' if entry['in'] else 'out'}  val {100 * entry['val']:.1f} %  {entry['run']}")
    say(f"soup  val {100 * found.metrics['soup']['val']:.1f} %  {found.path}")
    print_evaluation({name: entry["splits"]["test"] for name, entry in found.metrics["domains"].items()})


@app.command()
def combine(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs or adapters on one base.", show_default=False)],
    out: Annotated[Path, _option("The sum's folder.")],
    weights: Annotated[str | None, _option("One for each, as 0.7,0.3; equal shares where not given.")] = None,
    data: Annotated[str | None, _option("What to measure the sum on.")] = None,
    backbone: BackboneName = None,
    allow_modified: AllowModified = False,
    as_json: Json = False,
) -> None:
    """Add up adapters with the same classes, with weights."""
    from injerto.cli.show import print_evaluation, print_json
    from injerto.studies.combine import combine as add_up

    shares = None if weights is None else [_number(part, "--weights") for part in weights.split(",")]
    found = add_up(runs, out, shares, data, backbone, allow_modified)
    if as_json:
        print_json({"run": str(found.path), **found.metrics})
        return
    for entry in found.metrics["combined"]:
        say(f"{entry['weight']:+g}  {entry['run']}")
    say(f"sum: {found.path}")
    if found.metrics["domains"]:
        print_evaluation({name: entry["splits"]["test"] for name, entry in found.metrics["domains"].items()})


@app.command()
def export(
    run: RunPath,
    format: Annotated[str, _option("peft, int8, merged (plain transformers or timm) or onnx.")],
    out: Annotated[Path, _option("The new folder.")],
    data: Annotated[str | None, _option("What to check the result on; the run's own data where not given.")] = None,
    backbone: BackboneName = None,
    threads: Threads = None,
    allow_modified: AllowModified = False,
    as_json: Json = False,
) -> None:
    """Write a run for other tools, and check that the result computes the same."""
    from injerto import api
    from injerto.cli.show import print_info, print_json

    options = given(data=data, backbone=backbone, threads=threads)
    found = api.export(run, out, format=format, allow_modified=allow_modified, **options)
    if as_json:
        print_json(found)
    else:
        print_info(found)


@app.command()
def info(
    subject: Annotated[
        str | None, typer.Argument(help="A backbone or a run; this machine where not given.", show_default=False)
    ] = None,
    allow_modified: AllowModified = False,
    as_json: Json = False,
) -> None:
    """What is known about a backbone, a run, or this machine."""
    from injerto import api
    from injerto.cli.show import print_info, print_json

    facts = dict(api.info(subject, allow_modified))
    if as_json:
        print_json(facts)
    else:
        print_info(facts)


@app.command()
def demo(
    out: Annotated[Path, _option("The comparison's folder; what is there already is not done again.")] = Path(
        "injerto-demo"
    ),
    seeds: Annotated[int, _option("How many seeds, each of splits and training.")] = 2,
    as_json: Json = False,
) -> None:
    """Offline tour: which strategy carries a model from Noto emoji to line drawings? A table and a page."""
    from injerto.cli.demo import run_demo

    run_demo(out, seeds, as_json)
