"""Prove a schedule: execute it symbolically, and check every action before it is taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.kernel import execute
from ringlet.runtime.pipeline.actions import COMPUTE, TRANSFERS, Action, PipelineSchedule


class Refused(ScheduleError):
    """An action that the rank cannot take, or does not have."""

    def __init__(self, message: str, rank: int, action: Action, reason: str) -> None:
        super().__init__(message)
        self.rank, self.action, self.reason = rank, action, reason


@dataclass(frozen=True)
class PipelineProof:
    """The counts of an execution."""

    peaks: tuple[int, ...]
    """By rank: the most activations in flight, each of one micro-batch in one stage. One lives
    from its F to its B, or to its W where the backward is in two parts."""

    sent: tuple[int, ...]
    """By rank: messages sent."""


def prove(
    schedule: PipelineSchedule, programs: Sequence[Sequence[Action]] | None = None
) -> PipelineProof:
    """Execute the schedule symbolically; raises ScheduleError naming rank, action and reason.

    Shown: no rank waits for ever; every stage takes each forward and each backward exactly once,
    on its own rank, when what it needs is there; a stage takes its backwards in the order of the
    micro-batches; every message is received once, in the order of sending, and none is left over.
    `programs`, if given, are proven instead of the schedule's own.
    """
    programs = schedule.programs if programs is None else programs
    prover = _PipelineProver(schedule)
    prover.check_actions(programs)
    prover.check_complete(programs)
    execute(schedule, programs, prover)
    return PipelineProof(tuple(prover.peaks), tuple(prover.sent))


class _PipelineProver:
    """The reader of a proof: what is done, and what is in flight."""

    def __init__(self, schedule: PipelineSchedule) -> None:
        self._schedule, ranks = schedule, schedule.ranks
        self.peaks, self.sent, self._in_flight = [0] * ranks, [0] * ranks, [0] * ranks
        self._done: set[Action] = set()
        self._last: dict[tuple[int, str], int] = {}

    def check_actions(self, programs: Sequence[Sequence[Action]]) -> None:
        """Every action is one that its rank can take, and is listed once."""
        if len(programs) != self._schedule.ranks:
            raise ScheduleError(f"{self._schedule}: there are programs of {len(programs)} ranks")
        for rank, program in enumerate(programs):
            seen: set[Action] = set()
            for action in program:
                if reason := self._wrong(rank, action):
                    self._refuse(rank, action, reason)
                if action in seen:
                    self._refuse(rank, action, "it is listed twice")
                seen.add(action)

    def check_complete(self, programs: Sequence[Sequence[Action]]) -> None:
        """Every stage has each forward and each backward, whole or in two parts but not both."""
        there = {action for program in programs for action in program}
        for stage in range(self._schedule.stages):
            rank = self._schedule.rank_of(stage)
            for micro_batch in range(self._schedule.micro_batches):
                forward, whole, inputs, weights = (Action(k, stage, micro_batch) for k in COMPUTE)
                split = not there.isdisjoint({inputs, weights})
                if split and whole in there:
                    self._refuse(rank, whole, "its backward is also listed in two parts")
                for action in (forward, inputs, weights) if split else (forward, whole):
                    if action not in there:
                        self._refuse(rank, action, "it is missing")

    # -- the reader's part --------------------------------------------------------------------

    def compute(self, rank: int, action: Action) -> None:
        for needed in self._needed(action):
            self._check_done(rank, action, needed)
        self._check_order(rank, action)
        self._done.add(action)
        self._in_flight[rank] += {"F": 1, "I": 0}.get(action.kind, -1)
        self.peaks[rank] = max(self.peaks[rank], self._in_flight[rank])

    def send(self, rank: int, action: Action) -> Action:
        self._check_done(rank, action, action._replace(kind=action.kind[-1]))
        self.sent[rank] += 1
        return action.other_end

    def receive(self, rank: int, action: Action, meant: Action) -> None:
        if meant != action:
            raise ScheduleError(
                f"{self._schedule}: rank {rank} cannot take {action}: the next message from rank "
                f"{self._schedule.peer(action)} is for {meant}"
            )
        self._done.add(action)

    def _needed(self, action: Action) -> list[Action]:
        """What must be done before: the stage's own part, and the data of its neighbour."""
        own = {"F": [], "W": [action._replace(kind="I")]}
        needed = own.get(action.kind, [action._replace(kind="F")])
        receive = action.transfer("RECV", self._schedule.stages)
        if receive and self._schedule.is_local(receive):
            send = receive.other_end
            return [*needed, send._replace(kind=send.kind[-1])]
        return [*needed, receive] if receive else needed

    def _check_done(self, rank: int, action: Action, needed: Action) -> None:
        """Gradients of inputs exist after B, and after I too."""
        halves = {needed._replace(kind="I")} if needed.kind == "B" else set()
        if self._done.isdisjoint({needed} | halves):
            self._refuse(rank, action, f"{needed} must come before it")

    def _check_order(self, rank: int, action: Action) -> None:
        if action.kind == "F":
            return
        key = (action.stage, "I" if action.kind == "I" else "W")
        last = self._last.get(key, -1)
        if action.micro_batch < last:
            reason = f"micro-batch {last} was before it; gradients would add up in another order"
            self._refuse(rank, action, reason)
        self._last[key] = action.micro_batch

    def _wrong(self, rank: int, action: Action) -> str | None:
        """Why the rank cannot take the action, whatever comes before; None: it can."""
        schedule, transfer = self._schedule, action.kind in TRANSFERS
        if action.kind not in COMPUTE + TRANSFERS:
            return f"there is no such kind; there are {', '.join(COMPUTE + TRANSFERS)}"
        if not 0 <= action.stage < schedule.stages:
            return f"stages are 0 to {schedule.stages - 1}"
        if not 0 <= action.micro_batch < schedule.micro_batches:
            return f"micro-batches are 0 to {schedule.micro_batches - 1}"
        if schedule.rank_of(action.stage) != rank:
            return f"stage {action.stage} is on rank {schedule.rank_of(action.stage)}"
        if transfer and not 0 <= action.other_end.stage < schedule.stages:
            return "there is no stage at the other end"
        if transfer and schedule.is_local(action):
            return "stages on one rank hand over without a transfer"
        return None

    def _refuse(self, rank: int, action: Action, reason: str) -> NoReturn:
        text = f"{self._schedule}: rank {rank}, {action}: {reason}"
        raise Refused(text, rank, action, reason)
