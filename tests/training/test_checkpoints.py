from pathlib import Path

import pytest
import torch
from torch import nn

from injerto.basics.errors import InjertoError
from injerto.training.checkpoints import load_checkpoint, pack_optimizer, save_checkpoint, unpack_optimizer


def test_round_trip_is_exact(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4, 5).permute(2, 0, 1), "b": torch.tensor(7), "c": torch.randn(2).to(torch.bfloat16)}
    state = {"step": 3, "best": [0.1 + 0.2, -1e-300], "none": None}
    save_checkpoint(tmp_path / "deep" / "x.safetensors", tensors, state)
    found, again = load_checkpoint(tmp_path / "deep" / "x.safetensors")
    assert again == state
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == tensors[name].dtype for name in found)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_restored_optimizer_goes_on_as_if_nothing_had_been(kind: str) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3, 2)).to(memory_format=torch.channels_last)
        if kind == "adamw":
            return network, torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
        return network, torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        network(torch.arange(36.0).view(2, 2, 3, 3).cos() * 0.1 * number).pow(2).sum().backward()
        optimizer.step()

    network, optimizer = make()
    for number in range(3):
        step(network, optimizer, number)
    packed = pack_optimizer(optimizer, {id(p): name for name, p in network.named_parameters()})
    packed = {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in packed.items()
    }  # as in a file
    other, fresh = make()
    other.load_state_dict(network.state_dict())
    unpack_optimizer(fresh, {id(p): name for name, p in other.named_parameters()}, packed)
    for number in range(3, 6):
        step(network, optimizer, number)
        step(other, fresh, number)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InjertoError, match="cannot be read.*--overwrite"):
        load_checkpoint(path)


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"a": torch.ones(2)}, {"step": 1})
    from safetensors import SafetensorError

    from injerto.training import checkpoints

    def full(tensors: object, target: Path, metadata: object) -> None:
        Path(target).write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(InjertoError, match="No space left"):
        save_checkpoint(path, {"a": torch.zeros(2)}, {"step": 2})
    assert [item.name for item in tmp_path.iterdir()] == ["x.safetensors"]
    assert load_checkpoint(path)[1] == {"step": 1}


def test_an_interruption_while_reading_is_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    from injerto.training import checkpoints

    save_checkpoint(tmp_path / "x.safetensors", {"a": torch.ones(2)}, {})

    def interrupted(*_: object, **__: object) -> None:
        raise SafetensorError("KeyboardInterrupt: ")  # as safetensors reports what is raised in its callbacks

    monkeypatch.setattr(checkpoints, "safe_open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_checkpoint(tmp_path / "x.safetensors")
