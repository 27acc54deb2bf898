"""Price a schedule: how long it takes, and where the bubbles are.

A rank computes one thing at a time. Each direction between two ranks is a link of its own, on
which messages follow one another: a message occupies it for `transfer` seconds, and arrives
`latency` seconds later, in the order of sending. Messages slow down nobody's arithmetic.

A planner prices thousands of schedules with tens of thousands of actions each, so this reader does
not take the kernel's way: sends and receives follow from what is computed, and a rank goes on until
data is missing that no rank has computed yet. A test compares it with the kernel.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from ringlet.comm.schedules.kernel import execute
from ringlet.runtime.pipeline.actions import COMPUTE, Action, PipelineSchedule
from ringlet.runtime.pipeline.costs import UNIT, Costs
from ringlet.runtime.pipeline.prove import prove


class Interval(NamedTuple):
    """When an action is taken. A send lasts until its message arrives, a receive while it waits."""

    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class PipelinePrice:
    """How long a schedule takes."""

    schedule: PipelineSchedule
    costs: Costs

    starts: tuple[list[float], ...]
    """By rank: when each action of `schedule.compute` starts."""

    finished: tuple[float, ...]
    """By rank: when its last action ends."""

    busy: tuple[float, ...]
    """By rank: seconds of arithmetic."""

    _arrivals: list[Any] = field(repr=False, compare=False)

    @property
    def makespan(self) -> float:
        """Seconds until the last rank has finished."""
        return max(self.finished)

    @property
    def spans(self) -> tuple[float, ...]:
        """By rank: seconds from its own first start to its own last end.

        The longest is the time of a step where ranks need not wait for one another between two
        steps, as in Qi et al. (2024), section 4.
        """
        firsts = (starts[0] if starts else 0 for starts in self.starts)
        return tuple(end - start for start, end in zip(firsts, self.finished, strict=True))

    @property
    def idle(self) -> tuple[float, ...]:
        """By rank: seconds without arithmetic, from the first start to the last end of all."""
        return tuple(self.makespan - busy for busy in self.busy)

    @property
    def bubbles(self) -> tuple[float, ...]:
        """By rank: the part of the makespan in which it is idle."""
        return tuple(idle / self.makespan if self.makespan else 0.0 for idle in self.idle)

    @property
    def bubble(self) -> float:
        """The part of all ranks' time in which they are idle."""
        return sum(self.bubbles) / len(self.bubbles)

    @cached_property
    def intervals(self) -> tuple[tuple[Interval, ...], ...]:
        """By rank: every action of its program, sends and receives too."""
        return tuple(tuple(self._intervals(rank)) for rank in range(self.schedule.ranks))

    def computed(self, rank: int) -> Iterator[Interval]:
        """When the rank takes what it computes, without sends and receives."""
        for action, start in zip(self.schedule.compute[rank], self.starts[rank], strict=True):
            yield Interval(action, start, start + self.costs.of(action))

    @property
    def complete(self) -> tuple[float, ...]:
        """By stage: when the gradients of its parameters are complete."""
        ends: dict[int, float] = {}
        for rank in range(self.schedule.ranks):
            for action, _, end in self.computed(rank):
                if action.kind in "BW":
                    ends[action.stage] = end
        return tuple(ends.get(stage, 0) for stage in range(self.schedule.stages))

    def _intervals(self, rank: int) -> Iterator[Interval]:
        schedule, now = self.schedule, 0.0
        free: dict[int, float] = {}
        starts = iter(self.starts[rank])
        for action in schedule.programs[rank]:
            if action.kind in COMPUTE:
                start = next(starts)
                now = start + self.costs.of(action)
                yield Interval(action, start, now)
                continue
            peer = schedule.peer(action)
            arrival = self._arrivals[_arrives(schedule, action)]
            if action.kind.startswith("SEND"):
                start = max(now, free.get(peer, 0))
                border = min(action.stage, action.other_end.stage)
                free[peer] = start + self.costs.message(border)[0]
                yield Interval(action, start, arrival)
            else:
                start, now = now, max(now, arrival)
                yield Interval(action, start, now)


