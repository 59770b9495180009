import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from injerto.basics.errors import InjertoError
from injerto.compute import plan as plan_module
from injerto.compute.machine import Machine
from injerto.compute.plan import make_plan


@pytest.fixture
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_bf16_only_where_the_hardware_has_it(
    make_backbone: Callable[..., Any], monkeypatch: Any, threads: None
) -> None:
    network = make_backbone()
    monkeypatch.setattr(plan_module, "machine", lambda: Machine("cpu", "an old one", 3, False))
    assert make_plan(network).precision == "fp32"
    with pytest.raises(InjertoError, match="an old one has no bfloat16"):
        make_plan(network, "bf16")
    monkeypatch.setattr(plan_module, "machine", lambda: Machine("cpu", "a new one", 3, True))
    assert make_plan(network).precision == "bf16"
    assert make_plan(network, "fp32").precision == "fp32"


def test_threads_are_those_asked_for_else_of_the_environment_else_all_cores(
    make_backbone: Callable[..., Any], monkeypatch: Any, threads: None
) -> None:
    monkeypatch.setattr(plan_module, "machine", lambda: Machine("cpu", "x", 3, False))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert make_plan(make_backbone(), threads=1).threads == 1 == torch.get_num_threads()
    assert make_plan(make_backbone()).threads == 3 == torch.get_num_threads()
    for asked, threads_then in (("2", 2), ("2,1", 2), ("", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert make_plan(make_backbone()).threads == threads_then == torch.get_num_threads(), asked
    assert make_plan(make_backbone(), threads=1).threads == 1
    for asked in ("many", "0", "-1", "1.5"):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        with pytest.raises(InjertoError, match=f"OMP_NUM_THREADS is '{asked}'"):
            make_plan(make_backbone())
        assert make_plan(make_backbone(), threads=1).threads == 1  # what is given wins


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes(make_backbone: Callable[..., Any], threads: None) -> None:
    """Torch's threads do not survive a fork: a child that waited for them would never answer."""
    make_plan(make_backbone(), "fp32", 2)
    numbers = torch.ones(700, 700)
    (numbers @ numbers).exp().sum()  # both threads are at work
    child = os.fork()
    if child == 0:
        signal.alarm(40)
        plan = make_plan(make_backbone(), "fp32", 2)
        right = plan.threads == torch.get_num_threads() == 1
        right = right and bool(torch.isfinite((numbers @ numbers).log().sum()))
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.get_num_threads() == 2


def test_channels_last_is_for_convolutions(make_backbone: Callable[..., Any], tiny_bert: Any, threads: None) -> None:
    from injerto.backbones.load import load_backbone

    assert make_plan(make_backbone(), threads=1).channels_last
    assert not make_plan(load_backbone(f"hf:{tiny_bert}"), threads=1).channels_last


def test_the_plan_speaks_plainly(make_backbone: Callable[..., Any], threads: None) -> None:
    plan = replace(make_plan(make_backbone(), "fp32", 1), cache="embeddings of 1000 inputs (1.0 MB)")
    text = "\n".join(plan.lines())
    assert "fp32" in text and "channels_last" in text and "1 threads" in text
    assert "embeddings of 1000 inputs (1.0 MB)" in text
    assert set(plan.card()) == {"device", "precision", "channels_last", "threads"}
