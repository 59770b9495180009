"""The trials of a search in Optuna's storage: opened, taken by one process at a time, given back by those that died."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna import Trial
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from injerto.basics.errors import InjertoError, system_trouble
from injerto.basics.lock import is_gone, this_process
from injerto.basics.removal import move, remove_temporary, temporary_beside

YOUNG = 60
"""Seconds for which a trial may run before it says whose it is, while somebody draws one."""
BUSY = "busy: "
"""Beginning of the study's attributes by which processes say that they draw a trial or put one in line again."""
RESTORE = "it is damaged: restore it, or name another --out"
PATIENCE = 60
"""Seconds to wait for an SQLite file that another process writes to, or for another process to begin a search."""


def hide_password(url: str) -> str:
    """A storage's URL without its password.

    Args:
        url: As given.
    """
    return re.sub(r"(://[^/:@]*):[^/@]*@", r"\1:***@", url)


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """Connect to a storage, making its tables where there are none.

    Args:
        url: Any that Optuna takes: ``sqlite:///FILE``, ``postgresql://...``, ``mysql://...``.

    Raises:
        InjertoError: Where it cannot be opened.
    """
    engine = {"connect_args": {"timeout": PATIENCE}} if url.startswith("sqlite") else None
    for attempt in range(4):
        try:
            _make_file(url)
            return optuna.storages.RDBStorage(url, engine_kwargs=engine)
        except Exception as error:  # two processes may make the tables at the same time
            reason = _reason(error)
            if attempt == 3 or not any(word in reason.lower() for word in ("exist", "lock", "unique")):
                break
            time.sleep(0.2 * 2**attempt)
    raise InjertoError(f"--storage {hide_password(url)} cannot be opened: {reason}")


def _make_file(url: str) -> None:
    """Make the file of an SQLite storage with all of its tables and indices at once.

    Optuna makes them one by one. Where it is stopped in between, the file lacks an index, and two studies may have the
    same name.
    """
    from sqlalchemy.engine import make_url

    known = make_url(url)
    path = Path(known.database or ":memory:")
    if known.get_backend_name() != "sqlite" or path.name.startswith(":memory:") or known.query:
        return
    if path.exists() or not path.parent.is_dir():
        return
    place = temporary_beside(path)
    try:
        place.mkdir()
        optuna.storages.RDBStorage(f"sqlite:///{place / path.name}").engine.dispose()
        try:
            os.link(place / path.name, path)
        except FileExistsError:
            pass  # another process was quicker
        except OSError:  # a file system without hard links
            move(place / path.name, path)
    finally:
        remove_temporary(place)


