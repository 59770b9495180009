"""Which folder is a split, a domain or a class: the layouts in which people keep labelled files."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from injerto.basics.errors import InjertoError

UNLABELLED = ("_unlabeled", "_unlabelled")
PLAIN = ("images", "image", "imgs", "img", "pictures", "jpegimages", "texts")
"""Folders of these names say nothing about what is in them."""
_CAMERAS = re.compile(r"(?i)(img|dsc[nf]?|pxl|p|mvimg|image|picture|photo|frame|scan|screenshot|whatsapp image)s?")

Parts = tuple[str, ...]


@dataclass
class Node:
    """A folder with the files that may be examples, by name.

    Attributes:
        files: Names of the files directly in it.
        folders: The folders in it by name.
    """

    files: list[str] = field(default_factory=list)
    folders: "dict[str, Node]" = field(default_factory=dict)

    @cached_property
    def count(self) -> int:
        """The number of files in this folder and below."""
        return len(self.files) + sum(folder.count for folder in self.folders.values())

    @property
    def filled(self) -> list[str]:
        """Names of the folders that hold files, directly or below."""
        return [name for name, folder in self.folders.items() if folder.count]

    def walk(self, above: Parts = ()) -> Iterator[Parts]:
        """The way to every file in this folder and below.

        Args:
            above: What each way begins with.
        """
        yield from ((*above, name) for name in self.files)
        for name, folder in self.folders.items():
            yield from folder.walk((*above, name))


@dataclass(frozen=True)
class Item:
    """One example: where it lies and what its folders say.

    Attributes:
        parts: The way to it from the folder that was read.
        domain: Its domain.
        label: Its class, or None.
        given: ``train``, ``val`` or ``test``, or None.
    """

    parts: Parts
    domain: str
    label: str | None
    given: str | None


@dataclass
class Layout:
    """What the folders mean.

    Attributes:
        noun: ``pictures`` or ``texts``.
        base: The folders around the data, which say nothing.
        items: The examples.
        splits: Names of the folders that were taken for splits.
        empty: Class folders without examples.
    """

    noun: str
    base: Parts = ()
    items: list[Item] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def add(self, domain: str, folder: Node, at: Parts, split: str | None = None) -> None:
        """Add the examples of a folder of class folders; files directly in it have no label.

        Args:
            domain: Their domain.
            folder: The folder.
            at: The way to it.
            split: The name of the split folder, or None.
        """
        given, known = (None, True) if split is None else (_side(split), not _is_unlabelled(split, True))
        if self.noun == "pictures" or not folder.filled:  # texts beside class folders are lists and notes
            self.items += [Item((*at, name), domain, None, given) for name in folder.files]
        for name, members in folder.folders.items():
            unlabelled = _is_unlabelled(name, split is not None)
            if not members.files and not unlabelled:
                self.empty.append("/".join((*at, name)[len(self.base) :]))
            label = name if known and not unlabelled else None
            self.items += [Item((*at, name, file), domain, label, given) for file in members.files]


def arrange(tree: Node, shown: str, noun: str, expected: str) -> Layout:
    """Decide which folders are splits, domains and classes.

    Read are ``<domain>/<class>/``, ``<class>/``, and with folders named as splits ``<split>/<class>/``,
    ``<split>/<domain>/<class>/`` and ``<domain>/<split>/<class>/``. Single folders around the data are seen through,
    also one of the same name in every domain (``<domain>/images/<class>/``).

    Args:
        tree: The files.
        shown: What to call the data, and a single domain.
        noun: ``pictures`` or ``texts``.
        expected: What messages say is expected.

    Returns:
        The layout.

    Raises:
        InjertoError: Where the folders may mean more than one thing, or most files lie outside class folders.
    """
    layout, single = Layout(noun), shown
    while not tree.files or noun == "texts":
        filled = tree.filled
        if len(filled) != 1:
            break
        (name,) = filled
        says_nothing = _side(name) is not None or name.casefold() in PLAIN
        if tree.folders[name].files and not says_nothing:
            break
        layout.base, tree = (*layout.base, name), tree.folders[name]
        single = single if says_nothing else name
    tops = {name: tree.folders[name] for name in tree.filled}
    if len(tops) > 1 and all(_side(name) or name in UNLABELLED for name in tops):
        _add_splits(layout, tops, shown, single)
    else:
        _refuse_half_splits(tops, shown)
        _add_domains(layout, tree, tops, shown, single)
    _refuse_plain(layout, shown)
    outside = tree.count - len(layout.items)
    if outside > len(layout.items):
        used = {item.parts for item in layout.items}
        first = next(parts for parts in tree.walk(layout.base) if parts not in used)
        most = f"{outside} {noun} lie too deep" if layout.items else f"{noun} lie too deep"
        raise InjertoError(f"{shown}: {most} ('{_way(first, layout)}'); {expected}, or list them in a table")
    return layout


def classes_in_names(names: Sequence[str]) -> list[str]:
    """Words that the names of files begin with, where all of them are a word and a number as in ``cat_12.jpg``.

    Args:
        names: Names of files in one folder.

    Returns:
        The words, where there are several, each at least twice; else nothing.
    """
    matches = [re.fullmatch(r"(.*?[^\W\d_])[\W_]*\d+[\W_]*\.\w+", name) for name in names]
    words = Counter(match[1] for match in matches if match)
    if not all(matches) or len(words) < 2 or min(words.values()) < 2 or any(map(_CAMERAS.fullmatch, words)):
        return []
    return sorted(words)


def _side(name: str) -> str | None:
    """The split that a folder's name says, if it does."""
    from injerto.domains.columns import SIDES

    return SIDES.get(name.casefold())


