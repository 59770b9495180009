"""The server sees that inputs have changed, says so, keeps them, and what is made of them can be loaded."""

import io
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import injerto
from injerto.adapters.sketch import Sketch
from injerto.bank.questions import Answer, Question
from injerto.serving.app import make_app
from injerto.serving.desk import Desk
from injerto.serving.drift import Drifts, safe_name


@pytest.fixture(scope="module")
def sketch() -> Sketch:
    return Sketch.of(np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32))


@pytest.fixture
def drifts(request: pytest.FixtureRequest) -> Callable[..., Drifts]:
    """A function: a watcher that is closed at the end."""

    def make(*arguments: Any) -> Drifts:
        made = Drifts(*arguments)
        request.addfinalizer(lambda: made.close() if made._thread.is_alive() else None)
        return made

    return make


def pairs(sketch: Sketch | None, rows: np.ndarray, name: str = "a", strength: float = 1.0) -> list[Any]:
    return [
        (Question(f"text {row[0]}", name, strength), Answer(name, ("x", "y"), np.ones(2) / 2, row, sketch))
        for row in rows.astype(np.float32)
    ]


def test_windows_of_unchanged_inputs_are_quiet_and_of_changed_ones_not(
    sketch: Sketch, drifts: Any, tmp_path: Path
) -> None:
    found, rng = drifts(tmp_path), np.random.default_rng(1)
    for _ in range(20):
        found.see(pairs(sketch, rng.standard_normal((40, 6))))
    found.see(pairs(sketch, rng.standard_normal((60, 6)) + 2))
    found.close()
    about = found.about("a", sketch)
    assert (about["window"], about["windows"], about["gathered"]) == (40, 21, 20)
    assert 1 <= about["alarms"] <= 3 and about["drifted"] and about["p_value"] < 1e-4
    assert about["by_chance"] == pytest.approx(0.21)
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 40 * about["alarms"]


def test_what_does_not_count(sketch: Sketch, drifts: Any) -> None:
    found, far = drifts(), np.random.default_rng(1).standard_normal((50, 6)) + 9
    found.see(pairs(sketch, far, strength=0.5))  # turned down: other embeddings
    found.see(pairs(None, far, "without"))
    found.see(pairs(sketch, np.repeat(far[:5], 100, axis=0), "again"))  # the same few over and over
    assert found.about("a", sketch)["gathered"] == 0
    assert found.about("without", None) is None
    assert found.about("again", sketch)["gathered"] == 5
    more = np.random.default_rng(2).standard_normal((40, 6)) + 9
    for _ in range(3):  # a replay of what was tested
        found.see(pairs(sketch, more, "replayed"))
    assert found.about("replayed", sketch)["gathered"] == 0
    other = Sketch.of(far.astype(np.float32))
    found.see(pairs(sketch, far[:7]))
    assert found.about("a", sketch)["gathered"] == 7
    assert found.about("a", other)["gathered"] == 0  # another adapter of that name
    found.see(pairs(other, far[:3]))
    assert found.about("a", other)["gathered"] == 3 and found.about("a", other)["window"] == 8
    found.forget("a")
    assert found.about("a", other)["gathered"] == 0


@pytest.mark.parametrize("name", ["..", "a/b", "films", "ü 1", ".hidden"])
def test_no_adapter_names_a_path(name: str, tmp_path: Path) -> None:
    assert (tmp_path / safe_name(name)).parent == tmp_path and safe_name(name).strip("._") != ""
    assert not safe_name(name).startswith(".")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, data_writers: Any) -> Path:
    return Path(data_writers.pictures(tmp_path_factory.mktemp("more") / "pictures", 60, ("day",)))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path) -> Path:
    settings: dict[str, Any] = {"threads": 1, "precision": "fp32", "batch_size": 8, "steps": 10}
    out = tmp_path_factory.mktemp("bank") / "colours"
    injerto.fit(data, source="day", backbone=tiny_timm, tuning="lora:last:2", out=out, **settings)
    return out


def chequered(seed: int) -> np.ndarray:
    """A picture of another kind than those of the data."""
    rng = np.random.default_rng(seed)
    squares = np.indices((32, 32)).sum(0) // rng.integers(1, 4) % 2 * 255
    return np.clip(squares[..., None] + rng.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)


def ask(client: Any, pictures: list[np.ndarray]) -> None:
    files = []
    for number, picture in enumerate(pictures):
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG")
        files.append(("file", (f"{number}.png", stream.getvalue(), "image/png")))
    assert client.post("/v1/predict", files=files).status_code == 200


def settled(client: Any, windows: int) -> dict[str, Any]:
    for _ in range(100):
        (about,) = client.get("/v1/adapters").json()
        if about["drift"]["windows"] == windows:
            return dict(about["drift"])
        time.sleep(0.05)
    raise AssertionError(about)


