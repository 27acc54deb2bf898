"""Price a schedule: how long it takes, and where the bubbles are.

A rank computes one thing at a time. A message leaves at once, on a link of its own for each
direction between two ranks, where it follows the messages before it: it takes `transfer` seconds
to pass, and is there `latency` later. Nobody's arithmetic is slowed by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.follow import follow

Seconds: TypeAlias = float | Sequence[float]
"""The same for all stages, or one for each."""


@dataclass(frozen=True)
class Costs:
    """Seconds that everything takes. A whole backward takes `inputs` + `weights`."""

    forward: Seconds = 1
    inputs: Seconds = 1
    weights: Seconds = 1
    transfer: float = 0
    latency: float = 0

    def of(self, action: Action) -> float:
        """What a compute action takes."""
        forward, inputs, weights = (
            cost[action.stage] if isinstance(cost, Sequence) else cost
            for cost in (self.forward, self.inputs, self.weights)
        )
        return {"F": forward, "B": inputs + weights, "I": inputs, "W": weights}[action.kind]


UNIT = Costs()
"""Every F, I and W takes 1, so a whole backward takes 2; transfers take nothing."""


class Interval(NamedTuple):
    """When a rank does something. A send lasts until it arrives, a receive as long as it waits."""

    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Price:
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


def price(schedule: PipelineSchedule, costs: Costs = UNIT) -> Price:
    """Execute the schedule with clocks; whole numbers stay exact.

    Raises ValueError if the costs are not for this many stages, ScheduleError as `prove` does
    where ranks wait for ever.
    """
    for name, cost in vars(costs).items():
        if isinstance(cost, Sequence) and len(cost) != schedule.stages:
            raise ValueError(f"{name} has {len(cost)} numbers for {schedule.stages} stages")
    pricer = _Pricer(schedule, costs)
    follow(schedule, schedule.programs, pricer)
    return Price(
        makespan=max(pricer.now),
        busy=tuple(sum(map(costs.of, actions)) for actions in schedule.compute),
        intervals=tuple(map(tuple, pricer.intervals)),
    )


class _Pricer:
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

    def receive(self, rank: int, action: Action, message: float) -> None:
        self._until(rank, action, max(self.now[rank], message))

    def _until(self, rank: int, action: Action, end: float) -> None:
        self.intervals[rank].append(Interval(action, self.now[rank], end))
        self.now[rank] = end
