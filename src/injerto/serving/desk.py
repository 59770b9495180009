"""Runs behind one name each, grouped by base: a bank for every base, and the folder that more may be loaded from."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from injerto.adapters.card import CARD, load_card
from injerto.adapters.load import adapter_folder, load_base, misfit
from injerto.adapters.sketch import Sketch
from injerto.bank.bank import AdapterBank, UnknownAdapter, name_of
from injerto.bank.resident import Resident
from injerto.basics.errors import InjertoError


class OutsideFolder(InjertoError):
    """Not a run in the folder that adapters may be loaded from."""


class Desk:
    """What a server answers with.

    Attributes:
        folder: Where adapters may be loaded from while it runs; None for nowhere.
    """

    def __init__(
        self,
        runs: Iterable[Path],
        folder: Path | None = None,
        backbone: Any = None,
        precision: str = "auto",
        threads: int | None = None,
        limit: int | None = None,
    ) -> None:
        """Load the runs.

        Args:
            runs: Their folders; each is called as its folder is.
            folder: Where adapters may be loaded from later.
            backbone: The base of those whose card cannot name it.
            precision: ``fp32``, ``bf16`` or ``auto``.
            threads: CPU threads, None for all cores.
            limit: Bytes that the adapters of one base may take.

        Raises:
            InjertoError: Where a run cannot be opened, two have the same name, or the folder is none.
        """
        if folder is not None and not folder.is_dir():
            raise InjertoError(f"--bank {folder} is no folder; make it, and put runs into it")
        self.folder = folder
        self._backbone = backbone
        self._options: dict[str, Any] = {"precision": precision, "threads": threads, "limit": limit}
        self._banks: list[AdapterBank] = []
        self._place: dict[str, AdapterBank] = {}
        self._lock, self._growing = threading.Lock(), threading.Lock()
        for run in runs:
            if name_of(run) in self._place:
                raise InjertoError(f"two runs are called '{name_of(run)}'; rename the folder of one")
            self._add(run, name_of(run))

    def _add(self, run: Path, name: str) -> None:
        card = load_card(adapter_folder(run))
        if card["task"] != "classification":
            raise InjertoError(f"{run} is a language model's; classifiers are served")
        with self._growing:
            bank = next((one for one in self.banks if misfit(card, one.base) is None), None)
            if bank is None:
                bank = AdapterBank(load_base(run, self._backbone), **self._options)
            bank.load(run, name)
            with self._lock:
                if bank not in self._banks:
                    self._banks.append(bank)
                before = self._place.get(name)
                self._place[name] = bank
        if before is not None and before is not bank:
            before.unload(name)

    @property
    def names(self) -> list[str]:
        """Of all adapters."""
        with self._lock:
            return list(self._place)

    @property
    def banks(self) -> list[AdapterBank]:
        """One for each base."""
        with self._lock:
            return list(self._banks)

    def bank_of(self, name: str) -> AdapterBank:
        """The bank that has an adapter.

        Args:
            name: The adapter's.

        Raises:
            UnknownAdapter: Where there is none.
        """
        with self._lock:
            found = self._place.get(name)
        if found is None:
            raise UnknownAdapter(name, self.names)
        return found

    def resident(self, name: str) -> Resident:
        """An adapter.

        Args:
            name: Its name.

        Raises:
            UnknownAdapter: Where there is none.
        """
        return self.bank_of(name)[name]

    def about(self, name: str) -> dict[str, Any]:
        """What is told of an adapter.

        Args:
            name: Its name.
        """
        bank = self.bank_of(name)
        one = bank.about(name)
        return {
            "name": name,
            "labels": one.card["labels"],
            "base": one.card["base"]["name"],
            "modality": bank.base.modality,
            "tuning": str(one.card.get("tuning", "")),
            "alignment": str(one.card.get("alignment") or "none"),
            "bytes": one.bytes,
            "moves": one.moves,
        }

    def sketch(self, name: str) -> Sketch | None:
        """What an adapter's inputs looked like when it was made, where it knows.

        Args:
            name: Its name.
        """
        return self.bank_of(name).about(name).sketch

    def load(self, path: str, name: str | None = None) -> str:
        """Load an adapter from the folder.

        Args:
            path: A run's folder, relative to :attr:`folder`.
            name: What to call it; as its folder where not given.

        Returns:
            The name.

        Raises:
            OutsideFolder: Where it is not in there.
            InjertoError: Where it cannot be opened.
        """
        if self.folder is None:
            raise OutsideFolder("adapters are loaded from the folder of --bank; the server was started without")
        root = self.folder.resolve()
        try:
            place = (root / path).resolve()
            inside = place != root and place.is_relative_to(root) and "\0" not in path
            there = inside and any((one / CARD).is_file() for one in (place, place / "adapter"))
        except (OSError, ValueError):
            there = False
        if not there:
            raise OutsideFolder(f"'{path[:100]}' is no run in the bank's folder")
        for file in (place / "adapter" if (place / "adapter").is_dir() else place).iterdir():
            if not file.resolve().is_relative_to(root):
                raise OutsideFolder(f"'{path[:100]}' has files outside the bank's folder")
        name = name_of(place) if name is None else name
        self._add(place, name)
        return name

    def unload(self, name: str) -> None:
        """Forget an adapter.

        Args:
            name: Its name.

        Raises:
            UnknownAdapter: Where there is none.
        """
        bank = self.bank_of(name)
        with self._lock:
            if self._place.get(name) is bank:
                del self._place[name]
        bank.unload(name)
