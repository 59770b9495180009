from pathlib import Path

import pytest
from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.domains.domain import Domains
from injerto.domains.load import load_domains


def draw(root: Path, *names: str) -> None:
    """Write one small picture per name, each of its own colour."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = tuple(hash_byte(name, salt) for salt in "rgb")
        kind = {"tif": "TIFF", "tiff": "TIFF", "jpg": "JPEG", "jpeg": "JPEG"}.get(
            path.suffix[1:].lower(), path.suffix[1:]
        )
        Image.new("RGB", (8, 8), colour).save(path, kind.upper())


def hash_byte(name: str, salt: str) -> int:
    return sum((index + 7) * byte for index, byte in enumerate((salt + name).encode())) % 256


def found(domains: Domains) -> dict[str, dict[str, str | None]]:
    """Domain -> source -> label."""
    return {name: dict(zip(domain.sources, domain.labels, strict=True)) for name, domain in domains.items()}


def test_domains_and_classes(tmp_path: Path) -> None:
    draw(
        tmp_path,
        "a/cat/1.png",
        "a/dog/2.jpg",
        "b/cat/3.webp",
        "b/dog/4.GIF",
        "b/dog/5.tiff",
        "b/dog/6.bmp",
        "b/dog/7.JPEG",
    )
    domains = load_domains(tmp_path)
    assert domains.modality == "image" and domains.name == tmp_path.name
    assert found(domains) == {
        "a": {"a/cat/1.png": "cat", "a/dog/2.jpg": "dog"},
        "b": {f"b/dog/{name}": "dog" for name in ("4.GIF", "5.tiff", "6.bmp", "7.JPEG")} | {"b/cat/3.webp": "cat"},
    }


def test_a_single_domain_is_named_after_the_folder(tmp_path: Path) -> None:
    draw(tmp_path, "pets/cat/1.png", "pets/dog/2.png")
    expected = {"pets": {"cat/1.png": "cat", "dog/2.png": "dog"}}
    assert found(load_domains(tmp_path / "pets")) == expected
    assert found(load_domains(tmp_path)) == expected  # the folder above is a wrapper


def test_wrappers_are_seen_through_down_to_a_single_class(tmp_path: Path) -> None:
    draw(tmp_path, "x/y/z/photo/cat/1.png", "x/y/z/sketch/cat/2.png")
    (tmp_path / "x" / "lists").mkdir()
    (tmp_path / "x" / "lists" / "train.txt").write_text("photo/cat/1.png 1")
    assert found(load_domains(tmp_path)) == {"photo": {"photo/cat/1.png": "cat"}, "sketch": {"sketch/cat/2.png": "cat"}}
    draw(tmp_path / "one", "cat/1.png")
    assert found(load_domains(tmp_path / "one")) == {"one": {"cat/1.png": "cat"}}


def test_pictures_directly_in_the_root_are_one_unlabelled_domain(tmp_path: Path) -> None:
    draw(tmp_path / "new", "1.png", "2.png")
    assert found(load_domains(tmp_path / "new")) == {"new": {"1.png": None, "2.png": None}}


def test_unlabelled_and_stray_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(
        tmp_path,
        "a/cat/1.png",
        "a/_unlabeled/2.png",
        "a/_unlabelled/2.png",
        "b/3.png",
        "stray.png",
        "a/cat/deep/4.png",
        "a/.hid/5.png",
    )
    draw(tmp_path, "__MACOSX/a/cat/6.png", "a/cat/.7.png")
    assert found(load_domains(tmp_path)) == {
        "a": {"a/cat/1.png": "cat", "a/_unlabeled/2.png": None, "a/_unlabelled/2.png": None},
        "b": {"b/3.png": None},
    }
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("2 pictures") and "ignored" in lines[0]


def test_pictures_too_deep_are_told_with_one_of_them(tmp_path: Path) -> None:
    draw(tmp_path, "clinic/cat/plate1/1.png", "clinic/dog/plate1/2.png", "lab/cat/plate2/3.png", "lab/dog/plate3/4.png")
    with pytest.raises(InjertoError, match=r"too deep \('(clinic|lab)/(cat|dog)/plate\d/\d.png'\); expected") as error:
        load_domains(tmp_path)
    assert "\n" not in str(error.value)


def test_an_empty_class_folder_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path, "noto/y/1.png", "b/y/2.png")
    (tmp_path / "noto" / "x").mkdir()
    load_domains(tmp_path)
    assert capsys.readouterr().err == "class folder 'noto/x' holds no images; ignored\n"


def test_no_pictures_at_all(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InjertoError, match=r"no pictures \(found: 1 \.txt\); expected") as error:
        load_domains(tmp_path)
    assert "\n" not in str(error.value)


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    draw(tmp_path, "a/cat/1.png", "b/cat/2.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    domains = load_domains(tmp_path)
    assert found(domains) == {"a": {"a/cat/1.png": "cat"}, "b": {"b/cat/2.png": "cat"}}
    assert [problem.source for problem in domains.problems] == ["b/cat/gone.png"]


def test_one_name_typed_in_two_unicode_forms_is_one_class(tmp_path: Path) -> None:
    draw(tmp_path, "a/ni\u00f1o/1.png", "b/nin\u0303o/2.png")
    assert load_domains(tmp_path)["a"].labels == load_domains(tmp_path)["b"].labels == ("ni\u00f1o",)


def test_an_extra_domain_from_elsewhere(tmp_path: Path) -> None:
    draw(tmp_path / "data", "a/cat/1.png", "b/cat/2.png")
    draw(tmp_path / "mine", "3.png", "4.png")
    draw(tmp_path / "sorted", "p/cat/5.png", "q/dog/6.png")
    domains = load_domains(tmp_path / "data", extra={"phone": tmp_path / "mine", "web": str(tmp_path / "sorted")})
    assert list(domains) == ["a", "b", "phone", "web"]
    assert found(domains)["phone"] == {"phone/3.png": None, "phone/4.png": None}
    assert found(domains)["web"] == {"web/p/cat/5.png": "cat", "web/q/dog/6.png": "dog"}
    with pytest.raises(InjertoError, match="'a' is in data already"):
        load_domains(tmp_path / "data", extra={"a": tmp_path / "mine"})
    with pytest.raises(InjertoError, match="one kind"):
        load_domains(tmp_path / "data", extra={"t": text_table(tmp_path)})


def text_table(folder: Path) -> Path:
    path = folder / "t.csv"
    path.write_text("text\nhello\n")
    return path


def test_unknown_names_get_suggestions(tmp_path: Path) -> None:
    with pytest.raises(InjertoError, match="no file, folder or sample 'emoji-style'; did you mean 'emoji-styles'"):
        load_domains("emoji-style")
    draw(tmp_path, "photos/cat/1.png")
    with pytest.raises(InjertoError, match="did you mean 'photos'"):
        load_domains(tmp_path / "photo")
    (tmp_path / "a.xyz").write_text("")
    with pytest.raises(InjertoError, match=r"cannot read domains from the file .*a\.xyz"):
        load_domains(tmp_path / "a.xyz")
    with pytest.raises(InjertoError, match="from a int"):
        load_domains(3)
