"""Self-training's two views: different, new as often as they should be, and in one part of a step."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import injerto
from injerto.alignment.base import PLAIN, SECOND
from injerto.backbones.load import load_backbone
from injerto.compute.batches import BatchMaker
from injerto.compute.cuts import make_cut
from injerto.domains.domain import Domain
from injerto.domains.load import load_domains
from injerto.recipe.grammar import parse_alignment
from injerto.training.examples import SECOND_VERSIONS, Batch, Examples
from injerto.training.objectives import Classification
from injerto.training.stepplan import StepPlan
from injerto.training.streams import make_streams
from injerto.tuning.base import Span

POLICIES = ("none", "light", "standard")
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def makers(
    pictures: Path, reviews: Path, make_backbone: Callable[..., Any], tiny_bert: Path
) -> dict[str, tuple[BatchMaker, Domain, Domain]]:
    """By modality: what makes batches, a source and a target."""
    images, texts = load_domains(pictures), load_domains(reviews)
    return {
        "image": (BatchMaker(make_backbone().preprocessing, "cpu"), images["day"], images["dusk"].subset(range(9))),
        "text": (
            BatchMaker(load_backbone(f"hf:{tiny_bert}").preprocessing, "cpu"),
            texts["films"],
            texts["books"].subset(range(9)),
        ),
    }


def examples_of(made: tuple[BatchMaker, Domain, Domain], augment: str, views: int) -> Examples:
    maker, source, target = made
    classes = sorted({str(label) for label in source.labels})
    streams = make_streams({"s": source}, {"t": target}, classes, augment, parse_alignment("self-training"), {})
    return Examples(streams, maker, views, 0, by_length=False)


def rows_of(batch: Batch, view: int) -> list[bytes]:
    chosen = (batch.view == view) & (batch.domain == 1)
    if isinstance(batch.inputs, torch.Tensor):
        return [row.numpy().tobytes() for row in batch.inputs[chosen]]
    ids, mask = batch.inputs["input_ids"][chosen], batch.inputs["attention_mask"][chosen].bool()
    return [row[keep].numpy().tobytes() for row, keep in zip(ids, mask, strict=True)]


@QUICK
@given(
    st.sampled_from(["image", "text"]),
    st.sampled_from(POLICIES),
    st.sampled_from([0, 1, 4]),
    st.integers(0, 4),
    st.integers(3, 12),
)
def test_the_strong_view_is_another_one_and_new_each_cycle(
    makers: Any, modality: str, augment: str, views: int, frozen: int, size: int
) -> None:
    examples = examples_of(makers[modality], augment, views)
    plan = StepPlan(examples.sizes(), size, 0, None, examples.sizes(target=True))
    cycles, seen, same = 3, defaultdict(list), 0
    steps = -(-cycles * 9 // size)
    for step, batch in enumerate(examples.batches(plan, [Span(0, steps, frozen)])):
        draw = plan.draw(step)["t"]
        pairs = zip(rows_of(batch, PLAIN), rows_of(batch, SECOND), draw.positions, draw.cycles, strict=True)
        for plain, strong, position, cycle in pairs:
            assert plain != strong or (modality == "text" and augment != "none")
            same += plain == strong
            seen[int(position)].append((int(cycle), plain, strong))
    assert same <= 0.2 * cycles * 9  # two random versions of a text of few tokens may meet
    for versions in seen.values():
        assert len({strong for _, _, strong in versions}) >= len(versions) - (modality == "text")  # short texts repeat
        if augment == "none":
            assert len({plain for _, plain, _ in versions}) == 1


@pytest.mark.parametrize("frozen", [0, 3])
def test_versions_of_the_second_view_are_counted_on_their_own(makers: Any, frozen: int) -> None:
    examples = examples_of(makers["image"], "none", 1)
    plan = StepPlan(examples.sizes(), 9, 0, None, examples.sizes(target=True))  # a cycle of the target a step
    seen = defaultdict(set)
    for step, batch in enumerate(examples.batches(plan, [Span(0, 2 * SECOND_VERSIONS, frozen)])):
        for position, row in zip(plan.draw(step)["t"].positions, rows_of(batch, SECOND), strict=True):
            seen[int(position)].add(row)
    assert {len(rows) for rows in seen.values()} == {SECOND_VERSIONS if frozen else 2 * SECOND_VERSIONS}
    assert SECOND_VERSIONS == 8


def test_kept_versions_are_those_that_are_computed(
    pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path, own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The whole way: what a run reads of its caches is what the backbone makes of the two views."""
    seen: list[tuple[Batch, Any]] = []
    forward = Classification.forward

    def watched(self: Classification, part: Batch, p: float) -> torch.Tensor:
        if part.cut is not None:
            seen.append((part, self))
        return forward(self, part, p)

    monkeypatch.setattr(Classification, "forward", watched)
    settings = {"source": "day", "target": "dusk", "backbone": tiny_timm, "tuning": "head", "steps": 24} | quick
    injerto.fit(pictures, out=tmp_path / "run", alignment="self-training", augment="none", **settings)
    domains = load_domains(pictures)
    backbone = load_backbone(str(tiny_timm))
    assert make_cut(backbone, len(backbone.stages)) is not None
    assert len(seen) == 24
    first, again = seen[0][0], [part for part, _ in seen]
    assert first.inputs.shape[1] == backbone.embedding_dim
    versions = {row.numpy().tobytes() for part in again for row in part.inputs[part.view == SECOND]}
    plain = {row.numpy().tobytes() for part in again for row in part.inputs[(part.view == PLAIN) & (part.domain == 1)]}
    train = len(domains["dusk"])
    assert len(plain) <= train and len(versions) > 1.5 * len(plain)  # several cycles, each with versions of its own
    assert not plain & versions


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 25), st.booleans()), max_size=3),
    st.integers(0, 6),
    st.integers(1, 60),
)
def test_parts_pair_every_example_with_its_view(
    labelled: int, targets: list[tuple[int, bool]], few: int, count: int
) -> None:
    """For every number of parts, batch size and sizes of streams."""
    rows = [(0, 0, PLAIN, i) for i in range(labelled)]
    rows += [(0, 1, 2, 1000 + i) for i in range(few if targets else 0)]
    for domain, (size, _) in enumerate(targets, 1):
        rows += [(-1, domain, PLAIN, 100 * domain + i) for i in range(size)]
    for domain, (size, second) in enumerate(targets, 1):
        rows += [(-1, domain, SECOND, 100 * domain + i) for i in range(size if second else 0)]
    label, domain, view, name = (torch.tensor(column) for column in zip(*rows, strict=True))
    batch = Batch(name[:, None].float(), label, domain, view)
    found = []
    for part in batch.parts(count):
        assert len(part.labels)
        names = part.inputs.flatten().tolist()
        found += list(zip(names, part.view.tolist(), part.labels.tolist(), part.domain.tolist(), strict=True))
        for index, (_, second) in enumerate(targets, 1):
            if second:
                plain, strong = (part.inputs[(part.view == v) & (part.domain == index)].tolist() for v in (0, SECOND))
                if index == 1:
                    plain = [row for row in plain if row[0] < 1000]
                assert plain == strong
    assert sorted(found) == sorted((float(n), v, lab, d) for lab, d, v, n in rows)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_a_step_in_parts_learns_from_the_pairs_of_the_whole(
    accumulate: int, pictures: Path, tiny_timm: Path, quick: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    counts: list[tuple[int, int, int]] = []
    forward = Classification.forward

    def watched(self: Classification, part: Batch, p: float) -> torch.Tensor:
        target = part.domain == 1
        kinds = (part.labelled, target & (part.view == PLAIN), target & (part.view == SECOND))
        counts.append(tuple(int(kind.sum()) for kind in kinds))  # type: ignore[arg-type]
        return forward(self, part, p)

    monkeypatch.setattr(Classification, "forward", watched)
    settings = {"source": "day", "target": "dusk", "backbone": tiny_timm, "tuning": "last:1"} | quick
    injerto.fit(
        pictures, out=tmp_path / "run", alignment="self-training", accumulate=accumulate, steps=2, batch_size=7,
        **{name: value for name, value in settings.items() if name not in ("steps", "batch_size")},
    )  # fmt: skip
    assert len(counts) == 2 * accumulate
    assert all(known and plain == second > 0 for known, plain, second in counts)
    assert sum(known for known, _, _ in counts) == sum(plain for _, plain, _ in counts) == 14


def test_a_run_in_two_pieces_sees_the_same_views(
    tmp_path: Path, data_writers: SimpleNamespace, tiny_timm: Path, quick: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A step is a function of its number, whatever was kept before it."""
    data = data_writers.pictures(tmp_path / "data", 6, ("day", "dusk"))
    domains = load_domains(data)
    backbone = load_backbone(str(tiny_timm))
    made = (BatchMaker(backbone.preprocessing, "cpu"), domains["day"], domains["dusk"])
    examples = examples_of(made, "light", 2)
    plan = StepPlan(examples.sizes(), 5, 0, None, examples.sizes(target=True))
    spans = [Span(0, 9, 3), Span(9, 14, 0)]
    straight = list(examples.batches(plan, spans))
    late = list(examples.batches(plan, spans, 6))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(straight[6:], late, strict=True))
    assert all(np.array_equal(a.view, b.view) for a, b in zip(straight[6:], late, strict=True))
