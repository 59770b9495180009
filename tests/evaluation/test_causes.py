"""Plain causes: each measure sees the one thing that was changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

import injerto
from injerto.domains.domain import Domain
from injerto.evaluation.causes import Vocabulary, differences, look_at

CHANGES = {
    "brightness": (lambda p: ImageEnhance.Brightness(p).enhance(0.4), -1),
    "contrast": (lambda p: ImageEnhance.Contrast(p).enhance(0.3), -1),
    "colour": (lambda p: p.convert("L").convert("RGB"), -1),
    "sharpness": (lambda p: p.filter(ImageFilter.GaussianBlur(1.5)), -1),
    "size": (lambda p: p.resize((p.width * 3, p.height * 3)), 1),
    "shape": (lambda p: p.crop((0, 8, 32, 24)), 1),
}  # fmt: skip


def domain_of(items: list[Any], name: str = "d") -> Domain:
    ids = tuple(f"{name}{i:04d}" for i in range(len(items)))
    return Domain(name, tuple(items), (None,) * len(ids), ids, ids, ids, (None,) * len(ids), ids)


@pytest.mark.parametrize("what", CHANGES)
def test_each_look_sees_its_change(what: str, pictures: Path) -> None:
    plain = [Image.open(path).convert("RGB") for path in sorted((pictures / "day").rglob("*.png"))]
    change, sign = CHANGES[what]
    found = differences(look_at(domain_of(plain), "image"), look_at(domain_of([change(p) for p in plain]), "image"))
    entry = next(entry for entry in found if entry["what"] == what)
    assert entry["large"] and np.sign(entry["effect"]) == sign
    assert not any(entry["effect"] for entry in differences(*[look_at(domain_of(plain), "image")] * 2))


def test_brightness_of_known_pictures() -> None:
    grey = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (0, 51, 102)]
    looks = look_at(domain_of(grey), "image")
    assert looks["brightness"] == pytest.approx([0, 0.2, 0.4]) and looks["colour"] == pytest.approx([0, 0, 0])
    assert looks["size"] == pytest.approx([3, 3, 3]) and looks["contrast"] == pytest.approx([0, 0, 0])


def test_a_picture_that_cannot_be_read_is_left_out() -> None:
    looks = look_at(domain_of([b"no picture", Image.new("RGB", (8, 8), "white")]), "image")
    assert looks["brightness"] == pytest.approx([1.0])


def test_texts() -> None:
    loud = look_at(domain_of(["STOP IT NOW!!", "YES!!!"]), "text")
    calm = look_at(domain_of(["stop it now please", "well yes"]), "text")
    assert loud["capitals"].tolist() == [1, 1] and calm["capitals"].tolist() == [0, 0]
    assert calm["length"].tolist() == [2, 1] and loud["marks"][1] == pytest.approx(0.5)


def test_the_share_of_words_that_are_known() -> None:
    one = Vocabulary(domain_of(["a film is a film", "good"]))
    other = Vocabulary(domain_of(["a book is a book"]))
    assert one.covers(other) == pytest.approx(3 / 5) and other.covers(one) == pytest.approx(3 / 6)
    assert one.covers(Vocabulary(domain_of([""]))) is None


def test_languages() -> None:
    spanish = ["el perro corre por la calle todos los días", "mañana vamos a la playa con los niños"] * 5
    english = ["the dog runs along the street every day", "tomorrow we go to the beach with the children"] * 5
    assert next(iter(Vocabulary(domain_of(spanish)).languages)) == "es"
    assert Vocabulary(domain_of(english)).languages == {"en": 1.0}
    assert Vocabulary(domain_of(["short one"])).languages == {}


def test_line_drawings_are_sharper_paler_and_brighter() -> None:
    domains = injerto.load_domains("emoji-styles")
    noto, line = (look_at(domains[name], "image") for name in ("noto", "openmoji-line"))
    found = {entry["what"]: entry["effect"] for entry in differences(noto, line)}
    assert found["sharpness"] > 3 and found["colour"] < -2 and found["brightness"] > 1
