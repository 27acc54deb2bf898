"""How many micro-batches a schedule keeps in memory, counted without executing it.

A rank takes its actions in one order whatever the others do, so its memory follows from its own
list. `prove` counts the same while it executes.
"""

from ringlet.runtime.pipeline.actions import PipelineSchedule
from ringlet.runtime.pipeline.costs import Seconds, at


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


def peak_micro_batches(schedule: PipelineSchedule) -> tuple[int, ...]:
    """By stage: the most micro-batches whose activations it holds at once."""
    held, peaks = [0] * schedule.stages, [0] * schedule.stages
    change = {"F": 1, "B": -1, "I": 0, "W": -1}
    for actions in schedule.compute:
        for kind, stage, _ in actions:
            held[stage] += change[kind]
            peaks[stage] = max(peaks[stage], held[stage])
    return tuple(peaks)
