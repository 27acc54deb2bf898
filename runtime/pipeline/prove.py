"""Prove a schedule: execute it symbolically, and look at every action before it is taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from ringlet.comm.errors import ScheduleError
from ringlet.runtime.pipeline.actions import Action, PipelineSchedule, Program
from ringlet.runtime.pipeline.follow import follow

COMPUTE, TRANSFERS = ("F", "B", "I", "W"), ("SEND_F", "RECV_F", "SEND_B", "RECV_B")


@dataclass(frozen=True)
class Proof:
    """What was counted on the way."""

    peaks: tuple[int, ...]
    """By rank: the most activations in flight, each of one micro-batch in one stage. One lives
    from its F to its B, or to its W where the backward is in two parts."""

    steps: int
    """The longest chain of F, B, I and W that wait for each other."""

    sent: tuple[int, ...]
    """By rank: messages sent."""

    received: tuple[int, ...]
    """By rank: messages received."""


def prove(schedule: PipelineSchedule, programs: Sequence[Program] | None = None) -> Proof:
    """Execute the schedule symbolically; raises ScheduleError naming rank, action and reason.

    Shown: no rank waits for ever; every stage takes each forward and each backward exactly once,
    on its own rank, when what it needs is there; a stage takes its backwards in the order of the
    micro-batches; every message is received once, in the order of sending, and none is left over.
    Given `programs` are proven in place of the schedule's own.
    """
    programs = schedule.programs if programs is None else programs
    _check_actions(schedule, programs)
    _check_complete(schedule, programs)
    prover = _Prover(schedule)
    follow(schedule, programs, prover)
    return Proof(
        peaks=tuple(prover.peaks),
        steps=max(prover.clocks),
        sent=tuple(_count(program, "SEND") for program in programs),
        received=tuple(_count(program, "RECV") for program in programs),
    )


class _Prover:
    """The reader of a proof: what is done, what is in flight, and a clock for each rank."""

    def __init__(self, schedule: PipelineSchedule) -> None:
        self.schedule = schedule
        self.done: set[Action] = set()
        self.in_flight = [0] * schedule.ranks
        self.peaks = [0] * schedule.ranks
        self.clocks = [0] * schedule.ranks
        self._last: dict[tuple[int, str], int] = {}

    def compute(self, rank: int, action: Action) -> None:
        for needed in self._needed(action):
            if not self._there(needed):
                _refuse(self.schedule, rank, action, f"{needed} has to come before it")
        self._keep_order(rank, action)
        self.done.add(action)
        self.clocks[rank] += 1
        self.in_flight[rank] += {"F": 1, "I": 0}.get(action.kind, -1)
        self.peaks[rank] = max(self.peaks[rank], self.in_flight[rank])

    def send(self, rank: int, action: Action) -> int:
        made = action._replace(kind=action.kind[-1])
        if not self._there(made):
            _refuse(self.schedule, rank, action, f"{made} has to come before it")
        return self.clocks[rank]

    def receive(self, rank: int, action: Action, message: int) -> None:
        self.done.add(action)
        self.clocks[rank] = max(self.clocks[rank], message)

    def _needed(self, action: Action) -> list[Action]:
        """Before it: its own part, and what comes from the stage next to it."""
        own = {"F": [], "W": [action._replace(kind="I")]}
        needed = own.get(action.kind, [action._replace(kind="F")])
        receive = action.needs(self.schedule.stages)
        if receive and self.schedule.ranks == 1:
            send = receive.other_end
            return [*needed, send._replace(kind=send.kind[-1])]
        return [*needed, receive] if receive else needed

    def _there(self, action: Action) -> bool:
        """Whether it is done; gradients of inputs are there after I, too."""
        halves = {action._replace(kind="I")} if action.kind == "B" else set()
        return not self.done.isdisjoint({action} | halves)

    def _keep_order(self, rank: int, action: Action) -> None:
        if action.kind == "F":
            return
        key = (action.stage, "I" if action.kind == "I" else "W")
        last = self._last.get(key, -1)
        if action.micro_batch < last:
            reason = f"micro-batch {last} was before it; gradients would add up in another order"
            _refuse(self.schedule, rank, action, reason)
        self._last[key] = action.micro_batch


def _check_actions(schedule: PipelineSchedule, programs: Sequence[Program]) -> None:
    """Every action is one that its rank can take, and stands there once."""
    if len(programs) != schedule.ranks:
        raise ScheduleError(f"{schedule}: there are programs of {len(programs)} ranks")
    for rank, program in enumerate(programs):
        seen: set[Action] = set()
        for action in program:
            if reason := _wrong(schedule, rank, action):
                _refuse(schedule, rank, action, reason)
            if action in seen:
                _refuse(schedule, rank, action, "it is there twice")
            seen.add(action)


def _wrong(schedule: PipelineSchedule, rank: int, action: Action) -> str | None:
    """Why the rank cannot take the action, whatever comes before; None: it can."""
    if action.kind not in COMPUTE + TRANSFERS:
        return f"there is no such kind; there are {', '.join(COMPUTE + TRANSFERS)}"
    if not 0 <= action.stage < schedule.stages:
        return f"stages are 0 to {schedule.stages - 1}"
    if not 0 <= action.micro_batch < schedule.micro_batches:
        return f"micro-batches are 0 to {schedule.micro_batches - 1}"
    if schedule.rank_of(action.stage) != rank:
        return f"stage {action.stage} is on rank {schedule.rank_of(action.stage)}"
    if action.kind in TRANSFERS and schedule.ranks == 1:
        return "stages on one rank hand over without a transfer"
    if action.kind in TRANSFERS and not 0 <= action.other_end.stage < schedule.stages:
        return "there is no stage at the other end"
    return None


def _check_complete(schedule: PipelineSchedule, programs: Sequence[Program]) -> None:
    """Every stage has each forward and each backward, whole or in two parts but not both."""
    there = {action for program in programs for action in program}
    for stage in range(schedule.stages):
        rank = schedule.rank_of(stage)
        for micro_batch in range(schedule.micro_batches):
            forward, whole, inputs, weights = (Action(k, stage, micro_batch) for k in COMPUTE)
            if whole in there and not there.isdisjoint({inputs, weights}):
                _refuse(schedule, rank, whole, "its backward is there in two parts, too")
            split = whole not in there and not there.isdisjoint({inputs, weights})
            for action in (forward, *((inputs, weights) if split else (whole,))):
                if action not in there:
                    _refuse(schedule, rank, action, "it is not there")


def _refuse(schedule: PipelineSchedule, rank: int, action: Action, reason: str) -> NoReturn:
    raise ScheduleError(f"{schedule}: rank {rank}, {action}: {reason}")


def _count(program: Program, kind: str) -> int:
    return sum(action.kind.startswith(kind) for action in program)
