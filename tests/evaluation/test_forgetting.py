import numpy as np
import pytest
import torch
from torch import nn

from injerto.evaluation.forgetting import forgetting


def test_agreement_counts_the_original_classifiers_changed_minds() -> None:
    torch.manual_seed(0)
    classifier = nn.Linear(6, 4)
    before = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    after = before.copy()
    after[:50] = -after[:50]
    with torch.no_grad():
        expected = np.mean(
            [
                int(classifier(torch.from_numpy(a)).argmax()) == int(classifier(torch.from_numpy(b)).argmax())
                for a, b in zip(before, after, strict=True)
            ]
        )
    found = forgetting(before, after, classifier)
    assert found["agreement"] == pytest.approx(expected) and 0.7 < expected < 1
    assert found["n"] == 200 and 0 < found["cka"] < 1


def test_nothing_moved_and_nothing_to_see() -> None:
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    assert forgetting(x, x, None) == {"agreement": None, "cka": pytest.approx(1), "n": 20}
    assert forgetting(x[:1], x[:1], None) == {"agreement": None, "cka": None, "n": 1}
