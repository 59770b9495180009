"""Commands that write, what the undisturbed ones leave behind, and how a disturbed one is judged against it.

Each is run in a folder of its own with relative paths: the result in ``out``, its cache in ``cache``, and things of the
user's beside and inside them, which nobody may touch.
"""

import csv
import fcntl
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign.cases import Verdict
from benchmarks.campaign.kit import IMAGES, QUICK, Kit, content_of, timeless
from benchmarks.campaign.watched import ANSWER, Ended, Event, Process

CLOCK_COLUMNS = ("second", "time", "speed", "minutes", "started", "ended")
"""Parts of names of columns that tell the time."""
MINE = {
    "out.before/mine.txt": b"a folder of mine\n",
    ".hidden/deep/mine.txt": b"a hidden one\n",
    "beside.txt": b"a file beside the run\n",
    ".out.notes.tmp": b"not a temporary file of the program\n",
    "cache/features/mine/thesis.txt": b"kept in a bad place\n",
    "cache/mine.npy": b"no array\n",
}
"""Files of the user's, by place."""
FAULT = ("our fault", "Traceback (most recent call last)")


@dataclass(frozen=True)
class Scenario:
    """A command that writes.

    Attributes:
        name: Of it.
        words: What is typed, given the kit.
        again: Words that are added where it is typed again.
        over: Whether a finished run of other settings lies in ``out`` before, which ``--overwrite`` replaces.
        remedy: A flag's value that is changed where the command refuses a folder that it has left half-written.
        weight: How often it is drawn.
    """

    name: str
    words: Callable[[Kit], list[str]]
    again: tuple[str, ...] = ()
    over: bool = False
    remedy: bool = False
    weight: int = 1


def _pictures(kit: Kit) -> list[str]:
    return [str(kit.folder / "pictures"), "--backbone", str(kit.folder / "models" / "resnet")]


def _fit(name: str, *more: str) -> Callable[[Kit], list[str]]:
    return lambda kit: [*kit.fit(name), *more, "--out", "out"]


def _own_fit(*flags: str) -> Callable[[Kit], list[str]]:
    return lambda kit: ["-q", "fit", *_pictures(kit), *QUICK, *IMAGES, *flags, "--out", "out"]


def _language(kit: Kit) -> list[str]:
    data = [str(kit.folder / "reviews.csv"), "--backbone", str(kit.folder / "models" / "lm")]
    flags = ["--task", "causal-lm", "--source", "films", "--input", "text", "--max-length", "32", "--batch-size", "8"]
    return ["-q", "fit", *data, *flags, "--epochs", "3", "--threads", "1", "--precision", "fp32", "--out", "out"]


def _compare(kit: Kit) -> list[str]:
    short = [*_pictures(kit), *QUICK[:-1], "2", *IMAGES]
    return ["-q", "compare", *short, "--grid", "tuning=head,last:1", "--seeds", "2", "--out", "out"]


def _search(kit: Kit) -> list[str]:
    short = [*_pictures(kit), *QUICK[:-1], "2", *IMAGES, "--tuning", "head"]
    space = ["--space", "weight-decay=0.0,0.1", "--sampler", "grid", "--pruner", "none", "--trials", "2"]
    return ["-q", "search", *short, *space, "--out", "out"]


def _two(command: str, run: str) -> Callable[[Kit], list[str]]:
    return lambda kit: ["-q", command, str(kit.run(run)), str(kit.run(run)), "--out", "out"]


def _export(form: str, run: str) -> Callable[[Kit], list[str]]:
    return lambda kit: ["-q", "export", str(kit.run(run)), "--format", form, "--threads", "1", "--out", "out"]


