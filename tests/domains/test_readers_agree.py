"""The same data through every reader: the same classes, splits and contents. And no table is read otherwise than written."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import feather, parquet

from injerto.basics.errors import InjertoError
from injerto.domains.domain import Domains
from injerto.domains.load import load_domains

Table = list[tuple[str, str | None, str, str]]
HEADING = ("text", "label", "domain", "split")
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))

characters = st.characters(exclude_categories=("Cs", "Cc"))
texts = st.text(st.one_of(characters, st.sampled_from("\"',;\t\n|#\\ é猫\u200b\u00ad")), min_size=1, max_size=30)
labels = st.one_of(st.none(), st.sampled_from(["neg", "pos", "1", "01", "niño", "NA", "true", "a, b", '"so"', "猫"]))
rows = st.tuples(texts, labels, st.sampled_from(["day", "night ;", "día"]), st.sampled_from(["train", "val", "test"]))


@st.composite
def tables(draw: Callable[..., Any]) -> Table:
    """Rows with different texts that are not blank: one content has one split."""
    found, seen = [], set()
    for number, row in enumerate(draw(st.lists(rows, min_size=1, max_size=8))):
        text = f"{number} {row[0]}"
        if text not in seen:
            seen.add(text)
            found.append((text, *row[1:]))
    return found


def shown(domains: Domains) -> dict[str, Counter[tuple[Any, Any, Any]]]:
    return {
        name: Counter(zip(domain.inputs, domain.labels, domain.given, strict=True)) for name, domain in domains.items()
    }


def expected(table: Table) -> dict[str, Counter[tuple[Any, Any, Any]]]:
    found: dict[str, Counter[tuple[Any, Any, Any]]] = {}
    for text, label, domain, split in table:
        found.setdefault(domain, Counter())[text, label, split] += 1
    return found


def separated(table: Table, **dialect: Any) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, **dialect)
    writer.writerow(HEADING)
    writer.writerows([text, label or "", domain, split] for text, label, domain, split in table)
    return stream.getvalue()


def records(table: Table) -> list[dict[str, Any]]:
    return [dict(zip(HEADING, row, strict=True)) for row in table]


def columns(table: Table) -> dict[str, list[Any]]:
    return {name: [row[place] for row in table] for place, name in enumerate(HEADING)}


def forms(table: Table, folder: Path) -> Iterator[tuple[str, Any]]:
    """The table in every form that is read."""

    def file(name: str, data: bytes) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    plain = separated(table).encode()
    yield "csv", file("a.csv", plain)
    yield "semicolons", file("b.csv", separated(table, delimiter=";", quoting=csv.QUOTE_ALL).encode("utf-8-sig"))
    yield "UTF-16", file("c.csv", separated(table, delimiter="\t", quoting=csv.QUOTE_ALL).encode("utf-16"))
    yield "gz", file("d.csv.gz", gzip.compress(plain))
    yield "xz", file("e.csv.xz", lzma.compress(plain))
    yield "bz2", file("f.csv.bz2", bz2.compress(plain))
    with zipfile.ZipFile(folder / "g.zip", "w") as archive:
        archive.writestr("inner.csv", plain)
    yield "zip", folder / "g.zip"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records(table))
    yield "jsonl", file("h.jsonl", lines.encode())
    yield "json", file("i.json", json.dumps(records(table)).encode())
    yield "json of data", file("j.json", json.dumps({"version": 1, "data": records(table)}).encode())
    frame = pd.DataFrame(columns(table), columns=list(HEADING), dtype=object)
    arrow = pa.table({name: pa.array(cells, pa.string()) for name, cells in columns(table).items()})
    parquet.write_table(arrow, folder / "k.parquet")
    yield "parquet", folder / "k.parquet"
    feather.write_feather(arrow, str(folder / "l.feather"))
    yield "feather", folder / "l.feather"
    yield "pandas", frame
    yield "pandas nullable", frame.astype("string").set_index(pd.Index([7] * len(frame)))
    yield "pandas categories", frame.astype({"label": "category", "domain": "category"})
    yield "pandas on Arrow", arrow.to_pandas(types_mapper=pd.ArrowDtype)
    yield "Arrow", arrow
    yield "Arrow batch", arrow.combine_chunks().to_batches()[0]
    yield "dict of columns", columns(table)
    yield "list of rows", records(table)
    import polars

    yield "polars", polars.DataFrame(columns(table), schema=dict.fromkeys(HEADING, polars.String))


@QUICK
@given(tables())
def test_every_reader_gives_the_same(tmp_path_factory: pytest.TempPathFactory, table: Table) -> None:
    folder = tmp_path_factory.mktemp("forms")
    for form, data in forms(table, folder):
        assert shown(load_domains(data, split_column="split")) == expected(table), form


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables())
def test_datasets_give_the_same(tmp_path_factory: pytest.TempPathFactory, table: Table) -> None:
    import datasets

    kinds = datasets.Features({name: datasets.Value("string") for name in HEADING})
    data = datasets.Dataset.from_dict(columns(table), features=kinds)
    assert shown(load_domains(data, split_column="split")) == expected(table)
    folder = tmp_path_factory.mktemp("saved") / "data"
    data.save_to_disk(str(folder))
    assert shown(load_domains(folder, split_column="split")) == expected(table)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables())
def test_a_workbook_gives_the_same(tmp_path_factory: pytest.TempPathFactory, table: Table) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for row in [HEADING, *table]:
        book.active.append(row)
    for cells in book.active.iter_rows():
        for cell in cells:
            cell.data_type = "s" if cell.value is not None else cell.data_type
    path = tmp_path_factory.mktemp("workbook") / "table.xlsx"
    book.save(path)
    assert shown(load_domains(path, split_column="split")) == expected(table)


@QUICK
@given(tables())
def test_parts_named_as_splits_are_a_split_column(tmp_path_factory: pytest.TempPathFactory, table: Table) -> None:
    sides = dict.fromkeys(row[3] for row in table)
    if len(sides) < 2:
        return
    parts = {side: [row for row in table if row[3] == side] for side in sides}
    frames = {side: pd.DataFrame(columns(part)).drop(columns="split") for side, part in parts.items()}
    assert shown(load_domains(frames)) == expected(table)
    folder = tmp_path_factory.mktemp("splits")
    for side, part in parts.items():
        lines = (json.dumps({name: row[name] for name in HEADING[:3]}) + "\n" for row in records(part))
        (folder / f"{side}.jsonl").write_text("".join(lines), encoding="utf-8")
    assert shown(load_domains(folder)) == expected(table)


@QUICK
@given(
    tables(),
    st.sampled_from(",;\t|"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["", "blank lines", "sep"]),
)
def test_whatever_the_dialect_every_row_is_read_as_written_or_its_line_is_named(
    tmp_path_factory: pytest.TempPathFactory, table: Table, mark: str, quoting: Any, end: str, code: str, extra: str
) -> None:
    text = separated(table, delimiter=mark, quoting=quoting, lineterminator=end)
    if extra == "blank lines":
        text = text + end + end
    elif extra == "sep":
        text = f"sep={mark}{end}{text}"
    path = tmp_path_factory.mktemp("dialect") / ("table.tsv" if mark == "\t" else "table.csv")
    path.write_bytes(text.encode(code))
    try:
        found = shown(load_domains(path, split_column="split"))
    except InjertoError as error:
        assert "line" in str(error) or "no column" in str(error) or "two columns" in str(error), error
        return
    assert found == expected(table)


@QUICK
@given(tables(), st.data())
def test_a_damaged_row_is_named_and_never_altered(
    tmp_path_factory: pytest.TempPathFactory, table: Table, data: st.DataObject
) -> None:
    plain = [(f"text {number}", "pos", "day", "train") for number in range(len(table))]
    lines = separated(plain, lineterminator="\n").splitlines()  # type: ignore[arg-type]
    where = data.draw(st.integers(1, len(lines) - 1))
    kind = data.draw(st.sampled_from(["comma", "missing", "quote", "nul", "byte"]))
    line = lines[where].encode()
    lines_of_bytes = [line.encode() for line in lines]
    lines_of_bytes[where] = {
        "comma": line.replace(b" ", b", ", 1),
        "missing": line.rpartition(b",")[0],
        "quote": b'"' + line,
        "nul": line.replace(b" ", b"\0", 1),
        "byte": line.replace(b" ", b"\xe9", 1),
    }[kind]
    path = tmp_path_factory.mktemp("damaged") / "table.csv"
    path.write_bytes(b"\n".join(lines_of_bytes) + b"\n")
    with pytest.raises(InjertoError, match=rf"line {where + 1}\b"):
        load_domains(path)
