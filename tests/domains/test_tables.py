import gzip
import lzma
from pathlib import Path

import pytest
from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.domains.domain import Domains
from injerto.domains.load import load_domains

ROWS = [("NA", "1", "web"), ("null", "", "web"), ("fine, really", "2", "mail"), ("1", "1", "mail")]


def labels(domains: Domains) -> dict[str, dict[str, str | None]]:
    return {
        name: {str(item): label for item, label in zip(domain.inputs, domain.labels, strict=True)}
        for name, domain in domains.items()
    }


EXPECTED = {"web": {"NA": "1", "null": None}, "mail": {"fine, really": "2", "1": "1"}}


def write(path: Path) -> Path:
    import pandas as pd

    text = pd.DataFrame(ROWS, columns=["text", "label", "domain"])
    kind = path.name.split(".")[1]
    if kind == "parquet":
        # an integer column with a gap: 1 must not become 1.0
        text.assign(label=[1, None, 2, 1]).to_parquet(path)
        return path
    if kind == "jsonl":
        data = '{"text": "NA", "label": 1, "domain": "web"}\n{"text": "null", "label": null, "domain": "web"}\n\n'
        data += '{"text": "fine, really", "label": 2, "domain": "mail"}\n{"text": "1", "label": "1", "domain": "mail"}'
    else:
        data = text.to_csv(index=False, sep="," if kind == "csv" else "\t")
    path.write_bytes({"gz": gzip.compress, "xz": lzma.compress}.get(path.suffix[1:], bytes)(data.encode()))
    return path


@pytest.mark.parametrize(
    "name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet", "t.csv.gz", "t.tsv.xz", "t.jsonl.gz", "t.jsonl.xz", "t.csv.xz"]
)
def test_every_format_reads_alike(tmp_path: Path, name: str) -> None:
    domains = load_domains(write(tmp_path / name))
    assert domains.modality == "text" and domains.name == "t" and not domains.problems
    assert labels(domains) == EXPECTED


def test_a_frame_reads_as_its_file(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(ROWS, columns=["text", "label", "domain"])
    assert labels(load_domains(frame)) == EXPECTED
    numbers = frame.assign(label=[1.0, float("nan"), 2.0, 1.0], index=3)
    assert labels(load_domains(numbers)) == EXPECTED
    nullable = frame.assign(label=pd.array([1, None, 2, 1], dtype="Int64"), text=[*frame.text[:3], None])
    domains = load_domains(nullable)
    assert domains.problems[0].reason == "the text is empty" and labels(domains)["web"] == EXPECTED["web"]


def test_named_columns_and_one_domain(tmp_path: Path) -> None:
    path = tmp_path / "posts.csv"
    path.write_text("body,kind,where,text\nhello,a,x,no\nworld,b,y,no\n")
    assert labels(load_domains(path, input="body", label="kind", domain="where")) == {
        "x": {"hello": "a"},
        "y": {"world": "b"},
    }
    domains = load_domains(path, input="body")
    assert labels(domains) == {"posts": {"hello": None, "world": None}}
    assert sorted(domains["posts"].sources) == ["posts.csv:2", "posts.csv:3"]
    for role in ("input", "label", "domain", "split_column"):
        with pytest.raises(
            InjertoError, match=r"posts.csv has no column 'wherre' .*did you mean 'where'\? known: body, kind"
        ):
            load_domains(path, **{role: "wherre"})  # type: ignore[arg-type]
    path.write_text("body,kind\nhello,a\n")
    with pytest.raises(
        InjertoError, match="no column of texts or picture paths found among body, kind; name it with --input"
    ):
        load_domains(path)


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("text,label\nniño,a\n".encode("utf-8-sig"))
    assert labels(load_domains(path)) == {"t": {"niño": "a"}}
    for kind in ("csv", "jsonl"):
        broken = tmp_path / f"broken.{kind}"
        broken.write_bytes("text,label\nhello,a\nniño,a\n".encode("latin-1"))
        with pytest.raises(
            InjertoError, match=rf"broken.{kind}, line 3: not UTF-8 \(byte 0xf1\); save the file as UTF-8"
        ):
            load_domains(broken)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"", "holds no rows"),
        ("t.csv", b"text,label\n", "holds no rows"),
        ("t.csv", b"text,label\na,b\na,b,c,d\n", "line 3: 4 cells, and the heading has 2"),
        ("t.csv", b'text,label\n"a,b\n', "cannot be read as a table"),
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ("t.jsonl", b"[1]\n", "line 1: not a JSON object"),
        ("t.parquet", b"PAR1 no", "not a readable Parquet file"),
        ("t.csv.gz", b"text", "not a readable .gz file"),
        ("t.csv.xz", b"text", "not a readable .xz file"),
        ("t.csv.gz", gzip.compress(b"text,label\n" * 1000, mtime=0)[:-20], "not a readable .gz file"),
        ("t.csv", b"text,label\n,a\n ,b\n", "no example that can be used, first: t.csv:2"),
        ("t.jsonl", b'{"text": "a", "label": ["x", "y"]}', "'label' holds lists"),
    ],
)
def test_broken_tables_are_one_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InjertoError) as error:
        load_domains(tmp_path / name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_empty_text_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\nhello,a\n  ,b\nworld,b\n")
    domains = load_domains(path)
    with pytest.raises(
        InjertoError, match=r"1 of 3 texts cannot be read, first: t.csv:3 \(the text is empty\); .*--skip-bad"
    ):
        domains.check()
    kept = domains.check(skip_bad=True)
    assert len(kept["t"]) == 2 and [problem.source for problem in kept.problems] == ["t.csv:3"]
    assert "1 of 3 texts cannot be read and are left out" in capsys.readouterr().err


def test_a_table_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "shots").mkdir()
    for index in range(4):
        Image.new("L", (4, 4), index).save(tmp_path / "shots" / f"p{index // 2}_{index}.PNG")
    path = tmp_path / "list.csv"
    lines = [f"shots/p{index // 2}_{index}.PNG,{'ab'[index % 2]}\n" for index in range(4)]
    path.write_text("file,label\n" + "".join(lines) + "shots/gone.png,a\n")
    domains = load_domains(path, group=r"/(p\d)_")
    assert domains.modality == "image" and sorted(domains["list"].groups) == ["p0", "p0", "p1", "p1"]
    assert domains["list"].inputs[0] == tmp_path / domains["list"].sources[0]
    with pytest.raises(InjertoError, match=r"1 of 5 images cannot be read, first: shots/gone.png \(no such file\)"):
        domains.check()
    assert len(domains.check(skip_bad=True)["list"]) == 4


