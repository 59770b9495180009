"""How examples become batches: cached and computed ones are the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from injerto.backbones.load import load_backbone
from injerto.compute.batches import BatchMaker, augmentation_rng
from injerto.compute.cuts import make_cut
from injerto.compute.features import Features
from injerto.domains.domain import Domain
from injerto.domains.images import augment_image, read_image
from injerto.domains.load import load_domains
from injerto.tasks.classification import encode
from injerto.training.examples import Batch, Examples, Kept, Stream
from injerto.training.stepplan import StepPlan
from injerto.tuning.base import Span

CLASSES = ("blue", "green", "red")


@pytest.fixture
def parts(pictures: Path) -> dict[str, Domain]:
    domains = load_domains(pictures)
    return {"dusk": domains["dusk"].subset(range(7)), "day": domains["day"].subset(range(12))}


def streams_of(
    parts: dict[str, Domain], augment: str = "none", classes: tuple[str, ...] = CLASSES
) -> dict[str, Stream]:
    return {
        name: Stream(part, encode(part.labels, classes), index, augment)
        for index, (name, part) in enumerate(parts.items())
    }


def test_labels_and_domains_go_with_their_pictures(parts: dict[str, Domain], make_backbone: Callable[..., Any]) -> None:
    maker = BatchMaker(make_backbone().preprocessing, "cpu")
    examples = Examples(streams_of(parts), maker, 1, 0)
    plan = StepPlan(examples.sizes(), 9, 0)
    batches = list(examples.batches(plan, [Span(0, 6, 0)]))
    assert len(batches) == 6
    for step, batch in enumerate(batches):
        assert len(batch.labels) == 9 and batch.labelled.all() and batch.cut is None
        row = 0
        for name, draw in plan.draw(step).items():
            for position in draw.positions:
                picture = maker.collate_images([maker.image(parts[name].inputs[position])])[0]
                assert torch.equal(batch.inputs[row], picture)
                assert CLASSES[batch.labels[row]] == parts[name].labels[position]
                assert ("dusk", "day")[batch.domain[row]] == name
                row += 1


def test_starting_late_gives_the_same_batches(parts: dict[str, Domain], make_backbone: Callable[..., Any]) -> None:
    maker = BatchMaker(make_backbone().preprocessing, "cpu")
    examples = Examples(streams_of(parts, "standard"), maker, 0, 5)
    plan = StepPlan(examples.sizes(), 4, 0)
    straight = list(examples.batches(plan, [Span(0, 8, 0)]))
    late = list(examples.batches(plan, [Span(0, 2, 1), Span(2, 8, 0)], 5))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(straight[5:], late, strict=True))


@pytest.mark.parametrize("views", [0, 1, 3])
def test_augmentation_follows_seed_example_and_view(
    parts: dict[str, Domain], make_backbone: Callable[..., Any], views: int
) -> None:
    looks = make_backbone().preprocessing
    examples = Examples(streams_of(parts, "light"), BatchMaker(looks, "cpu"), views, 5)
    for cycle in range(5):
        expected = augment_image(
            read_image(parts["day"].inputs[2]),
            looks,
            "light",
            augmentation_rng(5, parts["day"].contents[2], cycle % views if views else cycle),
        )
        assert np.array_equal(examples.load("day", 2, cycle), expected)
    different = {examples.load("day", 2, cycle).tobytes() for cycle in range(5)}
    assert len(different) == (5 if views == 0 else views)


def test_cached_views_are_the_views(parts: dict[str, Domain], make_backbone: Callable[..., Any]) -> None:
    backbone = make_backbone()
    maker = BatchMaker(backbone.preprocessing, "cpu")
    plain = Examples(streams_of(parts, "light"), maker, 3, 0)
    rows, first = [], {}
    for name, part in parts.items():
        first[name] = len(rows)
        with torch.no_grad():
            for view in range(3):
                rows += [backbone(maker.collate_images([plain.load(name, i, view)])).numpy() for i in range(len(part))]
    where = np.stack([np.zeros(len(rows)), np.arange(len(rows)), np.ones(len(rows))], axis=1).astype(np.int64)
    whole = make_cut(backbone, 4)
    assert whole is not None
    stored = Examples(streams_of(parts, "light"), maker, 3, 0, {4: whole})
    stored.kept[4] = Kept(whole, Features([np.concatenate(rows)], where, 12), first, 3, {})
    plan = StepPlan(plain.sizes(), 10, 0)  # several cycles: every view comes up
    spans = [Span(0, 12, 4)]
    for a, b in zip(plain.batches(plan, spans), stored.batches(plan, spans), strict=True):
        assert b.cut is whole
        assert torch.equal(a.labels, b.labels) and torch.equal(a.domain, b.domain)
        with torch.no_grad():
            torch.testing.assert_close(b.inputs, backbone(a.inputs), rtol=1e-4, atol=1e-4)


def test_texts_are_batched_by_length(reviews: Path, tiny_bert: Path) -> None:
    domains = load_domains(reviews)
    maker = BatchMaker(load_backbone(f"hf:{tiny_bert}").preprocessing, "cpu")
    parts = {"films": domains["films"]}
    examples = Examples(streams_of(parts, classes=("bad", "good")), maker, 1, 0)
    spans = [Span(0, 5, 0)]
    lengths = examples.lengths(spans)
    assert lengths is not None
    plan = StepPlan(examples.sizes(), 4, 0, lengths)
    for step, batch in enumerate(examples.batches(plan, spans)):
        positions = plan.draw(step)["films"].positions
        assert batch.inputs["attention_mask"].sum(1).tolist() == lengths["films"][positions].tolist()
        assert batch.inputs["input_ids"].shape[1] == lengths["films"][positions].max()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_the_parts_of_a_batch_are_the_batch(count: int) -> None:
    inputs = {"input_ids": torch.arange(14).view(7, 2), "attention_mask": torch.ones(7, 2)}
    labels = torch.tensor([0, -1, 2, 1, -1, 0, 0])
    domain = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    parts = list(Batch(inputs, labels, domain, torch.arange(7)).parts(count))
    assert len(parts) == min(count, 7)
    order = torch.cat([part.view for part in parts])  # stands for the position here
    assert sorted(order.tolist()) == list(range(7))
    assert torch.equal(torch.cat([part.labels for part in parts]), labels[order])
    assert torch.equal(torch.cat([part.inputs["input_ids"] for part in parts]), inputs["input_ids"][order])
    shares = [int((part.domain == 1).sum()) for part in parts]
    assert max(shares) - min(shares) <= 1  # every part has its share of every domain
    assert torch.equal(parts[0].labelled, parts[0].labels >= 0)
