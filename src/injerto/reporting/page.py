"""One HTML page without outside parts: a template, the style and script that all pages share, and the data."""

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from injerto.basics.errors import InjertoError
from injerto.basics.files import check_writable, write_text


def check_page(path: Path, flag: str = "--report") -> None:
    """Refuse a place where no page can be written, before anything is measured.

    Args:
        path: The page to write.
        flag: What named it, for messages.

    Raises:
        InjertoError: Where it is a folder, or its folder cannot be written.
    """
    if path.is_dir():
        raise InjertoError(f"{flag} {path} is a folder; name a file, such as {path / 'report.html'}")
    if path.suffix.lower() not in (".html", ".htm"):
        raise InjertoError(f"{flag} {path} is to be a page for a browser; give it a name that ends in .html")
    check_writable(path.parent, flag)


def write_page(template: str, content: Mapping[str, Any], path: Path) -> Path:
    """Write a page; the data stand in it as JSON and are shown as text, whatever they hold.

    Args:
        template: Its name among the package's templates.
        content: What its script reads as ``DATA``.
        path: The file.

    Returns:
        The path.
    """
    page = _part(template).replace("/*STYLE*/", _part("page.css")).replace("/*SHARED*/", _part("page.js"))
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")  # nothing in it can end the script
    write_text(path, page.replace("/*DATA*/null", data))
    return path


def _part(name: str) -> str:
    return files("injerto.reporting").joinpath(name).read_text(encoding="utf-8")
