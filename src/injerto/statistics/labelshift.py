"""How the classes' frequencies differ in a domain without labels."""

import numpy as np


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
    source = joint.sum(axis=1)
    likely = (joint + 1e-3) / (joint + 1e-3).sum(axis=1, keepdims=True)  # p(guess | class)
    source = source / source.sum()
    seen = np.bincount(target, minlength=classes) / max(len(target), 1)
    found = np.full(classes, 1 / classes)
    for _ in range(500):
        posterior = likely * found[:, None]
        posterior /= posterior.sum(axis=0, keepdims=True)
        found = posterior @ seen
    return source, found, float(np.abs(found - source).sum() / 2)
