"""Prove a schedule: execute it symbolically, with sets of contributions in place of numbers.

A slot holds None (undefined) or the set of (rank, slot) contributions that were combined into
it. Combining two sets that share a contribution would count it twice and is an error (but not
in a barrier, where a set means "has heard of"). After the last step every slot that the
operation defines must hold exactly what it should.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedule import Copy, Receive, Reduce, Schedule, Send, Step, segmented

Value: TypeAlias = frozenset[tuple[int, int]] | None
Memory: TypeAlias = list[list[Value]]


@dataclass(frozen=True)
class Proof:
    """What was counted on the way: the textbook's figures for an algorithm.

    `rounds` is the length of the critical path when a message takes one unit of time and a
    rank can send one and receive one at once; `sent` and `received` count slots, by rank.
    """

    rounds: int
    sent: tuple[int, ...]
    received: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Message:
    value: Value
    segment: int
    arrival: int


class _Rank:
    """One rank's place in its list of steps, and its clock."""

    def __init__(self, steps: Iterator[tuple[Step, int]]) -> None:
        self._steps = steps
        self.step: tuple[Step, int] | None = next(steps, None)
        self.clock = 0
        self.send_port_free = 0
        self.receive_port_free = 0
        self.sent = 0
        self.received = 0

    def advance(self) -> None:
        self.step = next(self._steps, None)


def prove(schedule: Schedule, segments: int = 1) -> Proof:
    """Execute the schedule with every slot cut into `segments`; raise ScheduleError if wrong.

    Shown: nobody waits for ever, no message is left over, each receive meets the segment that
    it expects, and every slot ends with exactly the contributions that the operation promises.
    """
    memories = [contributions_before(schedule) for _ in range(segments)]
    ranks = [_Rank(segmented(steps, lambda slot: segments)) for steps in schedule.steps]
    queues: dict[tuple[int, int], deque[_Message]] = {}
    moved = True
    while moved:
        moved = False
        for rank, state in enumerate(ranks):
            while state.step is not None and _take(schedule, rank, state, memories, queues):
                state.advance()
                moved = True
    _check_ended(schedule, ranks, queues)
    for memory in memories:
        _check_memory(schedule, memory)
    return Proof(
        rounds=max(max(state.clock, state.send_port_free) for state in ranks),
        sent=tuple(state.sent // segments for state in ranks),
        received=tuple(state.received // segments for state in ranks),
    )


def _take(
    schedule: Schedule,
    rank: int,
    state: _Rank,
    memories: list[Memory],
    queues: dict[tuple[int, int], deque[_Message]],
) -> bool:
    """Take the rank's next step if it can be taken."""
    assert state.step is not None
    step, segment = state.step
    slots = memories[segment][rank]
    if isinstance(step, Copy):
        slots[step.slot] = slots[step.source]
        return True
    if isinstance(step, Send):
        state.send_port_free = max(state.clock, state.send_port_free) + 1
        state.sent += 1
        message = _Message(slots[step.slot], segment, state.send_port_free)
        queues.setdefault((rank, step.peer), deque()).append(message)
        return True
    queue = queues.get((step.peer, rank))
    if not queue:
        return False
    message = queue.popleft()
    if message.segment != segment:
        raise ScheduleError(f"{_name(schedule)}: rank {rank} at {step} met another segment")
    if isinstance(step, Receive):
        slots[step.slot] = message.value
    else:
        slots[step.slot] = _combine(schedule, rank, step, slots[step.slot], message.value)
    state.receive_port_free = max(message.arrival, state.receive_port_free + 1)
    state.clock = max(state.clock, state.receive_port_free)
    state.received += 1
    return True


def _combine(schedule: Schedule, rank: int, step: Reduce, mine: Value, other: Value) -> Value:
    if mine is None or other is None:
        raise ScheduleError(f"{_name(schedule)}: rank {rank} at {step} combines an empty slot")
    if schedule.operation != "barrier" and mine & other:
        twice = sorted(mine & other)
        raise ScheduleError(f"{_name(schedule)}: rank {rank} at {step} counts {twice} twice")
    return mine | other


def _check_ended(
    schedule: Schedule, ranks: list[_Rank], queues: dict[tuple[int, int], deque[_Message]]
) -> None:
    stuck = [f"rank {r} at {state.step[0]}" for r, state in enumerate(ranks) if state.step]
    if stuck:
        raise ScheduleError(f"{_name(schedule)} deadlocks: {'; '.join(stuck)}")
    left = [f"{a} -> {b}" for (a, b), queue in queues.items() if queue]
    if left:
        raise ScheduleError(f"{_name(schedule)} leaves messages unread: {', '.join(left)}")


def _check_memory(schedule: Schedule, memory: Memory) -> None:
    for rank, expected in enumerate(contributions_after(schedule)):
        for slot, value in expected.items():
            if memory[rank][slot] != value:
                raise ScheduleError(
                    f"{_name(schedule)}: rank {rank} ends with {memory[rank][slot]} in slot "
                    f"{slot} in place of {value}"
                )


def _name(schedule: Schedule) -> str:
    return f"{schedule.algorithm} {schedule.operation} of {schedule.size}"


def contributions_before(schedule: Schedule) -> Memory:
    """What every slot holds at the start: its own contribution, or None where undefined."""
    held: dict[str, Callable[[int, int], bool]] = {
        "all_gather": lambda rank, slot: slot == rank,
        "gather": lambda rank, slot: slot == rank,
        "scatter": lambda rank, slot: rank == schedule.root,
        "broadcast": lambda rank, slot: rank == schedule.root,
        "all_to_all": lambda rank, slot: slot < schedule.size,
    }
    starts_with = held.get(schedule.operation, _everything)
    return [
        [
            frozenset({(rank, slot)}) if starts_with(rank, slot) else None
            for slot in range(schedule.slots)
        ]
        for rank in range(schedule.size)
    ]


def _everything(rank: int, slot: int) -> bool:
    return True


def contributions_after(schedule: Schedule) -> list[dict[int, Value]]:
    """What the operation promises: for each rank, slot -> contributions."""
    ranks, root = range(schedule.size), schedule.root

    def all_of(slot: int) -> Value:
        return frozenset((rank, slot) for rank in ranks)

    def one(rank: int, slot: int) -> Value:
        return frozenset({(rank, slot)})

    promise: dict[str, list[dict[int, Value]]] = {
        "all_reduce": [{slot: all_of(slot) for slot in ranks} for _ in ranks],
        "reduce_scatter": [{rank: all_of(rank)} for rank in ranks],
        "all_gather": [{slot: one(slot, slot) for slot in ranks} for _ in ranks],
        "broadcast": [{0: one(root, 0)} for _ in ranks],
        "reduce": [{0: all_of(0)} if rank == root else {} for rank in ranks],
        "gather": [
            {slot: one(slot, slot) for slot in ranks} if rank == root else {} for rank in ranks
        ],
        "scatter": [{rank: one(root, rank)} for rank in ranks],
        "all_to_all": [{schedule.size + peer: one(peer, rank) for peer in ranks} for rank in ranks],
        "barrier": [{0: all_of(0)} for _ in ranks],
    }
    return promise[schedule.operation]