SCENARIOS = [
    *(Scenario(f"fit-{name}", _fit(name), ("--resume",), weight=2)
      for name in ("head", "last", "full", "lora", "mmd", "dann", "text-head", "text-lora")),
    Scenario("fit-resume", _fit("last", "--resume"), weight=2),
    Scenario("fit-gradual-swad", _own_fit("--tuning", "gradual", "--average", "swad"), ("--resume",)),
    Scenario("fit-slider-ema", _own_fit("--tuning", "lp-ft", "--slider", "--average", "ema"), ("--resume",)),
    Scenario("fit-language", _language, ("--resume",)),
    Scenario("fit-overwrite", _fit("head", "--overwrite"), over=True, weight=4),
    Scenario("compare", _compare, weight=3),
    Scenario("search", _search, weight=3),
    Scenario("soup", _two("soup", "head"), remedy=True),
    Scenario("combine", _two("combine", "lora"), remedy=True),
    Scenario("export-peft", _export("peft", "text-lora"), remedy=True),
    Scenario("export-int8", _export("int8", "lora"), remedy=True),
    Scenario("export-merged", _export("merged", "text-head"), remedy=True),
    Scenario("gap", lambda kit: ["-q", "gap", *_pictures(kit), "--threads", "1", "--report", "out/gap.html"]),
    Scenario("rank", lambda kit: ["-q", "rank", str(kit.folder / "pictures"), "--backbones",
                                  str(kit.folder / "models" / "resnet"), "--threads", "1", "--json"]),
    Scenario("report", lambda kit: ["-q", "report", str(kit.run("head")), "--out", "out/page.html"]),
    Scenario("predict", lambda kit: ["-q", "predict", str(kit.run("head")), str(kit.folder / "pictures" / "day"),
                                     "--threads", "1", "--csv"]),
    Scenario("evaluate", lambda kit: ["-q", "evaluate", str(kit.run("head")), str(kit.folder / "pictures"),
                                      "--threads", "1", "--json"]),
]  # fmt: skip


# --- running --------------------------------------------------------------------------------------------------


_NUMBERS = itertools.count()
"""Of the files for what commands print."""


def start(place: Path, words: list[str], watched: bool = True) -> Process:
    """A command line in a process of its own, in a folder.

    Args:
        place: Its working directory; ``out`` and ``cache`` are in there.
        words: What is typed.
        watched: Whether its changes below the folder are seen.
    """

    def work() -> int:
        os.chdir(place)
        os.environ |= {"INJERTO_CACHE": str(place / "cache"), "TMPDIR": str(place.parent)}
        import tempfile

        tempfile.tempdir = None
        from injerto.cli.main import run
        from injerto.training import trainer

        trainer.SAVE_SECONDS = -1
        return run(words)

    return Process(work, place.parent / f"said-{next(_NUMBERS)}", (place,) if watched else ())


def run(place: Path, words: list[str], decide: Callable[[Event], ANSWER] | None = None) -> Ended:
    """Run a command line to its end; its changes are answered where a function is given."""
    process = start(place, words, decide is not None)
    return process.run(decide) if decide else process.run()


@dataclass(frozen=True)
class Reference:
    """An undisturbed command.

    Attributes:
        place: Where it ran.
        events: The changes that it made, in words, in order.
    """

    place: Path
    events: list[str]

    def draw(self, rng: random.Random, number: int, total: int) -> int:
        """Number of a change: every second one evenly from all, the others evenly from all kinds of change.

        Args:
            rng: Of the case.
            number: Of the case among those of its scenario.
            total: How many those are.
        """
        if not self.events:
            return 1
        share = min(0.999, (number * 0.618033988749895) % 1.0 + rng.random() / total)
        if number % 2 == 0:
            return 1 + int(share * len(self.events))
        kinds: dict[str, list[int]] = {}
        for place, event in enumerate(self.events):
            kinds.setdefault(re.sub(r"\.[a-z0-9_]{8}\.|[0-9a-f]{8,}", "*", event), []).append(place)
        return 1 + rng.choice(list(kinds.values())[int(share * len(kinds))])


