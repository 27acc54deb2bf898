"""The kernel: take the steps of all ranks in an order in which they can be taken.

A schedule is data: for each rank a list of steps. A step sends a message, waits for one, or
concerns its own rank only; the schedule's `queue` says which. What a message carries, and what a
step does, is up to the reader: symbols (prove), clocks (price), arrays. Collectives and pipelines
both run here. The order in which ranks take turns does not change the result: the messages of a
queue stay in order, and ranks share nothing else.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from ringlet.comm.errors import ScheduleError

Payload = TypeVar("Payload")

Queue: TypeAlias = tuple[Any, ...]
"""(sender, receiver), and whatever else tells the queues between two ranks apart."""


class Executable(Protocol):
    """A schedule, as far as the kernel knows it; errors name it by its `str`."""

    def queue(self, rank: int, step: Any) -> Queue | None:
        """The queue to which the step sends, or from which it receives; None: neither."""


class ScheduleReader(Protocol[Payload]):
    """What the steps of one schedule mean."""

    def compute(self, rank: int, step: Any) -> None:
        """The rank takes a step of its own."""

    def send(self, rank: int, step: Any) -> Payload:
        """The rank sends; returns what the message carries. Sends never wait."""

    def receive(self, rank: int, step: Any, payload: Payload) -> None:
        """The rank gets the next message of the queue at which it waited."""


def execute(
    schedule: Executable, steps: Sequence[Sequence[Any]], reader: ScheduleReader[Payload]
) -> None:
    """Take every step of `steps[rank]`.

    Raises ScheduleError for unread messages and deadlocks, naming who waits for whom at which step.
    """
    positions = [0] * len(steps)
    messages: dict[Queue, deque[tuple[Any, Payload]]] = defaultdict(deque)
    waiting: dict[Queue, int] = {}
    ready = deque(range(len(steps)))
    queue_of, send, receive = schedule.queue, reader.send, reader.receive
    while ready:
        rank = ready.popleft()
        own, position = steps[rank], positions[rank]
        while position < len(own):
            step = own[position]
            queue = queue_of(rank, step)
            if queue is None:
                reader.compute(rank, step)
            elif queue[0] == rank:
                messages[queue].append((step, send(rank, step)))
                if queue in waiting:
                    ready.append(waiting.pop(queue))
            elif arrived := messages[queue]:
                receive(rank, step, arrived.popleft()[1])
            else:
                waiting[queue] = rank
                break
            position += 1
        positions[rank] = position
    stuck = sorted((rank, queue[0]) for queue, rank in waiting.items())
    if stuck:
        waits = [f"rank {r} waits at {steps[r][positions[r]]} for rank {peer}" for r, peer in stuck]
        raise ScheduleError(f"{schedule} deadlocks: {'; '.join(waits)}")
    unread = [
        f"rank {queue[1]} never receives {sent[0][0]} of rank {queue[0]}"
        for queue, sent in messages.items()
        if sent
    ]
    if unread:
        raise ScheduleError(f"{schedule} leaves messages unread: {'; '.join(unread)}")
