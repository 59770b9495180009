"""Rows on a Ray cluster are those of this machine, also where a worker is lost on the way."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import injerto
from injerto.basics.errors import InjertoError

GRID = {"tuning": ["head", "full"], "alignment": ["none", "mmd"]}


def test_what_cannot_be_is_refused(refused: Any, pictures: Path, tmp_path: Path) -> None:
    words = ("compare", pictures, "--source", "day", "--grid", "tuning=head,full", "--out", tmp_path / "a")
    assert "unknown --engine 'spark'; use local or ray" in refused(*words, "--engine", "spark")
    assert "give one of them" in refused(*words, "--engine", "ray", "--budget", "20m")
    assert not (tmp_path / "a").exists()


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InjertoError, match=r"pip install 'injerto\[ray\]'"):
        injerto.compare("emoji-styles", source="noto", grid=GRID, out=tmp_path / "a", engine="ray")


def compared(data: Path, backbone: Path, out: Path, engine: str, **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"threads": 1, "precision": "fp32", "batch_size": 8, "steps": 6, **more}
    grid = settings.pop("grid", GRID)
    return injerto.compare(
        data,
        source="day",
        target="night",
        backbone=str(backbone),
        grid=grid,
        seeds=2,
        out=out,
        engine=engine,
        **settings,
    )


@pytest.mark.slow
def test_the_table_is_that_of_one_machine(pictures: Path, tiny_timm: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    here = compared(pictures, tiny_timm, tmp_path / "here", "local")
    there = compared(pictures, tiny_timm, tmp_path / "there", "ray")
    kept = ("axes", "seed", "status", "domains")
    assert [{key: row[key] for key in kept} for row in there["rows"]] == [
        {key: row[key] for key in kept} for row in here["rows"]
    ]
    assert len(there["rows"]) == 8 and {row["status"] for row in there["rows"]} == {"ok"}
    assert [row["domains"] for row in there["summary"]] == [row["domains"] for row in here["summary"]]


@pytest.mark.slow
def test_a_lost_worker_costs_nothing_but_time(pictures: Path, tiny_timm: Path, tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("ray")
    killed: list[int] = []

    def kill_one() -> None:
        runs = tmp_path / "out" / "runs"
        while not killed:
            time.sleep(0.05)
            if not list(runs.glob("*/log.jsonl")):
                continue
            for process in psutil.process_iter(["cmdline"]):
                if (process.info["cmdline"] or [""])[0].startswith("ray::_work"):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    break

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    grid = {"tuning": ["full", "last:1"]}
    content = compared(pictures, tiny_timm, tmp_path / "out", "ray", grid=grid, steps=200)
    assert killed and [row["status"] for row in content["rows"]] == ["ok"] * 4
