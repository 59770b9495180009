"""What a run takes: every container of some inputs is the list of them, and anything else is refused in one line."""

import io
import json
import tarfile
import zipfile
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import injerto
from injerto.basics.errors import InjertoError
from injerto.domains.arrays import array_image
from injerto.domains.columns import ColumnNames
from injerto.domains.images import read_image
from injerto.evaluation.inputs import as_inputs, read_inputs

TEXTS = ColumnNames(fitted=(("input", "words"),), inputs_only="text")
PICTURES = ColumnNames(fitted=(("input", "photo"),), inputs_only="image")


def text_forms(texts: list[str], folder: Path) -> dict[str, Any]:
    """The same texts in every container, beside columns that must not be read."""
    import datasets
    import pandas as pd

    others = [f"other {index}" for index in range(len(texts))]
    columns = {"text": others, "words": texts, "label": [["a"]] * len(texts), "domain": [""] * len(texts)}
    frame = pd.DataFrame({"text": others, "words": texts}, index=range(7, 7 + len(texts)))
    stored = datasets.Dataset.from_dict({"text": others, "words": texts})
    frame.to_parquet(folder / "t.parquet")
    frame.to_json(folder / "t.jsonl", orient="records", lines=True)
    stored.save_to_disk(folder / "saved")
    pairs = zip(texts, others, strict=True)
    return {
        "tuple": tuple(texts),
        "generator": (text for text in texts),
        "numpy": np.array(texts),
        "numpy objects": np.array(texts, dtype=object),
        "Series": frame["words"],
        "Index": pd.Index(texts),
        "nullable Series": pd.Series(texts, dtype="string"),
        "frame": frame,
        "dict of columns": columns,
        "UserDict of columns": UserDict(columns),
        "rows": [{"words": text, "text": other} for text, other in pairs],
        "dataset": stored,
        "DatasetDict": datasets.DatasetDict({"test": stored}),
        "dict of frames": {"new": frame},
        "dict values": {str(index): text for index, text in enumerate(texts)}.values(),
        "parquet": folder / "t.parquet",
        "jsonl": folder / "t.jsonl",
        "saved": folder / "saved",
        "stream": stored.to_iterable_dataset(),
    }


SAFE = st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp"), exclude_characters="\x00#")
WORDS = st.lists(st.text(SAFE, min_size=1, max_size=12).map(lambda text: f"a{text}"), min_size=1, max_size=5)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=WORDS)
def test_every_container_of_texts_is_the_list_of_them(texts: list[str], tmp_path_factory: Any) -> None:
    expected = as_inputs(texts, TEXTS)
    assert expected == texts
    for name, form in text_forms(texts, tmp_path_factory.mktemp("forms")).items():
        assert as_inputs(form, TEXTS) == expected, name


def picture_forms(files: list[Path], folder: Path) -> dict[str, Any]:
    """The same pictures in every container."""
    import pandas as pd
    import torch

    arrays = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    stacked = np.stack(arrays)
    frame = pd.DataFrame({"image": ["nowhere.png"] * len(files), "photo": [str(file) for file in files]})
    frame.assign(photo=[f"pics/{index}.png" for index in range(len(files))]).to_csv(folder / "t.csv", index=False)
    frame.assign(photo=[file.read_bytes() for file in files]).to_parquet(folder / "t.parquet")
    (folder / "pics" / ".hidden").mkdir(parents=True)
    for index, file in enumerate(files):
        (folder / "pics" / f"{index}.png").write_bytes(file.read_bytes())
    (folder / "pics" / "._0.png").write_bytes(b"macOS")
    (folder / "pics" / ".hidden" / "0.png").write_bytes(files[0].read_bytes())
    with zipfile.ZipFile(folder / "pics.zip", "w") as archive, tarfile.open(folder / "pics.tar.gz", "w:gz") as tar:
        for path in sorted((folder / "pics").rglob("*.png")):
            archive.write(path, f"pics/{path.relative_to(folder / 'pics')}")
            tar.add(path, f"pics/{path.relative_to(folder / 'pics')}")
    return {
        "str": [str(file) for file in files],
        "bytes": [file.read_bytes() for file in files],
        "bytearrays": [bytearray(file.read_bytes()) for file in files],
        "BytesIO": [io.BytesIO(file.read_bytes()) for file in files],
        "open files": [file.open("rb") for file in files],
        "PIL": [Image.open(file) for file in files],
        "generator": (file for file in files),
        "arrays": arrays,
        "object array": np.array([*files, None], dtype=object)[:-1],
        "batch": stacked,
        "channels first": stacked.transpose(0, 3, 1, 2),
        "floats": stacked / 255,
        "16 bits": stacked.astype(np.uint16) * 257,
        "masked without masks": np.ma.masked_array(stacked, False),
        "tensors": [torch.from_numpy(array.copy()) for array in arrays],
        "tensor batch": torch.from_numpy(stacked.copy()).permute(0, 3, 1, 2).float().requires_grad_() / 255,
        "Series": pd.Series(files),
        "frame": frame,
        "dict of columns": {"image": ["x"] * len(files), "photo": files},
        "dict with a batch": {"photo": stacked},
        "rows": [{"photo": str(file)} for file in files],
        "undecoded": [{"bytes": file.read_bytes(), "path": None} for file in files],
        "csv": folder / "t.csv",
        "csv by name": str(folder / "t.csv"),
        "parquet": folder / "t.parquet",
        "folder": folder / "pics",
        "zip": folder / "pics.zip",
        "tar": str(folder / "pics.tar.gz"),
    }


