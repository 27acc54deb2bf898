"""Price a schedule: how long it takes, and where the bubbles are.

A rank computes one thing at a time. Each direction between two ranks is a link of its own, on
which messages follow one another: a message occupies it for `transfer` seconds, and arrives
`latency` seconds later. Messages slow down nobody's arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ringlet.comm.schedules.kernel import execute
from ringlet.runtime.pipeline.actions import Action, PipelineSchedule

Seconds: TypeAlias = float | Sequence[float]
"""The same for all stages, or one for each."""


@dataclass(frozen=True)
class Costs:
    """Seconds for each kind of action. A whole backward takes `inputs` + `weights`."""

    forward: Seconds = 1
    inputs: Seconds = 1
    weights: Seconds = 1
    transfer: float = 0
    latency: float = 0

    def of(self, action: Action) -> float:
        """Seconds for F, B, I or W."""
        forward, inputs, weights = (
            cost[action.stage] if isinstance(cost, Sequence) else cost
            for cost in (self.forward, self.inputs, self.weights)
        )
        return {"F": forward, "B": inputs + weights, "I": inputs, "W": weights}[action.kind]


UNIT = Costs()
"""Every F, I and W takes 1, so a whole backward takes 2; transfers take nothing."""


class Interval(NamedTuple):
    """When an action is taken. A send lasts until its message arrives, a receive while it waits."""

    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class PipelinePrice:
    """How long a schedule takes."""

    makespan: float
    """Seconds until the last rank has finished."""

    busy: tuple[float, ...]
    """By rank: seconds of arithmetic."""

    intervals: tuple[tuple[Interval, ...], ...]
    """By rank: every action of its program."""

    @property
    def idle(self) -> tuple[float, ...]:
        """By rank: seconds without arithmetic, from the first start to the last end of all."""
        return tuple(self.makespan - busy for busy in self.busy)

    @property
    def bubbles(self) -> tuple[float, ...]:
        """By rank: the part of the makespan in which it is idle."""
        return tuple(idle / self.makespan if self.makespan else 0.0 for idle in self.idle)


def price(schedule: PipelineSchedule, costs: Costs = UNIT) -> PipelinePrice:
    """Execute the schedule with clocks; whole numbers stay exact.

    Raises ValueError unless costs are for this many stages, ScheduleError as `prove` does.
    """
    for name, cost in vars(costs).items():
        if isinstance(cost, Sequence) and len(cost) != schedule.stages:
            raise ValueError(f"{name} has {len(cost)} numbers for {schedule.stages} stages")
    pricer = _PipelinePricer(schedule, costs)
    execute(schedule, schedule.programs, pricer)
    return PipelinePrice(
        makespan=max(pricer.now),
        busy=tuple(sum(map(costs.of, actions)) for actions in schedule.compute),
        intervals=tuple(map(tuple, pricer.intervals)),
    )


class _PipelinePricer:
    """The reader of a price: a clock for each rank, and when each link is free."""

    def __init__(self, schedule: PipelineSchedule, costs: Costs) -> None:
        self.costs = costs
        self.now: list[float] = [0] * schedule.ranks
        self.intervals: list[list[Interval]] = [[] for _ in range(schedule.ranks)]
        self._schedule = schedule
        self._free: dict[tuple[int, int], float] = {}

    def compute(self, rank: int, action: Action) -> None:
        self._until(rank, action, self.now[rank] + self.costs.of(action))

    def send(self, rank: int, action: Action) -> float:
        link = (rank, self._schedule.peer(action))
        start = max(self.now[rank], self._free.get(link, 0))
        self._free[link] = start + self.costs.transfer
        arrival = self._free[link] + self.costs.latency
        self.intervals[rank].append(Interval(action, start, arrival))
        return arrival

    def receive(self, rank: int, action: Action, arrival: float) -> None:
        self._until(rank, action, max(self.now[rank], arrival))

    def _until(self, rank: int, action: Action, end: float) -> None:
        self.intervals[rank].append(Interval(action, self.now[rank], end))
        self.now[rank] = end
