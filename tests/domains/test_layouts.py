"""What people's folders mean: splits, domains, classes, texts, and that every file is accounted for."""

import io
import os
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.domains.columns import ColumnNames
from injerto.domains.folders import list_pictures, read_folder
from injerto.domains.load import load_domains, read_rows


def draw(root: Path, *names: str) -> None:
    """One small picture per name; the format follows no ending."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number % 256, len(name) % 256, sum(name.encode()) % 256)).save(path, "PNG")


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def meaning(root: Path) -> dict[str, tuple[str, str | None, str | None]]:
    """Source -> domain, label, given split."""
    rows = read_folder(root)
    columns = zip(rows.domains, rows.labels, rows.given, strict=True)
    return dict(zip(rows.sources, columns, strict=True))


def test_split_folders_are_given_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "pets"
    draw(root, "train/cat/1.png", "train/dog/2.png", "Valid/cat/3.png", "test/4.png", "unlabeled/cat/5.png")
    assert meaning(root) == {
        "Valid/cat/3.png": ("pets", "cat", "val"),
        "test/4.png": ("pets", None, "test"),
        "train/cat/1.png": ("pets", "cat", "train"),
        "train/dog/2.png": ("pets", "dog", "train"),
        "unlabeled/cat/5.png": ("pets", None, "train"),
    }
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "train/, unlabeled/ in pets are read as given splits" in said
    assert list(load_domains(tmp_path)) == ["pets"]


def test_splits_above_and_below_domains(tmp_path: Path) -> None:
    draw(tmp_path / "a", "train/photo/cat/1.png", "train/web/cat/2.png", "test/photo/cat/3.png", "test/web/4.png")
    assert meaning(tmp_path / "a") == {
        "train/photo/cat/1.png": ("photo", "cat", "train"),
        "train/web/cat/2.png": ("web", "cat", "train"),
        "test/photo/cat/3.png": ("photo", "cat", "test"),
        "test/web/4.png": ("web", None, "test"),
    }
    draw(tmp_path / "b", "photo/train/cat/1.png", "photo/test/cat/2.png", "web/cat/3.png")
    assert meaning(tmp_path / "b") == {
        "photo/train/cat/1.png": ("photo", "cat", "train"),
        "photo/test/cat/2.png": ("photo", "cat", "test"),
        "web/cat/3.png": ("web", "cat", None),
    }


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("cat/train/1.png", "cat/test/2.png", "dog/train/3.png"), "may belong to the class or to the domain 'cat'"),
        (("train/cat/1.png", "test/cat/2.png", "extra/cat/3.png"), "folder 'extra' is no split and lies beside"),
        (("train/cat/1.png", "train/dog/p/2.png", "test/cat/3.png"), "lie at two depths"),
        (("train/images/1.png", "val/images/2.png"), "would be of the class 'images'"),
        (("cat/images/1.png", "dog/images/2.png"), "would be of the class 'images'"),
        (("a/cat/1.png", "b/dog/p/2.png", "b/dog/q/3.png"), "2 pictures lie too deep"),
    ],
)
def test_folders_that_may_mean_two_things_are_refused(tmp_path: Path, names: tuple[str, ...], why: str) -> None:
    draw(tmp_path, *names)
    with pytest.raises(InjertoError, match=why) as error:
        read_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_a_class_called_train_stays_one(tmp_path: Path) -> None:
    draw(tmp_path / "v", "train/1.png", "bus/2.png")
    assert [label for _, label, _ in meaning(tmp_path / "v").values()] == ["bus", "train"]


def test_office_31_has_a_folder_of_images_in_every_domain(tmp_path: Path) -> None:
    draw(tmp_path, "amazon/images/mug/1.png", "dslr/images/mug/2.png", "dslr/images/pen/3.png")
    assert meaning(tmp_path) == {
        "amazon/images/mug/1.png": ("amazon", "mug", None),
        "dslr/images/mug/2.png": ("dslr", "mug", None),
        "dslr/images/pen/3.png": ("dslr", "pen", None),
    }


def test_classes_in_file_names_are_hinted_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "flat", "cat.1.png", "cat.2.png", "dog.1.png", "dog.2.png")
    draw(tmp_path / "phone", "IMG_1.png", "IMG_2.png", "DSC_3.png", "DSC_4.png")
    read_folder(tmp_path / "flat")
    assert "begin with cat, dog: are these classes?" in capsys.readouterr().err
    read_folder(tmp_path / "phone")
    assert capsys.readouterr().err == ""


def test_endings_that_pillow_reads_and_files_that_are_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "p", "cat/1.jfif", "cat/2.AVIF", "dog/3.ppm", "dog/4.jp2", "dog/5.tga", "cat/6.upload", "cat/7")
    write(tmp_path / "p", {"notes.md": "x", "cat/x.xml": "<x/>", "dog/8.eps": "%!PS", "cat/1.txt": "a caption"})
    assert sorted(meaning(tmp_path / "p")) == ["cat/1.jfif", "cat/2.AVIF", "dog/3.ppm", "dog/4.jp2", "dog/5.tga"]
    said = capsys.readouterr().err
    assert said.startswith("warning: 6 other files ignored: ") and said.count("\n") == 1
    assert "1 .md" in said and "2 of them are pictures by their content" in said


LEFTOVERS = (
    "@eaDir/1.jpg/THUMB.jpg",
    "$RECYCLE.BIN/1.jpg",
    "System Volume Information/1.jpg",
    "lost+found/1.jpg",
    ".ipynb_checkpoints/1.jpg",
    "__MACOSX/1.jpg",
    "@Recycle/1.jpg",
    "#recycle/1.jpg",
    ".thumbnails/1.jpg",
    "._1.jpg",
    "~$1.jpg",
)


def test_what_file_systems_leave_behind_is_hidden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, "cat/1.jpg", "dog/1.jpg", *(f"{top}{name}" for top in ("", "cat/") for name in LEFTOVERS))
    write(tmp_path, {f"cat/{name}": b"x" for name in ("Thumbs.db", "desktop.ini", ".DS_Store")})
    assert sorted(meaning(tmp_path)) == ["cat/1.jpg", "dog/1.jpg"]
    assert capsys.readouterr().err == ""
    found, others = list_pictures(tmp_path)
    assert found == [tmp_path / "cat/1.jpg", tmp_path / "dog/1.jpg"] and not others


def test_texts_in_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "imdb"
    write(
        root,
        {
            "train/pos/0.txt": "a fine film\n",
            "train/neg/1.txt": b"\xef\xbb\xbfa poor\r\nfilm",
            "train/unsup/2.txt": "a film",
            "test/pos/3.txt": "ein gr\u00f6\u00dferer Film".encode("utf-16"),
            "test/neg/4.txt": b"caf\xe9",
            "test/neg/5.txt": " \n",
            "train/urls_pos.txt": "http://x",
            "imdb.vocab": "a",
        },
    )
    rows = read_folder(root)
    assert rows.modality == "text" and dict(
        zip(rows.inputs, zip(rows.labels, rows.given, strict=True), strict=True)
    ) == {
        "ein gr\u00f6\u00dferer Film": ("pos", "test"),
        "a poor\nfilm": ("neg", "train"),
        "a fine film": ("pos", "train"),
        "a film": (None, "train"),
    }
    assert {problem.source: problem.reason for problem in rows.problems} == {
        "test/neg/4.txt": "not UTF-8 (byte 0xe9); save it as UTF-8",
        "test/neg/5.txt": "the text is empty",
    }
    said = capsys.readouterr().err
    assert "1 other file ignored: 1 .vocab" in said and "1 texts in imdb lie outside" in said
    with pytest.raises(InjertoError, match=r"2 of 6 texts cannot be read, first: test/neg/4.txt"):
        load_domains(root).check()
    assert sum(map(len, load_domains(root).check(skip_bad=True).values())) == 4


def test_texts_without_an_ending(tmp_path: Path) -> None:
    write(tmp_path / "news", {"sci.space/60001": "to the moon", "rec.autos/101": "a car"})
    assert meaning(tmp_path / "news") == {
        "rec.autos/101": ("news", "rec.autos", None),
        "sci.space/60001": ("news", "sci.space", None),
    }
    write(tmp_path / "news", {"rec.autos/102": b"\0\1\2"})
    with pytest.raises(InjertoError, match="3 without extension"):
        read_folder(tmp_path / "news")


def test_texts_beside_pictures(tmp_path: Path) -> None:
    draw(tmp_path, "cat/1.png", "dog/2.png")
    write(tmp_path, {"cat/1.txt": "a caption", "README.txt": "x"})
    assert len(meaning(tmp_path)) == 2
    write(tmp_path, {"pos/1.txt": "good", "pos/2.txt": "fine"})
    with pytest.raises(InjertoError, match=r"2 pictures and 2 texts in class folders \(such as 'pos'\)"):
        read_folder(tmp_path)


def test_strange_names_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "p", "a\nb/1.png", "cat/2.png")
    os.mkdir(os.fsencode(tmp_path / "p") + b"/caf\xe9")
    os.link(tmp_path / "p/cat/2.png", os.fsencode(tmp_path / "p") + b"/caf\xe9/3.png")
    os.mkfifo(tmp_path / "p/cat/pipe.png")
    rows = read_folder(tmp_path / "p")
    assert rows.labels == ["a\nb", "caf\\xe9", "cat"] and all(source.encode() for source in rows.sources)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "1 other file ignored: 1 .png" in said[0] and "1 paths are not UTF-8" in said[1]
    deep = tmp_path / "deep" / "/".join("d" * 80)
    draw(deep, "1.png")
    with pytest.raises(InjertoError, match="more than 64 folders deep"):
        read_folder(tmp_path / "deep")


NAMES = st.sampled_from(
    ["a", "b", "cat", "train", "test", "val", "images", "_unlabeled", ".hid", "@eaDir", "x y", "\u00f1"]
)
ENDINGS = ("", ".png", ".JPG", ".avif", ".txt", ".md", ".xml", ".tga", ".eps")
FILES = st.tuples(st.lists(NAMES, max_size=4), st.sampled_from(["1", "2", ".3", "~$4"]), st.sampled_from(ENDINGS))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=st.lists(FILES, min_size=1, max_size=12, unique_by=str), tar=st.booleans())
def test_every_file_is_used_ignored_or_hidden_and_an_archive_is_its_tree(
    files: list[tuple[list[str], str, str]], tar: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    root = folder / "data"
    root.mkdir()
    hidden = 0
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "PNG")
    for number, (way, stem, ending) in enumerate(files):
        name = "/".join([*way, stem + ending])
        content = b"text %d" % number if ending in ("", ".txt", ".md", ".xml", ".eps") else stream.getvalue()
        write(root, {name: content})
        hidden += any(part[0] in ".@~" for part in [*way, stem + ending])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INJERTO_CACHE", str(folder / "cache"))
        told = outcome(root)
        packed = folder / ("data.tar" if tar else "data.zip")
        if tar:
            with tarfile.open(packed, "w") as archive:
                archive.add(root, ".")
        else:
            with zipfile.ZipFile(packed, "w") as archive_:
                for path in sorted(root.rglob("*")):
                    archive_.write(path, str(path.relative_to(root)))
        again = outcome(packed)
    if isinstance(told, str):
        assert isinstance(again, str)
        return
    examples, ignored = told
    assert len(examples) + ignored + hidden == len(files)
    assert not isinstance(again, str) and sorted(map(str, again[0])) == sorted(map(str, examples))
    assert again[1] == ignored


def outcome(path: Path) -> str | tuple[list[tuple[str, str, str | None, str | None]], int]:
    """Examples and the number of files reported as ignored, or the refusal."""
    lines: list[str] = []
    from injerto.domains import folders

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "note", lines.append)
        patch.setattr(folders, "warn", lines.append)
        try:
            rows = read_rows(path, ColumnNames())
        except InjertoError as error:
            return str(error)
    counts = [re.match(r"(\d+) (?:other files? ignored|(?:pictures|texts) in )", line) for line in lines]
    ignored = sum(int(match[1]) for match in counts if match)
    return list(zip(rows.sources, rows.domains, rows.labels, rows.given, strict=True)), ignored