def reference(kit: Kit, scenario: Scenario) -> Reference:
    """The undisturbed command; it is run by the first that asks."""
    folder = kit.folder / "scenarios" / scenario.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place, known = folder / "place", folder / "events.json"
        if not known.exists():
            shutil.rmtree(place, ignore_errors=True)
            for said in folder.glob("said-*"):
                said.unlink()
            place.mkdir()
            lay(kit, scenario, place, bystanders=False)
            ended = run(place, scenario.words(kit), lambda _: None)
            if ended.code != 0:
                raise RuntimeError(f"{scenario.name} fails undisturbed: {ended.said[-800:]}")
            known.write_text(json.dumps([str(event) for event in ended.events]))
        return Reference(place, json.loads(known.read_text()))


def lay(kit: Kit, scenario: Scenario, place: Path, bystanders: bool) -> None:
    """Put into a folder what is there before the command."""
    if scenario.over:
        shutil.copytree(kit.run("last"), place / "out")
    if scenario.name in ("gap", "report"):
        (place / "out").mkdir()
    for name, content in MINE.items() if bystanders else ():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# --- judging --------------------------------------------------------------------------------------------------


def tree_of(place: Path) -> dict[str, Any]:
    """Every file below a folder that is not the user's, by name, with what must not depend on the clock."""
    found = content_of(place)
    for name, content in found.items():
        if name.endswith((".db", ".lock")):
            found[name] = "there"
        elif name.endswith((".html", ".md")):
            found[name] = re.sub(rb"[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?( ms| s| min| h)?", b"#", content)
        elif name.endswith(".csv") and isinstance(content, bytes):
            found[name] = _columns(content)
        elif name.endswith(".json") and isinstance(content, bytes) and "mine" not in name:
            with suppress(ValueError):  # half of one that was left over
                found[name] = timeless(json.loads(content))
    found = _without_numbers(found) if isinstance(found.get("out/search.json"), dict) else found
    return {name: content for name, content in found.items() if MINE.get(name) != content}


def _without_numbers(found: dict[str, Any]) -> dict[str, Any]:
    """A search without the numbers of its trials: one that was killed is done again under another."""
    content = found["out/search.json"]
    trials = sorted(content["trials"], key=lambda one: sorted(one["parameters"].items()))
    best = content["best"] and {**content["best"], "number": 0, "runs": len(content["best"]["runs"])}
    named = {**found, "out/search.json": {**content, "trials": [{**one, "number": 0} for one in trials], "best": best}}
    table = named.pop("out/search.csv", [])
    named["out/search.csv"] = sorted(row[1:] for row in table)
    for name in list(named):
        if name.startswith("out/trials/"):
            folder, _, inner = name.removeprefix("out/trials/").partition("/")
            recipe = found.get(f"out/trials/{folder}/0/recipe.yaml", folder)
            number = zlib.crc32(recipe if isinstance(recipe, bytes) else recipe.encode())
            named[f"out/trials/{number}/{inner}"] = named.pop(name)
    return named


def _columns(content: bytes) -> list[list[str]]:
    rows = list(csv.reader(io.StringIO(content.decode(errors="replace"))))
    keep = [i for i, name in enumerate(rows[0] if rows else []) if not any(word in name for word in CLOCK_COLUMNS)]
    return [[row[i] for i in keep if i < len(row)] for row in rows]


def lost(place: Path, bystanders: bool) -> list[str]:
    """Files of the user's that are gone or changed."""
    if not bystanders:
        return []
    return [n for n, content in MINE.items() if not (place / n).is_file() or (place / n).read_bytes() != content]


def earlier_is_kept(kit: Kit, place: Path) -> bool:
    """Whether the finished run that is being replaced is somewhere, whole, or the new one is finished."""
    old = content_of(kit.run("last"))
    for folder in place.glob("*"):
        if folder.is_dir() and folder.name.startswith("out"):
            found = content_of(folder)
            if all(found.get(name) == content for name, content in old.items()):
                return True
    return (place / "out" / "metrics.json").exists()