def test_group_is_a_column_or_a_pattern(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label,user\nhi 1,a,kim\nho 1,b,kim\nhey 2,a,lee\n")
    assert sorted(load_domains(path, group="user")["t"].groups) == ["kim", "kim", "lee"]
    assert sorted(load_domains(path, group=r"\d")["t"].groups) == ["1", "1", "2"]
    with pytest.raises(
        InjertoError, match=r"'usr' is no column \(text, label, user\) and as a pattern matches nothing in t.csv"
    ):
        load_domains(path, group="usr")
    with pytest.raises(InjertoError, match="is no regular expression"):
        load_domains(path, group="(")


def test_an_extra_table_needs_only_its_texts(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,kind,part,user\nhi,a,train,kim\nho,b,test,lee\n")
    (tmp_path / "more.jsonl").write_text('{"text": "new"}\n{"text": "newer"}\n')
    domains = load_domains(
        tmp_path / "t.csv", label="kind", split_column="part", group="user", extra={"new": tmp_path / "more.jsonl"}
    )
    assert labels(domains)["new"] == {"new": None, "newer": None} and set(domains["new"].given) == {None}


def test_an_unused_split_column_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text("text,split\nhi,train\n")
    load_domains(tmp_path / "t.csv")
    assert "add --split-column split" in capsys.readouterr().err


def test_a_csv_with_semicolons_as_spreadsheets_save_it_where_the_comma_is_decimal(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text;label\nfine, really;1\nbad;0\n", encoding="utf-8")
    assert labels(load_domains(tmp_path / "t.csv"))["t"] == {"fine, really": "1", "bad": "0"}
    (tmp_path / "u.csv").write_text("text,label\na; b,1\nc;0,0\n", encoding="utf-8")
    assert labels(load_domains(tmp_path / "u.csv"))["u"] == {"a; b": "1", "c;0": "0"}


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_not_the_current_folder(name: str) -> None:
    with pytest.raises(InjertoError, match="no data named.*emoji-styles"):
        load_domains(name)


def test_a_csv_with_tabs(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\tlabel\nfine, really\ta\ndull\tb\n")
    assert labels(load_domains(tmp_path / "t.csv")) == {"t": {"fine, really": "a", "dull": "b"}}


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    import pandas as pd

    (tmp_path / "t.csv").write_text("text,text ,label\nwrong,fine,a\nwrong,dull,b\n")
    frame = pd.DataFrame([["x", "y", "a"]], columns=["text", "text", "label"])
    for data in (tmp_path / "t.csv", frame):
        with pytest.raises(InjertoError, match="two columns 'text'; rename one"):
            load_domains(data)


def test_a_semicolon_between_cells_and_a_comma_in_the_heading(tmp_path: Path) -> None:
    path = tmp_path / "de.csv"
    path.write_text("Text;Bewertung;Preis, EUR\ngut, sehr gut;ja;1,50\nschlecht;nein;2\nnaja;nein;3,10\n")
    (domain,) = load_domains(path, input="Text", label="Bewertung").values()
    assert sorted(domain.inputs) == ["gut, sehr gut", "naja", "schlecht"]
    path.write_text('text,label,"a;b"\none; two,x,1\nthree,y,2\n')
    (domain,) = load_domains(path).values()
    assert sorted(domain.inputs) == ["one; two", "three"]


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize(("ending", "mark"), [("csv", ","), ("csv", ";"), ("tsv", "\t"), ("csv", "|"), ("txt", "\t")])
def test_a_cell_too_many_is_refused_by_its_line_at_fit_and_at_predict(
    tmp_path: Path, ending: str, mark: str, row: int
) -> None:
    from injerto.domains.columns import ColumnNames
    from injerto.evaluation.inputs import read_inputs

    lines = [["text", "label"], *([f"text {place}", "good"] for place in range(5))]
    lines[1 + row].insert(1, " and long")
    path = tmp_path / f"t.{ending}"
    path.write_text("\n".join(map(mark.join, lines)))
    with pytest.raises(InjertoError, match=f"line {row + 2}: 3 cells, and the heading has 2"):
        load_domains(path)
    with pytest.raises(InjertoError, match=f"line {row + 2}: 3 cells, and the heading has 2"):
        read_inputs(path, ColumnNames(fitted=(("input", "text"),), inputs_only="text"))
