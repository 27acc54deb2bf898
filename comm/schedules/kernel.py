"""The kernel: take the steps of all ranks in an order in which they can be taken.

A schedule is data: for each rank a list of steps. A step sends a message, waits for one, or
concerns its own rank only; the schedule's `channel` says which. What a message carries, and what a
step does, is up to the reader: symbols (prove), clocks (price), arrays. Collectives and pipelines
both run here. The order in which the kernel takes turns does not change the result: messages of a
channel stay in order, and ranks share nothing else.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from ringlet.comm.errors import ScheduleError

Payload = TypeVar("Payload")

Channel: TypeAlias = tuple[Any, ...]
"""(sender, receiver), and whatever else tells the streams between two ranks apart."""


class Executable(Protocol):
    """A schedule, as far as the kernel knows it; errors name it by its `str`."""

    def channel(self, rank: int, step: Any) -> Channel | None:
        """Where the rank's step sends to (the rank is the channel's sender) or receives from (it
        is the receiver); None: neither."""


class Reader(Protocol[Payload]):
    """What the steps of one schedule mean."""

    def compute(self, rank: int, step: Any) -> None:
        """The rank takes a step of its own."""

    def send(self, rank: int, step: Any) -> Payload:
        """The rank sends; returns what the message carries. Sends never wait."""

    def receive(self, rank: int, step: Any, payload: Payload) -> None:
        """The rank gets the next message of the channel at which it waited."""


def execute(schedule: Executable, steps: Sequence[Sequence[Any]], reader: Reader[Payload]) -> None:
    """Take every step of `steps[rank]`.

    Raises ScheduleError if ranks wait for ever, naming who waits for whom at which step, and if
    nobody receives a message.
    """
    positions = [0] * len(steps)
    messages: dict[Channel, deque[tuple[Any, Payload]]] = defaultdict(deque)
    waiting: dict[Channel, int] = {}
    ready = deque(range(len(steps)))
    channel_of, send, receive = schedule.channel, reader.send, reader.receive
    while ready:
        rank = ready.popleft()
        own, position = steps[rank], positions[rank]
        while position < len(own):
            step = own[position]
            channel = channel_of(rank, step)
            if channel is None:
                reader.compute(rank, step)
            elif channel[0] == rank:
                messages[channel].append((step, send(rank, step)))
                if channel in waiting:
                    ready.append(waiting.pop(channel))
            elif queue := messages[channel]:
                receive(rank, step, queue.popleft()[1])
            else:
                waiting[channel] = rank
                break
            position += 1
        positions[rank] = position
    stuck = sorted((rank, channel[0]) for channel, rank in waiting.items())
    if stuck:
        waits = [f"rank {r} waits at {steps[r][positions[r]]} for rank {peer}" for r, peer in stuck]
        raise ScheduleError(f"{schedule} deadlocks: {'; '.join(waits)}")
    unread = [
        f"rank {channel[1]} never receives {queue[0][0]} of rank {channel[0]}"
        for channel, queue in messages.items()
        if queue
    ]
    if unread:
        raise ScheduleError(f"{schedule} leaves messages unread: {'; '.join(unread)}")
