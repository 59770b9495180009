"""More to attack: runs of further tunings and seeds, exports, runs cut short, studies; made once, when first needed."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from benchmarks.campaign.cases import Case, Child, Verdict
from benchmarks.campaign.kit import IMAGES, QUICK, RUNS, TEXTS, Kit, run_cli

SPEECH = ["--task", "causal-lm", "--tuning", "lora", "--max-length", "40"]
MORE: dict[str, tuple[str, list[str]]] = {
    "norm": ("pictures", [*IMAGES, "--tuning", "norm"]),
    "slider": ("pictures", [*IMAGES, "--tuning", "full", "--slider", "--lr", "0.001"]),
    "mlp": ("pictures", [*IMAGES, "--tuning", "head", "--head", "mlp"]),
    "text-full": ("reviews", [*TEXTS, "--tuning", "full"]),
    "sketch": ("many", [*TEXTS, "--tuning", "head"]),
    "head-1": ("pictures", [*IMAGES, "--tuning", "head", "--seed", "1"]),
    "last-1": ("pictures", [*IMAGES, "--tuning", "last:1", "--seed", "1"]),
    "lora-1": ("pictures", [*IMAGES, "--tuning", "lora", "--seed", "1"]),
    "text-lora-1": ("reviews", [*TEXTS, "--tuning", "lora", "--seed", "1"]),
    "language": ("speech", SPEECH),
    "language-1": ("speech", [*SPEECH, "--seed", "1"]),
}
"""Runs beside those of the kit; what ends in -1 is another seed of the same."""
EXPORTS = {"lora": ("int8", "peft"), "text-lora": ("int8", "peft"), "lora-1": ("int8",), "language": ("int8",)}
"""Formats that are read back, by run."""
STOPPED = ("last", "last-1", "dann", "text-lora", "text-lora-1", "language", "language-1")
"""Runs that are cut short after their second checkpoint."""
COMPARE = ["--source", "day", "--target", "dusk", "--augment", "none", "--grid", "tuning=head,last:1", "--seeds", "1"]
SEARCH = [
    "--source",
    "films",
    "--augment",
    "none",
    "--tuning",
    "head",
    "--space",
    "head_lr=1e-3..1e-1",
    "--trials",
    "2",
]


class Stock:
    """What :class:`Kit` has, and more.

    Attributes:
        kit: The kit.
        folder: Everything else lies in there.
    """

    def __init__(self, kit: Kit) -> None:
        self.kit, self.folder = kit, kit.folder.parent / "stock"

    def prepare(self) -> None:
        """Make it where it is not there yet."""
        once(self.folder, self._make)

    def _make(self) -> None:
        import tiny

        tiny.write_reviews(self.folder / "many.csv", per_class=40)
        with (self.folder / "speech.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(("prompt", "response"))
            words = ("good", "bad", "great", "awful", "funny", "dull", "long", "very good")
            writer.writerows(
                (f"is the {kind} {word}", f"it was {word} and great") for word in words for kind in ("book", "film")
            )
        for name in MORE:
            self._do([*self.fit(name), "--out", str(self.run(name))])
        for name, formats in EXPORTS.items():
            for form in formats:
                words = ["-q", "export", str(self.run(name)), "--format", form, "--out", str(self.exported(name, form))]
                self._do(words)
        for name in STOPPED:
            self._stop(name)
        shutil.make_archive(str(self.folder / "pictures"), "zip", self.kit.folder / "pictures")
        for kind in ("compare", "search"):
            self._do(self.study(kind, self.folder / kind / "study"))

    @staticmethod
    def _do(words: list[str]) -> None:
        done = run_cli(words)
        assert done[0] == 0, (words, done)

    def fit(self, name: str) -> list[str]:
        """Words of the command that makes a run, without its ``--out``."""
        if name in RUNS:
            return self.kit.fit(name)
        kind, flags = MORE[name]
        data = {
            "pictures": self.kit.folder / "pictures",
            "reviews": self.kit.folder / "reviews.csv",
            "many": self.folder / "many.csv",
            "speech": self.folder / "speech.csv",
        }[kind]
        return ["-q", "fit", str(data), "--backbone", str(self.base(name)), *QUICK, *flags]

    def base(self, name: str) -> Path:
        """The folder of a run's base model."""
        kind = (RUNS | MORE)[name][0]
        return self.kit.folder / "models" / {"pictures": "resnet", "speech": "lm"}.get(kind, "bert")

    def run(self, name: str) -> Path:
        """A finished run."""
        return self.kit.run(name) if name in RUNS else self.folder / "runs" / name

    def exported(self, name: str, form: str) -> Path:
        """An adapter as another file."""
        return self.folder / "exports" / f"{name}-{form}"

    def stopped(self, name: str) -> Path:
        """A run that was cut short."""
        return self.folder / "stopped" / name

    def study(self, kind: str, out: Path) -> list[str]:
        """Words of the command of a comparison or a search."""
        if kind == "compare":
            data, base, flags = self.kit.folder / "pictures", "resnet", COMPARE
        else:
            data, base, flags = self.kit.folder / "reviews.csv", "bert", SEARCH
        rest = [*QUICK, *flags, "--out", str(out), *(["--no-report"] if kind == "compare" else [])]
        return ["-q", kind, str(data), "--backbone", str(self.kit.folder / "models" / base), *rest]

    def _stop(self, name: str) -> None:
        pid = os.fork()
        if pid == 0:
            _die_at_second_checkpoint()
            run_cli([*self.fit(name), "--out", str(self.stopped(name))])
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), f"{name} was not cut short"
        assert (self.stopped(name) / "checkpoints" / "last.safetensors").exists(), name


def _die_at_second_checkpoint() -> None:
    """From here on this process saves often, and is killed when it has saved twice."""
    from injerto.training import trainer

    trainer.SAVE_SECONDS = -1
    plain, seen = os.replace, []

    def replace(source: object, target: object, **options: object) -> None:
        plain(source, target, **options)  # type: ignore[call-overload]
        if str(target).endswith("last.safetensors"):
            seen.append(target)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace  # type: ignore[assignment]


def once(folder: Path, make: Callable[[], None], seconds: float = 600) -> None:
    """Make a folder in a process of its own, unless it is there whole.

    Args:
        folder: Emptied before.
        make: Fills it.
        seconds: That it may take.
    """
    if (folder / "ready").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    def attack(_: Path) -> Verdict:
        make()
        return Verdict("same")

    child = Child(Case(folder.name, attack, seconds, 8_000_000_000), folder.parent / f"case-{folder.name}")
    verdicts = None
    while verdicts is None:
        verdicts = child.poll()
    shutil.rmtree(child.folder, ignore_errors=True)
    if verdicts[0].outcome != "same":
        raise SystemExit(f"{folder} cannot be made: {verdicts[0].detail}")
    (folder / "ready").write_text(json.dumps({"made": True}))
