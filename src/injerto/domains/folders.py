"""Folders of pictures: ``root/<domain>/<class>/<picture>``, or one level less for a single domain."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.basics.progress import note
from injerto.domains.rows import Rows

EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
UNLABELLED = ("_unlabeled", "_unlabelled")
EXPECTED = "expected <root>/<domain>/<class>/<picture> or <root>/<class>/<picture> with .jpg .png .webp .bmp .gif .tif"


@dataclass
class _Folder:
    """One folder: its pictures by name, its sub-folders by name, and how many other files it holds by extension."""

    images: list[str] = field(default_factory=list)
    folders: "dict[str, _Folder]" = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    def count(self) -> int:
        """The number of pictures in this folder and below."""
        return len(self.images) + sum(folder.count() for folder in self.folders.values())

    def all_others(self) -> Counter[str]:
        """Other files by extension, in this folder and below."""
        return sum((folder.all_others() for folder in self.folders.values()), self.others)


def is_image_name(name: str) -> bool:
    """Whether a file name ends as a picture's does (upper or lower case).

    Args:
        name: A file name or path.
    """
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no data: hidden, or macOS's archive leftovers.

    Args:
        name: A single path component.
    """
    return name.startswith(".") or name == "__MACOSX"


def read_folder(root: Path, name: str | None = None) -> Rows:
    """Read a folder of pictures; nothing is decoded.

    A picture's parent folder is its class, the one above its domain. Wrapper folders around the data are seen through.
    Pictures directly in a domain folder, or in ``<domain>/_unlabeled``, have no label.

    Args:
        root: The folder.
        name: What to call the data, and a single domain in it; the folder's own name by default.

    Returns:
        The examples; sources are relative to the data root, with ``/``.

    Raises:
        InjertoError: Where there is no picture, or a folder cannot be read.
    """
    shown = name or root.resolve().name
    tree = _scan(root, ())
    if not tree.count():
        found = ", ".join(f"{count} {kind}" for kind, count in tree.all_others().most_common(4)) or "no files"
        what = f"{root} holds no pictures (found: {found})" if name is None else f"the archive {name} holds no pictures"
        raise InjertoError(f"{what}; {EXPECTED}")
    base, single = root, shown
    while not tree.images:
        filled = [key for key, folder in tree.folders.items() if folder.count()]
        if len(filled) != 1 or tree.folders[filled[0]].images:
            break
        base, single, tree = base / filled[0], filled[0], tree.folders[filled[0]]
    rows = Rows("image", shown)
    empty: list[str] = []
    if any(folder.images for domain in tree.folders.values() for folder in domain.folders.values()):
        for domain, folder in tree.folders.items():
            _read_domain(rows, domain, folder, base / domain, f"{domain}/", empty)
    elif (deep := _deepest(tree)) and len(deep) > 2:
        raise InjertoError(f"{shown}: pictures lie too deep ('{'/'.join(deep)}'); {EXPECTED}, or list them in a table")
    else:
        _read_domain(rows, single, tree, base, "", empty)
    stray = tree.count() - len(rows.inputs)
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        note(f"class folder '{empty[0]}' holds no images; ignored{more}")
    if stray:
        note(f"{stray} pictures in {shown} lie outside <domain>/<class>/ and are ignored")
    return rows


def _scan(path: Path, above: tuple[str, ...]) -> _Folder:
    """Read the tree below ``path``, sorted by name; a link back to a folder above is not followed."""
    here = _Folder()
    real = os.path.realpath(path)
    if real in above:
        return here
    try:
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                here.folders[entry.name] = _scan(path / entry.name, (*above, real))
            elif is_image_name(entry.name):
                here.images.append(entry.name)
            else:
                here.others[os.path.splitext(entry.name)[1].lower() or "without extension"] += 1
    except OSError as error:
        raise InjertoError(f"cannot read folder {path}: {error.strerror or error}; check its permissions") from error
    return here


def _deepest(folder: _Folder) -> tuple[str, ...]:
    """The way to a picture that lies deepest; nothing where there is none."""
    ways = [(name, *way) for name, below in folder.folders.items() if (way := _deepest(below))]
    return max(ways, key=len) if ways else tuple(folder.images[:1])


def _read_domain(rows: Rows, domain: str, folder: _Folder, path: Path, prefix: str, empty: list[str]) -> None:
    """Add one domain's pictures: those of its class folders, and unlabelled ones directly in it."""
    for image in folder.images:
        rows.add(domain, path / image, None, prefix + image)
    for name, members in folder.folders.items():
        if not members.images and name not in UNLABELLED:
            empty.append(prefix + name)
        for image in members.images:
            rows.add(domain, path / name / image, None if name in UNLABELLED else name, f"{prefix}{name}/{image}")
