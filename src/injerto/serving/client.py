"""Asking a server from Python, without anything but the standard library."""

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from injerto.basics.errors import InjertoError
from injerto.serving.gate import admin_token


class ServerError(InjertoError):
    """The server refused, or could not answer.

    Attributes:
        status: HTTP status code; None where it was not reached.
        retry_after: Seconds after which it is likely to have room, where it said so.
    """

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        """Say why.

        Args:
            message: In a sentence.
            status: HTTP status code.
            retry_after: Seconds.
        """
        self.status, self.retry_after = status, retry_after
        super().__init__(message)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: the key would go along to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        """Not."""


class Client:
    """A server's adapters.

    Examples:
        >>> client = injerto.Client("http://127.0.0.1:8000")  # doctest: +SKIP
        >>> client.predict(["the film was very good"], "films")[0]["label"]  # doctest: +SKIP
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        timeout: float = 60.0,
        token: str | None = None,
    ) -> None:
        """Remember where the server is.

        Args:
            url: Its address.
            key: An API key, where it asks for one.
            timeout: Seconds to wait for an answer.
            token: The management token, for :meth:`load` and :meth:`unload`; ``INJERTO_ADMIN_TOKEN`` where not given.

        Raises:
            InjertoError: Where the address is none, or a key or token is empty.
        """
        if not url.startswith(("http://", "https://")):
            raise InjertoError(f"a server's address begins with http:// or https://, not {url[:60]!r}")
        for name, secret in (("key", key), ("token", token)):
            if secret is not None and not secret.strip():
                raise InjertoError(f"the {name} is empty; give it a value, or leave it out")
        self._url, self._timeout = url.rstrip("/"), timeout
        self._key, self._token = key, admin_token() if token is None else token

    def adapters(self) -> list[dict[str, Any]]:
        """What can be asked: ``name``, ``labels``, ``base``, ``modality`` and more of each."""
        found: list[dict[str, Any]] = self._call("GET", "/v1/adapters")
        return found

    def predict(
        self, inputs: Any, adapters: str | Sequence[str] | None = None, strength: float = 1.0
    ) -> list[dict[str, Any]]:
        """Ask an adapter about every input.

        Args:
            inputs: A text, a path to a picture (``Path``), bytes or a PIL image; or a list of these.
            adapters: One name for all, or one for each; None where the server has one only.
            strength: From the base (0) to the adapter (1).

        Returns:
            For each input ``adapter``, ``label``, ``probability`` and ``probabilities`` by class.

        Raises:
            ServerError: Where the server refuses or is not there.
            InjertoError: Where the numbers of inputs and adapters do not match.
        """
        several = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        names = [adapters] * len(several) if adapters is None or isinstance(adapters, str) else list(adapters)
        if len(names) != len(several):
            raise InjertoError(f"{len(several)} inputs and {len(names)} adapters; give one, or one for each input")
        items = [
            {**_item(one), "strength": strength, **({"adapter": name} if name else {})}
            for one, name in zip(several, names, strict=True)
        ]
        results = self._call("POST", "/v1/predict", {"items": items})["results"]
        return [result["answers"][0] for result in results]

    def load(self, path: str, name: str | None = None) -> dict[str, Any]:
        """Load a run from the server's bank folder.

        Args:
            path: The run's folder, relative to it.
            name: What to call it; as its folder where not given.

        Raises:
            ServerError: Where the server refuses.
        """
        content = {"path": path} | ({"name": name} if name else {})
        found: dict[str, Any] = self._call("POST", "/v1/adapters", content, self._token)
        return found

    def unload(self, name: str) -> None:
        """Let the server forget an adapter.

        Args:
            name: Its name.

        Raises:
            ServerError: Where there is none.
        """
        self._call("DELETE", f"/v1/adapters/{quote(name, safe='')}", token=self._token)

    def _call(self, method: str, path: str, content: Any = None, token: str | None = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        secret = token or self._key
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {secret}"} if secret else {})
        request = urllib.request.Request(self._url + path, body, headers, method=method)
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=self._timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            try:
                said = str(json.loads(error.read(100_000))["error"])
            except (ValueError, KeyError, TypeError):
                said = error.reason
            after = error.headers.get("Retry-After", "")
            raise ServerError(
                f"{said} ({error.code})", error.code, float(after) if after.isdecimal() else None
            ) from None
        except OSError as error:
            raise ServerError(f"no server answers at {self._url}: {getattr(error, 'reason', error)}") from None
        return json.loads(text) if text else None


def _item(one: Any) -> dict[str, str]:
    from injerto.domains.images import read_image
    from injerto.domains.texts import clean_text

    if isinstance(one, str):
        return {"text": clean_text(one)}
    if isinstance(one, Path):
        try:
            one = one.read_bytes()
        except OSError as error:
            raise InjertoError(f"cannot read {one}: {error.strerror or error}") from error
    if isinstance(one, Image.Image):
        stream = io.BytesIO()
        read_image(one).save(stream, "PNG")  # upright and RGB, as a run sees it: PNG holds no CMYK, and no orientation
        one = stream.getvalue()
    if not isinstance(one, bytes):
        raise InjertoError(f"an input is a text, a Path, bytes or a PIL image, not {type(one).__name__}")
    return {"image": base64.b64encode(one).decode("ascii")}
