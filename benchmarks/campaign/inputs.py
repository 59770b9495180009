"""What strangers may give: archives, pictures, tables, adapters, recipes, models, words and names, each mutated."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign import mutations as made
from benchmarks.campaign.batch import LONGEST, WHAT, Attack, Refused, ask, each, odd, tried
from benchmarks.campaign.cases import Case, Verdict, rng_of
from benchmarks.campaign.kit import Kit
from benchmarks.campaign.stock import Stock

from injerto.basics.limits import MESSAGE

LEAST, JOBS = 5000, 2
MOST = 9000
"""Inputs, after which it is enough."""
PROGRAMS = ("gs", "gswin64c", "inkscape", "wmf2eps", "convert", "xv", "display")
"""Programs that picture libraries start; in their place stand some that leave a mark."""
MEMORY = 700_000_000
"""Bytes for one input."""
KEPT = 3_000_000
"""Bytes that a refused input may leave in the cache."""
CACHED = 400_000_000
"""Bytes that an input may take in the cache."""
Put = Callable[[Path, random.Random], Any]


def cases(kit: Kit) -> Iterator[Case]:
    """Batches of inputs, kinds in turn."""
    stock = Stock(kit)
    stock.prepare()
    kinds: list[tuple[str, int, int, Callable[[Stock, random.Random], Iterator[Attack]]]] = [
        ("archives", 40, MEMORY, archives),
        ("pictures", 60, MEMORY, pictures),
        ("picture traps", 0, MEMORY, picture_traps),
        ("tables", 50, MEMORY, tables),
        ("table traps", 0, MEMORY, table_traps),
        ("cards", 30, MEMORY, cards),
        ("configs", 30, MEMORY, configs),
        ("headers", 30, MEMORY, headers),
        ("recipes", 50, MEMORY, recipes),
        ("recipes of runs", 30, MEMORY, recipes_of_runs),
        ("models", 25, MEMORY, models),
        ("words", 40, MEMORY, words),
        ("names", 15, MEMORY, names),
        ("pictures asked", 40, MEMORY, pictures_asked),
    ]
    count = 0
    for number in itertools.count():
        for name, size, memory, attacks in kinds:
            if size == 0 and number % 3:
                continue
            yield Case(f"{number}/{name}", _Batch(stock, number, name, size, memory, attacks), 900, 8_000_000_000)
            count += size or 40
        if count > MOST:
            return


@dataclass(frozen=True)
class _Batch:
    """Some inputs of a kind."""

    stock: Stock
    number: int
    name: str
    size: int
    memory: int
    attacks: Callable[[Stock, random.Random], Iterator[Attack]]

    def __call__(self, folder: Path) -> list[Verdict]:
        _fake_programs(folder / "bin")
        os.environ["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        rng = rng_of(self.stock.kit.seed, "inputs", self.name, self.number)
        attacks = self.attacks(self.stock, rng)
        return each(itertools.islice(attacks, self.size or None), folder, 10.0, self.memory)


def _fake_programs(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        path = folder / name
        path.write_text('#!/bin/sh\necho "$0 $*" >> "$CAMPAIGN_MARK"\necho 10.0\n', encoding="utf-8")
        path.chmod(0o755)


# --- what every input has around it ---


class Room:
    """Around an input: a folder for it, a cache, and a folder that nothing has a business in."""

    def __init__(self, place: Path) -> None:
        self.place, self.data, self.cache = place, place / "data", place / "cache"
        self.outside, self.mark = place / "outside", place / "mark"
        for folder in (self.data, self.outside / "sub"):
            folder.mkdir(parents=True)
        (self.outside / "victim.txt").write_text("untouched")
        (self.outside / "sub" / "b.txt").write_text("untouched")
        (self.outside / "secret.png").write_bytes(made.png(123))
        os.environ |= {"CAMPAIGN_MARK": str(self.mark), "INJERTO_CACHE": str(self.cache), "HOME": str(self.outside)}
        os.chdir(self.data)
        self.before = self._around()
        self.said = io.StringIO()

    def _around(self) -> dict[str, Any]:
        found: dict[str, Any] = {entry.name: None for entry in self.place.iterdir()}
        for path in sorted(self.outside.rglob("*")):
            facts = path.lstat()
            found[str(path.relative_to(self.place))] = (
                facts.st_mode,
                facts.st_mtime_ns,
                path.read_bytes() if path.is_file() and not path.is_symlink() else None,
            )
        return found

    def tell(
        self, what: str, action: Callable[[], Any], check: Callable[[Any], str | None], longest: int = LONGEST
    ) -> Verdict:
        """Let the program have the input.

        Args:
            what: The input, in words.
            action: Of the program.
            check: What is wrong with what it gave; None for nothing.
            longest: Characters of a refusal.
        """
        (self.place.parent / WHAT).write_text(what, encoding="utf-8", errors="backslashreplace")
        with contextlib.redirect_stderr(self.said):
            given, verdict = tried(action, place=self.place, longest=longest)
        refused = verdict is not None and verdict.outcome == "refused"
        if verdict is None:
            wrong = check(given)
            verdict = Verdict("wrong", wrong) if wrong else Verdict("same")
        notes = self.said.getvalue()
        strange = odd(notes.replace("\n", " ").replace("\r", " "))
        if strange and verdict.outcome in ("same", "refused"):
            verdict = Verdict("wrong", f"a note holds a raw {strange}: {ascii(notes[:300])}")
        if verdict.outcome != "fault" and "Traceback (most recent call last)" in notes:
            verdict = Verdict("fault", f"a traceback among the notes: {notes[-500:]}")
        size = sum(path.lstat().st_size for path in self.cache.rglob("*")) if self.cache.is_dir() else 0
        if size > (KEPT if refused else CACHED):
            verdict = Verdict("heavy", f"{size:,} bytes in the cache; {verdict.outcome}: {verdict.detail[:300]}")
        if self.mark.exists():
            verdict = Verdict("lost", f"a program was started: {self.mark.read_text(errors='replace')[:200]}")
        allowed = {"cache": None, "out": None}
        changed = {name for name, facts in (self.before | allowed).items() if self._now().get(name, facts) != facts}
        changed |= self._now().keys() - (self.before | allowed).keys()
        changed |= {name for name in self.before if name not in self._now()}
        if changed - {"mark"}:
            verdict = Verdict("lost", f"changed outside of its folder: {sorted(changed)[:5]}")
        return verdict._replace(detail=f"{what}: {verdict.detail}")

    def _now(self) -> dict[str, Any]:
        return self._around()

    @property
    def silent(self) -> bool:
        """Whether nothing was said beside the answer."""
        return not self.said.getvalue().strip()


def _counted(domains: Any) -> int:
    return sum(map(len, domains.values())) + len(domains.problems)


def _inside(items: Sequence[Any], room: Room) -> str | None:
    """The first file that was read from where nothing should be read."""
    for item in items:
        if isinstance(item, Path) and item.resolve().is_relative_to(room.outside):
            return f"{item} was read, which lies outside"
    return None


# --- archives ---


def archives(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Archives of pictures, through the doors of fit and of predict."""
    for number in itertools.count():
        seed = rng.getrandbits(60)
        yield lambda place, seed=seed, number=number: _archive(place, random.Random(seed), number % 3 == 0)


