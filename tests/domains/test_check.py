from pathlib import Path

import pytest
from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.domains import check
from injerto.domains.load import load_domains


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INJERTO_CACHE", str(tmp_path / "cache"))
    for index in range(10):
        path = tmp_path / "data" / "ab"[index % 2] / "xy"[index % 3 % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (index * 20, 9, 9)).save(path)
    return tmp_path / "data"


def test_bad_pictures_are_listed_counted_and_skipped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (folder / "a" / "x" / "0.jpg").read_bytes()
    (folder / "a" / "x" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "b" / "x" / "text.jpg").write_text("no picture")
    domains = load_domains(folder)
    assert len(domains["a"]) == 6
    with pytest.raises(
        InjertoError, match=r"2 of 12 images cannot be read, first: a/x/cut.jpg \(.*\); mend .* --skip-bad"
    ):
        domains.check()
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "warning: b/x/text.jpg: not a picture" and len(lines) == 2
    kept = domains.check(skip_bad=True)
    assert [problem.source for problem in kept.problems] == ["a/x/cut.jpg", "b/x/text.jpg"]
    assert len(kept["a"]) == len(kept["b"]) == 5 and "2 of 12 images" in capsys.readouterr().err
    assert kept["a"].ids == tuple(sorted(kept["a"].ids)) and "a/x/cut.jpg" not in kept["a"].sources


def test_a_sound_data_set_is_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    decode = check.decode
    monkeypatch.setattr(check, "decode", lambda *given: calls.append(given) or decode(*given))
    assert load_domains(folder).check().problems == ()
    assert len(calls) == 10
    load_domains(folder).check()
    assert len(calls) == 10
    (folder / "a" / "x" / "0.jpg").write_bytes(b"now broken")
    with pytest.raises(InjertoError, match="1 of 10"):
        load_domains(folder).check()
    with pytest.raises(InjertoError, match="1 of 10"):  # a failure is not remembered as sound
        load_domains(folder).check()


def test_nothing_left(folder: Path) -> None:
    for path in folder.rglob("*.jpg"):
        path.write_text(path.name)
    with pytest.raises(InjertoError, match="none of 10 images can be read"):
        load_domains(folder).check(skip_bad=True)


def test_a_single_bad_picture_is_said_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a" / "x" / "text.jpg").write_text("no picture")
    with pytest.raises(InjertoError, match=r"1 of 11 images cannot be read, first: a/x/text.jpg \(not a picture\)"):
        load_domains(folder).check()
    assert "warning" not in capsys.readouterr().err


def test_a_domain_whose_name_begins_with_an_equals_sign(tmp_path: Path) -> None:
    from injerto.domains.elsewhere import named_in, paths_elsewhere
    from injerto.domains.load import load_domains

    (tmp_path / "t.csv").write_text("text,label,domain\na,x,=odd\nb,y,a=b\n")
    domains = load_domains(tmp_path / "t.csv")
    assert paths_elsewhere(["=odd", "a=b"]) == {} and named_in(domains, ["=odd", "a=b"]) == ("=odd", "a=b")


def test_remarks_are_made_again_and_the_check_is_keyed_by_what_decides_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "a" / "x" / "pages.tif", save_all=True, append_images=frames[1:])
    calls = []
    decode = check.decode
    monkeypatch.setattr(check, "decode", lambda *given: calls.append(given) or decode(*given))
    for _ in range(2):
        load_domains(folder).check()
        assert "1 pictures hold several frames or pages; the first of each is used (first: a/x/pages.tif)" in (
            capsys.readouterr().err
        )
    assert len(calls) == 11
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InjertoError, match="11 of 11 images cannot be read"):
        load_domains(folder).check()