def test_every_container_of_pictures_is_the_list_of_them(pictures: Path, tmp_path: Path) -> None:
    files = sorted((pictures / "day").glob("*/[1-2].png"))
    expected = [np.asarray(read_image(item)) for item in as_inputs(files, PICTURES)]
    assert len(expected) == len(files) > 3
    for name, form in picture_forms(files, tmp_path).items():
        found = [np.asarray(read_image(item)) for item in as_inputs(form, PICTURES)]
        assert len(found) == len(expected) and all(map(np.array_equal, found, expected)), name


JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=4) | st.complex_numbers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(junk=JUNK | st.sets(st.text()) | st.builds(object), names=st.sampled_from([TEXTS, PICTURES]))
def test_anything_is_read_or_refused_in_one_line(junk: Any, names: ColumnNames) -> None:
    try:
        found = as_inputs(junk, names)
    except InjertoError as error:
        assert "\n" not in str(error).strip()
        return
    strings = junk if isinstance(junk, list | tuple) else junk.get("words", ()) if isinstance(junk, dict) else [junk]
    assert len(found) == len(list(strings)) and all(isinstance(item, str) for item in found)
    assert not isinstance(junk, set)


class Upload:
    """As web frameworks hand them over: reading is a coroutine."""

    async def read(self) -> bytes:
        return b""


