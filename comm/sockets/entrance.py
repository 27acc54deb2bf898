"""What comes in: checked, and put into the inbox, or counted and dropped."""

import contextlib
import time
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgpack
import zmq

from ringlet.comm.join.authenticator import report_refused
from ringlet.comm.join.key import JobKey
from ringlet.comm.sockets.arriving import Message, Sink
from ringlet.comm.sockets.credits import Credits
from ringlet.comm.sockets.inbox import TICK_MS, Inbox
from ringlet.comm.sockets.liveness import Liveness
from ringlet.comm.sockets.notices import Notices
from ringlet.comm.sockets.outbox import Peer
from ringlet.comm.sockets.seals import ARRAYS, BROKEN, Seals
from ringlet.comm.sockets.tcp_sockets import TcpSockets
from ringlet.comm.sockets.wire import CONTROL, Damaged, Header, Malformed, decode, sealed_bytes

if TYPE_CHECKING:
    from ringlet.comm.sockets.ciphers import Seal
    from ringlet.comm.sockets.tcp_socket import Announced

TAMPERED = "what came from it was changed, repeated or held back on its way"

MONITOR_EVERY_S = 4 * TICK_MS / 1000
"""The connections' monitors are read this often while messages come without a pause."""

decode_once = lru_cache(maxsize=16)(decode)
"""A header is read when it comes, and when its array has come behind it."""

NOT_OF_THIS_JOB = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    msgpack.UnpackException,
)  # fmt: skip
"""What reading a foreign message raises: all but what is a fault of this process."""


class Entrance:
    """The half of an endpoint that takes in what comes from outside."""

    notices: Notices

    def __init__(
        self, rank: int, size: int, job: str, generation: int, key: JobKey | None, seal: bool
    ) -> None:
        self.rank, self.size, self.job, self.generation = rank, size, job, generation
        self.peers: dict[int, Peer] = {}
        self.seals = Seals(rank, key if seal and size > 1 else None)
        self.dropped: Counter[str] = Counter()
        self.last: dict[int, tuple[Header, float]] = {}
        self.credits = Credits()
        self.liveness = Liveness(self._where)
        self._context = zmq.Context()
        self.inbox = Inbox(self._context, self._accept, self._watch)
        self.tcp = TcpSockets(self.inbox, self._begin, self._tcp_closed)
        self._monitors: dict[int, zmq.Socket[bytes]] = {}
        self._monitored = 0.0

    def _accept(self, frames: list["zmq.Frame"]) -> None:
        """Check what came from outside; what is not of this job is counted and dropped."""
        source = self.seals.source(frames[0])
        if len(frames) != 2:
            reason = f"a message of {len(frames)} parts"
        elif source is None:
            reason = self._take_in(frames[0].buffer, frames[1].buffer, frames[1])
        else:
            reason = self._take_in_sealed(frames[0].bytes, frames[1].buffer, source)
        if reason:
            self._drop(frames[0], reason)
            if source is not None:  # only somebody on the way can have done that
                self._blame(source)

    def _accept_carried(
        self, head: bytes, payload: Any, source: int | None = None, seal: "Seal | None" = None
    ) -> None:
        """The same of what came by another way; by a plain socket from `source`, where `seal` opens
        the array."""
        if reason := self._take_in(head, payload, None, source, seal):
            self.dropped[reason] += 1
            if seal is not None and source is not None:
                self._blame(source)

    def _begin(self, source: int, number: int, head: bytes, size: int) -> "Announced":
        """See Begin: an array of this size is about to come by a plain socket."""
        seal = None
        if source in self.seals.arrays:
            head, seal = self.seals.open((ARRAYS, source), head, number)
        return head, seal, self._find_sink(source, head, size, seal) if self.inbox.sinks else None

    def _find_sink(self, source: int, head: bytes, size: int, seal: "Seal | None") -> Sink | None:
        """What waits for the array."""
        try:
            header = decode_once(head)
        except NOT_OF_THIS_JOB:
            return None
        if (header.job, header.generation) != (self.job, self.generation):
            return None
        key = (header.group, source, header.stream)
        sink = self.inbox.sinks.get(key)
        if sink is None or self.inbox.peek(key) is not None:
            return None
        if size != (sink.nbytes if seal is None else sealed_bytes(sink.nbytes)):
            return None
        if (header.sequence, header.signature, header.number) != sink.expected:
            return None
        sink.checked = header.checksum is not None
        sink.begin(seal)
        return sink

    def _tcp_closed(self, peer: int, why: str) -> None:
        if why:
            self.dropped[why] += 1
            self._blame(peer)
        else:
            self.liveness.closed(peer)

    def _blame(self, peer: int) -> None:
        """The peer is lost: what has come from it is not what it has sent."""
        self.liveness.announce(peer, f"{self._where(peer)}: {TAMPERED}")

    def _take_in(
        self,
        head: bytes | memoryview,
        payload: Any,
        frame: "zmq.Frame | None" = None,
        source: int | None = None,
        seal: "Seal | None" = None,
    ) -> str:
        """Take a message of this job in; returns what is wrong with any other. `source` is the rank
        by whose connection it came, if that is known."""
        try:
            header = decode_once(head) if isinstance(head, bytes) else decode(head)
            if (header.job, header.generation) != (self.job, self.generation):
                raise Malformed("a header of another job")
            if header.source not in self.peers:
                raise Malformed("a header of an unknown rank")
            if source not in (None, header.source):
                raise Malformed("a header of another rank")
            inside = header.source in self.tcp.inside
            if header.checksum is None and seal is None and not inside:
                raise Malformed("a header without a checksum")
            message = Message(header, payload, frame, seal)
            if header.stream == CONTROL:
                content = msgpack.unpackb(message.content(), strict_map_key=False)
                self.notices.handle(header.source, header.signature.operation, content)
                return ""
        except Damaged:
            return "a damaged control message" if seal is None else BROKEN
        except NOT_OF_THIS_JOB as error:
            return str(error)[:80] or "no header"
        self._deliver(message)
        return ""

    def _take_in_sealed(self, head: bytes, payload: Any, source: int) -> str:
        """The same of a message by ZeroMQ, whose header is sealed."""
        try:
            opened, seal = self.seals.open(source, head)
        except Damaged:
            return BROKEN
        return self._take_in(opened, payload, None, source, seal)

    def _drop(self, frame: "zmq.Frame", reason: str) -> None:
        self.dropped[reason] += 1
        with contextlib.suppress(zmq.ZMQError):  # a socket file has no address
            report_refused(f"rank {self.rank}", str(frame.get("Peer-Address")), reason)

    def _deliver(self, message: Message) -> None:
        source = message.header.source
        self.last[source] = (message.header, time.monotonic())
        self.credits.arrived(source, message.nbytes)
        self.inbox.put(message)

    def _watch(self, quiet: bool) -> None:
        """Learn from the monitors which connections have closed; `quiet` if the inbox is empty."""
        now = time.monotonic()
        if quiet or now - self._monitored > MONITOR_EVERY_S:
            self._monitored = now
            self.liveness.check(self._monitors, now)
        if quiet:
            self.liveness.quiet_at = now

    def _where(self, rank: int) -> str:
        peer = self.peers[rank]
        return f"process {peer.pid} on host {peer.host}"
