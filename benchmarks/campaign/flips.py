"""Accidents to every kind of file that the program reads back: flipped bits, lost blocks, cuts, files of others."""

import itertools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign.batch import ask, each, tried
from benchmarks.campaign.cases import Case, Verdict, rng_of
from benchmarks.campaign.kit import Kit, content_of, differences, own_cache, timeless
from benchmarks.campaign.stock import Stock

LEAST, JOBS = 2000, 2
MOST = 4000
"""Accidents, after which it is enough."""
FIRST = ("other", "zeros", "swap", "cut", "more", "empty", "gone")
"""Accidents that happen to every file once; the rest are bits."""
LATER = ("bit", "bit", "bit", "bit", "bit", "zeros", "swap", "cut", "other")
BLAMES = ("other weights", "newer Injerto", "--lr ", "other data", "examples are", "another tokenizer", "--backbone")
"""What a refusal must not blame where a file was damaged."""
TEXTS = ["a good film so great", "dull plot and bad"]
Door = Callable[[Path], Any]
"""Given the copy of a target: what the program makes of it, comparable."""


@dataclass(frozen=True)
class Target:
    """A folder whose files are damaged.

    Attributes:
        name: Unique.
        source: The folder; a copy of the same name is damaged.
        files: Relative paths in it.
        doors: Ways in which the program reads it, by name.
        donors: Folders that have other files of the same names.
        batch: Accidents to a file in one case.
        seconds: For one accident.
        blames: Untrue where a refusal has one of these.
        named: Whether a refusal names the file or its folder.
    """

    name: str
    source: Path
    files: Sequence[str]
    doors: dict[str, Door]
    donors: Sequence[Path] = ()
    batch: int = 16
    seconds: float = 20.0
    blames: Sequence[str] = BLAMES
    named: bool = True


def cases(kit: Kit) -> Iterator[Case]:
    """Batches of accidents, a file each; every file has its turn before one has a second."""
    stock = Stock(kit)
    stock.prepare()
    targets = _shuffled([*_adapters(stock), *_stopped(stock), *_bases(stock), *_finished(stock), *_caches(stock)])
    targets += _studies(stock)
    count = 0
    for number in itertools.count():
        turn = [(target, file) for target in targets for file in target.files]
        rng_of(kit.seed, "flips", number).shuffle(turn)
        for target, file in turn:
            name = f"{number}/{target.name}/{file}"
            count += target.batch
            yield Case(name, _Batch(kit.seed, number, target, file), 60 + target.batch * target.seconds, 4_000_000_000)
            if count > MOST:
                return


def _shuffled(targets: list[Target]) -> list[Target]:
    return sorted(targets, key=lambda target: rng_of(0, target.name).random())


@dataclass(frozen=True)
class _Batch:
    """Some accidents to one file."""

    seed: int
    number: int
    target: Target
    file: str

    def __call__(self, folder: Path) -> list[Verdict]:
        target, place = self.target, folder / "here"
        rng = rng_of(self.seed, self.number, target.name, self.file)
        content = (target.source / self.file).read_bytes()
        expected = {}
        os.environ["INJERTO_CACHE"] = str(folder / "cache")
        for name, door in target.doors.items():
            shutil.rmtree(place, ignore_errors=True)
            expected[name] = door(self._copy(place))
        doors = list(target.doors)
        attacks = []
        for count in range(target.batch):
            kind = "bit" if self.number == 0 else rng.choice(LATER)
            if self.number == 0 and count < len(FIRST):
                kind = FIRST[count]
            damaged, words = damage(kind, content, self._donors(), rng)
            door = doors[(count + self.number) % len(doors)]
            attacks.append(_Accident(self, damaged, words, door, expected[door]))
        return each(attacks, folder, target.seconds)

    def _donors(self) -> list[bytes]:
        places = [donor / self.file for donor in self.target.donors]
        return [place.read_bytes() for place in places if place.is_file()]

    def _copy(self, place: Path) -> Path:
        copy = place / self.target.source.name
        shutil.copytree(self.target.source, copy)
        return copy


