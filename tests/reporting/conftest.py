"""Pages to open, and comparisons to make them of."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EVIL = "</script><img src=x onerror=document.title='hacked'>"


@pytest.fixture(scope="session")
def comparison(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Pictures: two tunings, without and with alignment, two seeds, day to dusk."""
    import injerto

    out = tmp_path_factory.mktemp("report") / "pictures"
    grid = {"tuning": ["head", "last:1"], "alignment": ["none", "mmd", "dann"]}
    more = {"source": "day", "target": "dusk", "backbone": tiny_timm, "steps": 12, "augment": "none", "head_lr": 1e-2}
    injerto.compare(pictures, grid=grid, seeds=2, out=out, **more, **quick)
    return out


@pytest.fixture(scope="session")
def evil(reviews: Path, tiny_bert: Path, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts whose words, classes and domains are HTML."""
    import injerto

    folder = tmp_path_factory.mktemp("report-evil")
    with reviews.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with (folder / "evil.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label", "domain"))
        for row in rows:
            writer.writerow((f"{EVIL} {row['text']}", f"<b>{row['label']}</b>{EVIL}", f"<i>{row['domain']}</i>"))
    out = folder / "out"
    more = {"source": "<i>films</i>", "backbone": tiny_bert, "epochs": 2}
    injerto.compare(folder / "evil.csv", grid={"tuning": ["head", "full"]}, seeds=1, out=out, **more, **quick)
    return out


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens a page without a network; what the console said and what was asked for must be nothing."""
    pages = []

    def open_page(path: Path, width: int = 1200, dark: bool = False) -> Any:
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_timeout(300)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        assert page.said == []
        assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
        page.close()
