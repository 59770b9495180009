"""How the classes' frequencies differ in a domain without labels."""

import numpy as np
import torch
from torch import Tensor


def estimate_label_shift(
    guessed: np.ndarray, labels: np.ndarray, target: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Black-box shift estimation, kept on the simplex (Lipton et al., ICML 2018, section 4; EM of Saerens et al. 2002).

    The confusion matrix on held-out source examples says how often each class is guessed as each other; the target's
    frequencies are those under which its guesses are likeliest. Right where the classes look alike in both domains;
    under a covariate shift it reads a poor classifier as shift, so take it as a warning, not as a measurement.

    Args:
        guessed: Guessed classes of held-out source examples, (n,).
        labels: Their true classes, (n,).
        target: Guessed classes of target examples, (m,).
        classes: Number of classes.

    Returns:
        Frequencies in the source (C,), estimated ones in the target (C,), and the total variation between the two, in
        [0, 1].
    """
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels, guessed), 1.0)
    source = joint.sum(axis=1) / joint.sum()
    seen = np.bincount(target, minlength=classes) / max(len(target), 1)
    found = likeliest_frequencies(torch.from_numpy(joint + 1e-3), torch.from_numpy(seen), rounds=500).numpy()
    return source, found, float(np.abs(found - source).sum() / 2)


def likeliest_frequencies(joint: Tensor, seen: Tensor, rounds: int) -> Tensor:
    """The frequencies of the classes under which these guesses are likeliest (EM of Saerens et al. 2002, section 2).

    Args:
        joint: How often an example of a class (row) is guessed as each class (column), in any unit, (C, C), positive.
        seen: How often each class is guessed where the frequencies are not known, summing to 1, (C,).
        rounds: Of expectation and maximization, from equal frequencies on.

    Returns:
        Frequencies (C,), summing to 1.
    """
    likely = joint / joint.sum(1, keepdim=True)  # p(guess | class)
    found = torch.full_like(seen, 1 / len(seen))
    for _ in range(rounds):
        posterior = likely * found[:, None]
        found = (posterior / posterior.sum(0, keepdim=True)) @ seen
    return found
