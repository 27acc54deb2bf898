"""Whether the ranks of a group are in the same call: what catches a mismatch."""

from typing import Protocol

from ringlet.comm.calls.channel import Channel
from ringlet.comm.calls.recorder import SIGNATURE, find
from ringlet.comm.errors import CollectiveMismatch
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.wire import COLLECTIVE, Header


class Counted(Protocol):
    """An operation and its number among those of its channel."""

    channel: Channel
    signature: Signature
    stream: int
    sequence: int

    def text(self) -> str:
        """The operation with its size, for errors."""


def check_agreement(operation: Counted) -> None:
    """Raise CollectiveMismatch if another rank found one, or says that it is in another call."""
    channel = operation.channel
    if channel.id in channel.endpoint.notices.mismatched:
        raise CollectiveMismatch(channel.endpoint.notices.mismatched[channel.id])
    if operation.stream != COLLECTIVE:
        return
    for rank in channel.ranks:
        notice = channel.endpoint.notices.waiting.get((channel.id, rank))
        if notice is None or notice.stream != COLLECTIVE:
            continue
        mine = _own(operation, notice.sequence)
        if mine is not None and not agree(mine, notice.signature):
            raise _disagreement(channel, notice.sequence, mine, rank, notice.signature)


def is_repeated(operation: Counted, header: Header, number: int) -> bool:
    """Whether a message has come before: it belongs to a call that has ended well, or to what has
    arrived of this one. One of a rank that is in another call is none: it is a mismatch."""
    if (header.sequence, header.number) >= (operation.sequence, number):
        return False
    mine = _own(operation, header.sequence)
    return operation.stream != COLLECTIVE or (mine is not None and agree(mine, header.signature))


def check_header(operation: Counted, header: Header, number: int) -> None:
    """Raise CollectiveMismatch unless a message is the operation's next from its source."""
    channel, signature = operation.channel, operation.signature
    if header.sequence == operation.sequence and header.number == number:
        if operation.stream != COLLECTIVE or agree(signature, header.signature):
            return
    elif header.sequence == operation.sequence or operation.stream != COLLECTIVE:
        raise CollectiveMismatch(
            f"rank {channel.endpoint.rank}: {operation.text()} expected segment {number} of "
            f"rank {header.source} and met segment {header.number} of #{header.sequence}"
        )
    mine = _own(operation, header.sequence) or signature
    raise _disagreement(channel, header.sequence, mine, header.source, header.signature)


def agree(mine: Signature, theirs: Signature) -> bool:
    """Whether two ranks' calls fit. Only the root of a scatter knows the array's shape."""
    if mine.operation == "scatter" == theirs.operation:
        return mine.detail == theirs.detail
    return mine == theirs


def _own(operation: Counted, sequence: int) -> Signature | None:
    """This rank's call with the number."""
    if sequence == operation.sequence:
        return operation.signature
    record = find(operation.channel.history, sequence)
    return None if record is None else record[SIGNATURE]


def _disagreement(
    channel: Channel, sequence: int, mine: Signature, rank: int, theirs: Signature
) -> CollectiveMismatch:
    """The error, with both sides; everybody in the group is told."""
    endpoint = channel.endpoint
    where = f"call #{sequence} of group {channel.context.names[channel.id]}"
    text = f"{where}: rank {endpoint.rank} called {mine}; rank {rank} called {theirs}"
    for peer in channel.ranks:
        if peer != endpoint.rank:
            endpoint.notify(peer, "mismatch", {"group": channel.id, "text": text})
    return CollectiveMismatch(text)
