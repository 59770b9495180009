"""JSON from outside: what is bounded, and what has two meanings."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from injerto.basics.errors import InjertoError, shorten
from injerto.basics.json import load_json
from injerto.basics.limits import JSON_DEPTH, JSON_NODES, MESSAGE

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read(value: Any) -> None:
    assert load_json(json.dumps(value).encode(), "it") == value


@given(st.binary(max_size=40))
def test_anything_is_read_or_refused_in_a_line(data: bytes) -> None:
    try:
        load_json(data, "it")
    except InjertoError as error:
        assert "\n" not in str(error) and str(error).startswith("it ")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b'{"b": {"a": 1, "c": 0, "a": 1}}', "'a' is there twice"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[" * 100_000, "deep"),
        (b"[" * (JSON_DEPTH + 1) + b"]" * (JSON_DEPTH + 1), "deep"),
        (b"[" + b"0," * JSON_NODES + b"0]", "values"),
        (b"9" * 5000, "not valid JSON"),
        (b'"\xff"', "not valid JSON"),
    ],
)
def test_what_is_out_of_bounds_or_unclear_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InjertoError, match=says):
        load_json(data, "it")


def test_so_deep_is_read() -> None:
    assert load_json(b"[" * JSON_DEPTH + b"]" * JSON_DEPTH, "it")


@given(st.text(max_size=60), st.integers(8, 50))
def test_a_text_is_shortened_to_its_ends(text: str, length: int) -> None:
    found = shorten(text, length)
    assert len(found) <= length and (found == text or " ... " in found)
    assert found[:1] == text[:1] and found[-1:] == text[-1:]


def test_no_message_is_longer_than_a_page() -> None:
    assert len(str(InjertoError("shape " + "9, " * 10_000))) <= MESSAGE + 100
