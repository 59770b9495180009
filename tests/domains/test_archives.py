import hashlib
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.domains import archives
from injerto.domains.load import load_domains
from injerto.domains.rows import content_of


def picture(level: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(stream, "PNG")
    return stream.getvalue()


FILES = {"a/cat/1.png": picture(1), "a/dog/2.png": picture(2), "b/cat/3.png": picture(3), "notes.txt": b"hello"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INJERTO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("suffix", archives.SUFFIXES)
def test_every_kind_reads_alike_and_is_unpacked_once(
    tmp_path: Path, cache: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"my.data{suffix}"
    files = {f"wrapper/{name}": data for name, data in FILES.items()} | {"__MACOSX/wrapper/a/cat/._1.png": b"no"}
    if suffix == ".zip":
        write_zip(path, files)
    else:
        write_tar(path, files, {"gz": "w:gz", "xz": "w:xz", "z2": "w:bz2"}.get(suffix[-2:], "w"))
    domains = load_domains(path)
    assert domains.name == "my.data"
    assert {name: sorted(domain.sources) for name, domain in domains.items()} == {
        "a": ["a/cat/1.png", "a/dog/2.png"],
        "b": ["b/cat/3.png"],
    }
    kept = [entry for entry in cache.rglob("*") if entry.is_file()]
    assert len(kept) == 4 + 1  # without what macOS left behind, with a manifest
    assert len(list((cache / "archives").iterdir())) == 1
    assert capsys.readouterr().err == "1 other file ignored: 1 .txt (in my.data, first: wrapper/notes.txt)\n"
    before = {entry: entry.stat().st_mtime_ns for entry in kept}
    load_domains(path)
    assert before == {entry: entry.stat().st_mtime_ns for entry in kept}  # unpacked once


def test_without_wrapper_a_single_domain_has_the_archives_name(tmp_path: Path) -> None:
    assert list(load_domains(write_zip(tmp_path / "pets.zip", {"cat/1.png": picture(1), "dog/2.png": picture(2)}))) == [
        "pets"
    ]
    assert list(load_domains(write_zip(tmp_path / "flat.zip", {"1.png": picture(1)}))) == ["flat"]


def test_an_empty_class_folder_in_an_archive_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_domains(write_zip(tmp_path / "p.zip", FILES | {"a/bird/": b""}))
    assert "class folder 'a/bird' holds no images; ignored" in capsys.readouterr().err


HOSTILE = ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "C:\\evil.png", "..\\evil.png", "\\\\server\\evil.png"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_paths_out_of_the_archive_are_refused(
    tmp_path: Path, cache: Path, name: str, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    path = write(tmp_path / ("bad.zip" if write is write_zip else "bad.tar"), FILES | {name: picture(9)})
    with pytest.raises(InjertoError, match="is refused: member .* points outside") as error:
        load_domains(path)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("evil.png")) and not list((cache / "archives").iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        info = tarfile.TarInfo("a/cat/x.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(InjertoError, match=r"'a/cat/x.png' is a link or device"):
        load_domains(tmp_path / "bad.tar")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        info = zipfile.ZipInfo("a/cat/x.png")
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InjertoError, match="is a link or device"):
        load_domains(tmp_path / "bad.zip")


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "big.zip", FILES)
    with monkeypatch.context() as patch:
        patch.setattr(archives, "MAX_MEMBERS", 2)
        with pytest.raises(InjertoError, match="more than 2 members"):
            load_domains(path)
    with monkeypatch.context() as patch:
        patch.setattr(archives, "MAX_MEMBER_BYTES", 10)
        with pytest.raises(InjertoError, match="bytes, more than 10"):
            load_domains(path)
    with monkeypatch.context() as patch:
        patch.setattr(archives, "_SPARE_BYTES", 2**60)
        with pytest.raises(InjertoError, match="does not fit on the disk"):
            load_domains(path)
    assert len(load_domains(path)) == 2


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tar.xz", "x.tar.bz2"])
def test_a_broken_archive_is_one_line(tmp_path: Path, cache: Path, name: str) -> None:
    path = tmp_path / name
    noise = {f"c/{index}.png": os.urandom(20_000) for index in range(4)}
    if name == "x.zip":
        write_zip(path, noise)
    else:
        write_tar(path, noise, {"gz": "w:gz", "xz": "w:xz", "z2": "w:bz2"}.get(name[-2:], "w"))
    whole = path.read_bytes()
    for data in (b"", b"not an archive", whole[: len(whole) // 2], whole[:3000] + bytes(5000) + whole[8000:]):
        path.write_bytes(data)
        if name == "x.tar" and len(data) == len(whole):
            continue  # a plain tar has no checksum over contents
        with pytest.raises(InjertoError) as error:
            load_domains(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not list((cache / "archives").iterdir())


def test_an_archive_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(InjertoError, match="the archive t holds no pictures; expected"):
        load_domains(write_zip(tmp_path / "t.zip", {"notes.txt": b"x"}))


def test_a_bomb_is_refused_before_it_is_written(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"cat/{number}.bmp", bytes(40_000_000))
    with pytest.raises(InjertoError, match="unpacks to more than 200 times its size"):
        load_domains(path)
    assert not list((cache / "archives").iterdir())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        for level in (1, 2):
            archive.writestr("cat/1.png", picture(level))
    with pytest.raises(InjertoError, match=r"member 'cat/1.png' is there twice"):
        load_domains(tmp_path / "twice.zip")


def test_names_in_a_zip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Backslashes of Windows, UTF-8 without its mark as macOS writes it, and a code page that is not named."""
    windows = load_domains(write_zip(tmp_path / "w.zip", {"cat\\1.png": picture(1), "dog\\2.png": picture(2)}))
    assert set(windows["w"].labels) == {"cat", "dog"} and capsys.readouterr().err == ""
    for name, stored, expected in (("mac", "niño", "niño"), ("shift", "猫", None)):
        encoded = stored.encode("utf-8" if expected else "shift_jis")
        stand_in = "x" * len(encoded)
        data = write_zip(tmp_path / f"{name}.zip", {f"{stand_in}/1.png": picture(1), "dog/2.png": picture(2)})
        data.write_bytes(data.read_bytes().replace(stand_in.encode(), encoded))
        labels = {label for label in load_domains(data)[name].labels if label != "dog"}
        assert labels == {expected or encoded.decode("cp437")}
        assert ("are read as code page 437" in capsys.readouterr().err) == (expected is None)


def test_tables_in_an_archive_are_read_as_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    for split, rows in {"train": range(6), "val": range(6, 9), "test": range(9, 12)}.items():
        lines = ["text,label", *(f"text {row},{'ab'[row % 2]}" for row in rows)]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    wanted = load_domains(folder)["tables"]
    for wrapped in (False, True):
        packed = tmp_path / f"tables{wrapped}.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, f"inner/{file.name}" if wrapped else file.name)
        (found,) = load_domains(packed).values()
        assert (found.ids, found.labels, found.given) == (wanted.ids, wanted.labels, wanted.given)


def test_a_list_of_pictures_in_an_archive_gives_their_labels(tmp_path: Path) -> None:
    packed = tmp_path / "pictures.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for place in range(4):
            stream = io.BytesIO()
            Image.new("RGB", (8, 8), (60 * place, 0, 0)).save(stream, "PNG")
            archive.writestr(f"{place}.png", stream.getvalue())
        archive.writestr("metadata.csv", "file_name,label\n0.png,a\n1.png,a\n2.png,b\n3.png,b\n")
    found = load_domains(packed)["pictures"]
    labels = {Path(str(item)).name: label for item, label in zip(found.inputs, found.labels, strict=True)}
    assert labels == {"0.png": "a", "1.png": "a", "2.png": "b", "3.png": "b"}


@pytest.mark.parametrize("damage", ["flipped", "cut", "removed", "added"])
def test_an_unpacked_folder_that_changed_is_unpacked_again(
    tmp_path: Path, cache: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = write_zip(tmp_path / "p.zip", FILES)

    def read() -> dict[str, tuple[str, ...]]:
        found = {
            name: (*domain.sources, *domain.contents, *domain.labels) for name, domain in load_domains(packed).items()
        }
        assert all(content_of(item) == hashlib.sha256(Path(str(item)).read_bytes()).hexdigest()
                   for domain in load_domains(packed).values() for item in domain.inputs)  # fmt: skip
        return found

    expected = read()
    (picture_of_a,) = cache.rglob("2.png")
    content = bytearray(picture_of_a.read_bytes())
    if damage == "flipped":
        content[-20] ^= 1
    if damage == "removed":
        picture_of_a.unlink()
    else:
        picture_of_a.write_bytes(content[:-20] if damage == "cut" else content)
    if damage == "added":
        (picture_of_a.parent / "mine.png").write_bytes(picture(200))
    capsys.readouterr()
    assert read() == expected
    assert capsys.readouterr().err.count("is not as it was written") == 1
    assert len(list(cache.rglob("mine.png"))) == (damage == "added")  # moved aside, and said


def test_a_killed_unpacking_is_removed_by_the_next(tmp_path: Path, cache: Path) -> None:
    packed, other = (write_zip(tmp_path / f"{name}.zip", FILES | {"x.txt": name.encode()}) for name in "ab")
    child = os.fork()
    if child == 0:
        archives._Writer.file = lambda *_: os._exit(9)  # type: ignore[assignment, method-assign]
        load_domains(packed)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [path.name for path in (cache / "archives").iterdir() if path.name.endswith(".tmp")]
    load_domains(other)
    assert [len(path.name) for path in (cache / "archives").iterdir()] == [64]
