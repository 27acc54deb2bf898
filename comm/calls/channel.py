"""A group's stream of collectives on one rank: numbering, agreement, and its end by an error."""

import time
from typing import NamedTuple

import zmq

from ringlet.comm.calls.operation import Arrival, Departure, Operation, Program
from ringlet.comm.calls.recorder import ENDED, ERROR, SEQUENCE, SIGNATURE, Record, find
from ringlet.comm.errors import CollectiveMismatch, CommError
from ringlet.comm.schedules.choice import SHARED, Choice
from ringlet.comm.schedules.schedule import SEGMENT_BYTES
from ringlet.comm.shared.control_block import Board
from ringlet.comm.shared.regions import Regions
from ringlet.comm.sockets import wire
from ringlet.comm.sockets.endpoint import Endpoint, Message
from ringlet.comm.sockets.wire import COLLECTIVE, Array, Header, Signature
from ringlet.comm.stats import Stats, Traffic


class Hierarchy(NamedTuple):
    """Two channels of one rank: with those of its host, and with those of its place on others."""

    inside: "Channel"
    across: "Channel"


class Channel:
    """The collectives and transfers among `ranks` (world ranks); `index` is this rank's place."""

    def __init__(self, endpoint: Endpoint, id: str, ranks: tuple[int, ...]) -> None:
        self.endpoint, self.id, self.ranks = endpoint, id, ranks
        self.index = ranks.index(endpoint.rank)
        self.hosts = endpoint.hosts_of(ranks)
        self.choice = Choice(self.hosts, endpoint.policy, endpoint.links)
        self.hierarchy: Hierarchy | None = None  # of several hosts that share memory each
        self.segment_bytes = SEGMENT_BYTES
        self.pending = 0  # asynchronous collectives that have not ended
        self.stats = Stats()
        self.broken: BaseException | None = None
        self.last_met: tuple[int, Signature, float] | None = None  # the last call that ended well
        self.board: Board | None = None  # shared memory, when all ranks are on one host
        # The past collectives are also there for comparing with a rank that is behind.
        self._history = endpoint.recorder.history(id)
        self._past_transfers = endpoint.recorder.history(id)
        self._collectives = 0
        self._transfers: dict[tuple[str, int, int], int] = {}
        self.received: dict[tuple[int, int], int] = {}  # (peer, tag) -> arrays taken
        endpoint.groups[id] = str(list(ranks))

    def choose_anew(self) -> None:
        """Forget what was chosen: the hierarchy, or the endpoint's figures, are new."""
        endpoint, shares = self.endpoint, self.hierarchy is not None
        self.choice = Choice(self.hosts, endpoint.policy, endpoint.links, shares)

    def collective(self, signature: Signature, timeout: float, label: str) -> Operation:
        """The group's next collective; raises what broke the group, if something did."""
        return self.operation(signature, self.number(signature), timeout, label)

    def number(self, signature: Signature) -> int:
        """Count a collective, and remember it; raises what broke the group, if something did."""
        if self.broken is not None:
            raise self.broken
        sequence = self._collectives
        self._collectives += 1
        self._history.append([sequence, signature, COLLECTIVE, -1, time.monotonic(), None, ""])
        return sequence

    def operation(
        self, signature: Signature, sequence: int, timeout: float, label: str
    ) -> Operation:
        """The counted collective in flight."""
        return Operation(
            self,
            signature,
            stream=COLLECTIVE,
            sequence=sequence,
            timeout=timeout,
            label=label,
            record=find(self._history, sequence),
        )

    def transfer(self, signature: Signature, peer: int, tag: int, timeout: float) -> Operation:
        """The next send to, or receive from, the peer (a world rank) with this tag."""
        key = (signature.operation, peer, tag)
        sequence = self._transfers.get(key, 0)
        self._transfers[key] = sequence + 1
        record: Record = [sequence, signature, tag, peer, time.monotonic(), None, ""]
        self._past_transfers.append(record)
        return Operation(
            self, signature, stream=tag, sequence=sequence, timeout=timeout, record=record
        )

    def ended(self, operation: Operation, seconds: float) -> None:
        """Count an operation that has ended; an error in a collective breaks the group.

        After an error it is open which of the call's messages are still on their way: no later
        call could tell its own from them.
        """
        error = operation.error
        if operation.record is not None:
            operation.record[ENDED] = time.monotonic()
            operation.record[ERROR] = "" if error is None else type(error).__name__
        if error is not None and operation.stream == COLLECTIVE:
            self.break_off(error)
        if not operation.counted:
            return
        if error is None and operation.stream == COLLECTIVE:
            self.note(operation.sequence, operation.signature, seconds, operation.traffic)
        else:
            self.stats.count(operation.signature.operation, seconds, operation.traffic)

    def break_off(self, error: BaseException) -> None:
        """No later collective can run: each raises this error, or one that names it."""
        self.endpoint.failed = True
        if self.broken is None:
            if not isinstance(error, CommError):
                error = CommError(f"a collective of this group ended early: {error!r}")
            self.broken = error

    def note(
        self, sequence: int, signature: Signature, seconds: float, traffic: dict[int, Traffic]
    ) -> None:
        """Count a collective that has ended well."""
        now = time.monotonic()
        self.last_met = (sequence, signature, now)
        record = self._history[-1]  # but for calls in flight side by side
        if record[SEQUENCE] == sequence:
            record[ENDED] = now
        self.stats.count(signature.operation, seconds, traffic)

    # -- agreement ----------------------------------------------------------------------------

    def check_agreement(self, operation: Operation) -> None:
        """Raise CollectiveMismatch if another rank found one, or says it is in another call."""
        if self.id in self.endpoint.mismatched:
            raise CollectiveMismatch(self.endpoint.mismatched[self.id])
        if operation.stream != COLLECTIVE:
            return
        for rank in self.ranks:
            word = self.endpoint.waiting.get((self.id, rank))
            if word is None or word.stream != COLLECTIVE:
                continue
            mine = self._mine(word.sequence, operation)
            if mine is not None and not agree(mine, word.signature):
                raise self._disagreement(word.sequence, mine, rank, word.signature)

    def is_repeated(self, operation: Operation, header: Header, number: int) -> bool:
        """Whether the message has come before: it belongs to a call that has ended well, or to
        what is there of this one. One of a rank that is in another call is none: a mismatch."""
        if (header.sequence, header.number) >= (operation.sequence, number):
            return False
        mine = self._mine(header.sequence, operation)
        return operation.stream != COLLECTIVE or (
            mine is not None and agree(mine, header.signature)
        )

    def check_message(self, operation: Operation, message: Message, number: int) -> None:
        """Raise CollectiveMismatch unless the message is the operation's next from its source."""
        header, signature = message.header, operation.signature
        if header.sequence == operation.sequence and header.number == number:
            if operation.stream != COLLECTIVE or agree(signature, header.signature):
                return
        elif header.sequence == operation.sequence or operation.stream != COLLECTIVE:
            raise CollectiveMismatch(
                f"rank {self.endpoint.rank}: {operation.text()} expected segment {number} of "
                f"rank {header.source} and met segment {header.number} of #{header.sequence}"
            )
        mine = self._mine(header.sequence, operation) or signature
        raise self._disagreement(header.sequence, mine, header.source, header.signature)

    def _mine(self, sequence: int, operation: Operation) -> Signature | None:
        if sequence == operation.sequence:
            return operation.signature
        record = find(self._history, sequence)
        return None if record is None else record[SIGNATURE]

    def _disagreement(
        self, sequence: int, mine: Signature, rank: int, theirs: Signature
    ) -> CollectiveMismatch:
        """The error, with both sides; everybody in the group is told."""
        where = f"call #{sequence} of group {self.endpoint.groups[self.id]}"
        text = f"{where}: rank {self.endpoint.rank} called {mine}; rank {rank} called {theirs}"
        for peer in self.ranks:
            if peer != self.endpoint.rank:
                self.endpoint.notify(peer, "mismatch", {"group": self.id, "text": text})
        return CollectiveMismatch(text)


