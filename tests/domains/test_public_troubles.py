"""Troubles that people reported in public with data of this kind, with the right outcome of each."""

import json
import pickle
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.domains.load import load_domains

GOOD, BAD = ["fine", "lovely", "superb", "great"], ["dull", "poor", "awful", "broken"]
ROWS = [(f"a {word} {thing}", label) for good, bad in zip(GOOD, BAD, strict=True) for thing in ("film", "book")
        for word, label in ((good, "pos"), (bad, "neg"))]  # fmt: skip


def write(path: Path, rows: list[tuple[Any, ...]], heading: str = "text,label", mark: str = ",") -> Path:
    lines = [heading, *(mark.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def only(data: Any, **options: Any) -> Any:
    (domain,) = load_domains(data, **options).values()
    return domain


@pytest.mark.parametrize("place", [0, 1, len(ROWS)])
def test_a_comma_that_is_not_quoted(tmp_path: Path, place: int) -> None:
    rows = [*ROWS[:place], ("so good, really", "pos"), *ROWS[place:]]
    with pytest.raises(InjertoError, match=rf"line {place + 2}: 3 cells, and the heading has 2"):
        load_domains(write(tmp_path / "first.csv", rows))
    with pytest.raises(InjertoError, match="line 2: 3 cells"):
        load_domains(write(tmp_path / "all.csv", [(f"{text}, I say", label) for text, label in ROWS]))


def test_quotes_of_a_tsv_that_are_never_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(('"' if index % 3 == 0 else "") + text, label) for index, (text, label) in enumerate(ROWS)]
    domain = only(write(tmp_path / "quotes.tsv", rows, "text\tlabel", "\t"))
    assert Counter(zip(domain.inputs, domain.labels, strict=True)) == Counter(rows)
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(InjertoError, match="line 2"):
        load_domains(write(tmp_path / "quotes.csv", rows))


def test_half_a_character(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "posts.jsonl"
    rows = [(text + (" \ud83d" if index == 3 else ""), label) for index, (text, label) in enumerate(ROWS)]
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    expected = {text.replace("\ud83d", "\ufffd") for text, _ in rows}
    assert set(only(path).inputs) == expected
    assert "1 texts" in capsys.readouterr().err
    assert set(only(pd.DataFrame(rows, columns=["text", "label"], dtype=object)).inputs) == expected


@pytest.mark.parametrize("cell", [["x"], ("x",), {"x"}, {"x": 1}, np.array(["x", "y"])])
def test_labels_that_are_several_values(cell: Any) -> None:
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.Series([cell, cell], dtype=object)})
    with pytest.raises(InjertoError, match="column 'label' holds"):
        load_domains(frame)


def test_pictures_as_arrays() -> None:
    pixels = [np.full((8, 8, 3), value, np.uint8) for value in (0, 255)]
    domain = only(pd.DataFrame({"image": pixels, "label": ["dark", "light"]}))
    means = {label: np.asarray(item).mean() for item, label in zip(domain.inputs, domain.labels, strict=True)}
    assert means == {"dark": 0, "light": 255}


def test_pictures_without_an_ending_and_by_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("00aa", "00bb"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    found = load_domains(write(tmp_path / "train.csv", [("00aa", "x"), ("00bb", "y")], "image,label"))
    assert found.modality == "image" and sorted(item.name for item in found["train"].inputs) == ["00aa.png", "00bb.png"]  # type: ignore[union-attr]
    assert "00aa" in capsys.readouterr().err
    for cells, reason in ((["https://example.com/a.png?size=1"] * 2, "URLs"), (["0c", "0d"], "add the ending")):
        path = write(tmp_path / "other.csv", list(zip(cells, "xy", strict=True)), "image,label")
        with pytest.raises(InjertoError, match=reason):
            load_domains(path)


def test_chats_and_lists_of_words(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    chat = [{"role": "user", "content": "say white"}, {"role": "assistant", "content": "white it is"}]
    path.write_text(json.dumps({"messages": chat}) + "\n")
    domain = only(path, responses=True)
    assert domain.inputs == ("say white",) and domain.labels == ("white it is",)
    path.write_text(json.dumps({"tokens": ["a", "fine", "film"], "label": "pos"}) + "\n")
    with pytest.raises(InjertoError, match="column 'tokens' holds lists"):
        load_domains(path, input="tokens")


def test_labels_that_look_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marks = ["", "\u200b", "\u2060", "\u00ad", "\ufeff", " ", "\u00a0"]
    rows = [(text, label + marks[index % len(marks)]) for index, (text, label) in enumerate(ROWS)]
    domain = only(write(tmp_path / "texts.csv", rows))
    assert dict(zip(domain.inputs, domain.labels, strict=True)) == dict(ROWS)
    assert "\\u200b" in capsys.readouterr().err
    composed = [
        (text, unicodedata.normalize("NFD" if index % 2 else "NFC", "niño")) for index, (text, _) in enumerate(ROWS)
    ]
    assert set(only(write(tmp_path / "forms.csv", composed)).labels) == {"niño"}


def test_a_space_behind_the_commas_of_the_heading(tmp_path: Path) -> None:
    domain = only(write(tmp_path / "spaces.csv", ROWS, "text, label", ", "))
    assert dict(zip(domain.inputs, domain.labels, strict=True)) == dict(ROWS)
    assert only(tmp_path / "spaces.csv", label="label").labels == domain.labels


def test_paths_from_windows_and_in_other_capitals(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    for name in ("00", "01"):
        Image.new("RGB", (8, 8), (int(name) * 90, 0, 0)).save(tmp_path / "img" / f"{name}.png")
    domain = only(write(tmp_path / "windows.csv", [("img\\00.png", "x"), ("img\\01.png", "y")], "image,label"))
    assert {item.name: label for item, label in zip(domain.inputs, domain.labels, strict=True)} == {
        "00.png": "x",
        "01.png": "y",
    }
    case = write(tmp_path / "case.csv", [("img/00.PNG", "x"), ("img/01.PNG", "y")], "image,label")
    try:
        assert len(only(case)) == 2  # a file system without capitals, or a unique file of another case
    except InjertoError as error:
        assert "00.png" in str(error)


@pytest.mark.parametrize("missing", [2, 3])
def test_empty_texts_are_counted_at_once(tmp_path: Path, missing: int) -> None:
    rows = [(text if index >= missing else " ", label) for index, (text, label) in enumerate(ROWS)]
    domains = load_domains(write(tmp_path / "texts.csv", rows))
    assert len(domains.problems) == missing
    with pytest.raises(InjertoError, match=rf"{missing} of {len(ROWS)} texts"):
        domains.check()
    assert len(domains.check(skip_bad=True)["texts"]) == len(ROWS) - missing


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "frame.pkl"
    path.write_bytes(pickle.dumps({"text": ["a"]}))
    with pytest.raises(InjertoError, match="cannot read domains"):
        load_domains(path)
