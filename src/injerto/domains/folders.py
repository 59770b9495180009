"""Folders of pictures or of texts: every file in them is an example, ignored with a note, or hidden."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from injerto.basics.errors import InjertoError
from injerto.basics.limits import FOLDER_DEPTH
from injerto.basics.progress import note, progress, warn
from injerto.domains.domain import Problem
from injerto.domains.formats import is_picture_content, is_picture_ending
from injerto.domains.layouts import Item, Layout, Node, Parts, arrange, classes_in_names
from injerto.domains.rows import Rows
from injerto.domains.textfiles import is_text_content, read_text

PICTURES = "expected <root>/<domain>/<class>/<picture> or <root>/<class>/<picture> with .jpg .png .webp .bmp .gif .tif"
TEXTS = "expected <root>/<domain>/<class>/<text>.txt or <root>/<class>/<text>.txt"
_HIDDEN = frozenset(
    ("__macosx", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "lost+found")
    + ("system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__pycache__")
)
"""What file systems, archives and editors leave behind, in lower case; names that begin with . or ~$ are hidden too."""


@dataclass
class _Folder:
    """Names of the files of one folder by kind, and its sub-folders by name."""

    pictures: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: "dict[str, _Folder]" = field(default_factory=dict)

    def only(self, kind: str) -> Node:
        """This tree with the files of one kind."""
        folders = {name: folder.only(kind) for name, folder in self.folders.items()}
        return Node(list(getattr(self, kind)), folders)


def is_image_name(name: str) -> bool:
    """Whether a file name ends as that of a picture that is read (upper or lower case).

    Args:
        name: A file name or path.
    """
    return is_picture_ending(os.path.splitext(name)[1])


def is_hidden(name: str) -> bool:
    """Whether a file or folder is no data: hidden, or left behind by a file system, an archive or an editor.

    Args:
        name: A single path component.
    """
    return name.startswith((".", "~$")) or name.casefold() in _HIDDEN


def list_pictures(root: Path) -> tuple[list[Path], Counter[str]]:
    """All pictures in a folder and below, without hidden ones, whatever the folders mean.

    Args:
        root: The folder.

    Returns:
        The pictures in the order of their paths, and the number of other files that are not hidden by ending.

    Raises:
        InjertoError: Where a folder cannot be read.
    """
    tree = _scan(root, ())
    others = [parts for kind in ("texts", "bare", "others") for parts in tree.only(kind).walk()]
    return sorted(root.joinpath(*parts) for parts in tree.only("pictures").walk()), _endings(others)


def read_folder(root: Path, name: str | None = None) -> Rows:
    """Read a folder of pictures or of texts; no picture is decoded.

    A file's parent folder is its class, the one above its domain; :func:`injerto.domains.layouts.arrange` says which
    layouts are read. Pictures directly in a domain folder, or in ``<domain>/_unlabeled``, have no label. Texts are
    files that end in .txt; where no file has an ending, all of them.

    Args:
        root: The folder.
        name: What to call the data, and a single domain in it; the folder's own name by default.

    Returns:
        The examples; sources are relative to the data root, with ``/``.

    Raises:
        InjertoError: Where there is nothing to read, a folder cannot be read, or its layout may mean several things.
    """
    shown = printable(name or root.resolve().name)
    tree = _scan(root, ())
    kind = _kind(root, tree)
    if kind is None:
        found = ", ".join(f"{n} {kind}" for kind, n in _endings(_all(tree)).most_common(4)) or "no files"
        what = f"{root} holds no pictures (found: {found})" if name is None else f"the archive {name} holds no pictures"
        raise InjertoError(f"{what}; {PICTURES}; or texts as <root>/<class>/<text>.txt")
    files = tree.only(kind)
    noun = "pictures" if kind == "pictures" else "texts"
    layout = arrange(files, shown, noun, PICTURES if kind == "pictures" else TEXTS)
    if kind == "pictures":
        _refuse_mixture(shown, layout, tree)
    rows = Rows("image" if kind == "pictures" else "text", shown)
    if kind == "pictures":
        for item in layout.items:
            rows.add(item.domain, root.joinpath(*item.parts), item.label, _source(item, layout), item.given)
    else:
        _read_texts(rows, root, layout)
    _account(root, shown, tree, kind, files, layout)
    _escape_names(rows)
    return rows


def printable(name: str) -> str:
    """A name as text: in place of each byte that is not UTF-8 stand a backslash, x and its code.

    Args:
        name: As the file system gave it.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _on_one_line(name: str) -> str:
    """A name for a message."""
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in printable(name))


def _scan(path: Path, above: tuple[str, ...]) -> _Folder:
    """Read the tree below ``path``, sorted by name; a link back to a folder above is not followed."""
    here = _Folder()
    real = os.path.realpath(path)
    if real in above:
        return here
    if len(above) > FOLDER_DEPTH:
        raise InjertoError(f"{path} lies more than {FOLDER_DEPTH} folders deep; name a folder further down")
    try:
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if is_hidden(entry.name):
                continue
            ending = os.path.splitext(entry.name)[1]
            if entry.is_dir():
                here.folders[entry.name] = _scan(path / entry.name, (*above, real))
            elif not entry.is_file() and os.path.exists(entry.path):
                here.others.append(entry.name)  # a pipe or device, which would never end
            elif is_picture_ending(ending):
                here.pictures.append(entry.name)
            elif ending.lower() == ".txt":
                here.texts.append(entry.name)
            else:
                (here.others if ending else here.bare).append(entry.name)
    except OSError as error:
        raise InjertoError(f"cannot read folder {path}: {error.strerror or error}; check its permissions") from error
    return here


