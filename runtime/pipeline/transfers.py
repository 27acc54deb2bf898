"""Insert the transfers into a schedule: what a stage makes is sent to the rank that needs it.

A send follows the action that makes its value at once, and never waits. A receive stands right
before the action that needs it. Messages of one kind between two ranks are received in the order
in which they are sent: where an action needs one that is behind others, those are received
first. They were sent earlier, so to wait for them is to wait no longer.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # a schedule asks for its transfers, so `actions` imports this module
    from ringlet.runtime.pipeline.actions import Action

Channels: TypeAlias = "dict[tuple[int, int, str], deque[Action]]"
"""(sender, receiver, kind of receive) -> the receives of what is sent, in order."""


def insert_transfers(
    compute: "Sequence[Sequence[Action]]", stages: int
) -> "tuple[tuple[Action, ...], ...]":
    """Each rank's compute actions with the sends and receives that they need.

    Stages on the same rank hand over without a transfer.
    """
    ranks = len(compute)
    if ranks == 1:
        return (tuple(compute[0]),)
    channels: Channels = {}
    for rank, actions in enumerate(compute):
        for action in actions:
            if send := action.gives(stages):
                receive = send.other_end
                key = (rank, receive.stage % ranks, receive.kind)
                channels.setdefault(key, deque()).append(receive)
    return tuple(
        tuple(_program(rank, actions, channels, stages, ranks))
        for rank, actions in enumerate(compute)
    )


def _program(
    rank: int, actions: "Sequence[Action]", channels: Channels, stages: int, ranks: int
) -> "Iterator[Action]":
    received: set[Action] = set()
    for action in actions:
        needed = action.needs(stages)
        if needed and needed not in received:
            channel = channels.get((needed.other_end.stage % ranks, rank, needed.kind), deque())
            while channel and needed not in received:
                received.add(channel[0])
                yield channel.popleft()
        yield action
        if send := action.gives(stages):
            yield send
