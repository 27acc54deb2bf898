"""The papers' closed forms of bubble and activations.

p ranks, m micro-batches, v chunks; F, I and W are the seconds of one stage (that is, one chunk),
the same for all stages; transfers take none. Then all ranks are idle equally long.

The papers give the bubbles for m >= p, and Qi et al. theirs for F = I = W. The formulas for the
other cases are our own, and as exact.
"""

from typing import NamedTuple

from ringlet.runtime.pipeline.actions import PipelineSchedule


class Bubble(NamedTuple):
    """A closed form, and its value."""

    text: str
    """The part of the makespan for which a rank is idle."""

    idle: float
    """Seconds for which a rank is idle."""

    part: float
    """The value of `text`."""


def bubble(
    schedule: PipelineSchedule, forward: float = 1, inputs: float = 1, weights: float = 1
) -> Bubble | None:
    """The bubble of a schedule whose stages all take these seconds; None: no closed form.

    Schedules that are not in SCHEDULES have none, nor has zero-bubble with m < p if W takes longer
    than F or I.
    """
    p, m, v = schedule.ranks, schedule.micro_batches, schedule.chunks
    busy = m * v * (forward + inputs + weights)
    if schedule.name in ("gpipe", "1f1b"):
        text, idle = "(p-1) / (m + p-1)", (p - 1) * (forward + inputs + weights)
    elif schedule.name == "interleaved":
        text, steps = "(p-1) / (v m + p-1)", p - 1
        if m < p:
            text, steps = "1 - v m / (v p + m-1)", v * p + m - 1 - v * m
        idle = steps * (forward + inputs + weights)
    elif schedule.name == "zero-bubble":
        shortest = min(forward, inputs, weights)
        if m < p and weights > shortest:
            return None
        gap = "(p-1) (F+I-W)" if shortest == weights else "(p-1) (F+I - min(F,I,W))"
        text = f"{gap} / (m (F+I+W) + {gap})"
        if m < p:
            text = "1 - m (F+I+W) / ((p + m-1) (F+I) + W)"
        idle = (p - 1) * (forward + inputs) - (min(m, p) - 1) * shortest
    else:
        return None
    return Bubble(text, idle, idle / (busy + idle) if busy + idle else 0.0)


def peaks(schedule: PipelineSchedule) -> tuple[int, ...]:
    """By rank: the bound of activations in flight, each of one micro-batch in one stage.

    Exact, but interleaved may stay below it if m is not a multiple of p. Raises KeyError for
    schedules that are not in SCHEDULES.
    """
    p, m, v = schedule.ranks, schedule.micro_batches, schedule.chunks
    group = max(p, -(-m // max(1, m // p)))
    bounds = {
        "gpipe": lambda rank: m,
        "1f1b": lambda rank: min(m, p - rank),
        "interleaved": lambda rank: min(v * m, 2 * (p - 1 - rank) + (v - 1) * group + 1),
        "zero-bubble": lambda rank: min(m, p),
    }
    return tuple(map(bounds[schedule.name], range(p)))
