"""Learning rates as functions of the step."""

import math


def warmup_cosine(
    step: int, *, peak: float, floor: float, warmup_steps: int, total_steps: int
) -> float:
    """Linear from near 0 to `peak` over `warmup_steps`, then half a cosine down to `floor`.

    `step` counts from 0. Loshchilov and Hutter, "SGDR" (2017), without restarts.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return floor
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
