"""Kills: SIGKILL at every rename, write and fsync of every command, then the command again."""

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.campaign.cases import Case, Verdict, rng_of
from benchmarks.campaign.kit import Kit
from benchmarks.campaign.scenarios import (
    SCENARIOS,
    Scenario,
    describe,
    earlier_is_kept,
    faults,
    finish,
    lay,
    lost,
    reference,
    run,
    start,
    tree_of,
    verdict,
)
from benchmarks.campaign.watched import ANSWER, Event, problem

LEAST = 200
JOBS = 2
ROUNDS = 14
"""Cases of a scenario of weight 1; the deadline cuts the last ones off."""
GRACE = {signal.SIGTERM: (-15, 0, 143), signal.SIGINT: (130, 0)}
"""Exit codes that go with a signal that a command may answer."""


def cases(kit: Kit) -> Iterator[Case]:
    """All scenarios in turn, so that a deadline cuts off repetitions, not kinds."""
    if why := problem():
        print(f"kills: skipped: {why}", flush=True)
        return
    for index in range(ROUNDS):
        for scenario in SCENARIOS:
            for part in range(scenario.weight):
                number = index * scenario.weight + part
                total = ROUNDS * scenario.weight
                yield Case(f"{scenario.name}/{number}", _kill(kit, scenario, number, total), 120)
        if index % 3 == 0:
            for name in ("fit-head", "fit-overwrite", "compare", "search"):
                scenario = next(one for one in SCENARIOS if one.name == name)
                yield Case(f"{name}/two at once/{index}", _two_at_once(kit, scenario, index), 120)
        if index % 2 == 0:
            yield Case(f"serve/{index}", _serve(kit, index), 120)


class Blow:
    """Strikes at one change, once."""

    def __init__(self, at: int, how: str) -> None:
        self.at, self.how, self.seen = at, how, 0
        self.where: str | None = None

    def __call__(self, event: Event) -> ANSWER:
        """What becomes of the next change."""
        self.seen += 1
        if self.where is not None or self.seen < self.at:
            return None
        if self.how == "half" and (event.kind != "write" or event.size < 64):
            return None
        self.where = f"{self.how} at change {self.seen} ({event})"
        return self.how


def _kill(kit: Kit, scenario: Scenario, number: int, total: int) -> Callable[[Path], Verdict]:
    def attack(place: Path) -> Verdict:
        rng = rng_of(kit.seed, "kills", scenario.name, number)
        undisturbed = reference(kit, scenario)
        bystanders = rng.random() < 0.7
        lay(kit, scenario, place, bystanders)
        words, trail = scenario.words(kit), []
        how = rng.choices(("kill", "half", "SIGINT", "SIGTERM"), (6, 2, 1, 1))[0]
        at = undisturbed.draw(rng, number, total)
        strokes = 1 if rng.random() < 0.7 else rng.choice((2, 2, 3))
        for stroke in range(strokes):
            blow = Blow(at, how)
            ended = run(place, words, blow)
            if blow.where is None:
                break  # it was through before that
            trail.append(blow.where)
            if fault := faults(ended):
                return verdict("fault", f"{', '.join(trail)}: {fault}", len(trail))
            if how in signal.Signals.__members__ and ended.code not in GRACE[signal.Signals[how]]:
                said = " ".join(ended.said.split())[-300:]
                return verdict("crash", f"{', '.join(trail)}: ended with {ended.code}: {said}", len(trail))
            if gone := lost(place, bystanders):
                return verdict("lost", f"{', '.join(trail)}: {', '.join(gone)}", len(trail))
            if scenario.over and not earlier_is_kept(kit, place):
                return verdict("lost", f"{', '.join(trail)}: the earlier run", len(trail))
            if stroke == 0:
                words = [*words, *scenario.again]
            if scenario.remedy:
                break  # it refuses what is there
            how, at = rng.choice(("kill", "kill", "half")), 1 + rng.randrange(len(undisturbed.events))
        outcome, detail = finish(kit, scenario, place, rng, ", ".join(trail) or "not struck", bystanders)
        return verdict(outcome, detail, max(1, len(trail)))

    return attack


