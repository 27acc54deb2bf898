"""Take a schedule's steps in an order in which they can be taken: what its readers share.

A reader says what a message carries; here is who may go on and who has to wait. The order does
not matter to the result: messages between two ranks keep theirs, and nothing else is shared.
"""

from collections import deque
from typing import Generic, Protocol, TypeVar

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.schedule import Copy, Receive, Reduce, Schedule, Send

Message = TypeVar("Message")


class Reader(Protocol[Message]):
    """What happens at each kind of step."""

    def copy(self, rank: int, step: Copy) -> None:
        """The rank copies a slot."""

    def send(self, rank: int, step: Send) -> Message:
        """The rank sends; returns what travels to the receive that matches."""

    def receive(self, rank: int, step: Receive | Reduce, message: Message) -> None:
        """The rank takes the message that it waited for."""


def execute(schedule: Schedule, reader: Reader[Message]) -> None:
    """Take all steps; raise ScheduleError if ranks wait for ever or messages are left over."""
    _Execution(schedule, reader).go()


class _Execution(Generic[Message]):
    def __init__(self, schedule: Schedule, reader: Reader[Message]) -> None:
        self._schedule, self._reader = schedule, reader
        self._positions = [0] * schedule.size
        self._queues: dict[tuple[int, int], deque[Message]] = {}
        self._waiting_for: list[int | None] = [None] * schedule.size
        self._ready = deque(range(schedule.size))

    def go(self) -> None:
        while self._ready:
            self._take_steps(self._ready.popleft())
        self._check_ended()

    def _take_steps(self, rank: int) -> None:
        """As many of the rank's steps as can be taken."""
        reader, steps = self._reader, self._schedule.steps[rank]
        position = self._positions[rank]
        while position < len(steps):
            step = steps[position]
            if isinstance(step, Send):
                self._deliver(rank, step.peer, reader.send(rank, step))
            elif isinstance(step, Copy):
                reader.copy(rank, step)
            else:
                queue = self._queues.get((step.peer, rank))
                if not queue:
                    self._waiting_for[rank] = step.peer
                    break
                reader.receive(rank, step, queue.popleft())
            position += 1
        self._positions[rank] = position

    def _deliver(self, rank: int, peer: int, message: Message) -> None:
        queue = self._queues.get((rank, peer))
        if queue is None:
            queue = self._queues[rank, peer] = deque()
        queue.append(message)
        if self._waiting_for[peer] == rank:
            self._waiting_for[peer] = None
            self._ready.append(peer)

    def _check_ended(self) -> None:
        places = zip(self._schedule.steps, self._positions, strict=True)
        stuck = [
            f"rank {rank} at {steps[position]}"
            for rank, (steps, position) in enumerate(places)
            if position < len(steps)
        ]
        if stuck:
            raise ScheduleError(f"{self._schedule.name} deadlocks: {'; '.join(stuck)}")
        left = [f"{a} -> {b}" for (a, b), queue in self._queues.items() if queue]
        if left:
            raise ScheduleError(
                f"{self._schedule.name} leaves messages unread: {', '.join(sorted(left))}"
            )


class Clocks:
    """Every rank's time, and when its ports are free: a message each way at a time.

    With more `ports`, as many messages each way at a time.
    """

    def __init__(self, size: int, ports: int = 1) -> None:
        self.now = [0.0] * size
        self._sending = [[0.0] * ports for _ in range(size)]
        self._receiving = [[0.0] * ports for _ in range(size)]

    def send(self, rank: int, busy: float, duplex: bool = True) -> float:
        """The rank sends a message that keeps the port busy so long; returns when it has left.

        Unless messages are `duplex` nothing else passes meanwhile, in either direction.
        """
        left = max(self.now[rank], self._free(rank, self._sending, duplex)) + busy
        self._occupy(rank, self._sending, duplex, left)
        return left

    def receive(self, rank: int, arrival: float, busy: float, duplex: bool = True) -> float:
        """The rank waits for a message that can be there at `arrival`; returns when it has it."""
        there = max(arrival, self._free(rank, self._receiving, duplex) + busy)
        self._occupy(rank, self._receiving, duplex, there)
        self.now[rank] = max(self.now[rank], there)
        return there

    def compute(self, rank: int, seconds: float, duplex: bool = True) -> None:
        """The rank computes; unless messages are `duplex` none passes meanwhile."""
        self.now[rank] += seconds
        if not duplex:
            self._occupy(rank, self._sending, duplex, self.now[rank])

    def _free(self, rank: int, way: list[list[float]], duplex: bool) -> float:
        if duplex:
            return way[rank][0]
        return max(self._sending[rank][0], self._receiving[rank][0])

    def _occupy(self, rank: int, way: list[list[float]], duplex: bool, until: float) -> None:
        for ports in (way,) if duplex else (self._sending, self._receiving):
            _occupy(ports[rank], until)


def _occupy(ports: list[float], until: float) -> None:
    """Take the port that is free first; the list is kept in order."""
    ports[0] = until
    if len(ports) > 1:
        ports.sort()