def agree(mine: Signature, theirs: Signature) -> bool:
    """Whether two ranks' calls fit. Only the root of a scatter knows the array's shape."""
    if mine.operation == "scatter" == theirs.operation:
        return mine.detail == theirs.detail
    return mine == theirs


class Link:
    """The messages of one operation, counted for each peer. Peers are indices into the group.

    `algorithm` is the one that was asked for. `channel` is where the messages travel, if it is
    not the operation's own (see `within`).
    """

    def __init__(
        self, operation: Operation, algorithm: str = "", channel: Channel | None = None
    ) -> None:
        self._operation = operation
        self._channel = channel or operation.channel
        self._algorithm = algorithm
        self.rank, self.size = self._channel.index, len(self._channel.ranks)
        self._sent: dict[int, int] = {}
        self._received: dict[int, int] = {}
        self.operation = operation
        self.signature, self.sequence = operation.signature, operation.sequence
        self.board = self._channel.board if algorithm in ("", SHARED) else None
        self.regions: Regions = self._channel.endpoint.regions

    def algorithm(self, operation: str, nbytes: int) -> str:
        """How to do an operation over messages: see `Choice.choose`."""
        return self._algorithm or self._channel.choice.choose(operation, nbytes)

    @property
    def segment_bytes(self) -> int:
        """The most of an array that one message carries."""
        return self._operation.channel.segment_bytes

    @property
    def per_host(self) -> int | None:
        """Ranks on each host, for the algorithms that know hosts."""
        return self._channel.choice.per_host

    @property
    def hierarchy(self) -> Hierarchy | None:
        """The two levels of the group's channel, if its ranks share memory on several hosts."""
        return self._channel.hierarchy

    def within(self, channel: Channel) -> "Link":
        """The same operation among the fewer ranks of another channel.

        What is said about the operation, and to whom, stays the same.
        """
        return Link(self._operation, channel=channel)

    def world_rank(self, rank: int) -> int:
        """The rank in the world of a rank of the group."""
        return self._channel.ranks[rank]

    def count_sent(self, peer: int, nbytes: int) -> None:
        """Count one message to a peer."""
        traffic = self._operation.traffic.setdefault(self.world_rank(peer), Traffic())
        traffic.messages_sent += 1
        traffic.bytes_sent += nbytes

    def count_received(self, peer: int, nbytes: int) -> None:
        """Count one message from a peer."""
        traffic = self._operation.traffic.setdefault(self.world_rank(peer), Traffic())
        traffic.messages_received += 1
        traffic.bytes_received += nbytes

    def send(
        self,
        peer: int,
        piece: Array,
        frame: "zmq.Frame | None" = None,
        checksum: int | None = None,
    ) -> Departure | None:
        """Queue one segment; returns what to wait for, or None if it was copied.

        `frame`, if there is one, holds the same bytes in memory of ZeroMQ's; `checksum`, if it is
        known, is theirs.
        """
        operation, channel, rank = self._operation, self._channel, self._channel.ranks[peer]
        number = self._sent.get(peer, 0)
        self._sent[peer] = number + 1
        endpoint = channel.endpoint
        header = Header(
            endpoint.job,
            endpoint.generation,
            endpoint.rank,
            channel.id,
            operation.stream,
            operation.sequence,
            operation.signature,
            number,
            wire.checksum(piece.view("u1").data) if checksum is None else checksum,
        )
        self.count_sent(peer, piece.nbytes)
        tracker = endpoint.post(rank, header, piece, frame)
        return None if tracker is None else Departure(tracker, rank)

    def peek(self, peer: int) -> Program:
        """Wait for the peer's next message and return its header; it stays where it is."""
        key = (self._channel.id, self._channel.ranks[peer], self._operation.stream)
        message: Message = yield Arrival(key, keep=True)
        return message.header

    def discard(self, peer: int) -> Program:
        """Drop the peer's next message, which has come before."""
        channel = self._channel
        yield Arrival((channel.id, channel.ranks[peer], self._operation.stream))
        channel.endpoint.repeated()

    def expect(self, header: Header) -> None:
        """Raise CollectiveMismatch unless a peeked header is the peer's first of this call."""
        self._operation.channel.check_message(self._operation, Message(header, b""), 0)

    def receive(self, peer: int, like: Array) -> Program:
        """Wait for the peer's next segment; returns the message, which has as many bytes as `like`.

        They lie in the transport's memory, perhaps unaligned.
        """
        operation, channel, rank = self._operation, self._channel, self._channel.ranks[peer]
        number = self._received.get(peer, 0)
        self._received[peer] = number + 1
        expected = (operation.sequence, operation.signature, number)
        while True:
            message: Message = yield Arrival((channel.id, rank, operation.stream))
            header = message.header
            if (header.sequence, header.signature, header.number) == expected:
                break
            if not operation.channel.is_repeated(operation, header, number):
                operation.channel.check_message(operation, message, number)
                break
            channel.endpoint.repeated()
        if not message.is_whole():
            raise CommError(
                f"rank {channel.endpoint.rank}: {operation.text()} got a damaged message from rank "
                f"{rank}: its checksum differs. Something between the two changes what travels"
            )
        nbytes = memoryview(message.payload).nbytes
        if nbytes != like.nbytes:
            raise CollectiveMismatch(
                f"rank {channel.endpoint.rank}: {operation.text()} expected a segment of "
                f"{like.nbytes} bytes from rank {rank} and got {nbytes}"
            )
        self.count_received(peer, nbytes)
        return message
