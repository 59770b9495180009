"""The HTTP interface."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from injerto.bank.bank import AdapterBank
from injerto.bank.names import UnknownAdapter
from injerto.bank.questions import Answer, Question
from injerto.basics.errors import InjertoError
from injerto.serving.batcher import Batcher, Closed, Full
from injerto.serving.desk import Desk, OutsideFolder
from injerto.serving.drift import Drifts
from injerto.serving.gate import Access, Gate, Scope, bounded, what_it_needs
from injerto.serving.measures import Measures
from injerto.serving.reading import Bad, Limits, Room, kind_of, parse, questions_of, read_ask, read_body
from injerto.serving.schemas import Adapter, Ask, Load, Reply, Result, Results, problems

GATE = (400, 401, 403, 431)
"""How requests are refused before a route sees them."""
DECODERS = 2
"""Requests whose pictures are decoded at the same time: each may hold as many pixels as a request may have."""
ASK = {"application/json": {"schema": {"$ref": "#/components/schemas/Ask"}}}
LOAD = {"application/json": {"schema": {"$ref": "#/components/schemas/Load"}}}
FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["file"],
            "properties": {
                "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
                "adapter": {"type": "array", "items": {"type": "string"}},
                "strength": {"type": "number", "minimum": 0, "maximum": 1},
            },
        }
    }
}
ABOUT = "Many adapters on one base model: each request, and each item in it, names the adapter that answers."


SECRETS = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key, where the server asks for one."},
    "token": {"type": "http", "scheme": "bearer", "description": "The management token; it opens every route."},
}


def make_app(
    desk: Desk,
    limits: Limits | None = None,
    target: float = 0.1,
    longest: int = 1024,
    drifts: Drifts | None = None,
    access: Access | None = None,
) -> FastAPI:
    """A server for a desk.

    Args:
        desk: Its adapters.
        limits: How large a request may be.
        target: Seconds that a batch may take.
        longest: Questions that may wait in each bank's queue; more are turned away with 429.
        drifts: Watches whether inputs change; one that saves nothing where not given.
        access: Who may do what; as the environment says, on loopback, where not given.
    """
    access = access or Access.read()
    return _Server(desk, limits or Limits(), target, longest, drifts or Drifts(), access).app


class _Server:
    def __init__(self, desk: Desk, limits: Limits, target: float, longest: int, drifts: Drifts, access: Access) -> None:
        self.desk, self.limits, self.drifts, self.access = desk, limits, drifts, access
        self._room = Room(limits.bodies)
        self._start = partial(Batcher, target=target, longest=longest)
        self._batchers: dict[int, Batcher] = {}
        self._draining = False
        self._page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
        self._decoding: anyio.CapacityLimiter | None = None
        self.measures = Measures(desk, self._batchers.values(), drifts)
        self.app = FastAPI(
            title="Injerto", version=version("injerto"), description=ABOUT, lifespan=self._life, docs_url=None,
            redoc_url=None,
        )  # fmt: skip
        self.app.add_middleware(Gate, access=access, seen=self._seen)
        self.app.exception_handler(InjertoError)(self._refuse)
        self.app.exception_handler(TimeoutError)(self._late)
        self.app.exception_handler(HTTPException)(self._nowhere)
        self._routes()
        self.app.openapi = self._openapi  # type: ignore[method-assign]

    @asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        self._decoding = anyio.CapacityLimiter(DECODERS)
        yield
        self._draining = True
        for batcher in list(self._batchers.values()):
            await anyio.to_thread.run_sync(batcher.close)
        await anyio.to_thread.run_sync(self.drifts.close)

    def _openapi(self) -> dict[str, Any]:
        if self.app.openapi_schema is None:
            found = get_openapi(
                title=self.app.title, version=self.app.version, description=ABOUT, routes=self.app.routes
            )
            models: list[Any] = [(Ask, "validation"), (Load, "validation")]
            _, own = models_json_schema(models, ref_template="#/components/schemas/{model}")
            parts = found.setdefault("components", {})
            parts.setdefault("schemas", {}).update(own["$defs"])
            parts["securitySchemes"] = SECRETS
            for path, methods in found["paths"].items():
                for method, about in methods.items():
                    about["security"] = self._secrets(what_it_needs(method.upper(), path))
            self.app.openapi_schema = found
        return self.app.openapi_schema

    def _secrets(self, needed: str) -> list[dict[str, list[str]]]:
        asked = needed == "token" or (needed == "key" and self.access.keys)
        return [{one: []} for one in SECRETS if asked and one in (needed, "token")]

    # --- around every request -----------------------------------------------------------------------------------------

    def _seen(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.measures.requests.labels(route, str(status)).inc()
        self.measures.seconds.labels(route).observe(seconds)

    async def _refuse(self, _: Request, error: Exception) -> Response:
        status, headers = 422, {}
        if isinstance(error, Bad):
            status = error.status
        elif isinstance(error, UnknownAdapter):
            status = 404
        elif isinstance(error, OutsideFolder):
            status = 403
        elif isinstance(error, Closed):
            status = 503
        elif isinstance(error, Full):
            status, headers = 429, {"Retry-After": str(error.seconds)}
        return JSONResponse({"error": bounded(str(error))}, status, headers)

    async def _late(self, _: Request, __: Exception) -> Response:
        return JSONResponse({"error": f"no answer within {self.limits.seconds:g} s; send fewer items at once"}, 503)

    async def _nowhere(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {
            404: f"there is nothing at {request.scope['path'][:100]}",
            405: f"{request.method[:20]} is not for this path",
        }
        said = bounded(words.get(error.status_code, str(error.detail)))
        return JSONResponse({"error": said}, error.status_code, dict(error.headers or {}))

    # --- answers ------------------------------------------------------------------------------------------------------

    def _batcher(self, bank: AdapterBank) -> Batcher:
        found = self._batchers.get(id(bank))
        if found is None:
            found = self._batchers[id(bank)] = self._start(bank)
        return found

    async def ask(self, asked: list[list[Question]]) -> list[list[Answer]]:
        """Answers by item; each bank gets its questions in one piece.

        Args:
            asked: Questions by item.
        """
        flat = [question for several in asked for question in several]
        banks: dict[int, tuple[AdapterBank, list[int]]] = {}
        for place, question in enumerate(flat):
            bank = self.desk.bank_of(question.adapter)
            banks.setdefault(id(bank), (bank, []))[1].append(place)
        found: list[Any] = [None] * len(flat)
        waiting = [
            (places, asyncio.wrap_future(self._batcher(bank).submit([flat[place] for place in places])))
            for bank, places in banks.values()
        ]
        for places, future in waiting:
            for place, answer in zip(places, await future, strict=True):
                found[place] = answer
        await anyio.to_thread.run_sync(self._note, flat, found)
        start, by_item = 0, []
        for several in asked:
            by_item.append(found[start : start + len(several)])
            start += len(several)
        return by_item

    def _note(self, asked: Sequence[Question], found: Sequence[Answer]) -> None:
        for answer in found:
            self.measures.answers.labels(answer.adapter).inc()
        self.drifts.see(zip(asked, found, strict=True))

    def _routes(self) -> None:
        app = self.app

        @app.post(
            "/v1/predict",
            response_model=Results,
            responses=problems(*GATE, 404, 408, 413, 415, 422, 429, 503),
            openapi_extra=_body(ASK, FORM),
            summary="Ask adapters about texts or pictures",
        )
        async def predict(request: Request) -> Response:
            """Texts or pictures as JSON, or pictures as an uploaded form; an item may name several adapters."""
            with self._room.hold(request.client.host if request.client else "") as take:
                ask, pictures = await read_ask(request, self.limits, take)
                async with asyncio.timeout(self.limits.seconds) as late:
                    asked = await anyio.to_thread.run_sync(
                        questions_of, ask, pictures, self.desk, self.limits, limiter=self._decoding,
                        abandon_on_cancel=True,
                    )  # fmt: skip
                del ask, pictures
            async with asyncio.timeout_at(late.when()):
                answers = await self.ask(asked)
                text = await anyio.to_thread.run_sync(_written, answers)
            return Response(text, media_type="application/json")

        @app.get("/v1/adapters", responses=problems(*GATE), summary="Adapters that can be asked")
        async def adapters() -> list[Adapter]:
            return await anyio.to_thread.run_sync(self._adapters)

        @app.post(
            "/v1/adapters",
            status_code=201,
            response_model=Adapter,
            responses=problems(*GATE, 408, 413, 415, 422, 503),
            openapi_extra=_body(LOAD),
            summary="Load an adapter from the bank's folder",
        )
        async def load(request: Request) -> Adapter:
            """One of the same name is replaced; requests under way keep the one they began with."""
            if kind_of(request) != "application/json":
                raise Bad(415, "send what to load as application/json")
            with self._room.hold(request.client.host if request.client else "") as take:
                wanted: Load = parse(Load, await read_body(request, 10_000, take))
            name = await anyio.to_thread.run_sync(self.desk.load, wanted.path, wanted.name)
            return self._adapter(name)

        @app.delete(
            "/v1/adapters/{name}",
            status_code=204,
            responses=problems(*GATE, 404),
            summary="Forget an adapter",
        )
        async def unload(name: str) -> Response:
            self.desk.unload(name)
            self.drifts.forget(name)
            return Response(status_code=204)

        @app.get("/healthz", responses=problems(400, 403, 431), summary="Whether the process lives")
        async def health() -> dict[str, str]:
            return {"status": "ok"}

        @app.get(
            "/readyz",
            responses={**problems(400, 403, 431), 503: {"description": "Not ready"}},
            summary="Whether it can answer",
        )
        async def ready() -> Response:
            fine = not self._draining and bool(self.desk.names)
            words = "ready" if fine else "going down" if self._draining else "no adapter is loaded"
            return JSONResponse({"status": words}, 200 if fine else 503)

        @app.get("/metrics", response_class=PlainTextResponse, responses=problems(*GATE), summary="For Prometheus")
        async def metrics() -> Response:
            return Response(self.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

        @app.get("/", include_in_schema=False)
        async def page() -> Response:
            return HTMLResponse(self._page)

    def _adapters(self) -> list[Adapter]:
        found = []
        for name in self.desk.names:
            try:
                found.append(self._adapter(name))
            except UnknownAdapter:
                continue  # it has gone in between
        return found

    def _adapter(self, name: str) -> Adapter:
        return Adapter(**self.desk.about(name), drift=self.drifts.about(name, self.desk.sketch(name)))  # type: ignore[arg-type]


def _written(answers: Sequence[Sequence[Answer]]) -> str:
    results = [Result(answers=[_reply(one) for one in several]) for several in answers]
    return Results(results=results).model_dump_json()


def _reply(answer: Answer) -> Reply:
    values = dict(zip(answer.labels, map(float, answer.probabilities), strict=True))
    return Reply(adapter=answer.adapter, label=answer.label, probability=values[answer.label], probabilities=values)


def _body(*contents: dict[str, Any]) -> dict[str, Any]:
    """A request's body for OpenAPI: it is read by hand, so that its size is bounded before it is parsed."""
    return {
        "requestBody": {"content": {kind: one for part in contents for kind, one in part.items()}, "required": True}
    }
