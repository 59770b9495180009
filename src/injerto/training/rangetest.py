"""``--lr auto``: which factor on the table's learning rates suits this model and these data."""

from collections.abc import Callable

import numpy as np

TRIES = 60
"""Steps of the sweep, at most."""
LOW, HIGH = 0.05, 50.0
"""The factors it sweeps through."""
SMOOTHING = 0.8


def range_test(step: Callable[[int, float], float], steps: int) -> float:
    """Learning-rate range test (Smith, WACV 2017, section 3.3): where the loss falls fastest as the rate rises.

    Args:
        step: ``step(i, factor)`` does optimizer step i at that factor and returns the loss before it.
        steps: Steps there are to try, at most ``TRIES`` of which are used.

    Returns:
        The factor, within ``LOW`` and ``HIGH``; 1 where fewer than ten steps are to be had or the loss never falls.
    """
    count = min(TRIES, steps)
    if count < 10:
        return 1.0
    factors = np.geomspace(LOW, HIGH, count)
    smoothed: list[float] = []
    mean = 0.0
    for index, factor in enumerate(factors):
        loss = step(index, float(factor))
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING ** (index + 1)))
        if not np.isfinite(loss) or smoothed[-1] > 2 * min(smoothed):
            break
    curve = np.asarray(smoothed)
    curve = curve[np.isfinite(curve)]
    lowest = int(curve.argmin())
    if lowest < 5 or curve[lowest] > 0.98 * curve[0]:
        return 1.0
    slopes = np.gradient(curve)[: lowest + 1]
    return float(factors[int(slopes.argmin())])
