"""Runs behind one name each, grouped by base: a bank for every base, and the folder that more may be loaded from."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from injerto.adapters.card import read_card
from injerto.adapters.load import load_base, misfit
from injerto.adapters.sketch import Sketch
from injerto.adapters.snapshot import CARD, Outside, Place, opened
from injerto.bank.bank import AdapterBank
from injerto.bank.names import UnknownAdapter, check_name, name_of
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
        allow_modified: bool = False,
    ) -> None:
        """Load the runs.

        Args:
            runs: Their folders; each is called as its folder is.
            folder: Where adapters may be loaded from later.
            backbone: The base of those whose card cannot name it.
            precision: ``fp32``, ``bf16`` or ``auto``.
            threads: CPU threads, None for all cores.
            limit: Bytes that the adapters of one base may take.
            allow_modified: Whether adapters are loaded whose files are not as their card says.

        Raises:
            InjertoError: Where a run cannot be opened, two have the same name, or the folder is none.
        """
        if folder is not None and not folder.is_dir():
            raise InjertoError(f"--bank {folder} is no folder; make it, and put runs into it")
        self.folder = folder
        self._backbone, self._allow_modified = backbone, allow_modified
        self._options: dict[str, Any] = {"precision": precision, "threads": threads, "limit": limit}
        self._banks: list[AdapterBank] = []
        self._place: dict[str, AdapterBank] = {}
        self._lock, self._growing = threading.Lock(), threading.Lock()
        for run in runs:
            if name_of(run) in self._place:
                raise InjertoError(f"two runs are called '{name_of(run)}'; rename the folder of one")
            self._add(Place(run, None, allow_modified), name_of(run))

    def _add(self, place: Place, name: str) -> None:
        """Read an adapter whole, then put it in the place of what had its name; where it can't be read, that stays."""
        check_name(name)
        with self._growing, opened(place) as files:
            if CARD not in files and place.inside is not None:
                raise Outside(f"{place.path} holds no adapter")
            card = read_card(files)
            if card["task"] != "classification":
                raise InjertoError(f"{place.path} is a language model's; classifiers are served")
            bank = next((one for one in self.banks if misfit(card, one.base) is None), None)
            if bank is None:
                bank = AdapterBank(load_base(place.path, self._backbone, card), **self._options)
            found = bank._read(files, name, card)
            with self._lock:
                bank._take(found)
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
        try:
            place = Path(os.path.realpath(self.folder / path, strict=True))
            if "\0" in path or place == Path(os.path.realpath(self.folder)):
                raise Outside(path)
            name = name_of(place) if name is None else name
            self._add(Place(place, self.folder, self._allow_modified), name)
        except (Outside, OSError, ValueError):
            raise OutsideFolder(f"'{path[:100]}' is no run in the bank's folder, or has files outside it") from None
        return name

    def unload(self, name: str) -> None:
        """Forget an adapter.

        Args:
            name: Its name.

        Raises:
            UnknownAdapter: Where there is none.
        """
        with self._lock:
            found = self._place.pop(name, None)
            if found is not None:
                found.unload(name)
        if found is None:
            raise UnknownAdapter(name, self.names)