def _reason(error: Exception) -> str:
    said = system_trouble(error) or str(error) or type(error).__name__
    return re.split(r" \(Background on| \[SQL:", " ".join(said.split()))[0][:300]


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial was stopped from outside, so that it tells nothing; its parameters are taken up by a later one.

    Args:
        trial: Any.
    """
    return trial.state == TrialState.FAIL and "reason" not in trial.user_attrs


def origin_of(trial: Trial | FrozenTrial) -> int:
    """The trial in whose folder a trial's runs are: that which it goes on with, else itself.

    Args:
        trial: Any.
    """
    origin = trial.user_attrs.get("origin")
    return origin if type(origin) is int else trial.number


def me() -> str:
    """This process, distinguished from others that had its number."""
    return json.dumps(this_process())


def _process(worker: str) -> dict[str, Any]:
    """The process that :func:`me` described."""
    process = json.loads(worker)
    if isinstance(process, list):  # as versions up to 0.2 wrote it
        process = this_process() | dict(zip(("host", "pid", "start"), process, strict=True))
    return dict(process)


class Ledger:
    """The trials of one search."""

    def __init__(self, url: str, name: str, about: Mapping[str, Any], first: Mapping[str, Any] | None) -> None:
        """Open the study, or begin it.

        Args:
            url: The storage's.
            name: The study's.
            about: What makes this search this search; another one under the same name is refused.
            first: The point that a new search begins with, None for none.

        Raises:
            InjertoError: Where the storage cannot be opened, or holds another search under this name.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.storage = open_storage(url)
        self.where = where = f"--storage {hide_password(url)}: study '{name}'"
        try:
            self.study = optuna.create_study(storage=self.storage, study_name=name, direction="maximize")
            if first is not None:
                self.study.enqueue_trial(dict(first))
            self.study.set_user_attr("search", dict(about))
        except optuna.exceptions.DuplicatedStudyError:
            self.study = optuna.load_study(study_name=name, storage=self.storage)
            self._check(about, first, where)
        except Exception as error:
            raise InjertoError(f"{where} cannot be opened ({_reason(error)}); {RESTORE}") from error

    def _check(self, about: Mapping[str, Any], first: Mapping[str, Any] | None, where: str) -> None:
        deadline = time.monotonic() + PATIENCE / 10
        while "search" not in self.study.user_attrs and time.monotonic() < deadline:
            time.sleep(0.1)  # another process is beginning it
        before = self.study.user_attrs.get("search")
        if before is None and self.all(TrialState.COMPLETE):
            raise InjertoError(f"{where} is not one of injerto search; name another --out")
        if before is None:  # begun by a process that was killed at once
            if first is not None and not self.all():
                self.study.enqueue_trial(dict(first))
            self.study.set_user_attr("search", dict(about))
        elif different := differences(before, about):
            raise InjertoError(
                f"{where} was begun with other settings: {different}; repeat them, or name another --out"
            )

    def use(self, sampler: BaseSampler, pruner: BasePruner) -> None:
        """Say how points are drawn and trials are cut short.

        Args:
            sampler: The one.
            pruner: The other.
        """
        self.study.sampler, self.study.pruner = sampler, pruner

    def trials(self) -> list[FrozenTrial]:
        """All trials that count, in the order of their numbers."""
        return [trial for trial in self.all() if not is_lost(trial)]

    def all(self, *states: TrialState) -> list[FrozenTrial]:
        """Every trial, in the order of the numbers.

        Args:
            *states: Those that are wanted; all where not given.

        Raises:
            InjertoError: Where the storage is damaged.
        """
        try:
            return self.study.get_trials(deepcopy=False, states=states or None)
        except Exception as error:
            raise InjertoError(f"{self.where} cannot be read ({_reason(error)}); {RESTORE}") from error

    def rank(self, number: int) -> int:
        """How many trials that count came before one.

        Args:
            number: The trial's.
        """
        return sum(trial.number < number for trial in self.trials())

    def give_back(self) -> list[int]:
        """Mark running trials whose process is gone as failed, and put their points in line again.

        Returns:
            Their numbers.
        """
        found = []
        for trial in self.all(TrialState.RUNNING):
            if self._is_dead(trial) and self._again(trial):
                found.append(trial.number)
        if not self._busy():  # a process may have been killed between the two steps of that
            after = {trial.user_attrs.get("after") for trial in self.all()}
            for trial in self.all(TrialState.FAIL):
                if is_lost(trial) and trial.number not in after and not trial.user_attrs.get("surplus"):
                    self._enqueue(trial)
        return found

    def _is_dead(self, trial: FrozenTrial) -> bool:
        """Whether the process that a running trial belongs to has left it, as far as this machine can tell.

        This process itself, which looks between its trials, has none; it may have been interrupted in an earlier call.
        """
        worker = trial.user_attrs.get("worker")
        if worker is not None:
            return worker == me() or is_gone(_process(worker))
        if self._busy():
            return (datetime.now() - (trial.datetime_start or datetime.now())).total_seconds() > YOUNG
        return "worker" not in self.all()[trial.number].user_attrs  # who drew it may just have said so

    def _busy(self) -> bool:
        """Whether a process that is alive draws a trial, or puts one in line again, at this moment."""
        told = [text for name, text in self.study.user_attrs.items() if name.startswith(BUSY) and text]
        return any(not is_gone(_process(text)) for text in told)

    @contextmanager
    def _saying(self) -> Iterator[None]:
        """Let other processes know that this one is busy with the study."""
        mine = f"{BUSY}{me()}"
        self.study.set_user_attr(mine, me())
        try:
            yield
        finally:
            self.study.set_user_attr(mine, "")

    def drop(self, trial: Trial) -> None:
        """Give back a trial of this process.

        Args:
            trial: Running.
        """
        self._again(self.all()[trial.number])

    def _again(self, trial: FrozenTrial) -> bool:
        with self._saying():
            try:
                self.study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, RuntimeError):
                return False  # another process was faster
            self._enqueue(trial)
        return True

    def _enqueue(self, trial: FrozenTrial) -> None:
        """Put a trial in line again, with the point that it had or was to have; else another is drawn in its place."""
        params = trial.system_attrs.get("fixed_params", {})
        if "worker" in trial.user_attrs:  # else it may not have been drawn to its end
            params = trial.params or params
        about = {"origin": trial.user_attrs.get("origin", trial.number), "after": trial.number}
        if params:
            self.study.enqueue_trial(params, user_attrs=about)
        else:
            self.study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=about))

    def take(self, space: Mapping[str, BaseDistribution], most: int | None) -> Trial | None:
        """The next trial for this process; None where there is none left.

        Args:
            space: What is drawn.
            most: Trials of the whole search, None for no end.
        """
        counted = self.trials()
        waiting = any(trial.state == TrialState.WAITING for trial in counted)
        if most is not None and len(counted) >= most and not waiting:
            return None
        with self._saying():
            trial = self.study.ask(dict(space))
            trial.set_user_attr("worker", me())
        if most is None or self.rank(trial.number) < most:
            return trial
        trial.set_user_attr("surplus", True)  # another process took the last one at the same moment
        self.study.tell(trial, state=TrialState.FAIL)
        return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words, where two searches differ; empty where they do not.

    Args:
        before: Of the first.
        now: Of the second.
    """
    words = []
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            words.append(differences(old, new))
        else:
            words.append(f"{name} (was {_text(old)}, now {_text(new)})")
    return ", ".join(words[:3])


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "/".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
