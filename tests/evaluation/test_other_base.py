"""A base that computes something else is refused wherever an adapter or an unfinished run meets it; no cache is stale."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import injerto
from injerto.basics.checksums import CHECKSUM, write_sealed
from injerto.basics.errors import InjertoError
from injerto.serving.desk import Desk


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    if CHECKSUM in content:
        write_sealed(path, content)
    else:
        path.write_text(json.dumps(content))


def swap_words(folder: Path) -> None:
    def change(tokenizer: dict[str, Any]) -> None:
        words = tokenizer["model"]["vocab"]
        words["good"], words["bad"] = words["bad"], words["good"]

    edit(folder / "tokenizer.json", change)


def pool_by_cls(folder: Path) -> None:
    kinds = ("sentence_transformers.models.Transformer", ""), ("sentence_transformers.models.Pooling", "1_Pooling")
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (kind, path) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')


def other_activation(folder: Path) -> None:
    edit(folder / "config.json", lambda config: config.update(hidden_act="relu"))


def other_weights(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: t + 0.01 if t.is_floating_point() else t for name, t in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


CHANGES = {
    "other weights": other_weights,
    "another tokenizer": swap_words,
    "another pooling (cls, not mean)": pool_by_cls,
    "another configuration or code": other_activation,
}


@pytest.fixture
def copy(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of the base, for a test to change."""
    return Path(shutil.copytree(tiny_bert, tmp_path / tiny_bert.name))


