"""The server against its own OpenAPI description: whatever is sent, no 500, and no answer that the description lacks."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from injerto.serving.app import make_app

schemathesis = pytest.importorskip("schemathesis")


def to_known(case: Any) -> Any:
    """The same case, asking an adapter that is there."""
    if isinstance(case.body, dict) and "items" in case.body:
        items = [
            {"text": item.get("text") or "a dull plot", "strength": item.get("strength", 1)}
            for item in case.body["items"]
        ]
        case.body = {"items": items, "adapter": "texts"}
    elif isinstance(case.body, dict) and "path" in case.body:
        case.body["path"] = "pictures"
    if "name" in case.path_parameters:
        case.path_parameters["name"] = "pictures"
    return case


def test_every_route_keeps_to_its_description(desk: Any, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    monkeypatch.setenv("INJERTO_ALLOWED_HOSTS", "testserver")
    manager = {"Authorization": f"Bearer {token}"}
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    operations = [
        result.ok() for result in schemathesis.openapi.from_asgi("/openapi.json", make_app(desk)).get_all_operations()
    ]
    assert {operation.label for operation in operations} == {
        "POST /v1/predict", "GET /v1/adapters", "POST /v1/adapters", "DELETE /v1/adapters/{name}", "GET /healthz",
        "GET /readyz", "GET /metrics",
    }  # fmt: skip
    statuses = set[int]()
    for operation in operations:
        takes_input = operation.method.upper() != "GET"
        kinds = [operation.as_strategy(GenerationMode.POSITIVE), operation.as_strategy().map(to_known)]
        kinds += [operation.as_strategy(GenerationMode.NEGATIVE)] if takes_input else []

        @settings(
            max_examples=50 if takes_input else 3,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=st.one_of(kinds))
        def check(case: Any) -> None:
            statuses.add(case.call_and_validate(checks=checks, headers=manager).status_code)

        check()
    assert {200, 201, 204, 403, 404, 422} <= statuses
