"""The examples of docs/extend.md are run as they stand there, and do what they say."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import injerto
from injerto.alignment import base as alignment_base
from injerto.alignment.base import Setting, StepOutputs
from injerto.basics.errors import InjertoError
from injerto.basics.plugins import plugins
from injerto.recipe import grammar
from injerto.recipe.grammar import parse_alignment, parse_tuning
from injerto.tuning import base as tuning_base
from injerto.tuning.base import apply_tuning

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "extend"
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    alignment_base.alignments()
    tuning_base.find_tuning(parse_tuning("head"))
    monkeypatch.setattr(alignment_base, "_ALIGNMENTS", dict(alignment_base._ALIGNMENTS))
    monkeypatch.setattr(tuning_base, "_TUNINGS", dict(tuning_base._TUNINGS))
    monkeypatch.setattr(grammar, "_ADDED", set(grammar._ADDED))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"extend_{name}", EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clouds(x: torch.Tensor, y: torch.Tensor) -> StepOutputs:
    """A step of a source and a target."""
    count = len(x) + len(y)
    domain = torch.tensor([0] * len(x) + [1] * len(y))
    labels = torch.full((count,), -1)
    view = torch.zeros(count, dtype=torch.long)
    return StepOutputs(torch.cat([x, y]), torch.zeros(count, 2), labels, domain, ("source", "target"), view)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.iterdir() if path.is_file()))
def test_the_page_shows_the_file_itself(name: str) -> None:
    assert f'--8<-- "examples/extend/{name}"' in PAGE


# --- the alignment ----------------------------------------------------------------------------------------------------


def energy(text: str = "energy") -> Any:
    example("alignment")
    return alignment_base.make_alignment(parse_alignment(text)[0], Setting(5, 2, ("source", "target")))


@pytest.mark.parametrize("text", ["energy", "energy(power=0.5)"])
def test_the_term_pulls_two_clouds_together(text: str) -> None:
    torch.manual_seed(0)
    term, x, y = energy(text), torch.randn(40, 5), torch.randn(30, 5) + 3
    shift = torch.zeros(5, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.1)
    first = float(term(clouds(x, y), 0.0))
    for _ in range(120):
        optimizer.zero_grad()
        term(clouds(x, y + shift), 0.5).backward()
        optimizer.step()
    last = float(term(clouds(x, y + shift.detach()), 1.0))
    apart = float((x.mean(0) - (y + shift.detach()).mean(0)).norm())
    assert first > 0.5 and abs(last) < 0.05 and apart < 0.7


def test_the_term_is_zero_on_average_for_equal_distributions_and_knows_no_scale() -> None:
    torch.manual_seed(0)
    term = energy()
    drawn = torch.stack([term(clouds(torch.randn(12, 5), torch.randn(20, 5)), 0.0) for _ in range(200)])
    assert abs(drawn.mean()) < 3 * drawn.std() / 200**0.5
    x, y = torch.randn(10, 5), torch.randn(10, 5) + 1
    assert torch.allclose(term(clouds(x, y), 0.0), term(clouds(100 * x, 100 * y), 0.0), rtol=1e-4)


def test_the_term_survives_equal_examples_and_lone_ones() -> None:
    values = torch.ones(6, 5, requires_grad=True)
    term = energy("energy(power=0.5)")
    term(clouds(values[:3], values[3:]), 0.0).backward()
    assert values.grad is not None and torch.isfinite(values.grad).all()
    assert float(term(clouds(torch.ones(1, 5), torch.zeros(4, 5)), 0.0)) == 0


def test_a_run_with_the_term_brings_the_domains_together(
    data_writers: Any, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path
) -> None:
    example("alignment")
    pictures = data_writers.pictures(tmp_path / "pictures", 40, ("day", "dusk", "night"))
    settings = {"source": "day", "target": "night", "backbone": tiny_timm, "tuning": "head", "steps": 150} | quick
    plain = injerto.fit(pictures, alignment="energy:0", out=tmp_path / "plain", **settings)
    aligned = injerto.fit(pictures, alignment="energy", out=tmp_path / "aligned", **settings)
    apart = [run.metrics["alignment"]["mmd"][0]["after"]["value"] for run in (plain, aligned)]
    assert apart[1] < 0.5 * apart[0], apart
    assert aligned.metrics["domains"]["day"]["splits"]["test"]["accuracy"] > 0.8


# --- the tuning -------------------------------------------------------------------------------------------------------


def test_only_vectors_moved(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    example("tuning")
    run = injerto.fit(
        pictures, source="day", backbone=tiny_timm, tuning="affine(rate=30)", steps=20, out=tmp_path / "run", **quick
    )
    before = injerto.load_backbone(tiny_timm).model.state_dict()
    after = run.model.backbone.model.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved and moved == {
        name for name, _ in run.model.backbone.model.named_parameters() if before[name].ndim == 1
    }
    assert set(load_file(run.path / "adapter" / "adapter_model.safetensors")) == moved
    monkeypatch.setattr(grammar, "_ADDED", set())
    monkeypatch.delitem(tuning_base._TUNINGS, "affine")
    picture = next((pictures / "day" / "red").iterdir())
    assert injerto.load(run.path / "adapter", backbone=tiny_timm).predict(picture) == run.predict(picture)


def test_the_tuning_reads_its_option(make_backbone: Any) -> None:
    example("tuning")
    backbone = make_backbone()
    assert set(apply_tuning(backbone, parse_tuning("affine")).rates.values()) == {10.0}
    assert set(apply_tuning(backbone, parse_tuning("affine(rate=3)")).rates.values()) == {3.0}
    with pytest.raises(InjertoError, match="rate=0 must be a number from 0.01 to 1000"):
        apply_tuning(backbone, parse_tuning("affine(rate=0)"))


# --- the backbone -----------------------------------------------------------------------------------------------------


def test_the_network_is_cut_and_learns(pictures: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    backbone = example("backbone").load("small", None)
    assert [stage.name for stage in backbone.stages] == ["stem", "blocks.0", "blocks.1", "blocks.2"]
    run = injerto.fit(
        pictures, source="day", backbone=backbone, tuning="last:2", steps=60, lr=1e-2, head_lr=1e-2,
        augment="none", out=tmp_path / "run", **quick,
    )  # fmt: skip
    assert run.metrics["domains"]["day"]["splits"]["test"]["accuracy"] > 0.8
    assert example("backbone").load("small", None).fingerprint == backbone.fingerprint


def test_the_network_leaves_randomness_alone() -> None:
    before = torch.random.get_rng_state()
    example("backbone").load("wide", 48)
    assert torch.equal(before, torch.random.get_rng_state())


# --- as a package -----------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder that looks to Python like one with the package ``mine`` installed."""
    place = tmp_path / "site"
    (place / "mine").mkdir(parents=True)
    (place / "mine" / "__init__.py").touch()
    for path in EXAMPLES.glob("*.py"):
        shutil.copy(path, place / "mine")
    import tomllib

    groups = tomllib.loads((EXAMPLES / "entry_points.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    about = place / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in one.items()) for group, one in groups.items()
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
    return place


def test_an_installed_package_brings_all_three_to_the_command_line(
    package: Path, pictures: Path, tmp_path: Path
) -> None:
    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(package), str(ROOT / "src")])
        command = [sys.executable, "-m", "injerto", *map(str, arguments)]
        return subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, cwd=tmp_path, check=False
        )

    settings = ("--backbone", "mine:small", "--tuning", "affine(rate=30)", "--alignment", "energy", "--steps", 4)
    made = call("fit", pictures, "--source", "day", "--target", "night", *settings, "--out", "run")
    assert made.returncode == 0, made.stderr
    said = call("predict", "run", pictures / "dusk" / "red")
    assert said.returncode == 0 and len(said.stdout.splitlines()) >= 10, said.stderr
    wrong = call("fit", pictures, "--source", "day", "--tuning", "affin", "--out", "other")
    assert wrong.returncode == 2 and "affine" in wrong.stderr