@pytest.mark.parametrize("words", CHANGES)
def test_an_adapter_is_refused_on_another_base_by_every_door(
    words: str, copy: Path, text_run: Path, reviews: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert injerto.load(text_run, backbone=copy).predict(["good"]) == injerto.load(text_run).predict(["good"])
    CHANGES[words](copy)
    for line in (
        refused("predict", text_run, "a good film", "--backbone", copy),
        refused("evaluate", text_run, reviews, "--backbone", copy),
        refused("export", text_run, "--format", "merged", "--out", tmp_path / "out", "--backbone", copy),
    ):
        assert words in line and "so it is refused" in line
    bank = injerto.AdapterBank(copy)
    for door in (
        lambda: bank.load(text_run),
        lambda: injerto.AdapterBank.of(text_run, backbone=copy),
        lambda: injerto.combine([text_run, text_run], tmp_path / "sum", backbone=copy),
        lambda: Desk([text_run], backbone=copy),
        lambda: injerto.load(text_run, backbone=injerto.load_backbone(copy)),
    ):
        with pytest.raises(InjertoError, match="so it is refused"):
            door()


def test_an_object_that_was_trained_since_is_refused(text_run: Path, tiny_bert: Path) -> None:
    backbone = injerto.load_backbone(tiny_bert)
    assert injerto.load(text_run, backbone=backbone).labels
    with torch.no_grad():
        next(backbone.parameters()).add_(0.1)
    with pytest.raises(InjertoError, match="other weights"):
        injerto.load(text_run, backbone=backbone)
    with pytest.raises(InjertoError, match="other weights"):
        injerto.AdapterBank(backbone).load(text_run)


def test_cards_of_earlier_versions_are_compared_by_their_weights(text_run: Path, copy: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(text_run, tmp_path / "old"))
    card = run / "adapter" / "adapter_card.json"
    edit(card, lambda card: [card.pop("files"), card.pop("checksum"), card["base"].pop("identity")])
    swap_words(copy)
    assert injerto.load(run, backbone=copy).labels  # nothing says what its tokenizer was
    other_weights(copy)
    with pytest.raises(InjertoError, match="other weights"):
        injerto.load(run, backbone=copy)
    edit(card, lambda card: card["base"].update(identity={"version": 1, "probe": 3}))
    with pytest.raises(InjertoError, match="'identity' is of the wrong kind"):
        injerto.load(run)


@pytest.fixture
def second(copy: Path, reviews: Path, quick: dict[str, Any], tmp_path: Path) -> Path:
    """A run on the same weights with another tokenizer."""
    swap_words(copy)
    out = tmp_path / "second"
    injerto.fit(reviews, source="films", backbone=copy, tuning="head", epochs=1, out=out, **quick)
    return out


def test_runs_on_two_tokenizers_are_not_added_up(text_run: Path, second: Path, tmp_path: Path) -> None:
    for together in (injerto.combine, injerto.soup):
        with pytest.raises(InjertoError, match=r"differ in base \(another tokenizer\)"):
            together([text_run, second], tmp_path / "sum")


def test_runs_on_two_tokenizers_are_served_by_two_banks(text_run: Path, second: Path) -> None:
    desk = Desk([text_run, second])
    assert len(desk.banks) == 2
    texts = ["a good film", "so bad , very dull"]
    for run in (text_run, second):
        found = [answer.label for answer in desk.bank_of(run.name).predict(texts, run.name)]
        assert found == injerto.load(run).predict(texts)


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(copy: Path, reviews: Path, quick: dict[str, Any], tmp_path: Path) -> Callable[..., Any]:
    """A function that fits a run on the copy, or goes on with it; it was stopped before its end."""

    def fit(**more: Any) -> Any:
        settings = {"source": "films", "backbone": copy, "tuning": "last:1", "steps": 4, "augment": "none"}
        return injerto.fit(reviews, out=tmp_path / "run", **settings, **quick, **more)

    fit()
    (tmp_path / "run" / "metrics.json").unlink()
    return fit


@pytest.mark.parametrize("words", [*CHANGES, "another preprocessing (max_length"])
def test_a_run_does_not_go_on_with_another_base(
    words: str, begun: Callable[..., Any], copy: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    if words in CHANGES:
        CHANGES[words](copy)
    else:
        (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    with pytest.raises(InjertoError) as caught:
        begun(resume=True)
    said = str(caught.value)
    assert words in said and "has changed since it was started" in said and "\n" not in said
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_a_run_goes_on_with_the_same_base(begun: Callable[..., Any], copy: Path, tmp_path: Path, capsys: Any) -> None:
    record = tmp_path / "run" / "base.json"
    before = record.read_bytes()
    capsys.readouterr()
    begun(resume=True)
    assert "resumed at step 4" in capsys.readouterr().err and record.read_bytes() == before
    other_activation(copy)
    begun(resume=True)
    said = capsys.readouterr().err
    assert "is finished already" in said and "another one now: another configuration or code" in said


def test_other_versions_are_noted_and_a_damaged_record_is_refused(
    begun: Callable[..., Any], tmp_path: Path, capsys: Any
) -> None:
    record = tmp_path / "run" / "base.json"
    edit(record, lambda base: base["versions"].update(torch="1.0"))
    edit(record, lambda base: base.update(definition="of another version"))
    begun(resume=True)
    assert "begun with other versions: torch 1.0 -> " in capsys.readouterr().err
    record.write_text("{")
    with pytest.raises(InjertoError, match="is damaged"):
        begun(resume=True)
    record.unlink()
    with pytest.raises(InjertoError, match="cannot read .*base.json"):
        begun(resume=True)
    edit(tmp_path / "run" / "metrics.json", lambda metrics: metrics.pop("files"))  # a run of an earlier version
    begun(resume=True)


# --- caches -----------------------------------------------------------------------------------------------------------


class Averaging(nn.Module):
    """Pools by the mean."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 16, 5, 4)

    def pooled(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.pooled(self.conv(images).relu())


class Largest(Averaging):
    """Pools by the maximum."""

    def pooled(self, maps: Tensor) -> Tensor:
        return -maps.amax((2, 3))


class Drawing(Averaging):
    """Its dropout is never off."""

    def pooled(self, maps: Tensor) -> Tensor:
        return nn.functional.dropout(maps, 0.2, training=True).mean((2, 3))


def test_the_cache_of_other_code_is_not_read(
    pictures: Path, own_cache: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    def fit(kind: type[nn.Module], name: str) -> bytes:
        kind.__name__ = "Net"
        settings = {"source": "day", "head": "probe", "image_size": 32}
        injerto.fit(pictures, backbone=kind(), out=tmp_path / name, **settings, **quick)
        return (tmp_path / name / "predictions.csv").read_bytes()

    first, second = fit(Averaging, "first"), fit(Largest, "second")
    spaces = len(list((own_cache / "features").iterdir()))
    assert fit(Averaging, "first again") == first and len(list((own_cache / "features").iterdir())) == spaces
    shutil.rmtree(own_cache)
    assert fit(Largest, "alone") == second != first


def test_what_draws_at_random_is_not_kept(
    pictures: Path, own_cache: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"source": "day", "head": "probe", "image_size": 32} | quick
    injerto.fit(pictures, backbone=Drawing(), out=tmp_path / "run", **settings)
    assert not (own_cache / "features").exists()


def test_runs_are_not_put_beside_those_on_another_base(
    reviews: Path, copy: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"source": "films", "backbone": copy, "tuning": "head", "steps": 2} | quick

    def compare(seeds: int) -> Any:
        return injerto.compare(reviews, grid={"lr": [1e-3]}, seeds=seeds, out=tmp_path / "compare", **settings)

    def search(trials: int) -> Any:
        given = {"space": {"head_lr": "1e-3..1e-2"}, "trials": trials, "out": tmp_path / "search"}
        return injerto.search(reviews, **given, **settings)

    compare(1)
    search(2)
    swap_words(copy)
    with pytest.raises(InjertoError, match=r"--out .*compare: the base model .*: another tokenizer; bring it back"):
        compare(2)
    with pytest.raises(InjertoError, match=r"--out .*search: the base model .*: another tokenizer; bring it back"):
        search(3)
