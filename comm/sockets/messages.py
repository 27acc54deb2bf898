"""The messages of one call, and what it waits for."""

from collections.abc import Callable, Iterable
from typing import Protocol

import zmq

from ringlet.comm.arrays import Array
from ringlet.comm.errors import CollectiveMismatch, CommError
from ringlet.comm.protocols import Call, Callback, Program, Wait
from ringlet.comm.sockets.arriving import Message, Sink
from ringlet.comm.sockets.credits import Parked
from ringlet.comm.sockets.endpoint import Endpoint
from ringlet.comm.sockets.inbox import TICK_MS, Key
from ringlet.comm.sockets.wire import Damaged, Header, checksum
from ringlet.comm.stats import Exchange

SUNK_BYTES = 128 << 10
"""Shorter segments are taken when they are there."""


class MessageWait(Wait):
    """Wait for a message, which the call is given (`keep` leaves it in the inbox)."""

    brings = True

    def __init__(self, endpoint: Endpoint, key: Key, keep: bool = False) -> None:
        self._endpoint, self._key, self._keep = endpoint, key, keep
        self.awaited = key[1]

    def ready(self) -> bool:
        return self._endpoint.inbox.peek(self._key) is not None

    def take(self) -> Message | None:
        endpoint = self._endpoint
        return endpoint.inbox.peek(self._key) if self._keep else endpoint.take(self._key)

    def wait(self, tick: Callback, poll: Callback) -> None:
        self._endpoint.inbox.wait(self.ready, tick)


class SendWait(Wait):
    """Wait until a payload for the peer (a world rank) has had credit, and ZeroMQ lets go of it."""

    poll_ms = 1
    awaited: int

    def __init__(
        self, endpoint: Endpoint, tracker: "zmq.MessageTracker | Parked", peer: int
    ) -> None:
        self._endpoint, self._tracker, self.awaited = endpoint, tracker, peer
        self._by_tcp = peer in endpoint.tcp.outboxes
        if self._by_tcp:  # who waits for messages moves it, too
            self.poll_ms = TICK_MS

    @property
    def needed(self) -> int | None:
        left = not isinstance(self._tracker, Parked) or self._tracker.left
        return None if left else self.awaited

    def ready(self) -> bool:
        return self._tracker.done

    def own(self) -> None:
        """Copy what has not left: the call ends early, and the caller may write there."""
        self._endpoint.own(self.awaited, self._tracker)

    def wait(self, tick: Callback, poll: Callback) -> None:
        """Read messages meanwhile: the peer may have to get rid of its own first."""
        if self._by_tcp:
            self._endpoint.inbox.wait(self.ready, tick)
        while not self._tracker.done:
            poll()
            try:
                self._tracker.wait(0.002)
            except zmq.NotDone:
                tick()


class MessageCall(Call, Protocol):
    """A call in flight, as far as its messages go."""

    stream: int
    sends: list[SendWait]
    """What has been sent for it; of that, what has not left is copied if it ends early."""

    def text(self) -> str:
        """The call in words, for errors."""

    def is_repeated(self, header: Header, number: int) -> bool:
        """Whether a message has come before."""

    def check_header(self, header: Header, number: int) -> None:
        """Raise CollectiveMismatch unless a message is the call's next from its source."""


