"""Point to point: one rank sends an array, one receives it; tags keep streams apart."""

import threading

from ringlet.comm.arguments import rank_in_group, whole_number
from ringlet.comm.arrays import Array, check_array, flat, name_of, store
from ringlet.comm.calls.active_call import ActiveCall
from ringlet.comm.calls.channel import Channel
from ringlet.comm.calls.recorded import call_class
from ringlet.comm.calls.work import Lane, LaneWork
from ringlet.comm.errors import CollectiveMismatch
from ringlet.comm.protocols import Program
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.arriving import Message, Sink
from ringlet.comm.sockets.messages import Messages, departed
from ringlet.comm.sockets.wire import Header, allocate, segments

MAX_TAG = 2**31 - 1


class Transfers:
    """The sends and receives of one group on this rank. Peers are indices into the group."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._call_class = channel, call_class()
        self._lanes: dict[tuple[int, int], Lane] = {}
        self._lock = threading.Lock()  # the numbers and messages of transfers in the same order

    def isend(self, x: Array, peer: int, tag: int, timeout: float) -> LaneWork:
        """Queue the array for the peer; its memory is free again after `wait`."""
        peer, tag = self._check(peer, tag)
        check_array(x)
        signature, data = Signature("send", name_of(x.dtype), x.shape, ""), flat(x)
        with self._lock:
            call = self._begin(signature, peer, tag, timeout, x.nbytes)
            call.start(_send(self._messages(call), peer, data))
        return Lane().append(call)

    def irecv(self, peer: int, tag: int, out: Array | None, timeout: float) -> LaneWork:
        """Take the next array from the peer: a new one, or into `out`."""
        peer, tag = self._check(peer, tag)
        if out is not None:
            check_array(out, writable=True)
        with self._lock:
            call = self._begin(Signature("recv", "", (), ""), peer, tag, timeout)
            call.start(_receive(self._messages(call), call, peer, out))
            return self._lanes.setdefault((peer, tag), Lane()).append(call)

    def _check(self, peer: int, tag: int) -> tuple[int, int]:
        tag = whole_number(tag, "a tag")
        if not 0 <= tag <= MAX_TAG:
            raise ValueError(f"a tag is a number from 0 to {MAX_TAG}, not {tag}")
        return rank_in_group(peer, len(self._channel.ranks)), tag

    def _begin(
        self, signature: Signature, peer: int, tag: int, timeout: float, nbytes: int = 0
    ) -> ActiveCall:
        channel = self._channel
        record = channel.next_transfer(signature, channel.ranks[peer], tag)
        return self._call_class(channel, signature, record, timeout, nbytes=nbytes)

    def _messages(self, call: ActiveCall) -> Messages:
        channel = self._channel
        return Messages(channel.endpoint, channel.id, channel.ranks, call)


def _send(messages: Messages, peer: int, data: Array) -> Program:
    sends = [messages.send(peer, piece) for piece in segments(data)]
    yield from departed(send for send in sends if send is not None)


def _receive(messages: Messages, call: ActiveCall, peer: int, out: Array | None) -> Program:
    channel, tag = call.channel, call.stream
    # Sends are counted by their sender; receives that have failed in between do not count.
    header: Header = yield from messages.peek(
        peer, lambda header: header.sequence < channel.received.get((peer, tag), 0)
    )
    call.sequence = channel.received.get((peer, tag), 0)
    call.check_header(header, 0)
    _, dtype, shape, _ = header.signature
    if out is not None and (out.shape != shape or name_of(out.dtype) != dtype):
        raise CollectiveMismatch(
            f"rank {channel.endpoint.rank}: {call.text()} into an array of shape "
            f"{out.shape} and dtype {out.dtype} met {header.signature} from rank {header.source}; "
            "the message can still be received"
        )
    result = allocate(header.signature) if out is None else out
    call.nbytes = result.nbytes
    data = flat(result)
    for piece in segments(data):
        sink = Sink(piece)
        message: Message = yield from messages.receive(peer, sink)
        messages.settle(message, sink)
    store(result, data)
    channel.received[peer, tag] = header.sequence + 1
    return result
