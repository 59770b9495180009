"""A random walk over the settings of ``fit``: whatever is combined, the run keeps its invariants or is refused at once.

Every step of the walk changes a few settings of the one before. A setting that is refused must be refused in one line,
before compute is spent, and equally the second time. A run that ends is looked at: its metrics must be its predictions
recounted, and some of :data:`CHECKS`, drawn for each setting, must hold.
"""

import csv
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from benchmarks.campaign.cases import Case, Verdict, rng_of
from benchmarks.campaign.kit import Kit, content_of, differences, own_cache, run_cli

LEAST, JOBS = 200, 2
KINDS = {"image": 5, "text": 3, "language": 1}
"""Kinds of settings and how often each is tried."""
CLOSE, ROUGH = 1e-4, 0.1
"""Differences of probabilities that rounding may make, in float32 and in bfloat16."""

COMMON: dict[str, tuple[Any, ...]] = {
    "length": (("epochs", 3), ("epochs", 0.5), ("epochs", 2.7), ("steps", 1), ("steps", 5), ("steps", 12)),
    "batch-size": (1, 2, 3, 8, 16, 64, 1000),
    "accumulate": (1, 2, 3, 8),
    "lr": (1e-6, 1e-4, 1e-3, 1e-2, 0.3, "auto"),
    "weight-decay": (0, 0.5, 30),
    "layer-decay": (1, 0.5, 0.01),
    "l2-sp": (0, 0.1, 20),
    "optimizer": ("adamw", "sgd"),
    "warmup": (0, 0.5, 0.99),
    "clip": (0, 0.1, 1e6),
    "average": ("ema", "swad"),
    "patience": (1, 2),
    "precision": ("fp32", "bf16", "auto"),
    "threads": (1, 1, 1, 2),
    "seed": (0, 1, 7, 2**63 - 1),
    "split-seed": (0, 3, 11),
}
CLASSES: dict[str, tuple[Any, ...]] = COMMON | {
    "head": ("linear", "mlp", "probe", "native"),
    "neck": ("none", 1, 8, 256),
    "head-lr": (1e-3, 1e-2, 0.5),
    "class-weights": ("none", "balanced"),
    "label-smoothing": (0, 0.1, 0.9),
    "views": (0, 1, 2, 5),
    "slider": (True,),
    "shots": (1, 2, 100),
    "select": (
        "best-source-val", "last", "source", "infomax", "entropy", "bnm", "snd", "class-ami", "dev", "iwv",
    ),
    "objective": (
        "erm", "group-dro", "group-dro(eta=1)", "vrex", "vrex(penalty=0)", "irm", "irm(penalty=1,anneal=0)",
    ),
    "target-labels": (1, 2, "FILE"),
    "group": ("group", "(\\d+)"),
    "split-column": ("split",),
    "split-file": ("FILE",),
    "remember": ("REMEMBER",),
}  # fmt: skip
TUNINGS = ("head", "head", "last:1", "last:2", "last:9", "full", "gradual", "lp-ft", "bitfit", "norm", "lora")
LOW_RANK = (
    "lora(r=1)", "lora(r=4,alpha=1)", "lora(dropout=0.5)", "lora(variant=dora)", "lora(variant=rslora)",
    "lora(variant=pissa)", "lora(variant=rslora/dora,r=2)", "lora(plus=16)", "lora:last:1", "lora( r = 3 ) : last : 2",
)  # fmt: skip
TERMS = (
    "mmd", "mmd(estimator=biased)", "mmd(estimator=linear)", "mmd(frequencies=estimated)", "coral", "coral(mean=true)",
    "lmmd", "dann", "dann(hidden=8,penalty=0)", "cdan", "cdan-e", "cdann", "mcc", "mcc(temperature=0.1)",
    "self-training", "self-training(threshold=0)", "supcon", "supcon(temperature=1)", "mmd(stages=STAGES)",
)  # fmt: skip
WEIGHTS = ("", "", ":0", ":0.1", ":3", ":1000")
FIELDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "image": CLASSES
    | {
        "data": ("folder", "table", "table"),
        "backbone": ("resnet", "resnet", "vit"),
        "roles": (
            (("day",), ()), (("day",), ("dusk",)), (("day", "night"), ()), (("day", "night"), ("dusk",)),
            (("dusk",), ("night", "day")), (("day",), ("ELSEWHERE",)), ((), ()),
        ),
        "tuning": (*TUNINGS, *LOW_RANK, "lora(targets=conv1/qkv)", "lora(ranks=layer4:2/blocks.2:2)"),
        "norm": ("frozen", "train", "recalibrate", "recalibrate:source", "recalibrate:target"),
        "augment": ("none", "light", "standard", "auto", "mixup", "light+mixup", "none+mixstyle", "mixup+mixstyle"),
        "image-size": (16, 33, 48),
    },
    "text": CLASSES
    | {
        "roles": (
            (("films",), ()), (("films",), ("books",)), (("films", "songs"), ()), (("books", "films"), ("songs",)),
            (("books",), ("films", "songs")),
        ),
        "tuning": (*TUNINGS, *LOW_RANK, "lora(targets=query/value)", "lora(ranks=key:2,alphas=value:1)"),
        "augment": ("none", "light", "standard", "auto", "mixup", "none+mixup"),
        "max-length": (8, 20, 64),
    },
    "language": COMMON
    | {
        "data": ("pairs", "texts"),
        "roles": ((("films",), ()), (("films", "books"), ()), (("songs",), ())),
        "tuning": ("full", "last:1", "bitfit", "norm", "lora", *LOW_RANK, "lora(targets=embed_tokens/q_proj)"),
        "select": ("best-source-val", "last"),
        "max-length": (8, 20, 64),
    },
}  # fmt: skip
"""Settings by kind, each with values that are tried; names are those of the flags but for length, data and roles."""


