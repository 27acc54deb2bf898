"""How many micro-batches a schedule keeps in memory, counted without executing it.

A rank takes its actions in one order whatever the others do, so its memory follows from its own
list. `prove` counts the same while it executes.
"""

from functools import lru_cache
from typing import TypeAlias

from ringlet.runtime.pipeline.actions import PipelineSchedule
from ringlet.runtime.pipeline.costs import Seconds, at
from ringlet.runtime.pipeline.formulas import Shape, peaks
from ringlet.runtime.pipeline.schedules import known_schedule

Moments: TypeAlias = tuple[tuple[int, ...], ...]
"""Of some moments, how many micro-batches a rank holds of each of its stages."""


def peak_activations(
    schedule: PipelineSchedule, sizes: Seconds = 1, kept: float = 1.0
) -> tuple[float, ...]:
    """By rank: the most activations that it holds at once.

    `sizes` are those of one micro-batch in a stage, the same for all or one for each, in any unit:
    layers, or bytes. They are held from F to B; where the backward is in two parts, whole from F to
    I, and the part `kept` (0 to 1) of them up to W.
    """
    change: dict[tuple[str, int], float] = {}
    for stage in range(schedule.stages):
        size = at(sizes, stage)
        left = size if kept == 1 else size * kept
        change.update({("F", stage): size, ("B", stage): -size, ("W", stage): -left})
        change["I", stage] = left - size
    peaks: list[float] = []
    for actions in schedule.compute:
        held, most = 0.0, 0.0
        for kind, stage, _ in actions:
            held += change[kind, stage]
            most = max(most, held)
        peaks.append(most)
    return tuple(peaks)


@lru_cache(maxsize=4096)
def moments(name: str, ranks: int, micro_batches: int, chunks: int) -> tuple[Moments, ...]:
    """By rank: what it holds whenever it holds most, without the schedule where `peaks` is exact.

    At each of these moments, the number of micro-batches of each of its stages; moments at which it
    holds less of one stage and no more of any other may be left out. Arguments as of
    `make_schedule`.
    """
    shape = Shape(name, ranks, micro_batches, chunks)
    if name in ("gpipe", "1f1b", "zero-bubble", "zb-h2"):
        return tuple(((most,),) for most in peaks(shape))
    schedule = known_schedule(*shape)
    return tuple(_moments(schedule, rank) for rank in range(ranks))


def _moments(schedule: PipelineSchedule, rank: int) -> Moments:
    change = {"F": 1, "B": -1, "I": 0, "W": -1}
    held = dict.fromkeys(schedule.stages_of(rank), 0)
    found, grown = dict[tuple[int, ...], None](), False
    for kind, stage, _ in schedule.compute[rank]:
        if grown and change[kind] < 0:
            found[tuple(held.values())] = None
        grown = change[kind] > 0 or (grown and not change[kind])
        held[stage] += change[kind]
    return tuple(found)