def _archive(place: Path, rng: random.Random, asked: bool) -> Verdict:
    import injerto
    from injerto.domains.columns import ColumnNames
    from injerto.evaluation.inputs import read_inputs

    room = Room(place)
    name, content, known, what = made.archive(rng, str(room.outside))
    path = room.data / name
    path.write_bytes(content)
    sound = {hashlib.sha256(data).hexdigest() for _, data in made.members()}

    def read() -> Any:
        if asked:
            found = read_inputs(path, ColumnNames(inputs_only="image")).settle()
            return len(found.items), list(found.items)
        domains = injerto.load_domains(path).check()
        return _counted(domains), [item for domain in domains.values() for item in domain.inputs]

    def check(given: Any) -> str | None:
        count, items = given
        outside = _inside(items, room)
        if outside:
            return outside
        if known is not None and count != known and room.silent:
            return f"{count} of {known} examples, without a word"
        if count < 6 and room.silent:
            return f"{count} of at least 6 examples, without a word"
        if what == "scrambled zip":
            other = [item for item in items if hashlib.sha256(item.read_bytes()).hexdigest() not in sound]
            return f"{len(other)} pictures are others" if other else None
        return None

    return room.tell(f"{name}, {what}{', predict' if asked else ''}", read, check)


# --- pictures ---


