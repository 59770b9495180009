"""A table from a stranger names pictures: none outside of its folder is read, unless its owner says so."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import injerto
from injerto.basics.errors import InjertoError
from injerto.domains.columns import ColumnNames
from injerto.domains.domain import Domains
from injerto.domains.load import load_domains
from injerto.evaluation.inputs import read_inputs


def picture(level: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (level, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """``home/secret.png`` beside ``home/data`` with its own pictures, and links that lead out of it."""
    data = tmp_path / "home/data"
    (data / "sub").mkdir(parents=True)
    (tmp_path / "home/secret.png").write_bytes(picture(9))
    (tmp_path / "home/other").mkdir()
    (tmp_path / "home/other/secret.png").write_bytes(picture(9))
    for place, name in enumerate(("1.png", "sub/2.png", "sub/3.png")):
        (data / name).write_bytes(picture(place))
    (data / "link.png").symlink_to("../secret.png")
    (data / "linked").symlink_to("../other")
    (data / "img").symlink_to("../other")
    (data / "inner.png").symlink_to("sub/2.png")
    return tmp_path / "home"


WAYS: dict[str, Callable[[Path], str]] = {
    "dots": lambda home: "../secret.png",
    "dots inside": lambda home: "sub/../../secret.png",
    "absolute": lambda home: str(home / "secret.png"),
    "absolute with dots": lambda home: str(home / "data/../secret.png"),
    "backslashes": lambda home: "..\\secret.png",
    "absolute with backslashes": lambda home: str(home / "secret.png").replace("/", "\\"),
    "a share": lambda home: "\\\\server\\share\\1.png",
    "not there": lambda home: "../nothing.png",
    "other capitals": lambda home: "../SECRET.PNG",
    "without its ending": lambda home: "../secret",
    "a link": lambda home: "link.png",
    "a linked folder": lambda home: "linked/secret.png",
    "a linked folder beside it": lambda home: "secret.png",
    "a linked folder, other capitals": lambda home: "LINKED/secret.PNG",
    "through a linked folder": lambda home: "linked/../secret.png",
}


def csv(folder: Path, names: list[Any]) -> Path:
    lines = [f'"{name}",{"xy"[place % 2]}' for place, name in enumerate(names)]
    (folder / "list.csv").write_text("\n".join(["path,label", *lines]))
    return folder / "list.csv"


def tsv(folder: Path, names: list[Any]) -> Path:
    (folder / "list.tsv").write_text("\n".join(["path\tlabel", *(f"{name}\tx" for name in names)]))
    return folder / "list.tsv"


def jsonl(folder: Path, names: list[Any]) -> Path:
    (folder / "list.jsonl").write_text("\n".join(json.dumps({"path": name, "label": "x"}) for name in names))
    return folder / "list.jsonl"


def struct(folder: Path, names: list[Any]) -> Path:
    import pyarrow
    from pyarrow import parquet

    cells = [{"bytes": None, "path": name} for name in names]
    parquet.write_table(pyarrow.table({"image": cells, "label": ["x"] * len(names)}), folder / "list.parquet")
    return folder / "list.parquet"


def excel(folder: Path, names: list[Any]) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    for row in (("path", "label"), *((name, "x") for name in names)):
        book.active.append(row)
    book.save(folder / "list.xlsx")
    return folder / "list.xlsx"


def imagefolder(folder: Path, names: list[Any]) -> Path:
    csv(folder, names).rename(folder / "metadata.csv")
    return folder


def saved(folder: Path, names: list[Any]) -> Path:
    import datasets

    cells = [{"bytes": None, "path": name} for name in names]
    features = {
        "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "label": datasets.Value("string"),
    }
    rows = {"image": cells, "label": ["x"] * len(names)}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).save_to_disk(folder)
    return folder


FORMS = (csv, tsv, jsonl, struct, excel, imagefolder, saved)


@pytest.mark.parametrize("way", WAYS)
def test_a_name_that_leads_out_is_refused_by_row(home: Path, way: str) -> None:
    name = WAYS[way](home)
    table = csv(home / "data", ["1.png", "sub/2.png", name])
    with pytest.raises(InjertoError) as error:
        load_domains(table)
    said = str(error.value)
    assert "list.csv:4: " in said and f"'{name}'" in said and "--allow-outside" in said and "allow_outside=True" in said
    with pytest.raises(InjertoError, match="--allow-outside"):
        read_inputs(table, ColumnNames(inputs_only="image"))


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("a share", "not there")])
def test_its_owner_may_read_it(home: Path, way: str) -> None:
    table = csv(home / "data", ["1.png", "sub/2.png", WAYS[way](home)])
    if way == "absolute with backslashes":
        (home / "data/list.csv").write_text(table.read_text().replace(WAYS[way](home), str(home / "secret.png")))
    domains = load_domains(table, allow_outside=True)
    assert len(domains["list"]) == 3 and not domains.problems
    found = read_inputs(table, ColumnNames(inputs_only="image", allow_outside=True))
    assert len(found.items) == 3 and not found.problems


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("way", ["dots", "absolute", "a link"])
def test_every_kind_of_table_is_confined(home: Path, form: Callable[..., Path], way: str) -> None:
    table = form(home / "data", ["1.png", "sub/2.png", WAYS[way](home)])
    with pytest.raises(InjertoError, match="--allow-outside"):
        load_domains(table)
    assert sum(map(len, load_domains(table, allow_outside=True).values())) == 3


def test_an_archive_is_confined(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INJERTO_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("metadata.csv", f"file_name,label\n1.png,x\n{home / 'secret.png'},y\n")
        archive.writestr("1.png", picture(1))
    with pytest.raises(InjertoError, match="--allow-outside"):
        load_domains(tmp_path / "a.zip")


def test_what_stays_inside_is_read_as_before(home: Path, tmp_path: Path) -> None:
    names = [
        "1.png",
        "./1.png",
        "sub\\2.png",
        "SUB/2.PNG",
        "sub/3",
        "sub/../1.png",
        str(home / "data/1.png"),
        "inner.png",
    ]
    domains = load_domains(csv(home / "data", [*names, "2", "linked/../1.png"][: len(names)]))
    assert isinstance(domains, Domains) and not domains.problems and sum(map(len, domains.values())) == len(names)
    (tmp_path / "by link").symlink_to(home / "data")
    assert len(load_domains(tmp_path / "by link/list.csv")["list"]) == len(names)
    assert load_domains(csv(home / "data", ["1.png", "C:\\pictures\\2.png"])).problems[0].reason == "no such file"


def test_a_table_in_memory_names_any_file(home: Path) -> None:
    data = {"path": [str(home / "secret.png"), str(home / "data/1.png")], "label": ["x", "y"]}
    assert len(load_domains(data)["table"]) == 2


def test_the_flag_goes_all_the_way(home: Path, cli: Callable[..., Any], refused: Callable[..., str]) -> None:
    for place in range(12):
        (home / f"{place}.png").write_bytes(picture(place))
    table = csv(home / "data", [f"../{place}.png" for place in range(12)])
    fit = ("fit", table, "--image-size", 32, "--epochs", 1, "--threads", 1, "--out", home / "run")
    assert "--allow-outside" in refused(*fit)
    cli(*fit, "--allow-outside")
    assert "allow_outside: true" in (home / "run/recipe.yaml").read_text()
    assert "--allow-outside" in refused("predict", home / "run", table)
    found = json.loads(cli("predict", home / "run", table, "--allow-outside", "--json").out)
    assert len(found["predictions"]) == 12
    assert "--allow-outside" in refused("evaluate", home / "run", table)
    cli("evaluate", home / "run", table, "--allow-outside")
    assert len(injerto.predict(home / "run", table, allow_outside=True)) == 12
    with pytest.raises(InjertoError, match="allow_outside=True"):
        injerto.predict(home / "run", table)
    assert os.path.exists(home / "run")
