"""No test asks a model hub, and none touches the user's cache."""

import os
from collections.abc import Iterator

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before any test module imports transformers, which reads it once


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of this session's own, unless one is given from outside."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("INJERTO_CACHE"):
            patch.setenv("INJERTO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
