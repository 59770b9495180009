"""A server on two tiny bases, and a folder that more may be loaded from."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
TOKEN = "the-token-of-all-tests"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    """The management token, for servers in this process and those that are started by tests."""
    monkeypatch.setenv("INJERTO_ADMIN_TOKEN", TOKEN)
    return TOKEN


@pytest.fixture(scope="session")
def runs(tmp_path_factory: Any, image_run: Path, text_run: Path) -> dict[str, Path]:
    """``pictures`` and ``texts``, each in a folder of that name."""
    root = tmp_path_factory.mktemp("served")
    return {
        name: Path(shutil.copytree(run, root / name)) for name, run in (("pictures", image_run), ("texts", text_run))
    }


@pytest.fixture
def bank_folder(tmp_path: Path, runs: dict[str, Path]) -> Path:
    """A folder with copies of both."""
    for name, run in runs.items():
        shutil.copytree(run, tmp_path / "bank" / name)
    return tmp_path / "bank"


@pytest.fixture
def desk(runs: dict[str, Path], bank_folder: Path) -> Any:
    from injerto.serving.desk import Desk

    return Desk(list(runs.values()), bank_folder, precision="fp32", threads=1)


@pytest.fixture
def ask_app() -> Callable[..., Any]:
    """A function: a client of an app in this process, as a program on this machine that knows the management token."""
    from starlette.testclient import TestClient

    def make(app: Any, secret: str = TOKEN, **settings: Any) -> Any:
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        return TestClient(app, "http://localhost", headers=headers, **settings)

    return make


@pytest.fixture
def web(desk: Any, ask_app: Any) -> Iterator[Any]:
    """A client of a server in this process."""
    from injerto.serving.app import make_app

    with ask_app(make_app(desk)) as client:
        yield client
