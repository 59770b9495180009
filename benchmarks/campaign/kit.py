"""What the cases attack: tiny networks and data, and finished runs of every kind, made once."""

import importlib
import json
import os
import shutil
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

CLOCK = ("seconds", "time", "speed", "created", "checksum", "log.jsonl")
"""Keys of what tells the time, or is a checksum of that, and may differ."""
IMAGES = ["--source", "day", "--target", "dusk", "--augment", "none", "--head-lr", "0.01"]
TEXTS = ["--source", "films", "--augment", "none"]
QUICK = ["--threads", "1", "--precision", "fp32", "--batch-size", "8", "--epochs", "4"]
LATER = {"injerto", "joblib", "numpy", "pandas", "peft", "PIL", "pyarrow", "rich", "scipy", "sklearn", "tokenizers"}
LATER |= {"torch", "transformers", "typer"}
"""Packages whose modules commands import on their way."""
RUNS: dict[str, tuple[str, list[str]]] = {  # kind of data, flags
    "head": ("pictures", [*IMAGES, "--tuning", "head"]),
    "last": ("pictures", [*IMAGES, "--tuning", "last:1"]),
    "full": ("pictures", [*IMAGES, "--tuning", "full", "--norm", "train"]),
    "lora": ("pictures", [*IMAGES, "--tuning", "lora"]),
    "mmd": ("pictures", [*IMAGES, "--tuning", "head", "--neck", "8", "--alignment", "mmd"]),
    "dann": ("pictures", [*IMAGES, "--tuning", "last:1", "--alignment", "dann"]),
    "text-head": ("reviews", [*TEXTS, "--tuning", "head"]),
    "text-lora": ("reviews", [*TEXTS, "--tuning", "lora"]),
}
"""Runs by name."""


class Kit:
    """Folders that the cases read and copy, never write.

    Attributes:
        folder: Everything lies in there.
        seed: Of the campaign.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed

    def prepare(self) -> None:
        """Import what the cases need, and make what they attack where it is not there yet."""
        import accelerate  # noqa: F401
        import timm  # noqa: F401
        import transformers  # noqa: F401
        from benchmarks.campaign.cases import Case, Child, Verdict

        import injerto.training.fit  # noqa: F401

        if (self.folder / "ready").exists():
            self._import_all()
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

        def make(_: Path) -> Verdict:
            self._make()
            return Verdict("same")

        child = Child(Case("kit", make, 600, 8_000_000_000), self.folder.parent / "case-kit")
        verdicts = None
        while verdicts is None:
            verdicts = child.poll()
        if verdicts[0].outcome != "same":
            raise SystemExit(f"the kit cannot be made: {verdicts[0].detail}")
        (self.folder / "ready").touch()
        self._import_all()

    def _import_all(self) -> None:
        """Import whatever the commands import on their way: each case would do so anew, for a second."""
        for name in json.loads((self.folder / "modules.json").read_text(encoding="utf-8")):
            with suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)

    def _make(self) -> None:
        import tiny

        models = self.folder / "models"
        models.mkdir()
        tiny.save_timm(models / "resnet", seed=0)
        tiny.save_bert(models / "bert")
        tiny.save_lm(models / "lm")
        tiny.write_pictures(self.folder / "pictures", per_class=6)
        tiny.write_reviews(self.folder / "reviews.csv", per_class=12)
        for name in RUNS:
            done = run_cli([*self.fit(name), "--out", str(self.run(name))])
            assert done[0] == 0, done
        modules = [name for name in sys.modules if name.split(".")[0] in LATER]
        (self.folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")

    def fit(self, name: str) -> list[str]:
        """Words of the command that makes a run, without its ``--out``."""
        kind, flags = RUNS[name]
        data = self.folder / ("pictures" if kind == "pictures" else "reviews.csv")
        backbone = self.folder / "models" / ("resnet" if kind == "pictures" else "bert")
        return ["-q", "fit", str(data), "--backbone", str(backbone), *QUICK, *flags]

    def run(self, name: str) -> Path:
        """The finished run."""
        return self.folder / "runs" / name


def run_cli(words: list[str]) -> tuple[int, str]:
    """A command line in this process: exit code and what it printed on standard error."""
    import contextlib
    import io

    from injerto.cli.main import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    return code, err.getvalue()


def content_of(run: Path) -> dict[str, Any]:
    """Everything that a run left behind and that must not depend on the clock, by file."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if not path.is_file():
            continue
        if path.name == "log.jsonl":
            found[name] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name == "metrics.json":
            found[name] = timeless(json.loads(path.read_text()))
        else:
            found[name] = path.read_bytes()
    return found


def timeless(value: Any) -> Any:
    """A value of JSON without what tells the time."""
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key not in CLOCK}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of files that differ, are missing or are too many."""
    names = sorted(found.keys() | expected.keys())
    return [name for name in names if name not in found or name not in expected or found[name] != expected[name]]


def own_cache(folder: Path) -> None:
    """From here on this process caches in a folder of its own."""
    os.environ["INJERTO_CACHE"] = str(folder)
