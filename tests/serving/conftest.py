"""A server on two tiny bases, and a folder that more may be loaded from."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")


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
def web(desk: Any) -> Iterator[Any]:
    """A client of a server in this process."""
    from starlette.testclient import TestClient

    from injerto.serving.app import make_app

    with TestClient(make_app(desk), raise_server_exceptions=False) as client:
        yield client
