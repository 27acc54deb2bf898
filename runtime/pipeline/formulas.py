"""The papers' closed forms of bubble and activations.

p ranks, m micro-batches, v chunks; F, I and W are the seconds of one stage (that is, one chunk),
the same for all stages; transfers take none. Then all ranks are idle equally long.

The papers give the bubbles for m >= p, and Qi et al. theirs for F = I = W. The formulas for the
other cases are our own, and as exact. Their ZB-H2 and ZB-V have no bubble within a rank; here the
time counts until the last rank has finished, since a step ends with a norm over all ranks.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ringlet.runtime.pipeline.actions import PipelineSchedule
from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.schedules import placement_of, recipe_of

NO_FORMULA = {
    "zero-bubble": "for fewer micro-batches than stages where W > F or W > I",
    "zb-h2": "for fewer than 2 p - 1 micro-batches, or where W > F or W > I",
    "zb-v": "for fewer than 2 p - 1 micro-batches, or where W > F or F > I",
    "zb-1p": "as the schedule is searched for",
    "zb-2p": "as the schedule is searched for",
}
"""When a schedule has no closed form."""


class Shape(NamedTuple):
    """What a formula needs to know of a schedule, which need not be made."""

    name: str
    ranks: int
    micro_batches: int
    chunks: int


class Bubble(NamedTuple):
    """A closed form, and its value."""

    text: str
    """The part of the makespan for which a rank is idle."""

    idle: float
    """Seconds for which a rank is idle."""

    part: float
    """The value of `text`."""


def bubble(
    schedule: PipelineSchedule | Shape, forward: float = 1, inputs: float = 1, weights: float = 1
) -> Bubble | None:
    """The bubble of a schedule whose stages all take these seconds; None: no closed form.

    NO_FORMULA says which schedules have none, or none for some numbers and times.
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
    elif schedule.name == "zb-h2" and m >= 2 * p - 1 and weights <= min(forward, inputs):
        gap = "(p-1) max(F, F+I-2 W)"
        text = f"{gap} / (m (F+I+W) + {gap})"
        idle = (p - 1) * max(forward, forward + inputs - 2 * weights)
    elif schedule.name == "zb-v" and m >= 2 * p - 1 and weights <= forward <= inputs:
        gap = "(p-1) max(I, 2 (I-W))"
        text = f"{gap} / (v m (F+I+W) + {gap})"
        idle = (p - 1) * max(inputs, 2 * (inputs - weights))
    else:
        return None
    return Bubble(text, idle, idle / (busy + idle) if busy + idle else 0.0)


def peaks(schedule: PipelineSchedule | Shape) -> tuple[int, ...]:
    """By rank: the bound of activations in flight, each of one micro-batch in one stage.

    Exact, but interleaved may stay below it if m is not a multiple of p, zb-v if m < 2 p - 1, and
    those that are searched for always. Raises KeyError for schedules that are not in SCHEDULES.
    """
    p, m, v = schedule.ranks, schedule.micro_batches, schedule.chunks
    group = max(p, -(-m // max(1, m // p)))
    bounds = {
        "gpipe": lambda rank: m,
        "1f1b": lambda rank: min(m, p - rank),
        "interleaved": lambda rank: min(v * m, 2 * (p - 1 - rank) + (v - 1) * group + 1),
        "zero-bubble": lambda rank: min(m, p),
        "zb-h2": lambda rank: min(m, 2 * p - 1),
        "zb-v": lambda rank: 2 * min(m, p),
        "zb-1p": lambda rank: min(m, p),
        "zb-2p": lambda rank: min(m, 2 * p),
    }
    return tuple(map(bounds[schedule.name], range(p)))


def least_seconds(shape: Shape, costs: Costs) -> float:
    """What the schedule takes at least, whatever the order, with stages and links that differ.

    A rank cannot begin before a first micro-batch has come to it, has all its work to do, and then
    a last gradient has to go back to the first stage. Exact for gpipe and 1f1b with equal stages
    and free messages; a search can drop what is slower than the best so far.
    """
    ranks = placement_of(shape.name, shape.ranks, shape.chunks)
    splits, count = recipe_of(shape.name).splits, shape.micro_batches
    forwards, inputs, weights = (
        each if isinstance(each, Sequence) else (each,) * len(ranks)
        for each in (costs.forward, costs.inputs, costs.weights)
    )
    messages = costs.has_messages
    work: dict[int, float] = {}
    urgent: dict[int, float] = {}
    first: dict[int, tuple[float, float]] = {}
    comes = goes = 0.0  # until a micro-batch has come to a stage, and from there back to the first
    for stage, (rank, forward) in enumerate(zip(ranks, forwards, strict=True)):
        if messages and stage and ranks[stage - 1] != rank:
            way = sum(costs.message(stage - 1))
            comes, goes = comes + way, goes + way
        first.setdefault(rank, (comes, goes))
        back = inputs[stage] if splits else inputs[stage] + weights[stage]
        urgent[rank] = urgent.get(rank, 0.0) + forward + back
        work[rank] = work.get(rank, 0.0) + forward + inputs[stage] + weights[stage]
        comes, goes = comes + forward, goes + back
    end = weights[0] if splits else 0.0
    longest = comes + goes + end
    for rank, (before, after) in first.items():
        longest = max(
            longest, before + count * work[rank], before + count * urgent[rank] + after + end
        )
    return longest


def least_of_any_cut(shape: Shape, forward: float, inputs: float, weights: float) -> float:
    """The same wherever the stages are cut; these are seconds of the whole model.

    The busiest rank has its part of the work. What a stage computes before it passes on what the
    next one waits for, w_s, goes by for one micro-batch at least; with a stage on each rank, rank r
    waits for one to pass the ranks before it, and back again: the largest of
    w_0 + ... + w_(r-1) + m w_r is least where all are equal, and then T / (1 - (1 - 1/m)^p) for a
    sum of T.
    """
    p, m = shape.ranks, shape.micro_batches
    wave = forward + inputs + (0.0 if recipe_of(shape.name).splits else weights)
    if shape.chunks == 1:
        wave /= 1 - (1 - 1 / m) ** p
    return max(wave, m * (forward + inputs + weights) / p) * (1 - 1e-9)  # if others round down