@pytest.mark.parametrize(
    ("use", "group"),
    [
        (lambda: alignment_base.find_alignment(parse_alignment("broken")[0]), "injerto.alignments"),
        (lambda: tuning_base.find_tuning(parse_tuning("broken")), "injerto.tunings"),
        (lambda: injerto.load_backbone("broken:small"), "injerto.backbones"),
    ],
)
def test_a_broken_package_stops_only_who_uses_it_and_in_one_line(
    package: Path, monkeypatch: pytest.MonkeyPatch, use: Any, group: str
) -> None:
    (package / "mine" / "broken.py").write_text("import a_module_that_is_not_there\n")
    (package / "mine-1.0.dist-info" / "entry_points.txt").write_text(f"[{group}]\nbroken = mine.broken:thing\n")
    monkeypatch.syspath_prepend(str(package))
    plugins.cache_clear()
    try:
        assert set(alignment_base.alignments()) > {"mmd", "dann"}
        assert tuning_base.find_tuning(parse_tuning("head"))
        with pytest.raises(
            InjertoError, match="'broken' of the package mine .*can't be imported: No module named"
        ) as found:
            use()
        assert "\n" not in str(found.value)
    finally:
        monkeypatch.undo()
        plugins.cache_clear()


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["alignment", "tuning"])
def register(request: pytest.FixtureRequest) -> Iterator[Any]:
    kind = example("alignment").Energy if request.param == "alignment" else example("tuning").affine
    decorator = alignment_base.register_alignment if request.param == "alignment" else tuning_base.register_tuning
    yield lambda name: decorator(name)(kind)


@pytest.mark.parametrize("name", ["BitFit", "my_term", "", "2d", "a:b", "a(b)"])
def test_a_name_that_could_not_be_written_is_refused(register: Any, name: str) -> None:
    with pytest.raises(InjertoError, match="cannot be the name of"):
        register(name)


def test_a_name_that_comes_with_injerto_is_refused(register: Any) -> None:
    for name in ("mmd", "dann", "none") if "alignment" in repr(register("mine-2")) else ("lora", "head", "bitfit"):
        with pytest.raises(InjertoError, match="comes with Injerto"):
            register(name)


def test_registering_again_replaces(register: Any) -> None:
    assert register("mine-2") is register("mine-2")  # as a cell of a notebook that is run again


def test_what_nobody_registered_is_unknown() -> None:
    with pytest.raises(InjertoError, match="unknown tuning 'affine'"):
        parse_tuning("affine")
    example("tuning")
    assert str(parse_tuning("affine( rate = 3 )")) == "affine(rate=3)"
