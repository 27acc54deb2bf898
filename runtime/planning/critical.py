"""The critical path of a pipeline: what kept its last rank from being done sooner."""

from typing import NamedTuple

from ringlet.runtime.pipeline.actions import Action
from ringlet.runtime.pipeline.price import Interval, PipelinePrice

NAMES = {"F": "forward", "B": "backward", "I": "backward", "W": "weights"}


class Segment(NamedTuple):
    """A part of the path. `what` is forward, backward, weights (where those are apart) or transfer
    in the pipeline, then gradients, tied, norm, update or parameters."""

    what: str
    rank: int
    """Of the pipeline."""

    seconds: float


def critical_path(price: PipelinePrice, rank: int) -> list[Segment]:
    """From the beginning to the rank's last action, each segment as late as the one before it.

    An action begins when the rank has ended the one before, or when its data arrives.
    """
    schedule = price.schedule
    ends: dict[Action, Interval] = {}
    before: dict[Action, Interval | None] = {}
    for owner in range(schedule.ranks):
        previous = None
        for interval in price.computed(owner):
            ends[interval.action], before[interval.action] = interval, previous
            previous = interval
    found: list[Segment] = []
    last = schedule.compute[rank][-1] if schedule.compute[rank] else None
    now = ends.get(last) if last else None
    while now is not None:
        found.append(
            Segment(NAMES[now.action.kind], schedule.rank_of(now.action.stage), now.end - now.start)
        )
        previous = before[now.action]
        if previous is None or previous.end < now.start:
            source = _source(now.action, ends)
            if source is None:
                break
            if (gap := now.start - source.end) > 0:
                found.append(Segment("transfer", found[-1].rank, gap))
            previous = source
        now = previous
    return _joined(found[::-1])


def _source(action: Action, ends: dict[Action, Interval]) -> Interval | None:
    """What makes the data of an action: the stage before or, of a gradient, the one after it."""
    if action.kind == "F":
        return ends.get(action._replace(stage=action.stage - 1))
    for kind in "BI":
        if made := ends.get(action._replace(kind=kind, stage=action.stage + 1)):
            return made
    return ends.get(action._replace(kind="F"))


def _joined(segments: list[Segment]) -> list[Segment]:
    """Neighbours of a kind on one rank as one."""
    found: list[Segment] = []
    for segment in segments:
        if found and found[-1][:2] == segment[:2]:
            found[-1] = found[-1]._replace(seconds=found[-1].seconds + segment.seconds)
        else:
            found.append(segment)
    return found
