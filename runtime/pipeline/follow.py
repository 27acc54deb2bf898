"""Take a schedule's actions in an order in which they can be taken: what prove and price share.

A reader says what an action means and what a message carries; here is who may go on and who has
to wait. Sends do not wait. A receive waits for the sender's next message of its kind.
"""

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from ringlet.comm.errors import ScheduleError
from ringlet.runtime.pipeline.actions import Action, PipelineSchedule, Program

Message = TypeVar("Message")


class Reader(Protocol[Message]):
    """What happens at each action."""

    def compute(self, rank: int, action: Action) -> None:
        """The rank takes F, B, I or W."""

    def send(self, rank: int, action: Action) -> Message:
        """The rank sends; returns what travels."""

    def receive(self, rank: int, action: Action, message: Message) -> None:
        """The rank has what it waited for."""


def follow(
    schedule: PipelineSchedule, programs: Sequence[Program], reader: Reader[Message]
) -> None:
    """Take all actions; raises ScheduleError if one cannot be taken or a message is left over."""
    _Run(schedule, programs, reader).go()


class _Run(Generic[Message]):
    def __init__(
        self, schedule: PipelineSchedule, programs: Sequence[Program], reader: Reader[Message]
    ) -> None:
        self._schedule, self._programs, self._reader = schedule, programs, reader
        self._positions = [0] * schedule.ranks
        # (sender, receiver, kind of receive) -> (the receive that is meant, what travels)
        self._channels: dict[tuple[int, int, str], deque[tuple[Action, Message]]] = {}

    def go(self) -> None:
        while any(self._advance(rank) for rank in range(self._schedule.ranks)):
            pass
        self._check_ended()

    def _advance(self, rank: int) -> bool:
        """Take as many of the rank's actions as can be taken; whether there were any."""
        program, start = self._programs[rank], self._positions[rank]
        position = start
        while position < len(program) and self._take(rank, program[position]):
            position += 1
        self._positions[rank] = position
        return position > start

    def _take(self, rank: int, action: Action) -> bool:
        """False: the rank has to wait."""
        if action.kind.startswith("RECV"):
            return self._receive(rank, action)
        if action.kind.startswith("SEND"):
            receive = action.other_end
            key = (rank, self._schedule.rank_of(receive.stage), receive.kind)
            message = (receive, self._reader.send(rank, action))
            self._channels.setdefault(key, deque()).append(message)
        else:
            self._reader.compute(rank, action)
        return True

    def _receive(self, rank: int, action: Action) -> bool:
        peer = self._schedule.peer(action)
        channel = self._channels.get((peer, rank, action.kind))
        if not channel:
            return False
        meant, message = channel.popleft()
        if meant != action:
            raise ScheduleError(
                f"{self._schedule}: rank {rank} cannot take {action}: the next message from rank "
                f"{peer} is for {meant}"
            )
        self._reader.receive(rank, action, message)
        return True

    def _check_ended(self) -> None:
        stuck = [
            f"rank {rank} waits at {program[position]} for rank "
            f"{self._schedule.peer(program[position])}"
            for rank, (program, position) in enumerate(
                zip(self._programs, self._positions, strict=True)
            )
            if position < len(program)
        ]
        if stuck:
            raise ScheduleError(f"{self._schedule} deadlocks: {'; '.join(stuck)}")
        for (sender, receiver, _), channel in self._channels.items():
            if channel:
                raise ScheduleError(
                    f"{self._schedule}: rank {receiver} never takes {channel[0][0]}, which rank "
                    f"{sender} has sent"
                )