def _all(tree: _Folder) -> list[Parts]:
    return [parts for kind in ("pictures", "texts", "bare", "others") for parts in tree.only(kind).walk()]


def _endings(files: Iterable[Parts]) -> Counter[str]:
    """Files by ending."""
    return Counter(os.path.splitext(parts[-1])[1].lower() or "without extension" for parts in files)


def _kind(root: Path, tree: _Folder) -> str | None:
    """What the examples are: pictures where there is one, else texts in sub-folders, else nothing."""
    if tree.only("pictures").count:
        return "pictures"
    if any(len(parts) > 1 for parts in tree.only("texts").walk()):
        return "texts"
    bare = [root.joinpath(*parts) for parts in tree.only("bare").walk() if len(parts) > 1]
    texts = bool(bare) and all(is_text_content(path) for path in bare)
    return "bare" if texts and not any(map(is_picture_content, bare)) else None


def _source(item: Item, layout: Layout) -> str:
    return "/".join(item.parts[len(layout.base) :])


def _read_texts(rows: Rows, root: Path, layout: Layout) -> None:
    """Decode the texts; one that cannot be is a problem of its own."""
    with progress("reading", len(layout.items), "texts") as bar:
        for item in layout.items:
            source = _source(item, layout)
            try:
                rows.add(item.domain, read_text(root.joinpath(*item.parts)), item.label, source, item.given)
            except OSError as error:
                rows.problems.append(Problem(source, error.strerror or str(error)))
            except ValueError as error:
                rows.problems.append(Problem(source, str(error)))
            bar.advance()


def _refuse_mixture(shown: str, layout: Layout, tree: _Folder) -> None:
    """Class folders of texts beside class folders of pictures; a text of a picture's name belongs to the picture."""
    classes = {item.parts[:-1] for item in layout.items if item.label is not None}
    depths = {len(parts) for parts in classes}
    named = {(*item.parts[:-1], os.path.splitext(item.parts[-1])[0]) for item in layout.items}
    texts: Counter[Parts] = Counter()
    for parts in tree.only("texts").walk():
        below = parts[: len(layout.base)] == layout.base and len(parts) - 1 in depths
        if below and (*parts[:-1], os.path.splitext(parts[-1])[0]) not in named:
            texts[parts[:-1]] += 1
    inside = sum(count for folder, count in texts.items() if folder in classes)
    beside = sum(count for folder, count in texts.items() if folder not in classes and count > 1)
    if beside or inside > len(layout.items):
        most = "/".join(max((where not in classes, count, where) for where, count in texts.items())[2])
        raise InjertoError(
            f"{shown} holds {len(layout.items)} pictures and {inside + beside} texts in class folders (such as "
            f"'{_on_one_line(most)}'); read pictures and texts from a folder each"
        )


def _account(root: Path, shown: str, tree: _Folder, kind: str, files: Node, layout: Layout) -> None:
    """Say what is not read: at most one line each for empty folders, splits, files elsewhere and other files."""
    noun = layout.noun
    if layout.splits:
        names = ", ".join(f"{_on_one_line(name)}/" for name in layout.splits)
        note(f"{names} in {shown} are read as given splits; rename the folders to read them as domains")
    if layout.empty:
        more = f" (and {len(layout.empty) - 1} more)" if len(layout.empty) > 1 else ""
        things = "images" if noun == "pictures" else "texts"
        note(f"class folder '{_on_one_line(layout.empty[0])}' holds no {things}; ignored{more}")
    used = {item.parts for item in layout.items}
    stray = [parts for parts in files.walk() if parts not in used]
    if stray:
        note(f"{len(stray)} {noun} in {shown} lie outside <domain>/<class>/ and are ignored ({_places(stray)})")
    others = [parts for other in ("texts", "bare", "others") if other != kind for parts in tree.only(other).walk()]
    if others:
        kinds = ", ".join(f"{count} {ending}" for ending, count in _endings(others).most_common(6))
        files_ignored = f"{len(others)} other file{'s' if len(others) > 1 else ''} ignored"
        line = f"{files_ignored}: {kinds} (in {shown}, {_places(others)})"
        lost = [parts for parts in others if is_picture_content(root.joinpath(*parts))] if noun == "pictures" else []
        if lost:
            warn(f"{line}; {len(lost)} of them are pictures by their content ({_places(lost)}): rename them")
        else:
            note(line)
    if noun == "pictures" and not any(item.label for item in layout.items):
        words = classes_in_names([item.parts[-1] for item in layout.items])
        if words:
            note(
                f"the names of the pictures in {shown} begin with {', '.join(words[:4])}: are these classes? They are "
                "not read; sort the pictures into folders of these names, or list them in a table"
            )


def _places(files: Sequence[Parts]) -> str:
    """The first of some files."""
    first = _on_one_line("/".join(files[0]))
    return f"first: {first}"


def _escape_names(rows: Rows) -> None:
    """Names of files need not be UTF-8, but names of classes do."""
    before = rows.sources
    rows.sources = [printable(source) for source in rows.sources]
    rows.problems = [Problem(printable(problem.source), problem.reason) for problem in rows.problems]
    rows.labels = [label if label is None else printable(label) for label in rows.labels]
    rows.domains = [printable(domain) for domain in rows.domains]
    changed = sum(old != new for old, new in zip(before, rows.sources, strict=True))
    if changed:
        place = _on_one_line(next(new for old, new in zip(before, rows.sources, strict=True) if old != new))
        note(f"{changed} paths are not UTF-8; they are read with the codes of their bytes (first: {place})")
