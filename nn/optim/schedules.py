"""Learning rates as functions of the step, which counts from 0."""

import math
from collections.abc import Callable
from typing import TypeAlias

__all__ = [
    "Schedule", "constant", "cosine", "inverse_sqrt", "linear", "one_cycle", "warmup",
    "warmup_cosine",
]  # fmt: skip

Schedule: TypeAlias = Callable[[int], float]


def constant(rate: float) -> Schedule:
    """The same rate at every step."""
    return lambda step: rate


def linear(start: float, end: float, steps: int) -> Schedule:
    """Linear from `start` at step 0 to `end` at step `steps`, then constant."""
    return lambda step: start + (end - start) * min(1.0, step / max(1, steps))


def cosine(peak: float, floor: float, steps: int) -> Schedule:
    """Half a cosine from `peak` at step 0 down to `floor` at step `steps`, then constant.

    Loshchilov and Hutter, "SGDR" (2017), without restarts.
    """
    return lambda step: floor + (peak - floor) * _half_cosine(min(1.0, step / max(1, steps)))


def inverse_sqrt(peak: float, warmup_steps: int) -> Schedule:
    """Linear up to `peak` over `warmup_steps`, then falling with 1 / sqrt(step).

    Vaswani et al., "Attention is all you need" (2017), section 5.3.
    """
    turn = max(1, warmup_steps)
    return lambda step: peak * min((step + 1) / turn, math.sqrt(turn / (step + 1)))


def one_cycle(
    peak: float,
    steps: int,
    rising: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Half a cosine from peak / div_factor up to `peak` over the fraction `rising` of the steps,
    then half a cosine down to the start / final_div_factor.

    Smith and Topin, "Super-convergence" (2019), as PyTorch's OneCycleLR.
    """
    start = peak / div_factor
    end, turn = start / final_div_factor, rising * steps - 1

    def rate(step: int) -> float:
        if step <= turn:
            return peak + (start - peak) * _half_cosine(step / turn if turn else 1.0)
        down = min(1.0, (step - turn) / max(1e-12, steps - 1 - turn))
        return end + (peak - end) * _half_cosine(down)

    return rate


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """Linear from near 0 over `steps` steps to the start of `schedule`; then the schedule."""

    def rate(step: int) -> float:
        if step < steps:
            return schedule(0) * (step + 1) / (steps + 1)
        return schedule(step - steps)

    return rate


def warmup_cosine(
    step: int, *, peak: float, floor: float, warmup_steps: int, total_steps: int
) -> float:
    """Linear from near 0 to `peak` over `warmup_steps`, then half a cosine down to `floor`."""
    falling = cosine(peak, floor, total_steps - warmup_steps)
    return floor if step >= max(total_steps, warmup_steps) else warmup(falling, warmup_steps)(step)


def _half_cosine(progress: float) -> float:
    """1 at 0, 0 at 1."""
    return (1 + math.cos(math.pi * progress)) / 2