@dataclass(frozen=True)
class _Accident:
    """One accident, and what the program makes of it."""

    batch: _Batch
    damaged: bytes | None
    words: str
    door: str
    expected: Any

    def __call__(self, place: Path) -> Verdict:
        target, file = self.batch.target, self.batch.file
        copy = self.batch._copy(place)
        path = copy / file
        os.chmod(path, 0o644)
        path.unlink()
        if self.damaged is not None:
            path.write_bytes(self.damaged)
        names = [path.name, str(copy)] if target.named else []
        blames = [
            words for words in target.blames if words != "--backbone" or path.name != "recipe.yaml"
        ]  # it names one
        found, verdict = tried(lambda: target.doors[self.door](copy), names, blames, place)
        if verdict is None:
            same = found == self.expected or (self.damaged is None and self.door == "info")  # it tells what is there
            verdict = Verdict("same" if same else "wrong", "" if same else f"another answer: {_unlike(found, self)}")
        return verdict._replace(detail=f"{self.door}, {self.words}: {verdict.detail}")


def _unlike(found: Any, accident: _Accident) -> str:
    expected = accident.expected
    if isinstance(found, dict) and isinstance(expected, dict):
        return f"differs in {', '.join(differences(found, expected))}"
    if isinstance(found, str) and isinstance(expected, str):
        at = next((k for k, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), 0)
        return f"{found[max(0, at - 40) : at + 60]!r} in place of {expected[max(0, at - 40) : at + 60]!r}"
    return f"{str(found)[:150]} in place of {str(expected)[:150]}"


