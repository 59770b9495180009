"""How alike two representations of the same examples are."""

import numpy as np


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment (Kornblith et al., ICML 2019, section 3, "linear kernel").

    1 where one is the other rotated, scaled and shifted; near 0 where they have nothing in common. With fewer examples
    than dimensions it reads too high for unrelated representations: compare values at equal n only.

    Args:
        x: Representations (n, D), n at least 2.
        y: Of the same examples in the same order, (n, E).

    Returns:
        A number in [0, 1]; NaN where one of the two does not vary.

    Raises:
        ValueError: Where the numbers of examples differ, or are below 2.
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"need two or more examples, the same in both, not {len(x)} and {len(y)}")
    a, b = (z.astype(np.float64) - z.astype(np.float64).mean(axis=0) for z in (x, y))
    if len(x) < max(x.shape[1], y.shape[1]):  # the same number from the (n, n) Gram matrices
        p, q = a @ a.T, b @ b.T
        cross, own = float((p * q).sum()), float(np.linalg.norm(p) * np.linalg.norm(q))
    else:
        cross = float(np.linalg.norm(a.T @ b) ** 2)
        own = float(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    return min(cross / own, 1.0) if own > 0 else float("nan")
