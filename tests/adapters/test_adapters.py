"""What ships: byte-identical, minimal, refused where it does not fit or comes from somebody with other intentions."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import injerto
import tiny
from injerto.adapters.snapshot import ADAPTER, CARD, HEAD
from injerto.basics.errors import InjertoError

SETTINGS: dict[str, dict[str, Any]] = {
    "head": {"tuning": "head", "epochs": 2},
    "probe": {"tuning": "head", "head": "probe"},
    "mlp with neck": {"tuning": "head", "head": "mlp", "neck": "8", "steps": 4},
    "last:1": {"tuning": "last:1", "steps": 3},
    "full, train": {"tuning": "full", "norm": "train", "steps": 3},
    "head, recalibrated": {"tuning": "head", "norm": "recalibrate", "steps": 3},
}


@pytest.fixture(scope="module")
def runs(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """Every setting run twice, in folders and from data in folders of other names."""
    copy = tmp_path_factory.mktemp("elsewhere") / "pictures"
    shutil.copytree(pictures, copy)
    found = {}
    for name, settings in SETTINGS.items():
        pair = []
        for data in (pictures, copy):
            out = tmp_path_factory.mktemp("a-place") / "secret-folder" / f"run-{len(pair)}"
            injerto.fit(
                data, source="day", target="dusk", backbone=tiny_timm, out=out, augment="none", **quick, **settings
            )
            pair.append(out)
        found[name] = (pair[0], pair[1])
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_equal_runs_ship_equal_bytes(runs: dict[str, tuple[Path, Path]], name: str) -> None:
    a, b = (run / "adapter" for run in runs[name])
    assert {path.name for path in a.iterdir()} == {ADAPTER, HEAD, CARD}
    for file in (ADAPTER, HEAD, CARD):
        assert (a / file).read_bytes() == (b / file).read_bytes(), file


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_says_where_or_when(runs: dict[str, tuple[Path, Path]], name: str, tmp_path: Path) -> None:
    import datetime
    import getpass

    folder = runs[name][0] / "adapter"
    for file in (ADAPTER, HEAD, CARD):
        content = (folder / file).read_bytes()
        if file != CARD:  # the numbers may spell anything
            content = content[: 8 + int.from_bytes(content[:8], "little")]
        secrets = [
            "/tmp",
            "/home",
            "/root",
            str(tmp_path.parent.parent),
            "secret-folder",
            "run-0",
            "pytest",
            "pictures",
        ]
        secrets += [str(datetime.date.today()), str(datetime.date.today().year) + "-"]
        secrets += [f"/{getpass.getuser()}"]
        for secret in secrets:
            assert secret.encode() not in content, (file, secret)
    card = json.loads((folder / CARD).read_text())
    assert not re.search(r'"[^"]*\d\d:\d\d', json.dumps(card))
    assert card["base"]["name"] == "tiny-resnet"


@pytest.mark.parametrize(
    ("name", "starts", "statistics"),
    [
        ("head", (), False), ("probe", (), False), ("mlp with neck", (), False), ("last:1", ("layer4.",), False),
        ("full, train", ("",), True), ("head, recalibrated", (), True),
    ],
)  # fmt: skip
def test_only_what_changed_ships(
    runs: dict[str, tuple[Path, Path]], tiny_timm: Path, name: str, starts: tuple[str, ...], statistics: bool
) -> None:
    base = load_file(tiny_timm / "model.safetensors")
    found = load_file(runs[name][0] / "adapter" / ADAPTER)
    parameters = {key for key in base if not re.search("running|tracked", key)}
    expected = {key for key in parameters if starts and key.startswith(starts)}
    if statistics:
        expected |= {key for key in base if "running" in key}
    assert set(found) == expected
    assert all(not torch.equal(found[key], base[key]) for key in expected if "running" not in key)
    head = load_file(runs[name][0] / "adapter" / HEAD)
    linear = {"head.layers.0.weight", "head.layers.0.bias"}
    if name == "mlp with neck":
        linear |= {"head.layers.2.weight", "head.layers.2.bias"} | {
            f"neck.layers.{i}.{k}" for i in (0, 1) for k in ("weight", "bias")
        }
    assert set(head) == linear


def test_the_card_says_what_a_stranger_needs(runs: dict[str, tuple[Path, Path]], tiny_timm: Path) -> None:
    card = json.loads((runs["last:1"][0] / "adapter" / CARD).read_text())
    backbone = injerto.load_backbone(str(tiny_timm))
    assert card["labels"] == ["blue", "green", "red"]
    assert card["base"]["fingerprint"] == backbone.fingerprint
    assert card["preprocessing"] == json.loads(json.dumps(backbone.preprocessing.card()))
    assert (card["tuning"], card["head"], card["norm"], card["seed"], card["split_seed"]) == (
        "last:1",
        "linear",
        "frozen",
        0,
        0,
    )
    assert card["metrics"]["day"]["oracle"] is False and card["metrics"]["dusk"]["oracle"] is True
    assert set(card["versions"]) == {"injerto", "torch", "timm", "transformers"}
    assert "licence" in card["licence_note"] and card["base"]["licence"] == "mit"


def pictures_of(pictures: Path) -> list[Path]:
    return sorted(pictures.glob("*/*/*.png"))[::7]


@pytest.mark.parametrize("name", SETTINGS)
def test_loaded_again_it_predicts_the_same_bits(
    runs: dict[str, tuple[Path, Path]], pictures: Path, name: str, tiny_timm: Path
) -> None:
    items = pictures_of(pictures)
    one = injerto.load(runs[name][0], threads=1)
    expected = one.predict_proba(items)
    bare = injerto.load(runs[name][1] / "adapter", threads=1)
    assert np.array_equal(bare.predict_proba(items), expected)
    named = injerto.load(runs[name][1] / "adapter", backbone=str(tiny_timm), threads=1)
    assert np.array_equal(named.predict_proba(items), expected)
    assert not any(module.training for module in one.model.modules())


@pytest.mark.parametrize("name", ["probe", "last:1", "full, train", "mlp with neck"])
def test_the_shipped_tensors_are_the_function(
    runs: dict[str, tuple[Path, Path]], pictures: Path, tiny_timm: Path, name: str
) -> None:
    """Without our loader: timm's model, the adapter's tensors put in, plain torch."""
    import timm
    from PIL import Image
    from torch.nn import functional

    folder = runs[name][0] / "adapter"
    network = timm.create_model("resnet18", pretrained=False, num_classes=0, channels=[8, 8, 16, 16]).eval()
    network.load_state_dict(load_file(tiny_timm / "model.safetensors"))
    missing, unexpected = network.load_state_dict(load_file(folder / ADAPTER), strict=False)
    assert not unexpected
    head, card = load_file(folder / HEAD), json.loads((folder / CARD).read_text())
    items = pictures_of(pictures)
    mean, std = (torch.tensor(card["preprocessing"][key]).view(3, 1, 1) for key in ("mean", "std"))
    x = torch.stack([(torch.from_numpy(np.asarray(Image.open(p))).permute(2, 0, 1) / 255 - mean) / std for p in items])
    with torch.no_grad():
        h = network(x)
        if name == "mlp with neck":
            h = functional.linear(h, head["neck.layers.0.weight"], head["neck.layers.0.bias"])
            h = functional.relu(
                functional.layer_norm(h, (8,), head["neck.layers.1.weight"], head["neck.layers.1.bias"])
            )
        h = functional.linear(h, head["head.layers.0.weight"], head["head.layers.0.bias"])
        if name == "mlp with neck":
            h = functional.linear(functional.gelu(h), head["head.layers.2.weight"], head["head.layers.2.bias"])
    expected = h.double().softmax(1).numpy()
    found = injerto.load(folder, backbone=str(tiny_timm)).predict_proba(items)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_metrics_of_the_run_are_those_of_its_adapter(runs: dict[str, tuple[Path, Path]], pictures: Path) -> None:
    for name in ("probe", "full, train", "last:1"):
        run = injerto.load(runs[name][0], threads=1)
        found = run.evaluate(injerto.load_domains(pictures))
        for domain, entry in run.metrics["domains"].items():
            for key in ("accuracy", "n"):
                assert found[domain][key] == entry["splits"]["test"][key], (name, domain)
            assert found[domain]["nll"] == pytest.approx(entry["splits"]["test"]["nll"], rel=1e-4)


def test_a_base_of_the_other_kind_or_no_longer_there_is_named(
    runs: dict[str, tuple[Path, Path]], tiny_bert: Path, tiny_timm: Path, tmp_path: Path
) -> None:
    with pytest.raises(InjertoError, match="takes images, and the base .* takes texts"):
        injerto.load(runs["last:1"][0], backbone=str(tiny_bert))
    base = shutil.copytree(tiny_timm, tmp_path / "base")
    recipe = (runs["last:1"][0] / "recipe.yaml").read_text()
    folder = shutil.copytree(runs["last:1"][0], tmp_path / "moved")
    (folder / "recipe.yaml").write_text(recipe.replace(str(tiny_timm), str(base)))
    injerto.load(folder, threads=1)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(
        InjertoError, match="its base model was at .*base, where nothing is now; say where with --backbone"
    ):
        injerto.load(folder, threads=1)
    injerto.load(folder, backbone=str(tmp_path / "elsewhere"), threads=1)


def test_a_wrong_base_is_refused_in_plain_words(runs: dict[str, tuple[Path, Path]], other_timm: Path) -> None:
    with pytest.raises(InjertoError) as caught:
        injerto.load(runs["last:1"][0], backbone=str(other_timm))
    message = str(caught.value)
    assert "was made for the base model tiny-resnet" in message and "other weights" in message and "\n" not in message


def test_a_moved_base_is_asked_for(runs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    shutil.copytree(runs["last:1"][0] / "adapter", tmp_path / "bare")
    with pytest.raises(InjertoError, match="needs its base model tiny-resnet; pass it with --backbone"):
        injerto.load(tmp_path / "bare")


def test_two_adapters_on_one_base_do_not_mix(
    runs: dict[str, tuple[Path, Path]], pictures: Path, tiny_timm: Path
) -> None:
    items = pictures_of(pictures)
    alone = {name: injerto.load(runs[name][0], threads=1).predict_proba(items) for name in ("full, train", "last:1")}
    base = injerto.load_backbone(str(tiny_timm))
    before = {name: value.clone() for name, value in base.state_dict().items()}
    opened = {name: injerto.load(runs[name][0], backbone=base, threads=1) for name in alone}
    for name, run in opened.items():
        assert np.array_equal(run.predict_proba(items), alone[name]), name
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


# --- hostile files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(runs: dict[str, tuple[Path, Path]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs["last:1"][0] / "adapter", tmp_path / "adapter"))


def refused(folder: Path, base: Path, says: str = "", signed: bool = True) -> str:
    """The message; with a card that says nothing against the files, so that they speak for themselves."""
    with suppress(ValueError, OSError, TypeError, RecursionError):
        if signed:
            tiny.sign(folder)
    with pytest.raises(InjertoError) as caught:
        injerto.load(folder, backbone=str(base))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    assert re.search(says, message), message
    return message


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


TENSORS: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "nan": (ADAPTER, lambda t: t["layer4.0.conv1.weight"].view(-1)[3].fill_(float("nan")), "NaN or infinity"),
    "infinity": (HEAD, lambda t: t["head.layers.0.bias"][0].fill_(float("-inf")), "NaN or infinity"),
    "wrong shape": (HEAD, lambda t: t.update({"head.layers.0.bias": torch.zeros(4)}), r"shape \(4,\)"),
    "transposed": (
        HEAD,
        lambda t: t.update({"head.layers.0.weight": t["head.layers.0.weight"].t().contiguous()}),
        "shape",
    ),
    "foreign name": (ADAPTER, lambda t: t.update({"evil": torch.zeros(2)}), "'evil' does not exist"),
    "a name of the head": (ADAPTER, lambda t: t.update({"head.layers.0.bias": torch.zeros(3)}), "does not exist"),
    "a name of the base": (HEAD, lambda t: t.update({"backbone.model.conv1.weight": torch.zeros(1)}), "does not exist"),
    "missing": (HEAD, lambda t: t.pop("head.layers.0.bias"), "lacks 'head.layers.0.bias'"),
    "wrong type": (HEAD, lambda t: t.update({"head.layers.0.bias": torch.zeros(3, dtype=torch.int8)}), "int8|type"),
    "other precision": (
        ADAPTER,
        lambda t: t.update({"layer4.0.bn1.bias": torch.zeros(16, dtype=torch.float64)}),
        "64|type",
    ),
}


@pytest.mark.parametrize("what", TENSORS)
def test_tensors_that_do_not_fit_are_refused(adapter: Path, tiny_timm: Path, what: str) -> None:
    file, edit, says = TENSORS[what]
    change(adapter / file, edit)
    assert file in refused(adapter, tiny_timm, says)


def raw(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


BYTES = {
    "empty": b"",
    "short": b"\x01",
    "text": b"this is no safetensors file at all",
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "huge header": raw(b"{}", 2**63),
    "large header": raw(b"{}", 2**31),
    "header no json": raw(b"{{{{{{{{"),
    "header a list": raw(b"[1,2,3] "),
    "offsets outside": raw(b'{"head.layers.0.bias":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}', None, b"1234"),
    "offsets backwards": raw(
        b'{"head.layers.0.bias":{"dtype":"F32","shape":[3],"data_offsets":[12,0]}}', None, b"0" * 12
    ),
    "overflowing shape": raw(
        b'{"head.layers.0.bias":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'
    ),
    "deep json": raw(b"[" * 5000),
}


@pytest.mark.parametrize("file", [ADAPTER, HEAD])
@pytest.mark.parametrize("what", BYTES)
def test_files_that_are_no_safetensors_are_refused(adapter: Path, tiny_timm: Path, what: str, file: str) -> None:
    (adapter / file).write_bytes(BYTES[what])
    assert file in refused(adapter, tiny_timm, "cannot be read|lacks")


@pytest.mark.parametrize("file", [ADAPTER, HEAD])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_truncated_files_are_refused(adapter: Path, tiny_timm: Path, file: str, keep: float) -> None:
    content = (adapter / file).read_bytes()
    (adapter / file).write_bytes(content[: int(keep * len(content))])
    assert file in refused(adapter, tiny_timm, "cannot be read")


@pytest.mark.parametrize("file", [ADAPTER, HEAD, CARD])
def test_a_missing_file_is_named(adapter: Path, tiny_timm: Path, file: str) -> None:
    (adapter / file).unlink()
    assert file in refused(adapter, tiny_timm, "missing")
    (adapter / file).mkdir()
    refused(adapter, tiny_timm)


def test_a_file_larger_than_the_model_is_not_read(adapter: Path, tiny_timm: Path) -> None:
    with (adapter / HEAD).open("ab") as stream:
        stream.truncate(10**10)  # sparse
    refused(adapter, tiny_timm, "more than its base model could need", signed=False)


def damaged(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(card: dict[str, Any]) -> None:
        for key, value in changes.items():
            part = card
            *path, last = key.split("__")
            for name in path:
                part = part[name]
            part[last] = value

    return edit


CARDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "labels twice": (damaged(labels=["a", "a", "b"]), "labels"),
    "one label": (damaged(labels=["a"]), "labels"),
    "labels of numbers": (damaged(labels=[1, 2, 3]), "labels"),
    "labels that steer a terminal": (damaged(labels=["a", "b\x1b[2J", "c"]), "labels"),
    "half a character": (damaged(labels=["a", "b\ud800", "c"]), "labels"),
    "no labels": (lambda card: card.pop("labels"), "labels"),
    "other count of labels": (damaged(labels=["a", "b"]), "shape"),
    "newer": (damaged(format=99), "newer Injerto"),
    "format a word": (damaged(format="1"), "format"),
    "unknown head": (damaged(head="evil"), "head"),
    "endless neck": (damaged(neck="99999999999"), "neck"),
    "negative neck": (damaged(neck="-3"), "neck"),
    "no base": (lambda card: card.pop("base"), "base"),
    "base a list": (damaged(base=[]), "base"),
    "no fingerprint": (lambda card: card["base"].pop("fingerprint"), "fingerprint"),
    "spec a number": (damaged(base__spec=3), "spec"),
    "height a word": (damaged(preprocessing__height="big"), "preprocessing"),
    "endless height": (damaged(preprocessing__height=10**9), "preprocessing"),
    "zero deviation": (damaged(preprocessing__std=[0, 1, 1]), "preprocessing"),
    "infinite mean": (damaged(preprocessing__mean=[1e999, 0, 0]), "Infinity is no number"),
    "nan deviation": (damaged(preprocessing__std=[float("nan")] * 3), "NaN is no number"),
    "infinite crop": (damaged(preprocessing__crop=float("inf")), "Infinity is no number"),
    "endless interpolation": (damaged(preprocessing__interpolation="evil"), "interpolation|preprocessing"),
    "preprocessing a list": (damaged(preprocessing=[]), "preprocessing"),
    "no preprocessing inside": (damaged(preprocessing={}), "preprocessing"),
    "other task": (damaged(task="regression"), "task"),
}


@pytest.mark.parametrize("what", CARDS)
def test_a_damaged_card_is_refused(adapter: Path, tiny_timm: Path, what: str) -> None:
    edit, says = CARDS[what]
    card = json.loads((adapter / CARD).read_text())
    edit(card)
    (adapter / CARD).write_text(json.dumps(card))
    refused(adapter, tiny_timm, says)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"not json", b"[]", b"null", b"3", b'"text"', b"\xff\xfe\x00\x01", b"[" * 100_000, b'{"format": NaN}'],
    ids=range(10),
)
def test_a_card_that_is_no_card(adapter: Path, tiny_timm: Path, content: bytes) -> None:
    (adapter / CARD).write_bytes(content)
    refused(adapter, tiny_timm, "damaged")


def test_an_endless_card_is_not_read(adapter: Path, tiny_timm: Path) -> None:
    with (adapter / CARD).open("ab") as stream:
        stream.truncate(10**10)
    refused(adapter, tiny_timm, "no adapter card", signed=False)


@pytest.mark.parametrize("prefix", ["", "hf:", "timm:"])
def test_a_card_cannot_name_a_folder_of_the_readers(adapter: Path, tiny_timm: Path, prefix: str) -> None:
    """The card's spec is followed without asking, so it must be a public name, never a path."""
    card = json.loads((adapter / CARD).read_text())
    card["base"]["spec"] = f"{prefix}{tiny_timm}"
    (adapter / CARD).write_text(json.dumps(card))
    with pytest.raises(InjertoError, match="spec") as caught:
        injerto.load(adapter)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec", ["packaged:../../etc", "hf:../x", "hf:~/x", "timm:./x", "hf:a/b/c", "file:x", "module:x", "hf:"]
)
def test_other_specs_that_are_no_public_name(adapter: Path, spec: str) -> None:
    card = json.loads((adapter / CARD).read_text())
    card["base"]["spec"] = spec
    (adapter / CARD).write_text(json.dumps(card))
    with pytest.raises(InjertoError) as caught:
        injerto.load(adapter)
    assert "\n" not in str(caught.value)


def test_an_adapter_that_answers_with_no_number_says_so(adapter: Path, tiny_timm: Path, pictures: Path) -> None:
    """Its tensors are finite, and what is computed with them is not."""
    change(adapter / HEAD, lambda tensors: tensors["head.layers.0.weight"].fill_(3e38))
    tiny.sign(adapter)
    opened = injerto.load(adapter, backbone=str(tiny_timm))
    with pytest.raises(InjertoError, match="NaN or infinity for 1 of 1 inputs"):
        opened.predict_proba([next(iter(sorted(pictures.rglob("*.png"))))])
