"""From a request's bytes to questions, every size bounded before anything is decoded."""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from injerto.bank.questions import Question
from injerto.basics import limits as bounds
from injerto.basics.errors import InjertoError
from injerto.compute.batches import BatchMaker
from injerto.domains.formats import TooLarge, open_picture
from injerto.serving.desk import Desk
from injerto.serving.schemas import MOST_ADAPTERS, MOST_ITEMS, Ask, Item

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A string of JSON; one that never ends goes to the end, so that nothing is looked at twice."""


class Bad(InjertoError):
    """A request that cannot be answered.

    Attributes:
        status: HTTP status code.
    """

    def __init__(self, status: int, message: str) -> None:
        """Say why.

        Args:
            status: HTTP status code.
            message: What was wrong, in a sentence.
        """
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class Limits:
    """How large a request may be.

    Attributes:
        body: Bytes of a request.
        pixels: Of a request's pictures together.
        characters: Of a text.
        questions: Inputs times the adapters that each names.
        values: Probabilities of an answer.
        seconds: Until an answer is given up.
        bodies: Bytes of the bodies that are held at the same time.
    """

    body: int = bounds.REQUEST_BYTES
    pixels: int = bounds.REQUEST_PIXELS
    characters: int = bounds.TEXT_CHARACTERS
    questions: int = bounds.REQUEST_QUESTIONS
    values: int = bounds.ANSWER_VALUES
    seconds: float = bounds.ANSWER_SECONDS
    bodies: int = bounds.BODIES_BYTES


class Room:
    """Bytes of bodies that are held at the same time: of all clients, and of each not more than half."""

    def __init__(self, total: int) -> None:
        """Begin empty.

        Args:
            total: Bytes of all.
        """
        self.total = total
        self._held = Counter[str]()

    @contextmanager
    def hold(self, client: str) -> Iterator[Callable[[int], None]]:
        """Room for one body, given back at the end.

        Args:
            client: The address that sends it.

        Yields:
            A function that takes as many bytes more, and raises :class:`Bad` where there is no room for them.
        """
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if self._held.total() + count > self.total or self._held[client] + count > self.total // 2:
                raise Bad(503, "the server reads as many large requests as it may; try again in a moment")
            mine += count
            self._held[client] += count

        try:
            yield take
        finally:
            self._held[client] -= mine
            if self._held[client] <= 0:
                del self._held[client]


def kind_of(request: Request) -> str:
    """A request's content type, in lower case and without parameters.

    Args:
        request: Any.
    """
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, limit: int, take: Callable[[int], None]) -> bytes:
    """A request's body, given up as soon as it is too large.

    Args:
        request: Not read so far.
        limit: Bytes.
        take: Told of the bytes that are held; raises where there is no room for them.

    Raises:
        Bad: Where there is more, or less than was promised.
    """
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said[:20]) > limit:
        raise Bad(413, f"the request has {said[:20]} bytes; up to {limit} are read")
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise Bad(413, f"the request has more than {limit} bytes")
            take(len(chunk))
            chunks.append(chunk)
    except ClientDisconnect:  # nobody hears this
        raise Bad(400, "the request broke off") from None
    return b"".join(chunks)


async def read_ask(request: Request, limits: Limits, take: Callable[[int], None]) -> tuple[Ask, list[bytes]]:
    """What is asked, and pictures that were uploaded with it.

    Args:
        request: JSON, or a form with files.
        limits: Of the request.
        take: As :func:`read_body` has it.

    Returns:
        For a form the pictures' items are empty, and the pictures stand beside.

    Raises:
        Bad: Where it is neither, or too large.
    """
    kind = kind_of(request)
    if kind not in ("application/json", "multipart/form-data"):
        raise Bad(415, f"content type {kind[:60]!r} is not read; send application/json or multipart/form-data")
    body = await read_body(request, limits.body, take)
    if kind == "multipart/form-data":
        return await _form(request, body)
    return parse(Ask, body), []


def parse(model: Any, body: bytes) -> Any:
    """JSON as a model.

    Args:
        model: A pydantic model.
        body: UTF-8.

    Raises:
        Bad: Where it does not fit, or holds more values than any request needs: each costs far more than its bytes.
    """
    rest, strings = _STRING.subn(b"", body, bounds.JSON_STRINGS + 1)
    if strings > bounds.JSON_STRINGS or len(rest) > bounds.JSON_REST:
        raise Bad(413, f"the JSON has too many values; up to {bounds.JSON_STRINGS} strings and little else are read")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        words = "there is no such field" if first["type"] == "extra_forbidden" else first["msg"]
        raise Bad(422, (f"{place}: {words}" if place else words)[:300]) from None
    except RecursionError:
        raise Bad(422, "the JSON is nested too deeply") from None


async def _form(request: Request, body: bytes) -> tuple[Ask, list[bytes]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(
            request.headers, stream(), max_files=MOST_ITEMS, max_fields=MOST_ADAPTERS + 8, max_part_size=10_000
        ).parse()
    except (MultiPartException, KeyError, ValueError, AssertionError, UnicodeDecodeError) as error:
        raise Bad(400, f"the form cannot be read: {str(error)[:100]}") from None
    names: list[str] = []
    strength: Any = 1.0
    pictures = []
    try:
        for key, value in form.multi_items():
            if isinstance(value, UploadFile):
                pictures.append(await value.read())
            elif key in ("adapter", "adapters"):
                names.append(value)
            elif key == "strength":
                strength = value
            else:
                raise Bad(422, f"'{key[:60]}' is no field; send files, adapter and strength")
    finally:
        await form.close()
    if not pictures:
        raise Bad(422, "the form has no file")
    try:
        item = {"adapters": names or None, "strength": float(strength)}
    except ValueError:
        raise Bad(422, "strength: a number from 0 to 1") from None
    return parse(Ask, json.dumps({"items": [item] * len(pictures)}).encode()), pictures


def questions_of(ask: Ask, uploaded: Sequence[bytes], desk: Desk, limits: Limits) -> list[list[Question]]:
    """Questions by item; pictures are decoded here.

    Args:
        ask: What is asked.
        uploaded: Pictures for its items, or none.
        desk: Who can be asked.
        limits: Of pictures and texts.

    Raises:
        Bad: Where an item has no input or more than one, or one that is not of its adapter's kind.
        UnknownAdapter: Where an adapter is not there.
    """
    by_item = [_names(item, ask, desk, place) for place, item in enumerate(ask.items)]
    _bound(by_item, desk, limits)
    found, pixels = [], 0
    for place, (item, names) in enumerate(zip(ask.items, by_item, strict=True)):
        wanted = {desk.bank_of(name).base.modality for name in names}
        picture = uploaded[place] if uploaded else None
        given = {"text": item.text is not None, "image": item.image is not None or picture is not None}
        if sum(given.values()) != 1:
            raise Bad(422, f"items.{place}: give a text or an image")
        kind = "text" if given["text"] else "image"
        if wanted != {kind}:
            takes = "texts, and this is a picture"
            if kind == "text":
                takes = "pictures, and this is a text (a picture is sent as image, from Python as a Path)"
            raise Bad(422, f"items.{place}: '{names[0]}' takes {takes}")
        content = item.text if kind == "text" else picture if picture is not None else _decoded(item.image, place)
        if isinstance(content, str):
            if not content.strip():
                raise Bad(422, f"items.{place}: the text is empty")
            if len(content) > limits.characters:
                raise Bad(413, f"items.{place}: {len(content)} characters; up to {limits.characters} are read")
            found.append([Question(content, name, item.strength) for name in names])
            continue
        pixels += _pixels(content or b"", place)
        if pixels > limits.pixels:
            raise Bad(413, f"items.{place}: {pixels} pixels so far; up to {limits.pixels} are read")
        looks = {name: desk.resident(name).preprocessing for name in names}
        prepared = {size: _picture(content or b"", place, size) for size in dict.fromkeys(looks.values())}
        found.append([Question(prepared[looks[name]], name, item.strength) for name in names])
    return found


def _bound(by_item: Sequence[Sequence[str]], desk: Desk, limits: Limits) -> None:
    """Refuse a request that asks for too much, before anything is decoded."""
    asked = Counter(name for names in by_item for name in names)
    if asked.total() > limits.questions:
        raise Bad(413, f"{asked.total()} questions (inputs times adapters); up to {limits.questions} are answered")
    values = sum(count * len(desk.bank_of(name).about(name).card["labels"]) for name, count in asked.items())
    if values > limits.values:
        raise Bad(413, f"{values} probabilities (questions times classes); up to {limits.values} are answered")


def _names(item: Item, ask: Ask, desk: Desk, place: int) -> list[str]:
    if item.adapter is not None and item.adapters:
        raise Bad(422, f"items.{place}: give adapter or adapters")
    names = item.adapters or [name for name in (item.adapter, ask.adapter) if name is not None][:1]
    if not names:
        names = desk.names
        if len(names) != 1:
            raise Bad(422, f"items.{place}: name an adapter; there are {len(names)}")
    return list(dict.fromkeys(names))


def _decoded(text: str | None, place: int) -> bytes:
    head, comma, rest = (text or "").partition(",")
    try:
        return base64.b64decode(rest if comma and head.startswith("data:") else text or "", validate=True)
    except (binascii.Error, ValueError):
        raise Bad(422, f"items.{place}: the image is not valid base64") from None


def _pixels(content: bytes, place: int) -> int:
    """How many a picture has, by its header."""
    try:
        with open_picture(content) as header:
            return header.width * header.height
    except TooLarge:
        raise Bad(413, f"items.{place}: the picture has too many pixels") from None
    except Exception:  # a picture's decoder may raise anything
        raise Bad(422, f"items.{place}: this is no picture that can be read") from None


def _picture(content: bytes, place: int, looks: Any) -> np.ndarray:
    """A picture as a model is to see it: what waits in the queue is small."""
    try:
        return BatchMaker(looks, "cpu").image(content)
    except InjertoError:
        raise Bad(422, f"items.{place}: the picture is damaged") from None
