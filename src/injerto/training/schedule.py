"""The learning rate as a pure function of the step."""

import math


def rate_factor(step: int, steps: int, warmup: float, constant: bool = False) -> float:
    """Linear warm-up, then half a cosine down to zero (Loshchilov & Hutter 2017, eq. 5), or a constant rate.

    Args:
        step: The step about to be taken, from 0.
        steps: Steps in the whole run.
        warmup: Share of the steps in which the rate rises.
        constant: Whether it then stays: SWAD averages weights that move at a constant rate (Cha et al., NeurIPS 2021,
            section 3.2).

    Returns:
        The factor on the learning rate, in (0, 1].
    """
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    if constant:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
