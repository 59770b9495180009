"""Names come from strangers: no spreadsheet, terminal or page acts on them, and our own readers give them back."""

import csv
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injerto.basics.errors import InjertoError, system_trouble, why_failed
from injerto.basics.escapes import guarded, plain_markdown, read_guarded, unguarded, visible
from injerto.basics.files import write_csv
from injerto.basics.progress import note, say, warn
from injerto.studies.tables import csv_text

CELLS = st.text() | st.from_regex(r"'{0,3}[=+\-@\t\r]?[-+0-9.eE]{0,5}\w?", fullmatch=True)
DANGEROUS = ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "-x", "+", "'=1")
NUMBERS = ("-1", "+1", "-0.5", "1e-3", "-1E+9", "0")


@given(cell=CELLS)
def test_a_guarded_cell_is_given_back(cell: str) -> None:
    assert unguarded(guarded(cell)) == cell
    assert guarded(cell) == cell or guarded(cell) == "'" + cell


@given(rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=5))
def test_a_table_of_ours_is_read_back(rows: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    shown = [[cell.encode("utf-8", "replace").decode() for cell in row] for row in rows]
    text = write_csv(path, ("a", "b", "c"), shown)
    assert read_guarded(text) == [["a", "b", "c"], *shown]
    for row in list(csv.reader(io.StringIO(text, newline="")))[1:]:
        assert not any(
            re.match(r"[=+\-@\t\r]", cell) and not re.fullmatch(r"[-+0-9.eE]+|[-+]inf", cell) for cell in row
        )


@pytest.mark.parametrize("cell", DANGEROUS)
def test_no_cell_is_a_formula(cell: str, tmp_path: Path) -> None:
    for text in (write_csv(tmp_path / "t.csv", (cell,), [(cell,)]), csv_text([{cell: cell}], [cell])):
        assert list(csv.reader(io.StringIO(text, newline=""))) in (
            [["'" + cell]] * 2,
            [["'" + cell], ["'" + cell]],
        )


def test_numbers_stay() -> None:
    assert [guarded(cell) for cell in NUMBERS] == list(NUMBERS)
    assert csv_text([{"a": -1.5, "b": "-1", "c": float("-inf")}], ["a", "b", "c"]).splitlines()[1] == "-1.5,-1,-inf"


EVIL = {
    "link": "[click](http://evil.example)",
    "picture": "![x](http://evil.example/x.png)",
    "reference": "[click][1]",
    "definition": "x\n\n[1]: http://evil.example",
    "table": "a | b\n| --- | --- |",
    "html": "<img src=x onerror=alert(1)>",
    "entity": "&lt;b&gt;",
    "code": "`rm -rf`",
    "strong": "**bold** and _leaning_ and ~~gone~~",
    "address": "http://evil.example and www.evil.example and a@evil.example",
    "backslashes": "\\[click\\](http://evil.example)",
}


@pytest.mark.parametrize("name", EVIL.values(), ids=list(EVIL))
def test_markdown_shows_a_name_as_it_is(name: str) -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    page = markdown.render(f"| a | b |\n| --- | --- |\n| {plain_markdown(name)} | 1 |\n\n- {plain_markdown(name)}\n")
    assert not re.search(r"<(a|img|code|em|strong|script)\b", page)
    assert page.count("<tr>") == 2 and page.count("<td>") == 2
    import html

    shown = html.unescape(re.search(r"<li>(.*?)</li>", page, re.DOTALL).group(1))  # type: ignore[union-attr]
    assert shown == " ".join(name.splitlines())


def test_no_address_becomes_a_link() -> None:
    shown = plain_markdown(EVIL["address"])
    assert "http://" not in shown and "www." not in shown and re.search(r"[a-z]@", shown) is None


TERMINAL = ("\x1b[2J\x1b[1;1Hdone", "a\rb", "\x07", "\x9b2J", "\u202eexe.gpj", "\x00", "\u2066x")


@pytest.mark.parametrize("name", TERMINAL)
def test_no_name_steers_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str], refused: Any, tmp_path: Path
) -> None:
    note(name), warn(name), say(name)
    shown = "".join(capsys.readouterr())
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert visible("tab\t, line\n, \u00e9 \u4e2d \U0001f600") == "tab\t, line\n, \u00e9 \u4e2d \U0001f600"
    if "\x00" not in name:
        said = refused("fit", f"{name}.csv")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", said)


def test_messages_are_bounded() -> None:
    said = str(InjertoError(f"{'x' * 30_000_000}; mend it"))
    assert len(said) < 5_000 and said.endswith("; mend it")


@pytest.mark.parametrize("name", TERMINAL)
def test_no_message_holds_control_characters(name: str) -> None:
    said = str(InjertoError(f"no column '{name}'\n; mend it"))
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", said) and said.endswith("; mend it")


def test_what_the_system_refuses_is_a_sentence_and_no_fault_of_ours(tmp_path: Path) -> None:
    import errno
    import sqlite3

    from optuna.exceptions import StorageInternalError
    from safetensors import SafetensorError

    for number in (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE):
        said, fault = why_failed(OSError(number, os.strerror(number), "out/log.jsonl"))
        assert not fault and said.startswith(f"out/log.jsonl: {os.strerror(number)}; ")
    commit = StorageInternalError("An exception is raised during the commit.")
    commit.__cause__ = sqlite3.OperationalError("database or disk is full")
    tensors = SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)")
    tokens = Exception("Input/output error (os error 5)")  # as tokenizers raises it
    for error, words in (
        (commit, "database or disk is full"),
        (tensors, "Permission denied"),
        (tokens, os.strerror(errno.EIO)),
    ):
        said, fault = why_failed(error)
        assert not fault and words in said
    for ours in (FileNotFoundError(errno.ENOENT, "No such file", "x"), ValueError("x"), OSError("cannot identify")):
        assert why_failed(ours)[1] and system_trouble(ours) is None
