"""What happens in every round of a schedule: who sends what, and what all slots hold then."""

from dataclasses import dataclass

from ringlet.comm.schedules.execute import execute
from ringlet.comm.schedules.prove import Beats
from ringlet.comm.schedules.schedule import Copy, Receive, Reduce, Schedule, Send, cut
from ringlet.comm.schedules.symbols import Contributions, Memory, Value, contributions_after


@dataclass(frozen=True)
class Transfer:
    """A slot on its way; `round` counts from 1, and is the one in which it arrives."""

    round: int
    sender: int
    source: int
    receiver: int
    slot: int
    combined: bool


@dataclass(frozen=True)
class Trace:
    """A schedule's rounds."""

    schedule: Schedule
    transfers: tuple[Transfer, ...]

    states: tuple[tuple[tuple[Contributions | None, ...], ...], ...]
    """states[round][rank][slot]; round 0 is the start."""

    promised: tuple[dict[int, Contributions], ...]
    """promised[rank][slot]: what the operation is for."""

    @property
    def rounds(self) -> int:
        """How many there are."""
        return len(self.states) - 1

    def finished(self, round_: int, rank: int, slot: int) -> bool:
        """Whether the slot holds what it is to hold at the end."""
        held, promised = self.states[round_][rank][slot], self.promised[rank].get(slot)
        return held is not None and held == promised


def trace(schedule: Schedule, segments: int = 1, ports: int = 1) -> Trace:
    """Follow the schedule, every slot cut into `segments`; raises ScheduleError as `prove` does.

    Slots that are ready for the same peer at the same moment travel in the same round; segments,
    which are there to follow one another, have a round each.
    """
    plan = cut(schedule, segments)
    recorder = _Recorder(plan, Beats(plan.size, ports, together=segments == 1))
    before = _snapshot(recorder.memory)
    execute(plan, recorder)
    return Trace(
        schedule=plan,
        transfers=tuple(sorted(recorder.transfers, key=lambda t: (t.round, t.sender))),
        states=tuple(_states(before, recorder)),
        promised=tuple(contributions_after(plan)),
    )


State = tuple[tuple[Contributions | None, ...], ...]


@dataclass(frozen=True)
class _Message:
    value: Value | None
    sender: int
    slot: int
    arrival: int


class _Recorder:
    """A reader that remembers when every slot changed."""

    def __init__(self, schedule: Schedule, beats: Beats) -> None:
        self.memory, self.beats = Memory(schedule), beats
        self.transfers: list[Transfer] = []
        self.changes: list[tuple[int, int, int, Value | None]] = []  # round, rank, slot, value

    def copy(self, rank: int, step: Copy) -> None:
        self.memory.copy(rank, step)
        self._note(self.beats.now(rank), rank, step.slot)

    def send(self, rank: int, step: Send) -> _Message:
        value = self.memory.ranks[rank][step.slot]
        return _Message(value, rank, step.slot, self.beats.send(rank, step.peer))

    def receive(self, rank: int, step: Receive | Reduce, message: _Message) -> None:
        self.memory.receive(rank, step, message.value)
        there = self.beats.receive(rank, message.sender, message.arrival)
        combined = isinstance(step, Reduce)
        self.transfers.append(
            Transfer(there, message.sender, message.slot, rank, step.slot, combined)
        )
        self._note(there, rank, step.slot)

    def _note(self, round_: int, rank: int, slot: int) -> None:
        self.changes.append((round_, rank, slot, self.memory.ranks[rank][slot]))


def _snapshot(memory: Memory) -> list[list[Value | None]]:
    return [list(slots) for slots in memory.ranks]


def _states(ranks: list[list[Value | None]], recorder: _Recorder) -> list[State]:
    """What all slots held after every round, from the changes in it."""
    states: list[State] = []
    for round_ in range(recorder.beats.last + 1):
        for changed, rank, slot, value in recorder.changes:
            if changed == round_:
                ranks[rank][slot] = value
        states.append(
            tuple(
                tuple(None if value is None else value.contributions for value in slots)
                for slots in ranks
            )
        )
    return states