def test_from_alarm_to_a_new_adapter(
    run: Path, data: Path, tiny_timm: Path, data_writers: Any, quick: dict[str, Any], tmp_path: Path, ask_app: Any
) -> None:
    desk = Desk([run], run.parent, precision="fp32", threads=1)
    with ask_app(make_app(desk, drifts=Drifts(tmp_path / "drifted", 24))) as client:
        ask(client, [data_writers.picture(data_writers.classes[n % 3], 1000 + n) for n in range(48)])
        assert not settled(client, 2)["drifted"] and not (tmp_path / "drifted").exists()
        ask(client, [chequered(n) for n in range(72)])
        assert settled(client, 5) | {"p_value": 0, "mmd2": 0} == {
            "window": 24, "gathered": 0, "windows": 5, "alarms": 3, "by_chance": 0.05, "drifted": True, "p_value": 0,
            "mmd2": 0,
        }  # fmt: skip
        said = client.get("/metrics").text
        assert 'injerto_drift_windows_total{adapter="colours"} 5.0' in said
        assert 'injerto_drift_alarms_total{adapter="colours"} 3.0' in said
        saved = tmp_path / "drifted" / "colours"
        for _ in range(100):  # they are written after they are told of
            if len(list(saved.glob("*.png"))) == 72:
                break
            time.sleep(0.05)
        assert len(list(saved.iterdir())) == 72
        injerto.fit(
            data, source="day", target=f"live={saved}", backbone=tiny_timm, tuning="lora:last:2", alignment="mmd",
            steps=10, out=run.parent / "chequered", **quick
        )  # fmt: skip
        assert client.post("/v1/adapters", json={"path": "chequered", "name": "colours"}).status_code == 201
        assert settled(client, 0)["gathered"] == 0  # its traffic is judged anew
        ask(client, [chequered(n) for n in range(100, 124)])
        assert not settled(client, 1)["drifted"]


def test_the_page_shows_it(run: Path, image_run: Path, data_writers: Any, chromium: Any, drifts: Any) -> None:
    import uvicorn
    from axe_playwright_python.sync_playwright import Axe

    desk, seen = Desk([run, image_run], None, precision="fp32", threads=1), drifts(None, 24)
    bank = desk.bank_of("colours")
    for pictures in (
        [data_writers.picture(data_writers.classes[n % 3], n) for n in range(30)],
        map(chequered, range(18)),
    ):
        asked = [Question(picture, "colours") for picture in pictures]
        seen.see(zip(asked, bank.answer(asked), strict=True))
    server = uvicorn.Server(uvicorn.Config(make_app(desk, drifts=seen), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    page = chromium.new_page(viewport={"width": 390, "height": 900})
    page.goto(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/")
    page.wait_for_selector("#drifts tr")
    rows = page.locator("#drifts tr")
    cells = rows.first.locator("th, td").all_text_contents()
    assert cells == ["colours", "changed", "0 of 24", "2", "1", "0.02", "< 0.001"]
    assert rows.last.text_content() == "Without a sketch: image."
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    violations = Axe().run(page).response["violations"]
    assert [one["id"] for one in violations if one["impact"] in ("serious", "critical")] == []
    page.close()
    server.should_exit = True
    thread.join()


def test_texts_that_changed_are_a_table(
    reviews: Path, tiny_bert: Path, data_writers: Any, tmp_path: Path, ask_app: Any
) -> None:
    table = data_writers.reviews(tmp_path / "films.csv", 80, ("films",))
    settings: dict[str, Any] = {"threads": 1, "precision": "fp32", "batch_size": 8, "steps": 5}
    made = injerto.fit(table, source="films", backbone=tiny_bert, tuning="head", out=tmp_path / "a", **settings)
    desk = Desk([made.path], None, precision="fp32", threads=1)
    texts = [f'\u2028 \n book {" and" * n}, "quoted"' for n in range(16)]
    with ask_app(make_app(desk, drifts=Drifts(tmp_path / "drifted", 16))) as client:
        for _ in range(2):  # the second time nothing new is to be kept
            assert client.post("/v1/predict", json={"items": [{"text": text} for text in texts]}).status_code == 200
    rows = (tmp_path / "drifted" / "a.jsonl").read_text().splitlines()
    assert [json.loads(row)["text"] for row in rows] == texts
    assert len(injerto.load_domains(tmp_path / "drifted" / "a.jsonl")["a"]) == 16


def test_a_damaged_sketch_is_refused(run: Path, tmp_path: Path, refused: Any) -> None:
    shutil.copytree(run, tmp_path / "bad")
    (tmp_path / "bad" / "adapter" / "drift.safetensors").write_bytes(b"\0" * 100)
    assert "drift.safetensors" in refused("serve", tmp_path / "bad")
    assert "--window is from 8 to 256" in refused("serve", run, "--window", 5)