def array(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


REFUSED: dict[str, tuple[ColumnNames, Any, str]] = {
    "a dict of texts": (TEXTS, {"first": "a film", "second": "a book"}, "keys: 'first', 'second'.*'words'"),
    "a pair": (TEXTS, {"text": "a film", "text_pair": "a book"}, "'words'"),
    "a dict of paths": (PICTURES, {"a": "a.png"}, "'photo'"),
    "columns of two lengths": (TEXTS, {"words": ["a"], "n": [1, 2]}, "one length"),
    "a set": (TEXTS, {"a", "b"}, "no order"),
    "keys": (TEXTS, {"a": 1}.keys(), "no order"),
    "an empty text": (TEXTS, ["a", "", " "], r"2 of 3 texts cannot be read \(inputs\[1\]: the text is empty"),
    "None": (TEXTS, ["a", None], r"inputs\[1\]: it is None, not a text"),
    "NaN among pictures": (PICTURES, [array(4, 4, 3), float("nan")], r"inputs\[1\]: it is nan, not an image"),
    "3 by 5 by 3": (PICTURES, array(3, 5, 3), "can be .H, W, C. or .C, H, W."),
    "an empty path": (PICTURES, ["a.png", ""], "empty|no such"),
    "an empty path alone": (PICTURES, "", "inputs is empty"),
    "1 by 5 by 4": (PICTURES, [array(1, 5, 4)], r"inputs\[0\].*can be"),
    "masked": (PICTURES, np.ma.masked_equal(array(4, 4), 0), "16 masked entries"),
    "no dimension": (PICTURES, np.array(3), "shape"),
    "bytes that NumPy cut": (PICTURES, np.array([b"abc"]), "array of bytes"),
    "a text file for pictures": (PICTURES, io.StringIO("x"), "binary mode"),
    "an upload": (PICTURES, Upload(), "coroutine"),
    "a file at its end": (PICTURES, io.BytesIO(), "nothing is left to read"),
    "broken pictures": (PICTURES, [b"x", array(4, 4), b"y"], r"2 of 3 images .*inputs\[0\]: not a picture"),
    "missing pictures": (PICTURES, ["a.png", array(4, 4), "b.png"], "no such image: a.png .and 1 more of 3"),
    "a URL": (PICTURES, "https://a.b/c.png", "download it"),
    "a list of lists": (TEXTS, [["a"]], "is a list, not a text"),
    "a name no file can have": (PICTURES, "a\0b", "no such image"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("error")
def test_what_is_refused(what: str) -> None:
    names, junk, says = REFUSED[what]
    with pytest.raises(InjertoError, match=says):
        as_inputs(junk, names)


def test_a_closed_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    with (tmp_path / "x.png").open("rb") as stream:
        pass
    with pytest.raises(InjertoError, match="closed file"):
        as_inputs(stream, PICTURES)


def test_bfloat16_and_sixteen_bits() -> None:
    import torch

    values = torch.linspace(0, 1, 48).reshape(4, 4, 3)
    (found,) = as_inputs(values.bfloat16(), PICTURES)
    assert np.abs(np.asarray(found).astype(int) - np.round(values.numpy() * 255)).max() <= 1
    deep = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    assert np.array_equal(np.asarray(array_image(deep)), deep >> 8)


def test_a_text_that_names_a_file_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews").mkdir()
    (tmp_path / "t.csv").write_text("words\nfine\n")
    for text in ("reviews", "t.csv", "sentiment-domains"):
        with pytest.raises(InjertoError, match="to have "):
            as_inputs(text, TEXTS)
    with pytest.raises(InjertoError, match=r"Path\('t.csv'\)"):
        as_inputs(["fine", "t.csv"], TEXTS)
    assert as_inputs(["reviews"], TEXTS) == ["reviews"] and as_inputs(Path("t.csv"), TEXTS) == ["fine"]


def test_lines_and_whole_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new.txt"
    file.write_bytes("\ufefffine\r\n\u00a1bien!\r\rpoor\n\n".encode())
    found = read_inputs(file, TEXTS)
    assert found.items == ["fine", "\u00a1bien!", "poor"]
    assert found.sources == ["new.txt:1", "new.txt:2", "new.txt:4"] and found.problems[0].source == "new.txt:3"
    assert "4 texts, one a line" in capsys.readouterr().err
    whole = as_inputs(file, ColumnNames(inputs_only="text"))
    assert whole == ["fine\n\u00a1bien!\n\npoor"] and "read as one text" in capsys.readouterr().err
    file.write_bytes("fine\nbien".encode("utf-16"))
    assert as_inputs(file, TEXTS) == ["fine", "bien"] == as_inputs(io.StringIO("fine\nbien"), TEXTS)
    assert as_inputs(["half \ud83d", "whole \U0001f600"], TEXTS) == ["half \ufffd", "whole \U0001f600"]


def test_another_column_by_name(tmp_path: Path) -> None:
    table = {"words": ["a", "b"], "title": ["c", "d"]}
    assert as_inputs(table, ColumnNames(input="title", fitted=TEXTS.fitted, inputs_only="text")) == ["c", "d"]
    (tmp_path / "t.csv").write_text("title,body\nc,d\n")
    with pytest.raises(
        InjertoError, match="t.csv has no column 'words', from which the run read its inputs .*title, bo"
    ):
        as_inputs(tmp_path / "t.csv", TEXTS)
    with pytest.raises(InjertoError, match="no input is a table"):
        as_inputs(["a"], ColumnNames(input="title", inputs_only="text"))


# --- runs: what was fitted is what is used -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fit_text(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    def fit(data: Any, **more: Any) -> Any:
        out = tmp_path_factory.mktemp("run") / "r"
        return injerto.fit(data, out=out, backbone=tiny_bert, head="probe", threads=1, precision="fp32", **more)

    yield fit


def rows(count: int = 24) -> list[dict[str, str]]:
    good, bad = ["great", "fine", "good"], ["dull", "poor", "bad"]
    return [
        {
            "id": str(i),
            "text": "the same",
            "words": f"{(good, bad)[i % 2][i % 3]} film {i}",
            "stars": ("up", "down")[i % 2],
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("form", ["csv", "frame", "dataset"])
def test_a_run_reads_at_predict_what_it_read_at_fit(fit_text: Any, form: str, tmp_path: Path) -> None:
    import datasets
    import pandas as pd

    frame = pd.DataFrame(rows())
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = {"csv": tmp_path / "t.csv", "frame": frame, "dataset": datasets.Dataset.from_pandas(frame)}[form]
    run = fit_text(data, input="words", label="stars")
    assert json.loads((run.path / "adapter" / "adapter_card.json").read_text())["columns"] == run.columns
    assert run.columns == {"input": "words", "label": "stars"}
    bare = injerto.load(run.path / "adapter", threads=1)
    texts = [row["words"] for row in rows()]
    expected = run.predict_proba(texts)
    assert np.ptp(expected[:, 0]) > 0.01
    for name, given_form in text_forms(texts, tmp_path).items():
        assert np.array_equal(bare.predict_proba(given_form), expected), name
    assert np.array_equal(run.embed(frame), run.embed(texts))
    later = frame.assign(words=[f"{row['words']} again" for row in rows()])
    later.to_csv(tmp_path / "later.csv", index=False)
    right = np.mean(np.array(run.predict(later)) == later["stars"])
    for other in (tmp_path / "later.csv", later, datasets.Dataset.from_pandas(later)):  # 'words' and 'stars' of each
        (values,) = injerto.evaluate(run.path / "adapter", other, threads=1).values()
        assert values["n"] == len(texts) and values["accuracy"] == pytest.approx(right)
    bank = injerto.AdapterBank.of(run.path)
    np.testing.assert_allclose([answer.probabilities for answer in bank.predict(frame, "r")], expected, atol=1e-5)
    with pytest.raises(InjertoError, match="takes one input, not 24"):
        bank.ask_all(frame)
    with pytest.raises(InjertoError, match="has no column 'stars', from which the run read its labels"):
        injerto.evaluate(run.path, frame.drop(columns="stars"), threads=1)
    with pytest.raises(InjertoError, match="column 'stars' is empty.*--label"):
        injerto.evaluate(run.path, frame.assign(stars="", words=[f"new {i}" for i in range(24)]), threads=1)
    with pytest.raises(InjertoError, match="'left'.* against 'down', 'up'"):
        injerto.evaluate(run.path, frame.assign(stars="left", words=[f"new {i}" for i in range(24)]), threads=1)


def test_a_folder_is_read_at_predict_as_at_fit(
    image_run: Path, pictures: Path, tmp_path: Path, cli: Callable[..., SimpleNamespace], capsys: Any
) -> None:
    run = injerto.load(image_run, threads=1)
    files = sorted((pictures / "day").glob("*/[1-2].png"))
    expected = run.predict_proba(files)
    for name, form in picture_forms(files, tmp_path).items():
        np.testing.assert_allclose(run.predict_proba(form), expected, rtol=1e-5, err_msg=name) if name not in (
            "csv", "csv by name", "parquet", "frame", "dict of columns", "dict with a batch", "rows"
        ) else np.testing.assert_allclose(run.predict_proba(form, input="photo"), expected, rtol=1e-5, err_msg=name)  # fmt: skip
    (tmp_path / "pics" / "notes.md").write_text("x")
    found = cli("predict", image_run, tmp_path / "pics", tmp_path / "pics.zip", "--json", "--threads", 1)
    answers = json.loads(found.out)["predictions"]
    assert len(answers) == 2 * len(files) and answers[-1]["source"].endswith("pics.zip/pics/5.png")
    assert "1 files that are no images are ignored (1 .md)" in found.err


def test_rows_that_are_left_out_are_named(
    text_run: Path, tmp_path: Path, cli: Callable[..., SimpleNamespace], refused: Callable[..., str]
) -> None:
    (tmp_path / "new.csv").write_text("id,text\n1,fine\n2,\n3,poor\n")
    assert "1 of 3 texts cannot be read (new.csv:3: the text is empty)" in refused(
        "predict", text_run, tmp_path / "new.csv"
    )
    found = cli("predict", text_run, tmp_path / "new.csv", "--skip-bad", "--json", "--threads", 1)
    content = json.loads(found.out)
    assert [entry["source"] for entry in content["predictions"]] == ["new.csv:2", "new.csv:4"]
    assert content["left_out"] == [{"source": "new.csv:3", "reason": "the text is empty"}]
    assert "new.csv:3" in found.err
    assert "no column 'title' (--input)" in refused("predict", text_run, tmp_path / "new.csv", "--input", "title")
