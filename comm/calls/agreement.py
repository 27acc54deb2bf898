"""Whether the ranks of a group are in the same call: what catches a mismatch."""

from ringlet.comm.calls.channel import Channel, Counted
from ringlet.comm.calls.recorder import SIGNATURE, find
from ringlet.comm.errors import CollectiveMismatch
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.wire import COLLECTIVE, Header


def check_agreement(call: Counted) -> None:
    """Raise CollectiveMismatch if another rank found one, or says that it is in another call."""
    channel = call.channel
    if channel.id in channel.endpoint.notices.mismatched:
        raise CollectiveMismatch(channel.endpoint.notices.mismatched[channel.id])
    if call.stream != COLLECTIVE:
        return
    for rank in channel.ranks:
        notice = channel.endpoint.notices.waiting.get((channel.id, rank))
        if notice is None or notice.stream != COLLECTIVE:
            continue
        mine = _own(call, notice.sequence)
        if mine is not None and not agree(mine, notice.signature):
            raise _disagreement(channel, notice.sequence, mine, rank, notice.signature)


def is_repeated(call: Counted, header: Header, number: int) -> bool:
    """Whether a message has come before: it belongs to a call that has ended well, or to what has
    arrived of this one. One of a rank that is in another call is none: it is a mismatch."""
    if (header.sequence, header.number) >= (call.sequence, number):
        return False
    mine = _own(call, header.sequence)
    return call.stream != COLLECTIVE or (mine is not None and agree(mine, header.signature))


def check_header(call: Counted, header: Header, number: int) -> None:
    """Raise CollectiveMismatch unless a message is the operation's next from its source."""
    channel, signature = call.channel, call.signature
    if header.sequence == call.sequence and header.number == number:
        if call.stream != COLLECTIVE or agree(signature, header.signature):
            return
    elif header.sequence == call.sequence or call.stream != COLLECTIVE:
        raise CollectiveMismatch(
            f"rank {channel.endpoint.rank}: {call.text()} expected segment {number} of "
            f"rank {header.source} and met segment {header.number} of #{header.sequence}"
        )
    mine = _own(call, header.sequence) or signature
    raise _disagreement(channel, header.sequence, mine, header.source, header.signature)


def agree(mine: Signature, theirs: Signature) -> bool:
    """Whether two ranks' calls fit. Only the root of a scatter knows the array's shape."""
    if mine.operation == "scatter" == theirs.operation:
        return mine.detail == theirs.detail
    return mine == theirs


def _own(call: Counted, sequence: int) -> Signature | None:
    """This rank's call with the number."""
    if sequence == call.sequence:
        return call.signature
    record = find(call.channel.history, sequence)
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