def damage(kind: str, content: bytes, donors: Sequence[bytes], rng: random.Random) -> tuple[bytes | None, str]:
    """What an accident makes of a file, and the accident in words.

    Args:
        kind: One of :data:`FIRST`, or ``bit``.
        content: Of the file.
        donors: Contents of other files of the same name.
        rng: Where it happens.
    """
    donors = [other for other in donors if other != content]
    size = len(content)
    if kind == "gone":
        return None, "gone"
    if kind == "empty":
        return b"", "emptied"
    if kind == "other" and donors:
        return rng.choice(donors), "another's of the same name"
    if kind == "more":
        return content + rng.randbytes(rng.choice((1, 7, 512))), "bytes appended"
    if not size:
        return b"\0", "a byte"
    if kind == "cut":
        at = rng.randrange(size)
        return content[:at], f"cut at {at} of {size}"
    if kind == "zeros":
        length = min(size, rng.choice((1, 8, 64, 512)))
        at = rng.randrange(size - length + 1)
        return content[:at] + bytes(length) + content[at + length :], f"{length} zeros at {at} of {size}"
    if kind == "swap" and size > 8:
        length = min(size // 2, rng.choice((4, 16, 64, 512)))
        first = rng.randrange(size - 2 * length + 1)
        second = rng.randrange(first + length, size - length + 1)
        one, two = content[first : first + length], content[second : second + length]
        middle = content[first + length : second]
        text = content[:first] + two + middle + one + content[second + length :]
        return text, f"{length} bytes at {first} and {second} of {size} swapped"
    at, bit = rng.randrange(size), rng.randrange(8)
    flipped = bytearray(content)
    flipped[at] ^= 1 << bit
    return bytes(flipped), f"bit {bit} of byte {at} of {size}"


def plain(value: Any) -> Any:
    """Anything as something that can be compared bit by bit."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.detach().contiguous().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def files_of(folder: Path) -> list[str]:
    """All files in a folder, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- finished adapters ---


def _adapters(stock: Stock) -> Iterator[Target]:
    kit = stock.kit
    pictures = [str(path) for path in sorted((kit.folder / "pictures" / "dusk").rglob("*.png"))[::6]]
    runs = ("head", "full", "lora", "norm", "slider", "mlp", "mmd", "text-head", "text-lora", "text-full", "sketch")
    every = [*runs, "last", "head-1", "lora-1", "text-lora-1"]
    for name in (*runs, "language"):
        run, base = stock.run(name), str(stock.base(name))
        files = [file for file in files_of(run) if file.startswith("adapter/")]
        doors = _language_doors(base) if name == "language" else _doors(base, pictures if "text" not in base else TEXTS)
        if name == "language":
            donors = [stock.run("language-1")]
        else:
            alike = [other for other in every if other != name and stock.base(other) == stock.base(name)]
            twin = f"{name}-1"
            donors = [stock.run(twin)] if twin in every else [stock.run(other) for other in alike]
        if base.endswith("bert"):
            doors = _doors(base, TEXTS)
        yield Target(f"adapter-{name}", run, files, doors, donors, batch=16 if name in ("head", "lora") else 12)
    for name, form in (("lora", "int8"), ("text-lora", "int8"), ("lora", "peft"), ("language", "int8")):
        folder, base = stock.exported(name, form), str(stock.base(name))
        donors = [stock.exported("lora-1", "int8")] if name == "lora" and form == "int8" else []
        files = [file for file in files_of(folder) if not file.endswith(".md")]
        doors = _doors(base, TEXTS if base.endswith("bert") else pictures)
        yield Target(
            f"{form}-{name}", folder, files, _language_doors(base) if name == "language" else doors, donors, batch=12
        )


def _doors(base: str, inputs: list[str]) -> dict[str, Door]:
    import injerto
    from injerto.serving.desk import Desk

    def load(run: Path, slider: float | None = None) -> Any:
        one = injerto.load(run, backbone=base, threads=1, slider=slider)
        return [one.predict_proba(inputs).tobytes(), one.labels, one.columns, plain(one.card), plain(one.sketch)]

    def command(run: Path) -> str:
        return ask(["-q", "predict", str(run), *inputs, "--backbone", base, "--threads", "1", "--json"])[0]

    def bank(run: Path) -> Any:
        one = injerto.AdapterBank.of(run, backbone=base, threads=1)
        (name,) = one
        return [plain(one.predict(inputs, name)), plain(one.about(name).card)]

    def desk(run: Path) -> Any:
        one = Desk([run], backbone=base, precision="fp32", threads=1)
        (name,) = one.names
        return [one.about(name), plain(one.bank_of(name).predict(inputs, name)), plain(one.sketch(name))]

    def info(run: Path) -> str:
        return ask(["info", str(run), "--json"])[0]

    return {"load": load, "predict": command, "bank": bank, "serve": desk, "info": info}


def _language_doors(base: str) -> dict[str, Door]:
    def command(run: Path) -> str:
        words = ["-q", "predict", str(run), "is the book good", "--backbone", base, "--threads", "1", "--tokens", "4"]
        return ask([*words, "--json"])[0]

    def info(run: Path) -> str:
        return ask(["info", str(run), "--json"])[0]

    return {"predict": command, "predict again": command, "info": info}


# --- base models of adapters ---


def _bases(stock: Stock) -> Iterator[Target]:
    """The folder of a base model, seen through an adapter that was made on it."""
    pictures = [str(path) for path in sorted((stock.kit.folder / "pictures" / "dusk").rglob("*.png"))[::6]]
    for name, inputs in (("head", pictures), ("text-lora", TEXTS), ("language", ["is the book good"])):
        run, base = stock.run(name), stock.base(name)

        more = ["--tokens", "4"] if name == "language" else []

        def command(folder: Path, words: list[str] = ["-q", "predict", str(run), *inputs, *more]) -> str:  # noqa: B006
            return ask([*words, "--backbone", str(folder), "--threads", "1", "--json"])[0]

        yield Target(f"base-{base.name}", base, files_of(base), {"predict": command}, (), 12, blames=())


# --- folders of runs ---


def _finished(stock: Stock) -> Iterator[Target]:
    """What evaluating, going on, reporting and describing read of a finished run."""
    for name in ("last", "text-head", "language"):
        run = stock.run(name)
        words = stock.fit(name)
        data = words[2]
        donors = [stock.run(f"{name}-1")] if name != "text-head" else [stock.run("text-lora")]
        files = [file for file in files_of(run) if not file.startswith("adapter/")]

        def evaluate(folder: Path, data: str = data) -> str:
            return ask(["-q", "evaluate", str(folder), data, "--threads", "1", "--json"])[0]

        def resume(folder: Path, words: list[str] = words) -> Any:
            ask([*words, "--out", str(folder), "--resume"])
            return {key: value for key, value in content_of(folder).items() if not key.startswith("checkpoints/")}

        def info(folder: Path) -> str:
            return ask(["info", str(folder), "--json"])[0]

        def report(folder: Path) -> str:
            ask(["-q", "report", str(folder), "--no-examples"])
            return (folder / "report.html").read_text(encoding="utf-8")

        doors = {"evaluate": evaluate, "resume": resume, "info": info}
        if name != "language":
            doors["report"] = report
        yield Target(f"run-{name}", run, files, doors, donors, batch=12, seconds=30)


def _stopped(stock: Stock) -> Iterator[Target]:
    """What ``--resume`` reads of a run that was cut short."""
    for name in ("last", "dann", "text-lora", "language"):
        run, words = stock.stopped(name), stock.fit(name)
        donors = [stock.stopped(f"{name}-1")] if f"{name}-1" in ("last-1", "text-lora-1", "language-1") else []

        def resume(folder: Path, words: list[str] = words) -> Any:
            ask([*words, "--out", str(folder), "--resume"])
            return {key: value for key, value in content_of(folder).items() if not key.startswith(".")}

        files = [file for file in files_of(run) if not Path(file).name.startswith(".")]
        yield Target(f"stopped-{name}", run, files, {"resume": resume}, donors, batch=10, seconds=40)


# --- caches ---


def _caches(stock: Stock) -> Iterator[Target]:
    """A warm cache before a second fit, and before reading an archive again."""
    for name in ("head", "text-head"):
        words = stock.fit(name)

        def again(folder: Path, words: list[str] = words) -> Any:
            own_cache(folder)
            out = folder.with_name("out")
            shutil.rmtree(out, ignore_errors=True)
            ask([*words, "--out", str(out)])
            return content_of(out)

        source = _warm(stock, f"cache-{name}", again)
        donors = [source / file for file in sorted({str(Path(file).parent) for file in files_of(source)})]
        yield Target(
            f"cache-{name}", source, files_of(source), {"fit": again}, donors, batch=12, blames=(), named=False
        )
    archive = stock.folder / "pictures.zip"

    def read(folder: Path) -> Any:
        import injerto
        from injerto.domains.images import read_image

        own_cache(folder)
        domains = injerto.load_domains(archive).check()
        return {
            name: [domain.contents, domain.labels, [read_image(item).tobytes() for item in domain.inputs]]
            for name, domain in domains.items()
        }

    source = _warm(stock, "cache-archive", read)
    files = files_of(source)
    some = files[:: max(1, len(files) // 8)]
    yield Target("cache-archive", source, some, {"read": read}, (), batch=12, blames=(), named=False)


def _warm(stock: Stock, name: str, door: Door) -> Path:
    """A cache after the door was used once."""
    from benchmarks.campaign.stock import once

    folder = stock.folder / "caches" / name
    once(folder, lambda: (folder / "cache").mkdir() or door(folder / "cache"))  # type: ignore[func-returns-value]
    return folder / "cache"


# --- studies ---


def _studies(stock: Stock) -> Iterator[Target]:
    """What a second call of the same comparison or search reads of the first."""
    for kind in ("compare", "search"):
        source = stock.folder / kind / "study"

        def again(folder: Path, kind: str = kind) -> Any:
            ask(stock.study(kind, folder))
            found = json.loads((folder / ("results.json" if kind == "compare" else "search.json")).read_text())
            return {key: value for key, value in timeless(found).items() if key != "command"}

        files = [file for file in files_of(source) if "adapter/" not in file and "checkpoints/" not in file]
        files = [file for file in files if not Path(file).name.startswith(".")]
        yield Target(f"study-{kind}", source, files, {"again": again}, (), 6 if kind == "search" else 8, seconds=60)