def faults(ended: Ended) -> str | None:
    """What a command said that no command should say, or a signal that nobody sent."""
    for words in FAULT:
        if words in ended.said:
            return f"says '{words}': {' '.join(ended.said.split())[-400:]}"
    if ended.code == 70 or (ended.code < 0 and -ended.code not in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)):
        return f"ended with {ended.code}: {' '.join(ended.said.split())[-300:]}"
    return None


def finish(
    kit: Kit, scenario: Scenario, place: Path, rng: Any, trail: str, bystanders: bool, cached: bool = True
) -> tuple[str, str]:
    """Type the command again, undisturbed, and compare what it leaves behind.

    Args:
        kit: The kit.
        scenario: The command.
        place: Where it was disturbed.
        rng: Draws how it is typed again, where there are two ways.
        trail: What was done to it, in words.
        bystanders: Whether files of the user's lie there.
        cached: Whether the cache must hold all that an undisturbed command keeps.

    Returns:
        Outcome and detail.
    """
    expected = tree_of(reference(kit, scenario).place)
    words = scenario.words(kit)
    if scenario.over:
        instead = rng.random() < 0.5
        words = [word for word in words if word != "--overwrite"] + (["--resume"] if instead else ["--overwrite"])
        trail += f"; then {words[-1]}"
    ended = run(place, [*words, *scenario.again])
    if fault := faults(ended):
        return "fault", f"{trail}: {fault}"
    refused = ""
    if ended.code == 2 and scenario.over and words[-1] == "--resume" and "another recipe" in ended.last:
        if not _same(content_of(place / "out"), content_of(kit.run("last"))):
            return "wrong", f"{trail}: refused, and the earlier run is not whole: {ended.last}"
        refused = ended.last
        ended = run(place, [*words[:-1], "--overwrite"])
    elif ended.code == 2 and scenario.remedy and "name another folder" in ended.last:
        refused = ended.last
        shutil.rmtree(place / "out")  # as somebody would who has read that
        ended = run(place, words)
    if fault := faults(ended):
        return "fault", f"{trail}: {fault}"
    if ended.code != 0:
        return "wrong", f"{trail}: ended with {ended.code}: {' '.join(ended.said.split())[-500:]}"
    if gone := lost(place, bystanders):
        return "lost", f"{trail}: {', '.join(gone)}"
    found = tree_of(place)
    if not cached:  # nothing may have been written there again, and what is half-written goes at the next write
        found = {name: value for name, value in found.items() if not (name.startswith("cache/") and ".tmp" in name)}
        expected = {name: value for name, value in expected.items() if name in found or not name.startswith("cache/")}
    if different := describe(found, expected):
        return "wrong", f"{trail}: {different}"
    return ("refused", refused) if refused else ("same", "")


def _same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return all(found.get(name) == content for name, content in expected.items())


def describe(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """In words, how two folders differ; empty where they do not."""
    words = []
    more, less = sorted(found.keys() - expected.keys()), sorted(expected.keys() - found.keys())
    other = sorted(name for name in found.keys() & expected.keys() if found[name] != expected[name])
    if more:
        words.append(f"left over: {', '.join(more[:6])}")
    if less:
        words.append(f"missing: {', '.join(less[:6])}")
    if other:
        words.append(f"differs: {', '.join(_where(name, found[name], expected[name]) for name in other[:6])}")
    return "; ".join(words)


def _where(name: str, found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [key for key in sorted(found.keys() | expected.keys()) if found.get(key) != expected.get(key)]
        return f"{name} ({', '.join(map(str, keys[:4]))})"
    return name


def verdict(outcome: str, detail: str, count: int) -> Verdict:
    """One with a detail that says what to run."""
    return Verdict(outcome, detail[:900], count)