def _is_unlabelled(name: str, in_split: bool) -> bool:
    """Whether a folder's examples have no class; below split folders as IMDb's ``unsup`` says it too."""
    from injerto.domains.columns import UNLABELLED_SIDES

    return name in UNLABELLED or (in_split and name.casefold() in (*UNLABELLED_SIDES, "unsup"))


def _way(parts: Parts, layout: Layout) -> str:
    return "/".join(parts[len(layout.base) :])


def _add_splits(layout: Layout, tops: dict[str, Node], shown: str, single: str) -> None:
    """``<split>/<class>/`` or ``<split>/<domain>/<class>/``."""
    layout.splits = list(tops)
    deep = {name for split in tops.values() for name, folder in split.folders.items() if folder.filled}
    if not deep:
        for split, folder in tops.items():
            layout.add(single, folder, (*layout.base, split), split)
        return
    for split, folder in tops.items():
        flat = {name for name in folder.filled if folder.folders[name].files and not folder.folders[name].filled}
        if not flat <= deep:  # a test split by domain may have no labels
            ways = [
                next(tops[top].folders[name].walk((top, name)))
                for top, name in ((split, min(flat - deep)), _deep(tops))
            ]
            raise InjertoError(
                f"{shown}: under the splits {layout.noun} lie at two depths ('{'/'.join(ways[0])}' and "
                f"'{'/'.join(ways[1])}'); use <split>/<class>/ or <split>/<domain>/<class>/ throughout"
            )
        for name in folder.filled:
            domain = name if len(deep) > 1 else single
            layout.add(domain, folder.folders[name], (*layout.base, split, name), split)


def _deep(tops: dict[str, Node]) -> tuple[str, str]:
    """A folder of folders below a split."""
    return next((top, name) for top, node in tops.items() for name, folder in node.folders.items() if folder.filled)


def _refuse_half_splits(tops: dict[str, Node], shown: str) -> None:
    """Train and test beside something else."""
    sides = {_side(name): name for name in tops if _side(name)}
    if "train" in sides and len(sides) > 1:
        other = next(name for name in tops if not _side(name))
        raise InjertoError(
            f"{shown}: folder '{other}' is no split and lies beside {' and '.join(repr(n) for n in sides.values())}; "
            "keep only splits (train, val, test, unlabeled), or rename those folders to read them as domains or classes"
        )


def _add_domains(layout: Layout, tree: Node, tops: dict[str, Node], shown: str, single: str) -> None:
    """``<domain>/<split>/<class>/``, ``<domain>/<class>/`` or ``<class>/``."""
    inner = {name: _inner_splits(name, folder, layout, shown) for name, folder in tops.items()}
    if any(inner.values()):
        layout.splits = list(dict.fromkeys(split for splits in inner.values() for split in splits))
        for name, folder in tops.items():
            for split in inner[name]:
                layout.add(name, folder.folders[split], (*layout.base, name, split), split)
            if not inner[name]:
                layout.add(name, folder, (*layout.base, name))
        return
    if any(below.files for folder in tops.values() for below in folder.folders.values()):
        for name, folder in tree.folders.items():
            layout.add(name, folder, (*layout.base, name))
        return
    between = {tuple(folder.filled) for folder in tops.values()}
    if len(tops) > 1 and len(between) == 1 and len(min(between)) == 1 and not any(top.files for top in tops.values()):
        ((same,),) = between
        if any(below.files for folder in tops.values() for below in folder.folders[same].folders.values()):
            for name, folder in tops.items():
                layout.add(name, folder.folders[same], (*layout.base, name, same))
            return
    layout.add(single, tree, layout.base)


def _inner_splits(name: str, folder: Node, layout: Layout, shown: str) -> list[str]:
    """The split folders of a domain; refused where it may as well be a class."""
    splits = folder.filled
    if not splits or folder.files or not all(map(_side, splits)):
        return []
    if any(folder.folders[split].filled for split in splits):
        return splits
    if len(splits) > 1:
        example = "/".join(next(folder.walk((name,))))
        raise InjertoError(
            f"{shown}: '{example}' may belong to the class or to the domain '{name}'; put the splits on top "
            f"({splits[0]}/{name}/), or below a domain with class folders in them"
        )
    return []


def _refuse_plain(layout: Layout, shown: str) -> None:
    """One class 'images' for everything."""
    labels = {item.label for item in layout.items if item.label is not None}
    if len(labels) == 1 and min(labels).casefold() in PLAIN:
        example = next(_way(item.parts, layout) for item in layout.items if item.label)
        raise InjertoError(
            f"{shown}: every example would be of the class '{min(labels)}' ('{example}'); move the {layout.noun} one "
            "folder up, or list them in a table"
        )
