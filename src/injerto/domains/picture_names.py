"""Pictures that a table names: as written, and as people write them on other systems."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.basics.progress import note
from injerto.domains.folders import is_image_name

FOLDERS = ("images", "image", "imgs", "img", "pictures", "pics", "photos")
"""Folders beside a table in which names without a folder are looked for."""
OUTSIDE = "it lies outside of the table's folder"
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|data:image/)", re.IGNORECASE)


class PictureNames:
    """Finds the files that a table names, and counts what had to be done for it."""

    def __init__(self, base: Path, allow_outside: bool = False) -> None:
        """Nothing is read yet.

        Args:
            base: The folder that names are relative to.
            allow_outside: Whether names may lead out of it.
        """
        self.base, self.allow_outside = base, allow_outside
        self._roots = (os.path.abspath(base), os.path.realpath(base))
        self._inner: dict[str, bool] = {}
        self.adapted: dict[str, Counter[str]] = defaultdict(Counter)
        self._folders: dict[Path, dict[str, list[str]]] = {}
        self._beside: dict[str, list[Path]] | None = None

    def find(self, name: str) -> tuple[Path | None, str]:
        """The file that a cell names, or what is wrong with it: :data:`OUTSIDE` where it leads out of the folder.

        Whether it does is asked of the name as written, and of the file with all links followed. Tried in this order:
        the path as written; with ``/`` for every backslash; with other capitals, where exactly one file is called so;
        in a folder beside the table (:data:`FOLDERS`); without its ending, where exactly one picture beside the table
        or in such a folder is called so.

        Args:
            name: The cell.
        """
        if not (self.allow_outside or self._stays(name)):
            return None, OUTSIDE
        path, problem = self._find(name)
        if path is not None and not (self.allow_outside or self._is_inside(path)):
            return None, OUTSIDE
        return path, problem

    def _stays(self, name: str) -> bool:
        """Whether a name stays in the folder as it is written; with ``/`` for every backslash, too."""
        return all(
            _within(os.path.normpath(os.path.join(self._roots[0], form)), self._roots)
            for form in (name, name.replace("\\", "/"))
        )

    def _is_inside(self, path: Path) -> bool:
        """Whether a file lies in the folder when all links are followed."""
        folder = os.path.dirname(path)
        if folder not in self._inner:
            self._inner[folder] = _within(os.path.realpath(folder), self._roots[1:])
        if not os.path.islink(path):
            return self._inner[folder]
        return _within(os.path.realpath(path), self._roots[1:])

    def _find(self, name: str) -> tuple[Path | None, str]:
        path = self.base / name
        if _is_file(path):
            return path, ""
        place = name
        if "\\" in name:
            place = name.replace("\\", "/")
            path = self.base / place
            if _is_file(path):
                return self._take(path, "with backslashes", name)
        if is_image_name(place):
            other = self._other_capitals(Path(place))
            if len(other) == 1:
                return self._take(other[0], "in other capitals", name)
            if len(other) > 1:
                return None, f"no such file; {' or '.join(path.name for path in other[:3])}?"
        if "/" in place:
            near = self._stems(self.base / os.path.dirname(place)).get(os.path.basename(place), [])
            matches = [self.base / os.path.dirname(place) / file for file in near]
        else:
            matches = self._near().get(place, [])
        if len(matches) == 1:
            how = "without their folder" if matches[0].name == place else "without their ending"
            return self._take(matches[0], how, name)
        if len(matches) > 1:
            return None, f"no such file; {len(matches)} are called so: {matches[0]}, {matches[1]}"
        return None, "no such file"

    def report(self, file: str) -> None:
        """One note for each way in which names had to be adapted.

        Args:
            file: What messages call the table.
        """
        for how, found in self.adapted.items():
            (name, path), *_ = [key.split("\n") for key in found]
            note(f"{file}: {len(found)} pictures are named {how}, first: '{name}' is read from {path}")

    def _take(self, path: Path, how: str, name: str) -> tuple[Path, str]:
        self.adapted[how][f"{name}\n{path}"] += 1
        return path, ""

    def _stems(self, folder: Path) -> dict[str, list[str]]:
        """Pictures of a folder by name without ending."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self._files(folder):
            if is_image_name(name):
                found[os.path.splitext(name)[0]].append(name)
        return found

    def _near(self) -> dict[str, list[Path]]:
        """Pictures beside the table and in its picture folders, by name and by name without ending."""
        if self._beside is None:
            beside: dict[str, list[Path]] = defaultdict(list)
            folders = [self.base, *(self.base / name for name in FOLDERS if (self.base / name).is_dir())]
            for folder in folders:
                for name in self._files(folder):
                    if is_image_name(name):
                        beside[os.path.splitext(name)[0]].append(folder / name)
                        beside[name].append(folder / name)
            self._beside = beside
        return self._beside

    def _files(self, folder: Path) -> Sequence[str]:
        if folder not in self._folders:
            names: dict[str, list[str]] = defaultdict(list)
            try:
                for name in sorted(os.listdir(folder)):
                    names[name.lower()].append(name)
            except (OSError, ValueError):
                pass
            self._folders[folder] = names
        return [name for same in self._folders[folder].values() for name in same]

    def _other_capitals(self, place: Path) -> list[Path]:
        """Files whose path differs only in capitals."""
        found = [Path(place.anchor) if place.is_absolute() else self.base]
        for part in place.parts[1 if place.is_absolute() else 0 :]:
            deeper = []
            for folder in found:
                if part == ".." or (folder / part).is_dir():
                    deeper.append(folder / part)
                    continue
                self._files(folder)
                deeper += [folder / name for name in self._folders[folder].get(part.lower(), [])]
            found = deeper
        return [path for path in found if _is_file(path)]


def outside_error(name: str, row: str, base: Path) -> InjertoError:
    """The error for a picture that is not in the table's folder.

    Args:
        name: As written.
        row: What messages call the row.
        base: The folder.
    """
    return InjertoError(
        f"{row}: the picture '{name}' lies outside of {base.absolute()}, the table's folder; where you trust the table "
        "with every file that you can read, add --allow-outside (in Python allow_outside=True)"
    )


def refuse_urls(names: Sequence[str], file: str, column: str) -> None:
    """Refuse a column of pictures that are elsewhere.

    Args:
        names: The filled cells.
        file: What messages call the table.
        column: Its name.

    Raises:
        InjertoError: Where more than half of them are URLs.
    """
    urls = [name for name in names if _URL.match(name)]
    if 2 * len(urls) > len(names):
        raise InjertoError(
            f"{file}: column '{column}' holds URLs, first: {urls[0][:80]}; download the pictures and name the files "
            f"(for texts name it with --input {column})"
        )


def _within(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in roots)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False
