"""Point to point: one rank sends an array, one receives it; tags keep streams apart."""

import numpy as np

from ringlet.comm.arrays import check_array, flat, store
from ringlet.comm.calls.channel import Channel, Link
from ringlet.comm.calls.operation import Operation, Program
from ringlet.comm.calls.work import Lane, LaneWork
from ringlet.comm.errors import CollectiveMismatch
from ringlet.comm.sockets.endpoint import Message
from ringlet.comm.sockets.run import departed
from ringlet.comm.sockets.wire import Array, Header, Signature, allocate, segments

MAX_TAG = 2**31 - 1


class Transfers:
    """The sends and receives of one group on this rank. Peers are indices into the group."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lanes: dict[tuple[int, int], Lane] = {}

    def isend(self, x: Array, peer: int, tag: int, timeout: float) -> LaneWork:
        """Queue the array for the peer; its memory is free again after `wait`."""
        check_array(x)
        self._check(peer, tag)
        signature = Signature("send", x.dtype.str, x.shape, "")
        operation = self._channel.transfer(signature, self._channel.ranks[peer], tag, timeout)
        operation.start(_send(Link(operation), peer, flat(x)), x.nbytes)
        return Lane().append(operation)

    def irecv(self, peer: int, tag: int, out: Array | None, timeout: float) -> LaneWork:
        """Take the next array from the peer: a new one, or into `out`."""
        if out is not None:
            check_array(out, writable=True)
        self._check(peer, tag)
        signature = Signature("recv", "", (), "")
        operation = self._channel.transfer(signature, self._channel.ranks[peer], tag, timeout)
        lane = self._lanes.setdefault((peer, tag), Lane())
        work = lane.append(operation)
        operation.start(_receive(Link(operation), operation, peer, out), 0)
        return work

    def _check(self, peer: int, tag: int) -> None:
        size = len(self._channel.ranks)
        if not 0 <= peer < size:
            raise ValueError(f"there is no rank {peer} in a group of {size}")
        if not 0 <= tag <= MAX_TAG:
            raise ValueError(f"a tag is a number from 0 to {MAX_TAG}, not {tag}")


def _send(link: Link, peer: int, data: Array) -> Program:
    departures = [link.send(peer, piece) for piece in segments(data)]
    yield from departed(departure for departure in departures if departure is not None)


def _receive(link: Link, operation: Operation, peer: int, out: Array | None) -> Program:
    channel, tag = operation.channel, operation.stream
    header: Header = yield from link.peek(peer)
    # Sends are counted by their sender; receives that have failed in between do not count.
    while header.sequence < channel.received.get((peer, tag), 0):
        yield from link.discard(peer)
        header = yield from link.peek(peer)
    operation.sequence = channel.received.get((peer, tag), 0)
    link.expect(header)
    _, dtype, shape, _ = header.signature
    if out is not None and (out.shape != shape or out.dtype.str != dtype):
        raise CollectiveMismatch(
            f"rank {channel.endpoint.rank}: {operation.text()} into an array of shape "
            f"{out.shape} and dtype {out.dtype} met {header.signature} from rank {header.source}; "
            "the message can still be received"
        )
    result = allocate(header.signature) if out is None else out
    operation.nbytes = result.nbytes
    data = flat(result)
    for piece in segments(data):
        message: Message = yield from link.receive(peer, piece)
        piece[...] = np.frombuffer(message.payload, piece.dtype)
    store(result, data)
    channel.received[peer, tag] = header.sequence + 1
    return result
