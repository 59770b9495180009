"""No test asks a model hub, and none touches the user's cache. Tiny networks, tiny data, finished runs to look at."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tiny

os.environ["HF_HUB_OFFLINE"] = "1"  # before any test module imports transformers, which reads it once
os.environ.pop("COLUMNS", None)  # tables are as wide as they are for a program that reads them


LONG = (
    "test_search.py",
    "test_report.py",
    "test_rotation.py",
    "test_release.py",
    "test_together.py",
    "test_fit.py",
)
"""Files that take longest: begun first, so that two workers end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of this session's own, unless one is given from outside."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("INJERTO_CACHE"):
            patch.setenv("INJERTO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for one test."""
    folder = tmp_path / "own-cache"
    monkeypatch.setenv("INJERTO_CACHE", str(folder))
    return folder


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def make_network() -> Callable[..., Any]:
    """A function: a convolutional network for pictures of 32 px with a stem, three blocks and an embedding of 12."""
    import torch
    from torch import nn

    torch.set_num_threads(1)

    class TinyNet(nn.Module):
        def __init__(self, width: int, dropout: float) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            self.blocks = nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(width, width, 3, 2 if index == 1 else 1, 1, bias=index == 2),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Dropout(dropout),
                )
                for index in range(3)
            )

        def forward(self, images: Any) -> Any:
            x = self.stem(images)
            for block in self.blocks:
                x = block(x)
            return x.mean((2, 3))

    def make(seed: int = 0, width: int = 12, dropout: float = 0.0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = TinyNet(width, dropout)
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, std=0.2)
                    module.running_mean.normal_(std=0.2)
                    module.running_var.uniform_(0.5, 1.5)
        return network.eval()

    return make


@pytest.fixture(scope="session")
def make_backbone(make_network: Callable[..., Any]) -> Callable[..., Any]:
    """A function: that network as a backbone (stages: stem, blocks.0, blocks.1, blocks.2)."""
    from injerto.backbones.load import load_backbone
    from injerto.domains.preprocessing import ImagePreprocessing

    def make(seed: int = 0, **more: Any) -> Any:
        looks = ImagePreprocessing(32, 32, (0.5, 0.4, 0.3), (0.3, 0.25, 0.2), "bilinear", 1.0)
        return load_backbone(make_network(seed, **more), preprocessing=looks)

    return make


@pytest.fixture(scope="session")
def tiny_timm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny ResNet as timm saves it (32 px)."""
    return tiny.save_timm(tmp_path_factory.mktemp("models") / "tiny-resnet", seed=0)


@pytest.fixture(scope="session")
def other_timm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same ResNet with other weights."""
    return tiny.save_timm(tmp_path_factory.mktemp("models") / "other-resnet", seed=1)


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny causal language model (2 layers, width 16, 64 positions) with a chat template."""
    return tiny.save_lm(tmp_path_factory.mktemp("models") / "tiny-lm")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BERT (2 layers, width 16, 40 positions) and its tokenizer as transformers saves them."""
    return tiny.save_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def data_writers() -> SimpleNamespace:
    """``pictures(root, per_class, domains)``, ``reviews(path, per_class, domains)`` and ``picture(label, seed, light)``."""
    return SimpleNamespace(
        pictures=tiny.write_pictures, reviews=tiny.write_reviews, picture=tiny.picture, classes=tiny.CLASSES
    )


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains (day, dusk, night) of three classes of ten pictures."""
    return tiny.write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of two domains (books, films) of two classes of 24 texts."""
    return tiny.write_reviews(tmp_path_factory.mktemp("data") / "reviews.csv")


# --- finished runs ----------------------------------------------------------------------------------------------------

QUICK = {"threads": 1, "precision": "fp32", "batch_size": 8}


@pytest.fixture(scope="session")
def quick() -> dict[str, Any]:
    """Settings that make a run small and exact."""
    return dict(QUICK)


@pytest.fixture(scope="session")
def image_run(tmp_path_factory: pytest.TempPathFactory, pictures: Path, tiny_timm: Path) -> Path:
    """The folder of a finished run: ``last:1`` on day, with dusk as the target and night unseen."""
    import injerto

    out = tmp_path_factory.mktemp("runs") / "image"
    injerto.fit(
        pictures,
        source="day",
        target="dusk",
        backbone=tiny_timm,
        tuning="last:1",
        epochs=6,
        head_lr=1e-2,
        out=out,
        augment="none",
        **QUICK,
    )
    return out


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory, reviews: Path, tiny_bert: Path) -> Path:
    """The folder of a finished run on texts: ``head`` on films."""
    import injerto

    out = tmp_path_factory.mktemp("runs") / "text"
    injerto.fit(reviews, source="films", backbone=tiny_bert, tuning="head", epochs=20, out=out, **QUICK)
    return out


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """A function that runs the command line in this process: ``code``, ``out`` and ``err``."""
    from injerto.basics.progress import set_quiet
    from injerto.cli.main import run

    def call(*arguments: object) -> SimpleNamespace:
        capsys.readouterr()
        try:
            code = run([str(argument) for argument in arguments])
        finally:
            set_quiet(False)  # --quiet is for a process, which here runs other tests too
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return call


@pytest.fixture
def refused(cli: Callable[..., SimpleNamespace]) -> Callable[..., str]:
    """A function that runs the command line and expects exit code 2, one line of error and nothing else; returns it."""

    def call(*arguments: object) -> str:
        result = cli(*arguments)
        errors = [line for line in result.err.splitlines() if line.startswith("error:")]
        assert result.code == 2, result.err
        assert len(errors) == 1, result.err
        assert result.out == ""
        assert "Traceback" not in result.err and "our fault" not in result.err
        assert len(errors[0]) < 700
        return errors[0]

    return call


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser; without one the tests of pages are skipped, unless INJERTO_BROWSER says that there must be one."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        if os.environ.get("INJERTO_BROWSER"):
            raise RuntimeError("no chromium on the path")
        pytest.skip("no chromium on the path: install Debian's package chromium to test the pages")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