class Ended(NamedTuple):
    """How a command ended that ran in a process of its own: exit code (None for killed), standard error, seconds."""

    code: int | None
    said: str
    seconds: float


# --- data ---


class Walk:
    """What the settings are tried on."""

    def __init__(self, kit: Kit) -> None:
        self.kit, self.folder = kit, kit.folder / "walk"
        self.models = kit.folder / "models"

    def prepare(self) -> None:
        """Write networks and tables; of every table one for each set of domains with other labels, and with none."""
        import tiny

        if (self.folder / "ready").exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        tiny.save_timm(self.folder / "vit", seed=0, architecture="vit_tiny_patch16_224", arguments=tiny.VIT)
        tiny.write_pictures(self.folder / "pictures", per_class=8)
        tiny.write_pictures(self.folder / "elsewhere", per_class=5, domains=("dawn",))
        tiny.write_reviews(self.folder / "plain.csv", per_class=12, domains=("books", "films", "songs"))
        pictures = [
            {"path": f"pictures/{domain}/{label}/{number}.png", "label": label, "domain": domain, "group": number}
            for domain in ("day", "dusk", "night")
            for label in tiny.CLASSES
            for number in range(8)
        ]
        with (self.folder / "plain.csv").open(encoding="utf-8") as stream:
            reviews = [row | {"group": k // 2} for k, row in enumerate(csv.DictReader(stream))]
        for name, rows in (("pictures", pictures), ("reviews", reviews)):
            for k, row in enumerate(rows):
                row["split"] = ("train", "test", "train", "val", "train", "unlabeled")[k % 6]
                if k % 17 == 16:
                    row["label"] = ""
            self._tables(name, rows)
        with (self.folder / "texts.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("text", "domain"))
            writer.writerows((row["text"], row["domain"]) for row in reviews)
        (self.folder / "ready").touch()

    def _tables(self, name: str, rows: list[dict[str, Any]]) -> None:
        domains = sorted({row["domain"] for row in rows})
        write_table(self.folder / f"{name}.csv", rows)
        for count in range(1, len(domains)):
            for some in itertools.combinations(domains, count):
                rng, own = rng_of(0, name, some), [row for row in rows if row["domain"] in some]
                shuffled = rng.sample([row["label"] for row in own], len(own))
                labels = {id(row): label for row, label in zip(own, shuffled, strict=True)}
                for kind in ("shuffled", "blank"):
                    changed = labels if kind == "shuffled" else dict.fromkeys(labels, "")
                    written = [row | {"label": changed.get(id(row), row["label"])} for row in rows]
                    write_table(self.folder / changed_table(name, some, kind), written)


def changed_table(name: str, domains: Iterable[str], kind: str) -> str:
    """Path of a table in which the labels of some domains are others; one of texts keeps its name (of a split file).

    Args:
        name: Of the table.
        domains: Whose.
        kind: ``shuffled`` or ``blank``.
    """
    stem = f"{name}-{'-'.join(sorted(domains))}-{kind}"
    return f"{stem}/{name}.csv" if name == "reviews" else f"{stem}.csv"


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with their keys as heading."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# --- the walk ---


def walk(seed: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Number, kind and settings of every step; never ends."""
    rng = rng_of(seed, "walk")
    states: dict[str, dict[str, Any]] = {kind: {} for kind in FIELDS}
    number = 0
    while True:
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        fields = FIELDS[kind]
        state = {name: value for name, value in states[kind].items() if rng.random() < 0.6}
        for name in rng.sample(list(fields), rng.randint(2, 5)):
            state[name] = rng.choice(fields[name])
        for name in ("length", "roles", "tuning"):
            if name not in state or rng.random() < 0.3:
                state[name] = rng.choice(fields[name])
        state.pop("alignment", None)
        if kind != "language" and rng.random() < 0.5:
            terms = rng.sample(TERMS, rng.choice((1, 1, 1, 2, 3)))
            state["alignment"] = " + ".join(term + rng.choice(WEIGHTS) for term in terms)
        if plausible(kind, state):
            states[kind] = state
        elif rng.random() < 0.85:
            continue  # most of what is refused at the first look says nothing new
        yield number, kind, state
        number += 1


def plausible(kind: str, state: dict[str, Any]) -> bool:
    """Whether the settings alone are in order."""
    from injerto.basics.errors import InjertoError
    from injerto.basics.progress import silent
    from injerto.recipe.recipe import make_recipe
    from injerto.training.settings import check_roles, check_terms

    words = arguments(kind, state, Path("walk"))
    fields: dict[str, Any] = {"data": words.pop(0)}
    while words:
        name = words.pop(0)[2:].replace("-", "_")
        value = True if name == "slider" else words.pop(0)
        fields[name] = (*fields.get(name, ()), value) if name in ("source", "target") else value
    try:
        recipe = make_recipe(**fields)
        with silent():
            if kind != "language":
                check_terms(recipe)
                check_roles(recipe, max(1, len(recipe.source)), len(recipe.target))
    except InjertoError:
        return False
    return True


def arguments(kind: str, state: dict[str, Any], folder: Path, table: str | None = None) -> list[str]:
    """What follows ``fit``: the data and the flags."""
    stem, models = "pictures" if kind == "image" else "reviews", folder.parent / "models"
    data = {"folder": folder / "pictures", "texts": folder / "texts.csv"}.get(state.get("data", ""))
    words = [str(folder / table if table else data or folder / f"{stem}.csv")]
    network = {"image": state.get("backbone", "resnet"), "text": "bert", "language": "lm"}[kind]
    words += ["--backbone", str(folder / "vit" if network == "vit" else models / network)]
    if kind == "language":
        words += ["--task", "causal-lm"]
    for flag, names in zip(("--source", "--target"), state["roles"], strict=True):
        for name in names:
            words += [flag, f"dawn={folder / 'elsewhere' / 'dawn'}" if name == "ELSEWHERE" else name]
    for name, value in ({"threads": 1, "precision": "fp32", "batch-size": 8} | state).items():
        if name in ("data", "backbone", "roles"):
            continue
        if name == "length":
            name, value = value
        if value == "FILE":
            value = folder.parent / "lists" / f"{name}-{kind}.csv"
        if value == "REMEMBER":
            value = f"{folder / 'pictures'}:night" if kind == "image" else f"{folder / 'plain.csv'}:songs"
        stages = "2/3" if state.get("backbone") == "vit" else "4" if kind == "image" else "2"
        words += [f"--{name}"] if value is True else [f"--{name}", str(value).replace("STAGES", stages)]
    return words


def write_lists(walk: Walk) -> None:
    """The files of ``--target-labels`` and ``--split-file``."""
    folder = walk.kit.folder / "lists"
    folder.mkdir(exist_ok=True)
    for kind, stem, names in (("image", "pictures", ("dusk", "night", "day")), ("text", "reviews", ("books", "films"))):
        with (walk.folder / f"{stem}.csv").open(encoding="utf-8") as stream:
            rows = [(number, row) for number, row in enumerate(csv.DictReader(stream), 2) if row["label"]]
        place = {n: row["path"].partition("/")[2] if kind == "image" else f"{stem}.csv:{n}" for n, row in rows}
        labels = [{"path": place[n], "label": row["label"]} for n, row in rows if row["domain"] in names][::5]
        sides = [{"path": place[n], "split": ("train", "train", "val", "test")[n % 4]} for n, row in rows]
        write_table(folder / f"target-labels-{kind}.csv", labels)
        write_table(folder / f"split-file-{kind}.csv", sides)


# --- commands in processes of their own ---


def apart(words: list[str], cache: Path | None = None, stop: tuple[float, int] | None = None) -> Ended:
    """A command line in a process of its own, with a checkpoint at every evaluation.

    Args:
        words: Of the command.
        cache: Its cache, where it is not the campaign's.
        stop: Seconds after which it gets a signal, and which.
    """

    def command() -> tuple[int, str]:
        if cache is not None:
            own_cache(cache)
        from injerto.training import trainer

        trainer.SAVE_SECONDS = -1
        code, said = run_cli(words)
        return code, said[-50_000:]

    begun = time.monotonic()
    answer, status = forked(command, stop)
    code, said = (None, status) if answer is None else answer
    return Ended(code, said, time.monotonic() - begun)


def forked(call: Callable[[], Any], stop: tuple[float, int] | None = None) -> tuple[Any, str]:
    """What a function gives in a process of its own; None, and how it ended, where it gave nothing."""
    handle, out = os.pipe()
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(handle)
            os.write(out, json.dumps(call()).encode())
        finally:
            os._exit(0)
    os.close(out)
    if stop is not None:
        time.sleep(max(0.0, begun + stop[0] - time.monotonic()))
        os.kill(pid, stop[1])
    with open(handle, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(pid, 0)
    ended = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended without a word"
    return json.loads(answer) if answer else None, ended


@dataclass
class Trial:
    """A setting, its command and its run.

    Attributes:
        kind: Of :data:`FIELDS`.
        state: The settings.
        walk: Its data.
        place: An empty folder.
        rng: Of its checks.
        words: The command, without its ``--out``.
        run: The run's folder.
        seconds: That the run took.
        trouble: What does not hold.
    """

    kind: str
    state: dict[str, Any]
    walk: Walk
    place: Path
    rng: random.Random
    words: list[str] = field(default_factory=list)
    seconds: float = 0.0
    trouble: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.words = ["-q", "fit", *arguments(self.kind, self.state, self.walk.folder)]
        self.run = self.place / "run"

    def flag(self, name: str, default: str) -> str:
        """What a flag of the command says."""
        return self.words[self.words.index(name) + 1] if name in self.words else default

    @property
    def loading(self) -> dict[str, Any]:
        """How the run is opened: as it was fitted."""
        return {"precision": self.flag("--precision", "fp32"), "threads": int(self.flag("--threads", "1"))}

    @property
    def near(self) -> float:
        """How far probabilities may lie apart."""
        return ROUGH if self.flag("--precision", "fp32") != "fp32" else CLOSE

    def domains(self) -> Any:
        """The data as the run read them."""
        from injerto.recipe.recipe import load_recipe, make_recipe
        from injerto.training.reading import read_domains

        recipe = make_recipe(**load_recipe(self.run / "recipe.yaml"))
        if self.kind == "language":
            from injerto.domains.load import load_domains

            return load_domains(recipe.data, responses=True).check()
        return read_domains(recipe, recipe.data).check()

    def rows(self) -> list[dict[str, str]]:
        """Of ``predictions.csv``."""
        with (self.run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "metrics.json").read_text(encoding="utf-8"))
        return found

    def same_bits(self, other: Path, what: str) -> None:
        """Whether another run left the same."""
        odd = differences(content_of(other), content_of(self.run))
        if odd:
            self.trouble.append(f"{what}: other {', '.join(odd)}")


# --- checks ---


def recount(trial: Trial) -> None:
    """Metrics are predictions, counted; the card says the same."""
    metrics, rows = trial.metrics(), defaultdict(list)
    card = json.loads((trial.run / "adapter" / "adapter_card.json").read_text(encoding="utf-8"))
    for row in trial.rows():
        rows[row["domain"], row["split"]].append(row)
        if not 1 / len(card["labels"]) - 1e-6 <= float(row["confidence"]) <= 1:
            trial.trouble.append(f"recount: a confidence of {row['confidence']}")
    found = {(name, side) for name, one in metrics["domains"].items() for side in one["splits"]}
    if found != set(rows):
        trial.trouble.append(f"recount: metrics of {sorted(found)}, predictions of {sorted(rows)}")
        return
    for (name, side), own in rows.items():
        said = metrics["domains"][name]["splits"][side]
        expected = counted(own, card["labels"])
        wrong = [key for key, value in expected.items() if not _equal(said.get(key), value)]
        if wrong:
            trial.trouble.append(f"recount: {name} {side}: {[(key, said.get(key), expected[key]) for key in wrong]}")
        shipped = card["metrics"][name].get(side)
        if shipped is not None and any(value != said[key] for key, value in shipped.items()):
            trial.trouble.append(f"recount: the card says {shipped} of {name} {side}")


def counted(rows: list[dict[str, str]], labels: list[str]) -> dict[str, Any]:
    """Figures of predictions."""
    known = [row for row in rows if row["label"] in labels]
    if not known:
        return {"n": len(rows), "accuracy": None, "balanced_accuracy": None}
    right: dict[str, list[int]] = defaultdict(list)
    for row in known:
        right[row["label"]].append(int(row["label"] == row["predicted"]))
    every = [one for hits in right.values() for one in hits]
    table = [[sum(r["label"] == a and r["predicted"] == b for r in known) for b in labels] for a in labels]
    return {
        "n": len(known),
        "accuracy": float(np.mean(every)),
        "balanced_accuracy": float(np.mean([np.mean(hits) for hits in right.values()])),
        "confusion": table,
    }


def _equal(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, float):
        return abs(found - expected) < 1e-9
    return bool(found == expected)


def predictions(trial: Trial) -> None:
    """The run, opened again, says of every measured input what fit wrote down; so does the bank; all sums to one."""
    import injerto

    run = injerto.load(trial.run, **trial.loading)
    inputs = {(d.name, c): i for d in trial.domains().values() for c, i in zip(d.contents, d.inputs, strict=True)}
    rows = trial.rows()
    asked = [inputs[row["domain"], row["content"]] for row in rows]
    if not asked:
        return
    found = run.predict_proba(asked)
    if not np.isfinite(found).all() or np.abs(found.sum(1) - 1).max() > 1e-9 or found.min() < 0:
        trial.trouble.append("predict: probabilities that are none")
    for row, values in zip(rows, found, strict=True):
        said = run.labels.index(row["predicted"])
        if abs(values[said] - float(row["confidence"])) > trial.near or values.max() - values[said] > trial.near:
            trial.trouble.append(f"predict: {values} where fit had {row['predicted']} {row['confidence']}")
            break
    if trial.rng.random() < 0.5:
        bank = injerto.AdapterBank.of(trial.run, **trial.loading)
        answers = np.stack([answer.probabilities for answer in bank.predict(asked, "run")])
        if (worst := float(np.abs(answers - found).max())) > trial.near:
            trial.trouble.append(f"bank: {worst:.2g} from load's")
    if trial.state.get("slider"):
        ends = injerto.load(trial.run, slider=1.0, **trial.loading).predict_proba(asked)
        start = injerto.load(trial.run, slider=0.0, **trial.loading).predict_proba(asked)
        if (worst := float(np.abs(ends - found).max())) > trial.near or not np.isfinite(start).all():
            trial.trouble.append(f"slider: {worst:.2g} at its end")


def evaluated(trial: Trial) -> None:
    """``evaluate`` finds what fit found."""
    import injerto

    domains = trial.domains()
    run = injerto.load(trial.run, **trial.loading)
    tests = {name: one["splits"].get("test") for name, one in trial.metrics()["domains"].items()}
    said = {name: one if one and one["n"] else None for name, one in tests.items()}
    if not any(one and (trial.kind == "language" or one["accuracy"] is not None) for one in said.values()):
        return
    found = run.evaluate(domains)
    keys = ("n", "tokens", "perplexity") if trial.kind == "language" else ("n", "accuracy", "balanced_accuracy", "nll")
    for name, one in said.items():
        if (one is None) != (name not in found):
            trial.trouble.append(f"evaluate: {name} is measured in one place only")
            continue
        for key in keys:
            ours, theirs = (one or {}).get(key), found.get(name, {}).get(key)
            if not _alike(ours, theirs, trial.near * 10 if key in ("nll", "perplexity") else trial.near, key):
                if key.endswith("accuracy") and ties(trial, run, domains[name]):
                    continue
                trial.trouble.append(f"evaluate: {name} {key} {theirs}, fit had {ours}")


def _alike(ours: Any, theirs: Any, near: float, key: str) -> bool:
    if ours is None or theirs is None or key in ("n", "tokens"):
        return bool(ours == theirs)
    return bool(abs(ours - theirs) <= (near * max(1.0, abs(ours)) if key in ("nll", "perplexity") else 1e-9))


def ties(trial: Trial, run: Any, domain: Any) -> bool:
    """Whether a prediction of a domain hangs on rounding."""
    found = np.sort(run.predict_proba(list(domain.inputs)), axis=1)
    return bool((found[:, -1] - found[:, -2]).min() < trial.near)


def rerun(trial: Trial) -> None:
    """The same settings again, from the same cache, from none, or from the recipe that was written: the same bits."""
    how = trial.rng.choice(("again", "cold", "recipe"))
    words = [*trial.words, "--out", str(trial.place / "again")]
    if how == "recipe":
        data = trial.words[2]
        words = ["-q", "fit", data, "--config", str(trial.run / "recipe.yaml"), "--out", str(trial.place / "again")]
    ended = apart(words, trial.place / "cold" if how == "cold" else None)
    if ended.code != 0:
        trial.trouble.append(f"rerun ({how}): {ended.said[-300:]}")
        return
    trial.same_bits(trial.place / "again", f"rerun ({how})")


def resume(trial: Trial) -> None:
    """Killed or interrupted at random moments, then gone on with: the same bits."""
    out, moments = trial.place / "resumed", []
    cache = trial.place / "own" if trial.rng.random() < 0.5 else None
    words = [*trial.words, "--out", str(out)]
    for round_ in range(trial.rng.choice((1, 1, 2))):
        sent = trial.rng.choice((signal.SIGKILL, signal.SIGINT))
        moment = trial.rng.uniform(0.1, 1.0) * trial.seconds
        moments.append(f"{sent.name} after {moment:.2f} of {trial.seconds:.2f} s")
        ended = apart([*words, "--resume"] if round_ else words, cache, (moment, sent))
        if ended.code not in (None, 0, 130):
            trial.trouble.append(f"resume ({', '.join(moments)}): exit {ended.code} {ended.said[-300:]}")
            return
    ended = apart([*words, "--resume"], cache)
    if ended.code != 0:
        trial.trouble.append(f"resume ({', '.join(moments)}): {ended.said[-300:]}")
        return
    trial.same_bits(out, f"resume ({', '.join(moments)})")


def permuted(trial: Trial) -> None:
    """With the targets' labels shuffled, or taken away, the adapter has the same bits."""
    stem, how = "pictures" if trial.kind == "image" else "reviews", trial.rng.choice(("shuffled", "blank"))
    table = arguments(trial.kind, trial.state, trial.walk.folder, changed_table(stem, trial.state["roles"][1], how))
    ended = apart(["-q", "fit", *table, "--out", str(trial.place / "permuted")])
    if ended.code != 0:
        trial.trouble.append(f"target labels {how}: {ended.said[-300:]}")
        return
    ours, theirs = (content_of(path / "adapter") for path in (trial.run, trial.place / "permuted"))
    odd = [name for name in differences(theirs, ours) if name != "adapter_card.json"]
    if odd:
        trial.trouble.append(f"target labels {how}: other {', '.join(odd)}")


def exported(trial: Trial) -> None:
    """What other tools make of it computes the same; a form that it does not have is refused."""
    import torch

    import injerto
    from injerto.basics.errors import InjertoError

    run = injerto.load(trial.run, threads=1)
    forms = ["merged", *(("peft", "int8") if trial.state["tuning"].startswith("lora") else ())]
    if trial.kind != "language" and trial.rng.random() < 0.15:
        forms = ["onnx"]
    form, out = trial.rng.choice(forms), trial.place / "exported"
    try:
        injerto.export(trial.run, out, format=form, threads=1)
    except InjertoError as error:
        if form == "merged" or "differ" in str(error):
            trial.trouble.append(f"export {form}: {error}")
        return
    if form in ("peft", "int8"):
        near = CLOSE if form == "peft" else 1.0
        other = injerto.load(out, backbone=trial.flag("--backbone", ""), threads=1)
    domain = next(iter(trial.domains().values()))
    inputs = [str(item) if trial.kind != "image" else item for item in domain.inputs[:4]]
    with torch.no_grad():
        if trial.kind == "language":
            ids = {"input_ids": torch.tensor([run.size.tokenizer(inputs[0])["input_ids"]])}  # type: ignore[attr-defined]
            ours = run.model.backbone.model(**ids).logits
            if form == "merged":
                theirs, near = _readme(out)["model"](**ids).logits, CLOSE
            else:
                theirs = other.model.backbone.model(**ids).logits
        elif form == "merged":
            near = CLOSE
            ours, theirs = _merged(run, out, inputs, trial.kind)
        elif form == "onnx":
            return  # export compares the file's answers with its own
        else:
            ours, theirs = (torch.from_numpy(one.predict_proba(inputs)) for one in (run, other))
    worst = float((ours - theirs).abs().max() / max(1.0, float(ours.abs().max())))
    if not worst <= near:
        trial.trouble.append(f"export {form}: {worst:.2g} away")


def _merged(run: Any, out: Path, inputs: list[Any], kind: str) -> tuple[Any, Any]:
    """Logits of a run, and those that the README's lines get from its export; probabilities where these do."""
    import torch

    from injerto.compute.batches import BatchMaker
    from injerto.domains.texts import pad, tokenize

    size = run.model.backbone.preprocessing
    if kind == "text":
        batch: Any = {name: torch.from_numpy(value) for name, value in pad(tokenize(inputs, size), size).items()}
    else:
        maker = BatchMaker(size, "cpu")
        batch = maker.collate_images([maker.image(item) for item in inputs])
    found = _readme(out, TEXTS=inputs, IMAGES=batch)
    ours = run.model(batch).logits
    if "classify" in found:
        said = [{one["label"]: one["score"] for one in row} for row in found["classify"](inputs, top_k=None)]
        return ours.softmax(1), torch.tensor([[row[label] for label in run.labels] for row in said])
    return ours, found["logits"] if "logits" in found else found["model"](batch)


def _readme(folder: Path, **names: Any) -> dict[str, Any]:
    """The names that the code of a README defines."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code
    names["FOLDER"] = str(folder)
    exec(code[1], names)
    return names


def spoken(trial: Trial) -> None:
    """A language model says the same twice."""
    words = ["predict", str(trial.run), "a good film", "the plot", "--tokens", "5", "--threads", "1", "--json"]
    found = [apart(["-q", *words]) for _ in range(2)]
    if found[0][:2] != found[1][:2] or found[0].code != 0:
        trial.trouble.append(f"predict: {[one[:2] for one in found]}")


CHECKS: dict[str, tuple[tuple[Callable[[Trial], None], int], ...]] = {
    "classes": ((predictions, 4), (evaluated, 3), (rerun, 2), (resume, 3), (permuted, 3), (exported, 2)),
    "language": ((evaluated, 2), (rerun, 2), (resume, 3), (exported, 1), (spoken, 1)),
}
"""Checks and how often each is drawn."""
LOOKS = (predictions, evaluated, exported)
"""Checks that compute."""


def drawn(trial: Trial) -> list[Callable[[Trial], None]]:
    """Two checks of a trial."""
    kind = "language" if trial.kind == "language" else "classes"
    fits = {check: weight for check, weight in CHECKS[kind]}
    targets = trial.state["roles"][1]
    table = trial.state.get("data", "table") == "table"
    if not targets or "ELSEWHERE" in targets or not table or "target-labels" in trial.state:
        fits.pop(permuted, None)
    chosen: list[Callable[[Trial], None]] = []
    while len(chosen) < 2:
        chosen += trial.rng.choices(list(fits), list(fits.values()))
        fits.pop(chosen[-1])
    return chosen


# --- a case ---


def attempt(trial: Trial) -> Verdict:
    """Fit, and look."""
    shown = shlex.join(trial.words[2:]).replace(str(trial.walk.kit.folder), "KIT")
    first = apart([*trial.words, "--out", str(trial.run)])
    trial.seconds = first.seconds
    if first.code == 2:
        return refused(trial, first, shown)
    if first.code != 0:
        kind = "crash" if first.code is None else "fault"
        return Verdict(kind, f"{first.said[-500:]} | {shown}")
    if trial.kind != "language":
        recount(trial)
    for check in drawn(trial):
        if check in LOOKS:
            trial.trouble += looked(trial, check)
        else:
            check(trial)
    if trial.trouble:
        return Verdict("wrong", f"{'; '.join(trial.trouble)[:600]} | {shown}")
    return Verdict("same")


def looked(trial: Trial, check: Callable[[Trial], None]) -> list[str]:
    """What a check finds in a process of its own: one that has computed gives its children a single thread."""

    def look() -> list[str]:
        trial.trouble = []
        try:
            check(trial)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            trial.trouble.append(f"{check.__name__}: {type(error).__name__} at {place}: {str(error)[:300]}")
        return trial.trouble

    answer, status = forked(look)
    found: list[str] = answer if answer is not None else [f"{check.__name__}: {status}"]
    return found


def refused(trial: Trial, first: Ended, shown: str) -> Verdict:
    """A refusal is one line, comes before compute is spent, and comes again."""
    lines = [line for line in first.said.splitlines() if line.strip()]
    said = lines[-1] if lines else ""
    errors = [line for line in lines if line.startswith("error:")]
    begun = (trial.run / "recipe.yaml").exists()
    if len(errors) != 1 or not said.startswith("error:") or len(said) > 700:
        return Verdict("wrong", f"refused in other words than one line: {first.said[-400:]!r} | {shown}")
    if begun and not re.search(r"became|not finite|diverge", said):
        return Verdict("wrong", f"refused after it began: {said[:400]} | {shown}")
    flags = ["--overwrite"] if begun else []
    again = apart([*trial.words, "--out", str(trial.run), *flags])
    if again.code != 2 or not again.said.rstrip().endswith(said):
        return Verdict("wrong", f"refused once: {said[:300]}, then {again.said[-200:]} | {shown}")
    return Verdict("refused", said)


def cases(kit: Kit) -> Iterator[Case]:
    """One case for every step of the walk."""
    data = Walk(kit)
    data.prepare()
    write_lists(data)

    def case(number: int, kind: str, state: dict[str, Any]) -> Case:
        def attack(folder: Path) -> Verdict:
            return attempt(Trial(kind, state, data, folder, rng_of(kit.seed, "checks", number)))

        return Case(f"{number:04d}-{kind}", attack, 120.0, 6_000_000_000)

    for step in walk(kit.seed):
        yield case(*step)
