"""Terms about classes, each against its paper's formula written out with loops."""

import math

import pytest
import torch

from injerto.alignment.base import PLAIN, SECOND, Alignment, Setting, StepOutputs, make_alignment
from injerto.alignment.schedule import ramp
from injerto.recipe.grammar import parse_alignment

ROLES = ("source", "target")


def build(text: str, roles: tuple[str, ...] = ROLES) -> Alignment:
    return make_alignment(parse_alignment(text)[0], Setting(4, 3, roles))


def step(logits: torch.Tensor, domain: list[int], labels: list[int], view: list[int] | None = None) -> StepOutputs:
    x = torch.randn(len(logits), 4, generator=torch.Generator().manual_seed(5))
    seen = torch.tensor(view or [PLAIN] * len(logits))
    return StepOutputs(x.requires_grad_(), logits, torch.tensor(labels), torch.tensor(domain), ROLES, seen)


def test_mcc_is_the_papers_on_the_target_alone() -> None:
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).double()
    outputs = step(logits, [0, 0, 0, 1, 1, 1, 1], [0, 1, 2, -1, -1, -1, -1])
    guess = (logits[3:] / 2.5).softmax(1)
    entropy = [-sum(float(p) * math.log(float(p)) for p in row) for row in guess]
    raw = [1 + math.exp(-value) for value in entropy]
    weight = [4 * value / sum(raw) for value in raw]
    confusion = [[sum(weight[i] * guess[i, a] * guess[i, b] for i in range(4)) for b in range(3)] for a in range(3)]
    rows = [[float(value / sum(row)) for value in row] for row in confusion]
    expected = sum(rows[a][b] for a in range(3) for b in range(3) if a != b) / 3
    assert float(build("mcc")(outputs, 0.0)) == pytest.approx(expected)


def test_descending_mcc_makes_guesses_certain_and_keeps_them_diverse() -> None:
    logits = (0.3 * torch.randn(30, 3, generator=torch.Generator().manual_seed(1))).requires_grad_()
    term, optimizer = build("mcc"), torch.optim.Adam([logits], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        term(step(logits, [1] * 30, [-1] * 30), 0.5).backward()
        optimizer.step()
    guess = logits.softmax(1)
    assert guess.max(1).values.mean() > 0.95
    assert len(guess.argmax(1).unique()) == 3


def test_supcon_is_the_papers_over_all_labelled_whatever_the_domain() -> None:
    outputs = step(torch.zeros(7, 3), [0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 2, 0, 1, -1])
    z = torch.nn.functional.normalize(outputs.embedding.double(), dim=1)[:6]
    labels = [0, 0, 1, 2, 0, 1]
    losses = []
    for i in range(6):
        partners = [j for j in range(6) if j != i and labels[j] == labels[i]]
        if partners:
            below = math.log(sum(math.exp(float((z[i] @ z[j]).detach()) / 0.1) for j in range(6) if j != i))
            losses.append(-sum(float((z[i] @ z[j]).detach()) / 0.1 - below for j in partners) / len(partners))
    assert len(losses) == 5  # class 2 has no partner
    value = build("supcon:1")(outputs, 0.0)
    assert float(value) == pytest.approx(sum(losses) / 5, rel=1e-5)
    value.backward()
    assert torch.isfinite(outputs.embedding.grad).all()
    assert outputs.embedding.grad[6].abs().sum() == 0


def test_supcon_without_partners_is_zero() -> None:
    outputs = step(torch.zeros(3, 3), [0, 0, 0], [0, 1, 2])
    value = build("supcon")(outputs, 0.0)
    value.backward()
    assert float(value) == 0.0


def test_confident_guesses_on_the_first_view_teach_the_second() -> None:
    first = torch.tensor([[9.0, 0, 0], [0, 3.0, 0], [5.0, 0, 0], [0.3, 0, 0], [0, 6.0, 0]])
    logits = torch.cat([first, torch.tensor([[1.0, 2, 3], [0, 1.0, 0], [2.0, 0, 1]])]).requires_grad_()
    outputs = step(logits, [0, 0, *[1] * 6], [0, 1] + [-1] * 6, [*[PLAIN] * 5, *[SECOND] * 3])
    source, target = (first[rows].softmax(1) for rows in (slice(0, 2), slice(2, 5)))
    scaled = target * source.mean(0) / target.mean(0)  # AdaMatch: as frequent as on the source
    scaled = scaled / scaled.sum(1, keepdim=True)
    sure = scaled.max(1).values >= 0.9 * source.max(1).values.mean()
    assert sure.tolist() == [True, False, True] and scaled.argmax(1).tolist() == [0, 0, 1]
    logs = logits.log_softmax(1)
    value = build("self-training:2")(outputs, 0.4)
    torch.testing.assert_close(value, 2 * ramp(0.4) * -(logs[5, 0] + logs[7, 1]) / 3)
    value.backward()
    assert logits.grad[:5].abs().sum() == 0  # the guess is no teacher of itself
    assert logits.grad[6].abs().sum() == 0
    assert build("self-training").health(outputs)["confident"] == pytest.approx(2 / 3)


def test_guesses_that_are_rescaled_match_the_classes_frequencies() -> None:
    """AdaMatch's rescaling: whoever asks which terms assume no label shift must hear of self-training."""
    assert build("self-training").matches_frequencies
    assert not build("mcc").matches_frequencies
    torch.manual_seed(0)
    logits = torch.randn(400, 3) + torch.tensor([2.0, 0.0, 0.0])  # the target's guesses lean to class 0
    source = torch.randn(400, 3)
    both = torch.cat([source, logits, logits])
    outputs = step(both, [0] * 400 + [1] * 800, [0] * 400 + [-1] * 800, [PLAIN] * 800 + [SECOND] * 400)
    guess, _ = build("self-training")._guesses(outputs)  # type: ignore[operator]
    plain = torch.bincount(logits.argmax(1), minlength=3) / 400
    rescaled = torch.bincount(guess, minlength=3) / 400
    assert plain[0] > 0.6 and rescaled[0] < 0.45