class Messages:
    """The messages of one call among `ranks` (of the world), counted for each peer.

    `group` is where they travel, perhaps a part of the call's own. Peers are indices into `ranks`.
    """

    def __init__(
        self, endpoint: Endpoint, group: str, ranks: tuple[int, ...], call: MessageCall
    ) -> None:
        self._endpoint, self._group, self._ranks, self._call = endpoint, group, ranks, call
        self._sent: dict[int, int] = {}
        self._received: dict[int, int] = {}
        self._traffic = Exchange()
        call.traffic.append(self._traffic)

    def send(
        self,
        peer: int,
        piece: Array,
        frame: "zmq.Frame | None" = None,
        check: int | None = None,
    ) -> SendWait | None:
        """Queue one segment; returns what to wait for, or None if it was copied.

        `frame`, if given, holds the same bytes in ZeroMQ's memory; `check` is their checksum.
        """
        endpoint, call, rank = self._endpoint, self._call, self._ranks[peer]
        number = self._sent.get(peer, 0)
        self._sent[peer] = number + 1
        if not endpoint.checks(rank):
            check = None
        elif check is None:
            check = checksum(piece.view("u1").data)
        header = Header(
            endpoint.job,
            endpoint.generation,
            endpoint.rank,
            self._group,
            call.stream,
            call.sequence,
            call.signature,
            number,
            check,
        )
        traffic = self._traffic[rank]
        traffic.messages_sent += 1
        traffic.bytes_sent += piece.nbytes
        tracker = endpoint.post(rank, header, piece, frame)
        if tracker is None:
            return None
        send = SendWait(endpoint, tracker, rank)
        call.sends.append(send)
        return send

    def checks(self, peer: int) -> bool:
        """Whether what is sent to the peer has a checksum."""
        return self._endpoint.checks(self._ranks[peer])

    def peek(self, peer: int, is_old: Callable[[Header], bool]) -> Program:
        """Wait for the peer's next message, dropping old ones; returns its header and leaves it."""
        while True:
            message: Message = yield self._wait(peer, keep=True)
            if not is_old(message.header):
                return message.header
            yield self._wait(peer)
            self._endpoint.repeated()

    def receive(self, peer: int, sink: Sink, at_once: bool = False) -> Program:
        """Wait for the peer's next segment; returns the message, of as many bytes as the sink, for
        `settle`. `at_once`: the bytes may go to the sink while they arrive."""
        endpoint, call, rank = self._endpoint, self._call, self._ranks[peer]
        number = self._received.get(peer, 0)
        self._received[peer] = number + 1
        sink.expected = (call.sequence, call.signature, number)
        sinks, key = endpoint.inbox.sinks, self._key(peer)
        is_open = at_once and sink.nbytes >= SUNK_BYTES and rank in endpoint.tcp.outboxes
        if is_open:
            sinks[key] = sink
        try:
            while True:
                message: Message = yield MessageWait(endpoint, key)
                header = message.header
                if (header.sequence, header.signature, header.number) == sink.expected:
                    break
                if not call.is_repeated(header, number):
                    call.check_header(header, number)
                    break
                endpoint.repeated()
        finally:
            if is_open:
                del sinks[key]
                sink.close()
        nbytes = message.nbytes
        if nbytes != sink.nbytes:
            self._check(message)
            raise CollectiveMismatch(
                f"rank {endpoint.rank}: {call.text()} expected a segment of {sink.nbytes} bytes "
                f"from rank {rank} and got {nbytes}"
            )
        traffic = self._traffic[rank]
        traffic.messages_received += 1
        traffic.bytes_received += nbytes
        return message

    def settle(self, message: Message, sink: Sink) -> int | None:
        """Bring the bytes that were sent where they belong; raises CommError if these are others.
        Returns the checksum of what is there, if it is at hand."""
        try:
            return message.take_to(sink)
        except Damaged as error:
            raise self._damaged(message) from error

    def _check(self, message: Message) -> None:
        try:
            message.content()
        except Damaged as error:
            raise self._damaged(message) from error

    def _damaged(self, message: Message) -> CommError:
        what = "checksum differs" if message.seal is None else "seal is broken"
        return CommError(
            f"rank {self._endpoint.rank}: {self._call.text()} got a damaged message from rank "
            f"{message.header.source}: its {what}. Something between the two hosts changes what "
            "travels"
        )

    def _wait(self, peer: int, keep: bool = False) -> MessageWait:
        return MessageWait(self._endpoint, self._key(peer), keep)

    def _key(self, peer: int) -> Key:
        return self._group, self._ranks[peer], self._call.stream


def departed(sends: Iterable[SendWait]) -> Program:
    """Wait until ZeroMQ has let go of all these payloads."""
    for send in sends:
        if not send.ready():
            yield send