# --- two at once ----------------------------------------------------------------------------------------------


def _two_at_once(kit: Kit, scenario: Scenario, number: int) -> Callable[[Path], Verdict]:
    def attack(place: Path) -> Verdict:
        rng = rng_of(kit.seed, "two", scenario.name, number)
        expected = tree_of(reference(kit, scenario).place)
        bystanders = True
        lay(kit, scenario, place, bystanders)
        words = scenario.words(kit)
        first = start(place, words, watched=False)
        time.sleep(rng.choice((0.0, 0.0, 0.02, 0.1, 0.3)))
        second = start(place, words, watched=False)
        both = first.run(), second.run()
        for ended in both:
            if fault := faults(ended):
                return verdict("fault", f"two at once: {fault}", 2)
        codes = sorted(ended.code for ended in both)
        told = [ended.last for ended in both if ended.code != 0]
        if codes not in ([0, 0], [0, 2]) or any(
            "is being written" not in s and "exists already" not in s for s in told
        ):
            return verdict("wrong", f"two at once: {[(ended.code, ended.last) for ended in both]}", 2)
        if gone := lost(place, bystanders):
            return verdict("lost", f"two at once: {', '.join(gone)}", 2)
        if different := describe(tree_of(place), expected):
            return verdict("wrong", f"two at once ({codes}): {different}", 2)
        return verdict("same", "", 2)

    return attack


# --- serve ----------------------------------------------------------------------------------------------------


def _serve(kit: Kit, number: int) -> Callable[[Path], list[Verdict]]:
    def attack(place: Path) -> list[Verdict]:
        rng = rng_of(kit.seed, "serve", number)
        text = ["the film was good and great", "a dull story , the end"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["-q", "serve", str(kit.run("text-head")), str(kit.run("text-lora")), "--port", str(port)]
        words += ["--threads", "1", "--precision", "fp32", "--drifted", "out", "--window", "8"]
        lay(kit, SCENARIOS[0], place, True)
        found = []
        expected = _direct(kit, text)
        for stroke in range(3):
            server = start(place, words, watched=False)
            answered = None
            try:
                if stroke < 2 and rng.random() < 0.6:
                    time.sleep(rng.random() * 0.8)  # while it loads
                else:
                    answered = _ask(port, text, server)
            finally:
                from os import kill

                kill(server.pid, signal.SIGKILL)
            ended = server.run()
            if fault := faults(ended):
                return [*found, Verdict("fault", fault)]
            if isinstance(answered, str):
                return [*found, Verdict("wrong", f"start {stroke + 1}: {answered}; {ended.last}")]
            if answered is not None and any(abs(a - b) > 1e-5 for a, b in zip(answered, expected, strict=True)):
                return [*found, Verdict("wrong", f"start {stroke + 1}: {answered}, directly {expected}")]
            found.append(Verdict("same"))
        if gone := lost(place, True):
            return [Verdict("lost", ", ".join(gone))]
        left = [name for name in tree_of(place) if ".tmp" in name]
        return [Verdict("wrong", f"left over: {left}")] if left else found

    return attack


def _direct(kit: Kit, text: list[str]) -> list[float]:
    import injerto

    return [float(p) for name in ("text-head", "text-lora")
            for p in injerto.load(kit.run(name), threads=1).predict_proba(text).ravel()]  # fmt: skip


def _ask(port: int, text: list[str], server: Any) -> list[float] | str:
    """The server's answers as soon as it has any, or why there are none."""
    deadline, why = time.monotonic() + 60, ""
    items = [{"text": one, "adapter": name} for name in ("text-head", "text-lora") for one in text]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/predict",
        data=json.dumps({"items": items}).encode(),
        headers={"Content-Type": "application/json"},
    )
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                results = json.loads(answer.read())["results"]
            return [p for one in results for p in one["answers"][0]["probabilities"].values()]
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read()[:200]!r}"
        except OSError as error:
            why = str(error)
            time.sleep(0.05)
    return f"no answer: {why}"
