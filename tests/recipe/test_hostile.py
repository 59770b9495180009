"""Settings from a stranger: refused in one short line, in little time and memory."""

import os
import time
import tracemalloc
from pathlib import Path

import pytest

from injerto.basics.errors import InjertoError
from injerto.basics.limits import MESSAGE, RECIPE_BYTES, RECIPE_DEPTH, RECIPE_NODES
from injerto.recipe.mapping import load_mapping
from injerto.recipe.recipe import load_recipe, make_recipe

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
LINE = LAUGHS.replace("a8", "source")
MERGES = "b0: &b0 {k: 1}\n" + "".join(f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 9)}]}}\n" for n in range(1, 9))
HOSTILE = {
    "billion laughs": LAUGHS,
    "in a setting": LINE,
    "merge keys": MERGES,
    "long text again and again": f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 5_000)}]\n",
    "holds itself": "a: &a [*a]\n",
    "deep": "data: " + "[" * 50_000,
    "deep and closed": "data: " + "[" * 200 + "]" * 200,
    "deep in lines": "".join(f"{' ' * n}a:\n" for n in range(600)),
    "many values": "source: [" + ", ".join(["a"] * 60_000) + "]",
    "many names": "".join(f"k{n}: 1\n" for n in range(20_001)),
    "many megabytes": "data: " + "x" * 20_000_000,
    "many comments": "# x\n" * 5_000_000,
    "python": "data: !!python/object/apply:os.system ['true']",
    "a tag": "data: !x y",
    "a set": "data: !!set {a, b}",
    "a date": "data: 2001-99-99",
    "a long number": "seed: " + "9" * 100_000,
    "a long number in base 60": "seed: 1" + ":1" * 40_000,
    "a long binary number": "seed: 0b" + "1" * 100_000,
    "a long word": "tuning: " + "x" * 200_000,
    "a long name": "x" * 200_000 + ": 1",
    "not a number": "lr: .nan",
    "a key that is a list": "? [a, b]\n: c",
    "control characters": "data: \x1b[2J",
    "not UTF-8": "data: \udcff",
    "several documents": "data: a\n---\ndata: b\n",
    "quotes": "data: '" + "''" * 100_000,
    "questions": "? " * 50_000,
    "dashes": "- " * 50_000,
    "braces": "{" * 50_000,
    "anchors": " ".join(f"&a{n}" for n in range(20_000)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_settings_are_one_short_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(HOSTILE[kind].encode("utf-8", "surrogateescape"))
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(InjertoError) as error:
        make_recipe(**{"data": "x", **load_recipe(path)})
    peak, seconds = tracemalloc.get_traced_memory()[1], time.process_time() - begin
    tracemalloc.stop()
    said = str(error.value)
    assert "\n" not in said and 0 < len(said) <= MESSAGE + 100
    assert peak < 60e6 and seconds < 4  # several times as long as without tracemalloc


def test_a_pipe_is_no_file_of_settings(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(InjertoError, match="pipe"):
        load_recipe(tmp_path / "c.yaml")


def test_settings_as_people_write_them_are_read() -> None:
    text = "common: &c {lr: 1e-3}\nmore:\n  <<: *c\n  steps: 3\nsource: &s [a, b]\ntarget: *s\nlabel: !!str 1\n"
    found = load_mapping(text)
    assert found["more"] == {"lr": "1e-3", "steps": 3} and found["target"] == ["a", "b"] and found["label"] == "1"
    many = [f"domain {n}=some/where/far/away/{n}" for n in range(3_000)]
    assert load_mapping(f"data: x\ntarget: {many}")["target"] == many
    assert RECIPE_BYTES > 100_000 and RECIPE_NODES > 5_000 and RECIPE_DEPTH > 5
