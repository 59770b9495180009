"""Ranking models before training: what is known of the data shows, and nothing else moves."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import injerto
from injerto.basics.errors import InjertoError
from injerto.evaluation.transferability import score_all

BASE = {"logme", "h_score", "knn_accuracy", "probe_accuracy"}


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory, data_writers: SimpleNamespace) -> Path:
    return Path(data_writers.pictures(tmp_path_factory.mktemp("data") / "hard", per_class=24, domains=("day", "dusk")))


def test_a_trained_model_ranks_above_its_base_and_has_leep(
    hard: Path, tiny_timm: Path, quick: Any, tmp_path: Path
) -> None:
    settings = {"backbone": tiny_timm, "tuning": "full", "epochs": 8, "lr": 1e-3, "augment": "none"} | quick
    run = injerto.fit(hard, source="day", out=tmp_path / "run", **settings)
    found = injerto.rank_backbones(hard, [tiny_timm, run.path], on=["dusk"], threads=1)
    home = injerto.rank_backbones(hard, [tiny_timm, run.path], on=["day"], threads=1)
    tested = {row[1] for row in run.recorded_rows() if row[0] == "day" and row[2] == "test"}
    assert home["domains"] == {"day": len(tested)}  # what the run has learned from counts for no model
    best, base = found["backbones"]
    assert best["backbone"] == str(run.path) and set(best["scores"]) == BASE | {"leep"} and set(base["scores"]) == BASE
    for score in ("logme", "probe_accuracy", "knn_accuracy"):
        assert best["scores"][score] > base["scores"][score]
    assert set(base["seconds"]) == BASE | {"embedding"} and found["domains"] == {"dusk": 72}


def test_scores_are_the_functions_own_averaged_over_domains(hard: Path, tiny_timm: Path) -> None:
    found = injerto.rank_backbones(hard, [tiny_timm], threads=1, precision="fp32")["backbones"][0]["scores"]
    domains, each = injerto.load_domains(hard), []
    values = injerto.measure_gap(hard, backbone=tiny_timm, threads=1, precision="fp32").embeddings
    for name, domain in domains.items():
        classes = sorted({str(label) for label in domain.labels})
        labels = torch.tensor([classes.index(str(label)) for label in domain.labels]).numpy()
        each.append(score_all(values[name], labels, domain.groups))
    for score, value in found.items():
        assert value == pytest.approx(sum(one[score].value for one in each) / 2, rel=1e-6)


def test_examples_without_labels_do_not_count(hard: Path, tiny_timm: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(hard, tmp_path / "data"))
    before = injerto.rank_backbones(data, [tiny_timm], on=["day"], threads=1)
    (data / "day" / "_unlabeled").mkdir()
    shutil.copy(data / "dusk" / "red" / "1.png", data / "day" / "_unlabeled" / "x.png")
    after = injerto.rank_backbones(data, [tiny_timm], on=["day"], threads=1)
    assert after["domains"] == before["domains"]
    assert after["backbones"][0]["scores"] == before["backbones"][0]["scores"]


def test_bad_pictures_are_named_or_left_out(hard: Path, tiny_timm: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(hard, tmp_path / "data"))
    (data / "day" / "red" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InjertoError, match="broken.png"):
        injerto.rank_backbones(data, [tiny_timm], on=["day"], threads=1)
    found = injerto.rank_backbones(data, [tiny_timm], on=["day"], threads=1, skip_bad=True)
    assert found["domains"] == {"day": 72}


def test_the_command(cli: Any, hard: Path, tiny_timm: Path, other_timm: Path) -> None:
    shown = cli("rank", hard, "--backbones", f"{tiny_timm}, {other_timm}", "--threads", 1)
    assert shown.code == 0 and "LogME" in shown.out and "tiny-resnet" in shown.out
    content = json.loads(cli("rank", hard, "--backbones", tiny_timm, "--threads", 1, "--json").out)
    assert content["order"] == "probe_accuracy"


def test_what_cannot_be_ranked_is_refused(hard: Path, tiny_timm: Path, tiny_bert: Path, tmp_path: Path) -> None:
    for backbones, message in (
        ([], "nothing to rank"),
        ([tiny_timm, tiny_timm], "twice"),
        ([tiny_bert], "takes texts"),
        (["packaged:nothing"], "nothing"),
    ):
        with pytest.raises(InjertoError, match=message):
            injerto.rank_backbones(hard, backbones, threads=1)
    one = tmp_path / "one"
    shutil.copytree(hard / "day" / "red", one / "day" / "red")
    with pytest.raises(InjertoError, match="two classes"):
        injerto.rank_backbones(one, [tiny_timm], threads=1)
