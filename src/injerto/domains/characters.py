"""Characters that nobody sees, or that look alike, in names: labels, domains, splits and group keys."""

import re
import unicodedata
from functools import lru_cache

_VISIBLE_FORMATS = frozenset(
    (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440))
)
"""Format characters (Cf) that are drawn, such as the Arabic number sign."""
_UNSEEN = frozenset((0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180E, 0x3164, 0xFFA0))
"""Characters of other categories that are not drawn, such as Hangul fillers."""
_JOINERS = "\u200c\u200d"
_TAGS = range(0xE0020, 0xE0080)
_ALIKE = str.maketrans(
    "аеорсухіјѕԁАВЕЅІЈКМНОРСТХαοΑΒΕΖΗΙΚΜΝΟΡΤΥΧ’‘ʼ´`“”‐‑‒–—−",
    "aeopcyxijsdABESIJKMHOPCTXaoABEZHIKMNOPTYX'''''\"\"------",
)
"""Letters of other alphabets, quotes and dashes that look as another character does in most fonts."""
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?")


@lru_cache(maxsize=65536)
def clean_name(name: str) -> str:
    """A name as people see it: NFC, white space as single spaces without any at the ends, no invisible character.

    Invisible are control and format characters (zero width space, soft hyphen, direction marks) and fillers. Joiners
    between two letters or signs that are not ASCII, and the tags of flags, change what is drawn; they stay. Half of a
    surrogate pair becomes U+FFFD.

    Args:
        name: A label, domain, split or group key.
    """
    if name.isascii() and name.isprintable() and "  " not in name:
        return name.strip()
    kept = []
    for place, mark in enumerate(name):
        kind, code = unicodedata.category(mark), ord(mark)
        if mark.isspace():
            kept.append(" ")
        elif kind == "Cs":
            kept.append("\ufffd")
        elif mark in _JOINERS:
            kept.append(mark if _joins(name, place) else "")
        elif kind == "Cf" and code in _TAGS:
            kept.append(mark if place and not name[place - 1].isascii() else "")
        elif not (kind == "Cc" or (kind == "Cf" and code not in _VISIBLE_FORMATS) or code in _UNSEEN):
            kept.append(mark)
    return unicodedata.normalize("NFC", " ".join("".join(kept).split()))


def is_blank(text: str) -> bool:
    """Whether nothing of a text would be seen.

    Args:
        text: Any.
    """
    return not text or text.isspace() or (len(text) < 100 and not text[0].isalnum() and not clean_name(text))


def look(name: str) -> str:
    """What a name shares with those that are hardly told from it: case, width, alphabet, dashes, forms of a number.

    Args:
        name: A cleaned name.
    """
    same = unicodedata.normalize("NFKC", name).replace("\ufe0f", "").replace("\ufe0e", "")
    same = unicodedata.normalize("NFKC", same.translate(_ALIKE).casefold())
    return str(float(same.replace(",", "."))) if _NUMBER.fullmatch(same) else same


def escaped(name: str) -> str:
    """A name in quotes, with every character that is not plain ASCII or a visible letter as its escape.

    Args:
        name: Any.
    """
    return "'" + "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in name) + "'"


def _joins(name: str, place: int) -> bool:
    """Whether a joiner stands between two characters that it can join."""
    before, after = name[place - 1 : place] if place else "", name[place + 1 : place + 2]
    return all(mark and not mark.isascii() and unicodedata.category(mark)[0] in "LMS" for mark in (before, after))
