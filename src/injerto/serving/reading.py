"""From a request's bytes to questions, every size bounded before anything is decoded."""

import base64
import binascii
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from injerto.bank.questions import Question
from injerto.basics.errors import InjertoError
from injerto.compute.batches import BatchMaker
from injerto.domains.formats import TooLarge, open_picture
from injerto.serving.desk import Desk
from injerto.serving.schemas import MOST_ADAPTERS, MOST_ITEMS, Ask, Item


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
        seconds: Until an answer is given up.
    """

    body: int = 20_000_000
    pixels: int = 50_000_000
    characters: int = 50_000
    seconds: float = 30.0


async def read_body(request: Request, limit: int) -> bytes:
    """A request's body, given up as soon as it is too large.

    Args:
        request: Not read so far.
        limit: Bytes.

    Raises:
        Bad: Where there is more.
    """
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limit:
        raise Bad(413, f"the request has {int(said)} bytes; up to {limit} are read")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise Bad(413, f"the request has more than {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


async def read_ask(request: Request, limits: Limits) -> tuple[Ask, list[bytes]]:
    """What is asked, and pictures that were uploaded with it.

    Args:
        request: JSON, or a form with files.
        limits: Of the request.

    Returns:
        For a form the pictures' items are empty, and the pictures stand beside.

    Raises:
        Bad: Where it is neither, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request, limits.body)
    if kind == "multipart/form-data":
        return await _form(request, body)
    if kind not in ("application/json", "text/json", ""):
        raise Bad(415, f"content type {kind[:60]!r} is not read; send application/json or multipart/form-data")
    return parse(Ask, body), []


def parse(model: Any, body: bytes) -> Any:
    """JSON as a model.

    Args:
        model: A pydantic model.
        body: UTF-8.

    Raises:
        Bad: Where it does not fit.
    """
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
    found, pixels = [], 0
    for place, item in enumerate(ask.items):
        names = _names(item, ask, desk, place)
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
