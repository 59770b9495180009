"""What a network, its tokenizer or a batch may ask is answered when it is loaded."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from injerto.backbones.load import load_backbone
from injerto.backbones.probing import check_vocabulary
from injerto.basics.errors import InjertoError
from injerto.compute.plan import make_plan
from injerto.domains.preprocessing import ImagePreprocessing
from injerto.domains.texts import pad, tokenize

SIZE = ImagePreprocessing(16, 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Net(nn.Module):
    """A convolution and its mean."""

    def __init__(self, groups: int = 1, width: int = 6) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3, groups=groups)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.stem(images)).mean((2, 3))


class Centred(Net):
    """Takes the batch's mean away."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = super().forward(images)
        return found - found.mean(0)


def test_weights_that_are_not_there_are_refused() -> None:
    with torch.device("meta"):
        net = Net()
    with pytest.raises(InjertoError, match="meta device"):
        load_backbone(net, preprocessing=SIZE)
    with pytest.raises(InjertoError, match="not known yet"):
        load_backbone(nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), preprocessing=SIZE)


def test_nan_is_refused_by_name() -> None:
    net = Net()
    net.last.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(InjertoError, match="Net computes NaN"):
        load_backbone(net, preprocessing=SIZE)


def test_half_precision_and_compiled_networks_are_read_in_float32(capsys: pytest.CaptureFixture[str]) -> None:
    backbone = load_backbone(Net().half(), preprocessing=SIZE)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert load_backbone(torch.compile(Net()), preprocessing=SIZE).spec == "module:Net"
    text = capsys.readouterr().err
    assert text.count("half precision") == 1 and text.count("torch.compile") == 1


def test_an_embedding_that_depends_on_its_company_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    load_backbone(Net(), preprocessing=SIZE)
    assert capsys.readouterr().err == ""
    load_backbone(Centred(), preprocessing=SIZE)
    said = capsys.readouterr().err
    assert "mixes the inputs of a batch" in said and said.count("\n") == 1


def test_odd_groups_get_the_contiguous_layout(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_plan(load_backbone(Net(groups=6), preprocessing=SIZE), "fp32", 1).channels_last
    assert make_plan(load_backbone(Net(groups=2, width=8), preprocessing=SIZE), "fp32", 1).channels_last
    assert not make_plan(load_backbone(Net(groups=2), preprocessing=SIZE), "fp32", 1).channels_last
    assert capsys.readouterr().err.count("the layout is contiguous") == 1


@pytest.mark.parametrize("tuning", ["full", pytest.param("last:1", marks=pytest.mark.slow)])
def test_narrow_steps_do_not_end_the_process(tuning: str, tiny_timm: Path, pictures: Path, tmp_path: Path) -> None:
    """In channels_last, torch writes beyond its memory there; a process of its own says so by its end."""
    script = (
        "import sys, injerto; data, base, out, tuning = sys.argv[1:]; "
        "injerto.fit(data, source='day', backbone=base, tuning=tuning, out=out, threads=2, precision='fp32', "
        "batch_size=8, image_size=48, epochs=6, augment='none')"
    )
    words = [sys.executable, "-c", script, str(pictures), str(tiny_timm), str(tmp_path / "out"), tuning]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert "the layout is contiguous" in done.stderr


def test_tokens_beyond_the_table(text_folder: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer

    folder = text_folder("bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = 40
    tokenizer.add_tokens([f"word{i}" for i in range(rows)], special_tokens=True)
    tokenizer.save_pretrained(folder)
    backbone = load_backbone(str(folder))
    tokenize(["the cat"], backbone.preprocessing)  # type: ignore[arg-type]
    with pytest.raises(InjertoError, match="word39"):
        tokenize(["the word39"], backbone.preprocessing)  # type: ignore[arg-type]
    plain = AutoTokenizer.from_pretrained(text_folder("bert"))
    plain.add_tokens([f"other{i}" for i in range(rows)])
    with pytest.raises(InjertoError, match="embeddings for 40 tokens"):
        check_vocabulary(plain, rows, "x")


def decoder(kind: str, words: int) -> nn.Module:
    import transformers as t

    return {
        "gpt2": lambda: t.GPT2Model(t.GPT2Config(vocab_size=words, n_embd=16, n_layer=2, n_head=2, n_positions=32)),
        "llama": lambda: t.LlamaModel(
            t.LlamaConfig(
                vocab_size=words, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
            )
        ),
        "bloom": lambda: t.BloomModel(t.BloomConfig(vocab_size=words, hidden_size=16, n_layer=2, n_head=2)),
        "mamba": lambda: t.MambaModel(t.MambaConfig(vocab_size=words, hidden_size=16, num_hidden_layers=2)),
    }[kind]()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom", "mamba"])
def test_a_decoder_embeds_by_its_last_token_in_any_company(
    kind: str, text_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    plain = decoder(kind, 40).eval()
    plain.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(text_folder("bert")).save_pretrained(tmp_path)
    backbone = load_backbone(str(tmp_path))
    size = backbone.preprocessing
    rows = tokenize(["a dog", "the cat sat on the mat"], size)  # type: ignore[arg-type]
    batch = {name: torch.from_numpy(value) for name, value in pad(rows, size, 12).items()}  # type: ignore[arg-type]
    with torch.no_grad():
        found = backbone(batch)
        alone = [plain(input_ids=torch.from_numpy(row)[None].long()).last_hidden_state[0, -1] for row in rows]
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=1e-5)
    halves = backbone.split(len(backbone.stages) - 1)
    assert halves is not None
    torch.testing.assert_close(halves[1](halves[0](batch), batch["attention_mask"]), found, rtol=1e-4, atol=1e-5)