def pictures(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Pictures in all formats, scrambled, among sound ones in a folder."""
    formats = made.every_format()
    every = sorted(formats)
    for _ in itertools.count():
        name = rng.choice(every)
        content = made.scramble(formats[name], rng)
        if rng.random() < 0.1:
            name = f"{Path(name).stem}{Path(rng.choice(every)).suffix}"
        yield lambda place, name=name, content=content: _picture(place, name, content)


def picture_traps(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Pictures that are something else or larger than they look."""
    for name, content in made.picture_traps(rng):
        yield lambda place, name=name, content=content: _picture(place, name, content)
    run, base = stock.run("head"), str(stock.base("head"))
    for name, content in made.picture_traps(rng):
        yield lambda place, name=name, content=content: _asked(place, run, base, name, content, "path")
        yield lambda place, name=name, content=content: _asked(place, run, base, name, content, "bytes")


def _picture(place: Path, name: str, content: bytes) -> Verdict:
    import injerto
    from injerto.domains.images import read_image

    room = Room(place)
    for label in "ab":
        (room.data / label).mkdir()
        for number in (1, 2):
            (room.data / label / f"{number}.png").write_bytes(made.png(number))
    (room.data / "a" / name).write_bytes(content)

    def read() -> Any:
        domains = injerto.load_domains(room.data).check()
        sizes = [read_image(item, (8, 8)).size for domain in domains.values() for item in domain.inputs]
        return _counted(domains), sizes

    def check(given: Any) -> str | None:
        count, _ = given
        return f"{count} of 5 examples, without a word" if count < 5 and room.silent else None

    return room.tell(f"picture {name}", read, check)


def pictures_asked(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Pictures that a run is asked about, as files and as bytes."""
    formats = made.every_format()
    every = sorted(formats)
    run, base = stock.run("head"), str(stock.base("head"))
    for number in itertools.count():
        name = rng.choice(every)
        content = made.scramble(formats[name], rng)
        how = ("path", "bytes", "folder")[number % 3]
        yield lambda place, name=name, content=content, how=how: _asked(place, run, base, name, content, how)


def _asked(place: Path, run: Path, base: str, name: str, content: bytes, how: str) -> Verdict:
    import numpy as np

    import injerto

    room = Room(place)
    path = room.data / name
    path.write_bytes(content)
    if how == "folder":
        (room.data / "good.png").write_bytes(made.png(5))

    def read() -> Any:
        opened = injerto.load(run, backbone=base, threads=1)
        return opened.predict_proba(path if how == "path" else content if how == "bytes" else room.data)

    def check(given: Any) -> str | None:
        if how != "folder" and len(given) != 1:
            return f"{len(given)} answers to one picture"
        if how == "folder" and len(given) != 2 and room.silent:
            return f"{len(given)} answers to two pictures, without a word"
        return None if np.isfinite(given).all() else "an answer that is no number"

    return room.tell(f"picture {name} as {how}", read, check)


# --- tables ---


def tables(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Tables of texts, odd or scrambled, through the doors of fit and of predict."""
    for number in itertools.count():
        seed = rng.getrandbits(60)
        yield lambda place, seed=seed, number=number: _table(place, *made.table(random.Random(seed)), number % 3 == 0)


def table_traps(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Tables that are bombs, odd as a whole, or that name files elsewhere."""
    for trap in made.table_traps(rng):
        yield lambda place, trap=trap: _table(place, *trap, False)
        yield lambda place, trap=trap: _table(place, *trap, True)


def _table(place: Path, name: str, content: bytes, known: int | None, what: str, asked: bool) -> Verdict:
    import injerto
    from injerto.domains.columns import ColumnNames
    from injerto.evaluation.inputs import read_inputs

    room = Room(place)
    path = room.data / name
    path.write_bytes(content.replace(b"$OUTSIDE", str(room.outside).encode()))
    images = name.startswith("p.")
    for number, picture in enumerate(("in.png", "in2.png")):
        (room.data / picture).write_bytes(made.png(number))
    (room.data / "link.png").symlink_to(room.outside / "secret.png")

    def read() -> Any:
        if asked:
            found = read_inputs(path, ColumnNames(inputs_only="image" if images else "text")).settle()
            return len(found.items), list(found.items), []
        domains = injerto.load_domains(path).check()
        items = [item for domain in domains.values() for item in domain.inputs]
        return _counted(domains), items, [label for domain in domains.values() for label in domain.labels]

    def check(given: Any) -> str | None:
        count, items, labels = given
        outside = _inside(items, room)
        if outside:
            return outside
        if known is not None and count != known and room.silent:
            return f"{count} of {known} rows, without a word"
        if any(isinstance(item, str) and not item.strip() for item in items):
            return "an empty text"
        strange = next((label for label in labels if label is not None and odd(label)), None)
        return f"a label holds a raw {odd(strange)}" if strange else None

    return room.tell(f"{name}, {what}{', predict' if asked else ''}", read, check)


# --- adapters of strangers ---


def _adapter(stock: Stock, rng: random.Random, file: str) -> tuple[Path, str, list[str]]:
    """An adapter that has such a file, its base, and inputs for it."""
    kit = stock.kit
    picture = str(next(iter(sorted((kit.folder / "pictures" / "dusk").rglob("*.png")))))
    choices = [
        (stock.run(name) / "adapter", name) for name in ("head", "full", "lora", "text-lora", "slider", "mmd", "sketch")
    ]
    choices += [(stock.exported(name, form), name) for name, form in (("text-lora", "int8"), ("lora", "peft"))]
    choices = [(folder, name) for folder, name in choices if (folder / file).exists()]
    folder, name = rng.choice(choices)
    base = str(stock.base(name))
    return folder, base, ["a good film"] if base.endswith("bert") else [picture]


def cards(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Cards of strangers."""
    yield from _json_files(stock, rng, "adapter_card.json")


def configs(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """PEFT's configurations of strangers."""
    for number in itertools.count():
        folder, base, inputs = _adapter(stock, rng, "adapter_config.json")
        config = json.loads((folder / "adapter_config.json").read_text())
        kind = rng.randrange(8)
        if kind == 0:
            config[rng.choice(("alpha_pattern", "rank_pattern"))] = {
                rng.choice((f"x{k}", f"(a+)+{k}$", f".*{k}")): rng.choice((1, 4, 8))
                for k in range(rng.choice((3, 2000, 100_000)))
            }
        elif kind == 1:
            config["target_modules"] = rng.choice(
                ("(a+)+$", ".*", "(.*)*b", ["x"] * 100_000, "all-linear", r"(\w+\.)*\w+x", "(" * 100, [], None, "[")
            )
        elif kind == 2:
            config[rng.choice(("r", "lora_alpha"))] = rng.choice(
                (0, -1, 10**9, 10**400, float("nan"), 1e308, "8", None, True, 2.5)
            )
        content = json.dumps(config).encode() if kind < 3 else made.json_text(config, rng)
        yield lambda place, args=(folder, base, inputs, "adapter_config.json", content, True, number): _open(
            place, *args
        )


def headers(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Tensors of strangers, their headers mutated."""
    for number in itertools.count():
        file = rng.choice(
            ("adapter_model.safetensors",) * 3
            + ("head.safetensors",) * 3
            + ("drift.safetensors", "adapter_int8.safetensors")
        )
        folder, base, inputs = _adapter(stock, rng, file)
        try:
            content = made.tensors_file((folder / file).read_bytes(), rng)
        except IndexError:  # a file without tensors
            content = made.scramble((folder / file).read_bytes(), rng)
        yield lambda place, args=(folder, base, inputs, file, content, True, number): _open(place, *args)


def _json_files(stock: Stock, rng: random.Random, file: str) -> Iterator[Attack]:
    for number in itertools.count():
        folder, base, inputs = _adapter(stock, rng, file)
        content = json.loads((folder / file).read_text())
        kind = rng.randrange(10)
        if kind == 0:
            content["labels"] = [f"c{k}" for k in range(rng.choice((1, 2000, 200_000)))]
            content["neck"] = rng.choice(("none", "65536", "1", "8"))
        elif kind == 1:
            content["preprocessing"][rng.choice(("height", "width", "max_length", "crop"))] = rng.choice(
                (4096, 1, 10**9, 131072, 0.0501, 4)
            )
        elif kind == 2:
            content["labels"] = [rng.choice(made.NAMES), rng.choice(made.NAMES), *content["labels"][2:]]
        elif kind == 3:
            content["head"], content["neck"] = rng.choice(
                (("mlp", "none"), ("native", "none"), ("linear", "65536"), ("probe", "9"))
            )
        elif kind == 4:
            content["base"]["spec"] = rng.choice(
                ("hf:a/b", "timm:resnet18", "/etc", "hf:../../x", "packaged:minilm-l6", "module:x", "peft:x")
            )
        text = json.dumps(content).encode("utf-8", "surrogatepass") if kind < 5 else made.json_text(content, rng)
        summed = rng.random() < 0.8
        yield lambda place, args=(folder, base, inputs, file, text, summed, number): _open(place, *args)


def _open(
    place: Path, folder: Path, base: str, inputs: list[str], file: str, content: bytes, summed: bool, number: int
) -> Verdict:
    """Open a stranger's adapter and ask it."""
    import numpy as np

    import injerto

    room = Room(place)
    run = room.data / "run"
    shutil.copytree(folder, run)
    (run / file).write_bytes(content)
    if summed:
        _sum(run)
    bank = number % 2 == 0

    def read() -> Any:
        if bank:
            opened = injerto.AdapterBank.of(run, backbone=base, threads=1)
            (name,) = opened
            found = opened.predict(inputs, name)
            return np.stack([one.probabilities for one in found]), found[0].labels
        one = injerto.load(run, backbone=base, threads=1)
        return one.predict_proba(inputs), one.labels

    def check(given: Any) -> str | None:
        values, labels = given
        if values.shape != (len(inputs), len(labels)):
            return f"answers of shape {values.shape} for {len(labels)} labels"
        if not np.isfinite(values).all():
            return "an answer that is no number"
        strange = next((label for label in labels if odd(label)), None)
        return f"a label holds a raw {odd(strange)}" if strange is not None else None

    how = f"{file} of {folder.parent.name}/{folder.name}, {len(content):,} bytes, {'bank' if bank else 'load'}"
    verdict = room.tell(how, read, check)
    if verdict.outcome not in ("same", "refused"):
        verdict = verdict._replace(detail=f"{verdict.detail} | {content[:200]!r}")
    return verdict


def _sum(run: Path) -> None:
    """Let a stranger's card have the right checksums, as a stranger can."""
    try:
        card = json.loads((run / "adapter_card.json").read_text(encoding="utf-8"))
        if not isinstance(card, dict) or not isinstance(card.get("files"), dict):
            return
        for name in card["files"]:
            if (run / name).exists():
                card["files"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
        if "checksum" in card:
            from injerto.adapters import card as cards_of

            card["checksum"] = cards_of.card_sum(card)  # type: ignore[attr-defined, unused-ignore]
        (run / "adapter_card.json").write_text(json.dumps(card), encoding="utf-8")
    except (ValueError, OSError, RecursionError, TypeError):
        return


# --- recipes ---


def recipes(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Files for ``--config``."""
    from injerto.recipe.recipe import load_recipe

    fields = load_recipe(stock.run("last") / "recipe.yaml")
    for _ in itertools.count():
        content = made.yaml_text(fields, rng)
        yield lambda place, content=content: _recipe(place, content)


def _recipe(place: Path, content: bytes) -> Verdict:
    from injerto.recipe.recipe import make_recipe, merge_settings

    room = Room(place)
    path = room.data / "recipe.yaml"
    path.write_bytes(content)

    def read() -> Any:
        merged = merge_settings(path, {})
        merged.setdefault("data", "x")
        return make_recipe(**merged)

    return room.tell(f"recipe {content[:120]!r}, {len(content):,} bytes", read, lambda _: None)


def recipes_of_runs(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """A run's folder from a stranger, its recipe mutated."""
    from injerto.recipe.recipe import load_recipe

    run, base = stock.run("text-head"), str(stock.base("text-head"))
    fields = load_recipe(run / "recipe.yaml")
    for number in itertools.count():
        content = made.yaml_text(fields, rng)
        door = ("info", "predict", "evaluate")[number % 3]

        def attack(place: Path, content: bytes = content, door: str = door) -> Verdict:
            room = Room(place)
            copy = room.data / "run"
            shutil.copytree(run, copy)
            (copy / "recipe.yaml").write_bytes(content)
            line = {
                "info": ["info", str(copy)],
                "predict": ["-q", "predict", str(copy), "a good film", "--backbone", base, "--threads", "1"],
                "evaluate": ["-q", "evaluate", str(copy), str(stock.kit.folder / "reviews.csv"), "--backbone", base],
            }[door]
            return room.tell(f"recipe of a run, {door}, {content[:120]!r}", lambda: ask(line), _said)

        yield attack


def _said(given: Any) -> str | None:
    """What is wrong with what a command printed."""
    strange = odd(given[0].replace("\n", " ").replace("\t", " ").replace("\r", " "))
    return f"raw {strange} on standard output" if strange else None


# --- base models ---


def models(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Folders of base models whose configurations are mutated."""
    sizes = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    )
    code = "import os\nopen(os.environ['CAMPAIGN_MARK'], 'w').write('code ran')\n"
    for _ in itertools.count():
        name = rng.choice(("resnet", "resnet", "bert", "bert", "lm"))
        source = stock.kit.folder / "models" / name
        files = [path.name for path in source.iterdir() if path.suffix in (".json", ".jinja")]
        file = "config.json" if rng.random() < 0.6 else rng.choice(files)
        whole = (source / file).read_bytes()
        more: dict[str, bytes] = {}
        gone: list[str] = []
        if file.endswith(".jinja"):
            content = rng.choice(
                (
                    b"{% for i in range(10**9) %}x{% endfor %}",
                    b"{{ ''.__class__.__mro__ }}",
                    b"{{",
                    b"",
                    made.scramble(whole, rng),
                )
            )
        else:
            config = json.loads(whole)
            kind = rng.randrange(6)
            if kind == 0 and file == "config.json":
                more = {
                    "evil.py": code.encode(),
                    "modeling_evil.py": code.encode(),
                    "configuration_evil.py": code.encode(),
                }
                config |= {
                    "auto_map": {"AutoConfig": "configuration_evil.E", "AutoModel": "modeling_evil.E"},
                    "trust_remote_code": True,
                }
                config["model_type"] = rng.choice(("evil", "bert", config.get("model_type", "evil")))
            elif kind == 1 and file == "config.json":
                pickle = b"cos\nsystem\n(S'touch $CAMPAIGN_MARK'\ntR."
                more, gone = {"pytorch_model.bin": pickle, "x.pth": pickle}, ["model.safetensors"]
                config.setdefault("pretrained_cfg", {})["file"] = "x.pth"
            elif kind == 2 and file == "config.json" and name != "resnet":
                config[rng.choice(sizes)] = rng.choice((0, -1, 1, 2**31, 10**9, 10**6, 1.5, "8", None, [8], True))
            elif kind == 2 and file == "config.json":
                config["model_args"] = rng.choice(
                    (
                        {"channels": [10**6] * 4},
                        {"layers": [10**6] * 4},
                        {"block": "x"},
                        {"in_chans": -1},
                        {"x": 1},
                        [],
                        None,
                        {"channels": []},
                    )
                )
            elif kind == 3 and name == "resnet":
                config["pretrained_cfg"] = config["pretrained_cfg"] | rng.choice(
                    (
                        {"input_size": [3, 10**6, 10**6]},
                        {"input_size": [1, 32, 32]},
                        {"mean": [float("nan")] * 3},
                        {"std": [0, 0, 0]},
                        {"crop_pct": 0},
                        {"interpolation": "x"},
                        {"url": "http://127.0.0.1:9/x.pth"},
                        {"hf_hub_id": "a/b"},
                        {"input_size": "x"},
                        {"crop_pct": 1e-9},
                        {"mean": None},
                        {"num_classes": 10**9},
                        {"first_conv": "x", "classifier": 3},
                        {"crop_mode": "x"},
                    )
                )
            content = json.dumps(config).encode() if kind < 4 else made.json_text(config, rng)
        yield lambda place, args=(source, file, content, more, gone): _model(place, *args)


def _model(place: Path, source: Path, file: str, content: bytes, more: dict[str, bytes], gone: list[str]) -> Verdict:
    import numpy as np

    from injerto.backbones.language import load_language
    from injerto.backbones.load import load_backbone

    room = Room(place)
    folder = room.data / source.name
    shutil.copytree(source, folder)
    for name in gone:
        (folder / name).unlink()
    for name, data in {**more, file: content}.items():
        (folder / name).write_bytes(data)

    def read() -> Any:
        base = (load_language if source.name == "lm" else load_backbone)(str(folder))
        return np.asarray(base.identity.card()["probe"], float) if base.identity.card().get("probe") else np.zeros(1)

    def check(given: Any) -> str | None:
        return None if np.isfinite(given).all() else "a model whose outputs are no numbers"

    return room.tell(f"model {source.name}, {file} {content[:160]!r}", read, check)


# --- words ---


FLAGS = """
source target out backbone task tuning alignment objective target-labels head neck norm epochs steps
batch-size lr head-lr weight-decay layer-decay l2-sp optimizer warmup clip accumulate class-weights
label-smoothing image-size max-length augment views average remember track select patience precision threads
seed split-seed input label domain group split-column split-file shots config
"""
"""Of ``fit``."""


class Enough(BaseException):
    """All words were taken, and training would begin."""


def words(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Command lines with odd values."""
    text = stock.fit("text-head")
    pictures_of = stock.fit("last")
    flags = [f"--{name}" for name in FLAGS.split()]
    run, base = str(stock.run("text-head")), str(stock.base("text-head"))
    others: list[Callable[[], list[str]]] = [
        lambda: ["predict", run, rng.choice(made.WORDS), "--backbone", base],
        lambda: ["predict", rng.choice(made.WORDS), "x"],
        lambda: [
            "predict",
            run,
            "x",
            rng.choice(("--slider", "--threads", "--input", "--precision", "--tokens")),
            rng.choice(made.WORDS),
        ],
        lambda: [
            "evaluate",
            run,
            text[2],
            rng.choice(("--on", "--label", "--domain", "--input")),
            rng.choice(made.WORDS),
        ],
        lambda: ["evaluate", run, rng.choice(made.WORDS)],
        lambda: ["info", rng.choice(made.WORDS)],
        lambda: [
            "export",
            run,
            "--format",
            rng.choice((*made.WORDS, "merged")),
            "--out",
            rng.choice((*made.NAMES, "out")),
        ],
        lambda: [
            "combine",
            run,
            run,
            "--out",
            "out",
            "--weights",
            rng.choice((*made.WORDS, "1,1,1", ",", "nan,1", "1e308,1e308")),
        ],
        lambda: [
            "compare",
            text[2],
            "--grid",
            rng.choice((*made.WORDS, "tuning=", "lr=1,1", "lr=x", f"seed={rng.choice(made.NUMBERS)}")),
            "--out",
            "out",
        ],
        lambda: [
            "compare",
            text[2],
            "--grid",
            "tuning=head",
            "--seeds",
            rng.choice((*made.WORDS, "0,0", "1000000000", "0,,1")),
            "--out",
            "out",
        ],
        lambda: [
            "compare",
            text[2],
            "--grid",
            "tuning=head",
            "--budget",
            rng.choice((*made.WORDS, "1h", "-5m", "0s")),
            "--out",
            "out",
        ],
        lambda: [
            "search",
            text[2],
            "--space",
            rng.choice((*made.WORDS, "lr=1..0", "lr=nan..1", "lr=1e-400..1", "lr=0..1", "lr=a..b")),
            "--out",
            "out",
        ],
        lambda: [
            "search",
            text[2],
            rng.choice(("--trials", "--minutes", "--seeds", "--seed")),
            rng.choice(made.NUMBERS),
            "--out",
            "out",
        ],
        lambda: [
            "search",
            text[2],
            "--storage",
            rng.choice((*made.WORDS, "sqlite:////nowhere/x.db", "mysql://a:b@c/d")),
            "--out",
            "out",
            "--trials",
            "1",
        ],
        lambda: [
            "gap",
            text[2],
            rng.choice(("--on", "--group", "--seed", "--report", "--image-size")),
            rng.choice(made.WORDS),
        ],
        lambda: ["rank", text[2], "--backbones", rng.choice((*made.WORDS, ",", f"{base},{base}"))],
        lambda: ["advise", text[2], "--minutes", rng.choice(made.NUMBERS)],
        lambda: ["report", rng.choice(made.WORDS)],
        lambda: ["recipes", rng.choice(made.WORDS)],
        lambda: ["soup", rng.choice(made.WORDS), "--out", rng.choice(made.NAMES)],
        lambda: [rng.choice(made.WORDS) for _ in range(rng.randrange(1, 4))],
        lambda: ["fit", rng.choice(made.WORDS)],
        lambda: [
            "serve",
            rng.choice(made.WORDS),
            rng.choice(("--port", "--memory", "--queue")),
            rng.choice(made.NUMBERS),
        ],
    ]
    for _ in itertools.count():
        if rng.random() < 0.65:
            line = [*rng.choice((text, pictures_of))]
            for _ in range(rng.choice((1, 1, 2))):
                flag, value = rng.choice(flags), rng.choice(made.PLAIN if rng.random() < 0.5 else made.WORDS)
                if flag in line:
                    line[line.index(flag) + 1] = value
                else:
                    line += [flag, value]
            if "--out" not in line:
                line += ["--out", "run"]
        else:
            line = rng.choice(others)()
        yield lambda place, line=line: _words(place, line)


def _words(place: Path, line: list[str]) -> Verdict:
    import injerto.serving.run
    import injerto.training.fit
    import injerto.training.language

    room = Room(place)

    def stop(*_: Any, **__: Any) -> Any:
        raise Enough

    injerto.training.fit.Fit.run = stop  # type: ignore[method-assign]
    injerto.training.language.LanguageFit.run = stop  # type: ignore[method-assign]
    injerto.serving.run.serve = stop

    def read() -> Any:
        try:
            return ask(line)
        except Enough:
            return "", ""

    shown = " ".join(repr(word)[:40] for word in line if not word.startswith("/") and word not in ("-q", "fit"))
    what = f"{line[0]} {line[1] if line[0] == '-q' else ''} {shown[-200:]}"
    return room.tell(what, read, _said, longest=MESSAGE)


# --- names ---


def names(stock: Stock, rng: random.Random) -> Iterator[Attack]:
    """Names of classes and domains, through fit, its tables and its pages."""
    for number in itertools.count():
        chosen = rng.sample(made.NAMES, 2)
        domain = rng.choice(made.NAMES)
        yield lambda place, args=(stock, chosen, domain, number % 2 == 0): _named(place, *args)


def _named(place: Path, stock: Stock, chosen: list[str], domain: str, folders: bool) -> Verdict:
    room = Room(place)
    if folders:
        data = room.data / "pictures"
        try:
            for label in chosen:
                for number in range(6):
                    path = data / domain / label / f"{number}.png"
                    if not path.resolve().is_relative_to(data.resolve()):
                        return Verdict("same", "no name of a folder")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(made.png(number + 7 * chosen.index(label)))
        except (OSError, ValueError):
            return Verdict("same", "no name of a folder")
        base = stock.base("head")
    else:
        data = room.data / "table.csv"
        with data.open("w", newline="", encoding="utf-8", errors="surrogatepass") as stream:
            writer = csv.writer(stream)
            writer.writerow(("text", "label", "domain"))
            writer.writerows((f"film {k} was {label[:20]} good", label, domain) for label in chosen for k in range(8))
        base = stock.base("text-head")
    out = room.place / "out"

    def read() -> Any:
        line = ["fit", str(data), "--backbone", str(base), "--out", str(out), "--tuning", "head", "--augment", "none"]
        said = ask([*line, "--threads", "1", "--epochs", "2", "--batch-size", "4"])
        asked = ask(
            ["predict", str(out), "a film" if not folders else str(next(data.rglob("*.png"))), "--threads", "1"]
        )
        page = ask(["-q", "report", str(out), "--no-examples"])
        return said[0] + asked[0] + page[0], ""

    def check(given: Any) -> str | None:
        strange = _said(given)
        if strange:
            return strange
        cells = [
            cell for row in csv.reader((out / "predictions.csv").open(newline="", encoding="utf-8")) for cell in row
        ]
        formula = next((cell for cell in cells if cell[:1] in tuple("=+-@\t\r") and not _number(cell)), None)
        if formula is not None:
            return f"a spreadsheet takes a cell of predictions.csv for a formula: {formula[:40]!r}"
        page = (out / "report.html").read_text(encoding="utf-8")
        if "<script>alert(1)" in page or "<b>bold</b>" in page:
            return "a name is markup in report.html"
        return None

    what = f"classes {chosen[0][:20]!r}, {chosen[1][:20]!r} of {domain[:20]!r} in {'folders' if folders else 'a table'}"
    return room.tell(what, read, check)


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


__all__ = ["JOBS", "LEAST", "Refused", "cases"]
