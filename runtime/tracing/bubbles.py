"""The bubbles of a run's pipelines, beside what they should be."""

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from ringlet.comm.errors import ScheduleError
from ringlet.runtime.pipeline import formulas
from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.price import PipelinePrice, price
from ringlet.runtime.tracing.trace import Pipeline, Trace


class Bubble(NamedTuple):
    """The part of a pipeline's time in which its ranks do not compute."""

    pipeline: Pipeline

    measured: float
    """Of the time from a step's first action to its last."""

    predicted: float | None
    """In the same order, with the measured seconds of each stage, if messages took none."""

    textbook: float | None
    """The closed form, for stages that all take the mean; None: there is none."""


def bubbles(trace: Trace) -> tuple[Bubble, ...]:
    """Of all pipelines of several ranks."""
    several = (each for each in trace.pipelines if len(each.ranks) > 1)
    return tuple(found for each in several if (found := _bubble(trace, each)) is not None)


def _bubble(trace: Trace, pipeline: Pipeline) -> Bubble | None:
    busy = whole = 0.0
    for step in trace.steps:
        actions = [each for rank in pipeline.ranks for each in trace.actions(rank, step)]
        busy += sum(each.end - each.start for each in actions)
        if actions:
            span = max(each.end for each in actions) - min(each.start for each in actions)
            whole += len(pipeline.ranks) * span
    if not whole:
        return None
    if (priced := expected(trace, pipeline)) is None:
        return Bubble(pipeline, 1 - busy / whole, None, None)
    schedule = priced.schedule
    mean = (sum(each) / schedule.stages for each in _means(trace, pipeline, schedule))
    textbook = formulas.bubble(schedule, *mean)
    part = None if textbook is None else textbook.part
    return Bubble(pipeline, 1 - busy / whole, float(priced.bubble), part)


def expected(trace: Trace, pipeline: Pipeline) -> PipelinePrice | None:
    """The pipeline with the measured seconds of each stage, if messages took none; None if the
    trace lacks something."""
    schedule = observed_schedule(trace, pipeline)
    if schedule is None:
        return None
    try:
        return price(schedule, Costs(*_means(trace, pipeline, schedule)))
    except (ScheduleError, ValueError):
        return None


def _means(
    trace: Trace, pipeline: Pipeline, schedule: PipelineSchedule
) -> tuple[list[float], list[float], list[float]]:
    """By stage, the mean seconds of forward, and of backward to inputs and to weights."""
    seconds: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
    for step in trace.steps:
        for rank in pipeline.ranks:
            for each in trace.actions(rank, step):
                seconds[each.kind, each.stage].append(each.end - each.start)
    means = {place: sum(numbers) / len(numbers) for place, numbers in seconds.items()}
    stages = range(schedule.stages)
    halves = [means.get(("B", stage), 0.0) / 2 for stage in stages]
    forward = [means.get(("F", stage), 0.0) for stage in stages]
    inputs = [means.get(("I", stage), halves[stage]) for stage in stages]
    weights = [means.get(("W", stage), halves[stage]) for stage in stages]
    return forward, inputs, weights


def observed_schedule(trace: Trace, pipeline: Pipeline) -> PipelineSchedule | None:
    """What the pipeline did, as a schedule: every step has the same order. None if some stage did
    nothing, or there is no step."""
    step = next(iter(trace.steps), None)
    if step is None:
        return None
    compute = tuple(
        tuple(Action(each.kind, each.stage, each.micro_batch) for each in trace.actions(rank, step))
        for rank in pipeline.ranks
    )
    place = {each.stage: index for index, row in enumerate(compute) for each in row}
    numbers = {each.micro_batch for row in compute for each in row}
    stages, micro_batches = len(pipeline.ranks) * pipeline.chunks, len(numbers)
    if not _all_below(place, stages) or not _all_below(numbers, micro_batches):
        return None
    placement = tuple(place[stage] for stage in sorted(place))
    sizes = len(pipeline.ranks), pipeline.chunks, micro_batches
    return PipelineSchedule(pipeline.schedule, *sizes, compute, placement)


def _all_below(numbers: Collection[int], count: int) -> bool:
    return len(numbers) == count and all(0 <= each < count for each in numbers)