def price(schedule: PipelineSchedule, costs: Costs = UNIT) -> PipelinePrice:
    """How long the schedule takes; whole numbers stay exact.

    Raises ValueError unless costs are for this many stages, ScheduleError as `prove` does for a
    schedule that does not end or leaves messages over. About a microsecond for each action.
    """
    costs.check(schedule.stages)
    steps = _steps(schedule, costs)
    arrivals: list[Any] = [None] * (2 * schedule.stages * schedule.micro_batches)
    starts: tuple[list[float], ...] = tuple([] for _ in range(schedule.ranks))
    now: list[float] = [0] * schedule.ranks
    busy: list[float] = [0] * schedule.ranks
    waiting: dict[int, int] = {}
    ready, unread = deque(range(schedule.ranks)), 0
    while ready:
        rank = ready.popleft()
        clock, work, started = now[rank], busy[rank], starts[rank]
        actions = schedule.compute[rank]
        for place in range(len(started), len(actions)):
            kind, stage, number = actions[place]
            needs, makes, seconds, delay, link, sent = steps[kind, stage]
            if needs is not None:
                arrival = arrivals[needs + number]
                if arrival is None:
                    waiting[needs + number] = rank
                    break
                if arrival > clock:
                    clock = arrival
            started.append(clock)
            clock += seconds
            work += seconds
            unread += sent
            if makes is not None:
                made = makes + number
                arrivals[made] = clock + delay if link is None else link(clock)
                if made in waiting:
                    ready.append(waiting.pop(made))
        now[rank], busy[rank] = clock, work
    if waiting or unread:
        execute(schedule, schedule.programs, _Nothing())
        prove(schedule)
    return PipelinePrice(schedule, costs, starts, tuple(now), tuple(busy), arrivals)


class _Nothing:
    """The reader that only lets the kernel say why a schedule does not end."""

    def compute(self, rank: int, step: Action) -> None:
        pass

    def send(self, rank: int, step: Action) -> None:
        pass

    def receive(self, rank: int, step: Action, payload: None) -> None:
        pass


class _Link:
    """Messages of one kind over one border: a link that they share with others, and a queue."""

    def __init__(self, link: list[float], queue: list[float], message: tuple[float, float]) -> None:
        self._link, self._queue, (self._transfer, self._latency) = link, queue, message

    def __call__(self, clock: float) -> float:
        """When a message arrives that can leave at this time."""
        self._link[0] = max(clock, self._link[0]) + self._transfer
        self._queue[0] = max(self._queue[0], self._link[0] + self._latency)
        return self._queue[0]


def _steps(schedule: PipelineSchedule, costs: Costs) -> dict[tuple[str, int], tuple[Any, ...]]:
    """By kind and stage: the places of the data that it needs and makes, for micro-batch 0 (None:
    neither), its seconds, when what it makes is there (after a time, or as a link says), and the
    messages that it sends, less those that it receives."""
    links: defaultdict[Any, list[float]] = defaultdict(lambda: [0])
    uniform = None if costs.transfer or isinstance(costs.latency, Sequence) else costs.latency
    steps: dict[tuple[str, int], tuple[Any, ...]] = {}
    for stage, kind in product(range(schedule.stages), COMPUTE):
        action = Action(kind, stage, 0)
        send, receive = (schedule.transfer(action, way) for way in ("SEND", "RECV"))
        delay, link = 0.0, None
        if send is not None and uniform is not None:
            delay = uniform
        elif send is not None:
            ends = schedule.rank_of(stage), schedule.peer(send)
            message = costs.message(min(stage, send.other_end.stage))
            link = _Link(links[ends], links[ends, send.kind], message)
        needs, makes = places(schedule, action)
        messages = (send is not None) - (receive is not None)
        steps[kind, stage] = needs, makes, costs.of(action), delay, link, messages
    return steps


def places(schedule: PipelineSchedule, action: Action) -> tuple[int | None, int | None]:
    """Where the data is that an action needs, and that it makes.

    A micro-batch goes through the forwards of all stages and back through the backwards; between
    two of these it is in one place.
    """
    if action.kind == "W":
        return None, None
    count, last = schedule.micro_batches, 2 * schedule.stages - 1
    before = action.stage if action.kind == "F" else last - action.stage
    needs, makes = (place * count + action.micro_batch for place in (before, before + 1))
    return needs if before else None, makes if before < last else None


def _arrives(schedule: PipelineSchedule, transfer: Action) -> int:
    """The place of what a message carries."""
    receive = transfer if transfer.kind.startswith("RECV") else transfer.other_end
    place, _ = places(schedule, receive._replace(kind=receive.kind[-1]))
    assert place is not None, "it comes from another stage"
    return place
