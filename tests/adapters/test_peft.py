"""PEFT's files, both ways; what PEFT gets wrong is right here (each defect has its test)."""

import copy
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import injerto
import tiny
from injerto.adapters.artifact import load_low_rank
from injerto.adapters.likeness import unlike_peft
from injerto.adapters.peft import peft_tensors
from injerto.adapters.snapshot import ADAPTER, CARD, CONFIG, HEAD, opened
from injerto.backbones.load import load_backbone
from injerto.basics.errors import InjertoError
from injerto.compute.batches import BatchMaker
from injerto.evaluation.run import Run
from injerto.tuning.lora.attach import attach
from injerto.tuning.lora.base import Variant
from injerto.tuning.lora.tuning import low_rank_layers

Fit = Callable[..., Run]


@pytest.fixture
def fit(pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path) -> Fit:
    def go(tuning: str = "lora", **settings: Any) -> Run:
        chosen = {"source": "day", "augment": "none", "steps": 6, "lr": 1e-2, "backbone": tiny_timm} | quick | settings
        place = tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}"
        return injerto.fit(chosen.pop("data", pictures), tuning=tuning, out=place, **chosen)

    return go


def wrapped(network: nn.Module, folder: Path) -> Any:
    """What PEFT makes of an adapter's folder."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="(?s).*(missing|unexpected).*key.*")
        return peft.PeftModel.from_pretrained(network, str(folder)).eval()


def images(run: Run, data: Path) -> torch.Tensor:
    maker = BatchMaker(run.model.backbone.preprocessing, "cpu")
    return maker.collate_images([maker.image(path) for path in sorted((data / "day").rglob("*.png"))[:12]])


@pytest.mark.parametrize(
    "tuning",
    ["lora", "lora:last:1", "lora(variant=dora,r=4)", "lora(variant=pissa/rslora)", "lora(ranks=layer2.0.conv1:3)"],
)
def test_with_a_native_head_pefts_logits_are_ours(fit: Fit, pictures: Path, tiny_timm: Path, tuning: str) -> None:
    run = fit(tuning, head="native")
    folder = run.path / "adapter"
    assert not (folder / HEAD).exists() and not (folder / "config.json").exists()
    plain = timm.create_model("resnet18", channels=[8, 8, 16, 16], num_classes=3)
    plain.load_state_dict(load_file(tiny_timm / "model.safetensors"), strict=False)
    theirs = wrapped(plain.eval(), folder)
    x = images(run, pictures)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), run.model(x).logits, rtol=1e-5, atol=2e-5)
        assert float((theirs(x) - theirs.get_base_model().fc(load_backbone(str(tiny_timm))(x))).abs().max()) > 1e-3


@pytest.mark.parametrize("tuning", ["lora", "lora(targets=query/value)", "lora(variant=dora)"])
def test_with_pooled_text_pefts_embedding_is_ours(fit: Fit, reviews: Path, tiny_bert: Path, tuning: str) -> None:
    from transformers import AutoModel

    run = fit(tuning, data=reviews, source="films", backbone=tiny_bert)
    folder = run.path / "adapter"
    assert (folder / HEAD).exists()
    base = AutoModel.from_pretrained(tiny_bert, add_pooling_layer=False)
    theirs = wrapped(base, folder)
    texts = ["a good film", "the plot was so dull and the ending poor"]
    batch = BatchMaker(run.model.backbone.preprocessing, "cpu").collate_texts(
        [np.asarray(run.model.backbone.preprocessing.tokenizer(text)["input_ids"]) for text in texts]  # type: ignore[union-attr]
    )
    with torch.no_grad():
        hidden = theirs(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        torch.testing.assert_close(mean, run.model.backbone(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_dora": True}, {"use_rslora": True}, {"rank_pattern": {"query": 3}, "alpha_pattern": {"query": 5}}],
)
def test_we_load_pefts_own_file(tiny_bert: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    import peft
    from transformers import AutoModelForSequenceClassification

    whole = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=3)
    config = peft.LoraConfig(
        r=4, lora_alpha=12, target_modules=["query", "dense"], exclude_modules=["pooler.dense"], **settings
    )
    theirs = peft.get_peft_model(whole, config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    theirs.save_pretrained(tmp_path / "theirs")
    backbone = load_backbone(str(tiny_bert))
    with opened(tmp_path / "theirs") as files:
        load_low_rank(files, backbone)
    batch = {"input_ids": torch.randint(5, 25, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.int64)}
    with torch.no_grad():
        ours = backbone.model(**batch).last_hidden_state
        torch.testing.assert_close(ours, theirs.base_model.model.bert(**batch).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_we_load_pefts_own_file_for_a_grouped_convolution(tmp_path: Path) -> None:
    import peft

    torch.manual_seed(0)
    network = timm.create_model(
        "resnext50_32x4d", layers=[1, 1, 1, 1], channels=[16, 16, 16, 16], num_classes=0, cardinality=4, base_width=64
    )
    with torch.no_grad():
        for parameter in network.parameters():  # timm's last norms begin at zero
            parameter.add_(0.1 * torch.randn(parameter.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(copy.deepcopy(network), peft.LoraConfig(r=4, target_modules=["conv2"])).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape))
    theirs.save_pretrained(tmp_path / "theirs")
    backbone = load_backbone(network.eval())
    x = torch.randn(2, 3, 64, 64)
    before = backbone(x).detach()
    with opened(tmp_path / "theirs") as files:
        load_low_rank(files, backbone)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), theirs(x), rtol=1e-4, atol=1e-5)
        assert float((backbone(x) - before).abs().max()) > 1e-3


@pytest.mark.slow
def test_equal_runs_are_equal_bytes_whatever_the_hash_seed(pictures: Path, tiny_timm: Path, tmp_path: Path) -> None:
    code = (
        "import sys, injerto; injerto.fit(sys.argv[1], source='day', backbone=sys.argv[2], tuning='lora', steps=2, "
        "out=sys.argv[3], threads=1, precision='fp32', augment='none', batch_size=8)"
    )
    for seed in ("1", "2"):
        place = tmp_path / f"p{seed}" / "run"
        subprocess.run(
            [sys.executable, "-c", code, pictures, tiny_timm, place],
            check=True,
            env={**_environment(), "PYTHONHASHSEED": seed},
        )
    for file in (ADAPTER, HEAD, CARD, CONFIG):
        one, other = ((tmp_path / f"p{seed}" / "run" / "adapter" / file).read_bytes() for seed in ("1", "2"))
        assert one == other, file


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def test_loaded_is_saved_bit_for_bit(fit: Fit, pictures: Path) -> None:
    files = sorted((pictures / "night").rglob("*.png"))
    for tuning in ("lora", "lora(variant=dora)", "lora:last:2"):
        run = fit(tuning)
        recorded = run.metrics["domains"]["night"]["splits"]["test"]
        again = injerto.load(run.path)
        assert (again.predict_proba(files) == run.predict_proba(files)).all()
        domains = injerto.load_domains(pictures)
        assert again.evaluate(domains, ["night"])["night"]["nll"] == pytest.approx(recorded["nll"])
        layers = dict(low_rank_layers(again.model.backbone.model))
        tensors = load_file(run.path / "adapter" / ADAPTER)
        for name, tensor in peft_tensors(again.model.backbone.model).items():
            assert torch.equal(tensor, tensors[name])
        assert len(tensors) == len(layers) * (3 if "dora" in tuning else 2)


def test_adapters_of_three_and_five_classes_on_one_base(
    fit: Fit, data_writers: Any, tiny_timm: Path, tmp_path: Path
) -> None:
    five = tmp_path / "five"
    data_writers.pictures(five, domains=("day",))
    for number, label in enumerate(("black", "white")):
        folder = five / "day" / label
        folder.mkdir()
        from PIL import Image

        for index in range(6):
            Image.new("RGB", (32, 32), (index + 250 * number,) * 3).save(folder / f"{index}.png")
    three, other = fit(head="native"), fit(head="native", data=five)
    base = load_backbone(str(tiny_timm))
    found = [injerto.load(run.path, backbone=base) for run in (three, other)]
    assert [len(run.labels) for run in found] == [3, 5]
    assert [run.predict_proba(sorted((five / "day").rglob("*.png"))).shape[1] for run in found] == [3, 5]
    assert not list(low_rank_layers(base.model))  # the user's own stays as it is


def test_norm_statistics_do_not_drift_under_a_frozen_base(fit: Fit, tiny_timm: Path) -> None:
    before = load_backbone(str(tiny_timm)).model.state_dict()
    after = fit().model.backbone.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_statistics_that_may_train_are_shipped_and_peft_has_them(fit: Fit, pictures: Path, tiny_timm: Path) -> None:
    run = fit(norm="train", head="native")
    plain = timm.create_model("resnet18", channels=[8, 8, 16, 16], num_classes=3)
    plain.load_state_dict(load_file(tiny_timm / "model.safetensors"), strict=False)
    theirs = wrapped(plain.eval(), run.path / "adapter")
    x = images(run, pictures)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), injerto.load(run.path).model(x).logits, rtol=1e-5, atol=2e-5)


def test_another_base_of_the_same_shapes_is_refused(fit: Fit, other_timm: Path) -> None:
    run = fit()
    with pytest.raises(InjertoError, match="other weights"):
        injerto.load(run.path, backbone=other_timm).predict([])


def test_the_new_head_is_trained_and_shipped_without_being_named(fit: Fit) -> None:
    run = fit()
    assert set(load_file(run.path / "adapter" / HEAD)) == {"head.layers.0.weight", "head.layers.0.bias"}
    assert float(run.model.head.layers[0].weight.abs().max()) > 0  # type: ignore[operator, union-attr]
    card = json.loads((run.path / "adapter" / CARD).read_text())
    assert card["labels"] == ["blue", "green", "red"] and card["metrics"] and card["preprocessing"]


def test_strength_runs_from_the_base_to_the_adapter(fit: Fit, pictures: Path, tiny_timm: Path) -> None:
    run = fit()
    files = sorted((pictures / "day").rglob("*.png"))
    head = run.model.head.layers[0]
    base = load_backbone(str(tiny_timm))
    x = images(run, pictures)
    with torch.no_grad():
        torch.testing.assert_close(run.scale(0).model(x).embedding, base(x))
        torch.testing.assert_close(run.scale(1).model(x).logits, run.model(x).logits)
    assert torch.equal(run.scale(0).model.head.layers[0].weight, head.weight)  # type: ignore[union-attr]
    layer, half = (dict(low_rank_layers(r.model.backbone.model)) for r in (run, run.scale(0.5)))
    for path in layer:
        wanted = layer[path].base_weight + 0.5 * layer[path].delta()
        torch.testing.assert_close(half[path].effective(), wanted)
    assert not (run.scale(0).predict_proba(files) == run.predict_proba(files)).all()
    with pytest.raises(InjertoError, match="0 .pretrained. to 1"):
        run.scale(1.5).predict(files)


def test_with_a_slider_the_probe_is_interpolated_too(fit: Fit, pictures: Path) -> None:
    run = fit(slider=True)
    path = run.metrics["forgetting"]["path"]
    assert [point["t"] for point in path] == [0, 0.25, 0.5, 0.75, 1]
    assert path[0]["cka"] == pytest.approx(1) and path[4]["cka"] < 1
    probe = injerto.fit(
        pictures,
        source="day",
        backbone=run.model.backbone.spec,
        tuning="head",
        head="probe",
        out=run.path / "probe",
        threads=1,
        precision="fp32",
    )
    files = sorted((pictures / "day").rglob("*.png"))
    np.testing.assert_allclose(run.scale(0).predict_proba(files), probe.predict_proba(files), atol=1e-4)
    assert (injerto.load(run.path, slider=0.5).predict_proba(files) == run.scale(0.5).predict_proba(files)).all()


# --- files from strangers ---------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(fit: Fit) -> Callable[..., None]:
    """A function: change the tensors or the configuration of a good adapter; it must be refused in these words."""
    run = fit("lora(r=4)")
    folder = run.path / "adapter"
    tensors, config = load_file(folder / ADAPTER), json.loads((folder / CONFIG).read_text())

    def check(words: str, change: Callable[[dict[str, torch.Tensor]], None] = lambda _: None, **keys: Any) -> None:
        changed = dict(tensors)
        change(changed)
        save_file(changed, folder / ADAPTER, metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config | keys))
        tiny.sign(folder)
        with pytest.raises(InjertoError, match=words) as caught:
            injerto.load(run.path).predict([np.zeros((32, 32, 3), np.uint8)])
        assert "\n" not in str(caught.value)

    return check


def test_hostile_files_are_refused(hostile: Callable[..., None]) -> None:
    name = "base_model.model.layer1.0.conv1.lora_A.weight"
    hostile("has no layer 'no.such'", lambda t: t.update({"base_model.model.no.such.lora_A.weight": torch.zeros(4, 3)}))
    hostile("'layer1.0.conv1' needs", lambda t: t.pop(name))
    hostile("has shape", lambda t: t.update({name: torch.zeros(4, 9, 3, 3)}))
    hostile("rank 5000|more than its base", lambda t: t.update({name: torch.zeros(5000, 64, 3, 3)}))
    hostile("NaN", lambda t: t.update({name: torch.full((4, 64, 3, 3), torch.nan)}))
    hostile("does not exist", lambda t: t.update({"base_model.model.os.system": torch.zeros(2)}))
    hostile("more than its base model could need", lambda t: t.update({"big": torch.zeros(3_000_000)}))
    hostile("peft_type is 'PROMPT_TUNING'", peft_type="PROMPT_TUNING")
    hostile("'lora_bias' is not known", lora_bias=True)
    hostile("'lora_alpha' must be", lora_alpha="much")
    hostile("'r' must be", r=-1)
    hostile("alpha_pattern", alpha_pattern={"x": None})
    hostile("pattern", alpha_pattern={"(a+)+$": 3})
    hostile("needs .*lora_magnitude", use_dora=True)


def test_the_configuration_has_what_other_readers_need(fit: Fit) -> None:
    config = json.loads((fit("lora(r=4,alpha=8)").path / "adapter" / CONFIG).read_text())
    assert config["r"] == 4 and config["lora_alpha"] == 8 and config["peft_type"] == "LORA" and config["inference_mode"]
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not config["rank_pattern"] and not config["alpha_pattern"] and config["bias"] == "none"


def test_a_strangers_adapter_becomes_a_base(
    tiny_bert: Path, reviews: Path, tmp_path: Path, quick: dict[str, Any]
) -> None:
    import peft
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=5)
    config = peft.LoraConfig(r=4, target_modules=["query", "dense"], task_type="SEQ_CLS")
    theirs = peft.get_peft_model(model, config).eval()
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = injerto.load_peft(tmp_path / "theirs", tiny_bert)
    inputs = {"input_ids": torch.arange(2, 14).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    with torch.no_grad():
        hidden = theirs.base_model.model.bert(**inputs).last_hidden_state
        torch.testing.assert_close(ours(inputs), hidden.mean(1), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(ours(inputs), injerto.load_backbone(tiny_bert)(inputs), atol=1e-3)
    run = injerto.fit(reviews, source="books", backbone=ours, tuning="lora", steps=2, out=tmp_path / "run", **quick)
    assert injerto.load(run.path, backbone=ours).predict(["good"]) == run.predict(["good"])
    with pytest.raises(injerto.InjertoError, match="another|other weights"):
        injerto.load(run.path, backbone=tiny_bert)
    with pytest.raises(injerto.InjertoError, match="no adapter_config"):
        injerto.load_peft(tmp_path, tiny_bert)


STRANGE: dict[str, tuple[dict[str, Any], str]] = {
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "changed its base"),
    "no boolean": ({"use_rslora": "false"}, "true or false"),
    "activated": ({"alora_invocation_tokens": [1, 2]}, "not known here"),
    "parameters": ({"target_parameters": ["x"]}, "not known here"),
    "pattern": ({"alpha_pattern": {"a\\": 3}}, "pattern"),
    "modules": ({"modules_to_save": 5}, "must be a list"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_strangers_settings_are_known_or_refused(tiny_bert: Path, tmp_path: Path, what: str) -> None:
    _stranger(tiny_bert, tmp_path)
    changes, says = STRANGE[what]
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InjertoError, match=says):
        injerto.load_peft(tmp_path, tiny_bert)


def _stranger(tiny_bert: Path, folder: Path) -> None:
    import peft
    from transformers import AutoModel

    config = peft.LoraConfig(r=4, target_modules="all-linear")
    peft.get_peft_model(AutoModel.from_pretrained(tiny_bert), config).save_pretrained(folder)


def test_a_strangers_tensors_are_asked_for_or_refused(tiny_bert: Path, tmp_path: Path) -> None:
    _stranger(tiny_bert, tmp_path)
    path = tmp_path / ADAPTER
    tensors = load_file(path)
    assert any("pooler" in name for name in tensors)  # which our backbone has not
    injerto.load_peft(tmp_path, tiny_bert)
    table = load_backbone(tiny_bert).model.embeddings.word_embeddings.weight
    huge = {name: torch.full_like(tensor, 1e38) for name, tensor in tensors.items()}
    for says, content in {
        "replaces the base's": tensors | {"base_model.model.embeddings.word_embeddings.weight": table.detach() + 1},
        "no low-rank pair": {},
        "not finite": huge,
    }.items():
        save_file(content, path)
        with pytest.raises(InjertoError, match=says):
            injerto.load_peft(tmp_path, tiny_bert)
    with pytest.raises(InjertoError, match="not NoneType"):
        injerto.load_peft(tmp_path, None)


@pytest.mark.parametrize(
    ("layer", "same"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), True),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2, stride=2), True),
        (nn.Conv2d(4, 6, 1, dilation=2), True),
        (nn.Conv2d(4, 6, 3, padding=2, dilation=2), False),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv1d(4, 6, 3, dilation=3), False),
        (timm.layers.ScaledStdConv2d(4, 6, 3), False),
        (timm.layers.create_conv2d(4, 6, 3, stride=2, padding="same"), True),
    ],
    ids=lambda value: str(value),
)
def test_what_peft_computes_otherwise_is_known(layer: nn.Module, same: bool) -> None:
    """PEFT itself says whether its forward with our tensors is ours."""
    import peft

    torch.manual_seed(0)
    net = nn.Sequential(copy.deepcopy(layer)).eval()
    ours = copy.deepcopy(net)
    own = attach(ours[0], Variant(2, 4.0))
    with torch.no_grad():
        own.lora_B.normal_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.get_peft_model(net, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0"])).eval()
    peft.set_peft_model_state_dict(theirs, peft_tensors(ours))
    x = torch.randn(2, 4, *[9] * len(layer.kernel_size))
    try:
        equal = bool(torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-4))
    except RuntimeError:
        equal = False
    assert equal is same
    assert unlike_peft(ours) == ([] if same else ["0"])


def test_what_peft_computes_otherwise_is_not_exported_for_it(
    fit: Fit, pictures: Path, tiny_timm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dilated = timm.create_model("resnet18", channels=[8, 8, 16, 16], num_classes=0, output_stride=8)
    dilated.load_state_dict(load_file(tiny_timm / "model.safetensors"), strict=False)
    looks = load_backbone(str(tiny_timm)).preprocessing
    run = fit(backbone=load_backbone(dilated, preprocessing=looks), steps=1)
    with pytest.raises(InjertoError, match="PEFT computes something else with the pair of layer3.*--format merged"):
        injerto.export(run.path, tmp_path / "peft", format="peft", backbone=load_backbone(dilated, preprocessing=looks))
    assert not (tmp_path / "peft" / CONFIG).exists()
