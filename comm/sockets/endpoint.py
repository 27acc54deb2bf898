"""One process's end of all its connections: whom it can reach, and what travels.

Every process binds one PULL socket, its inbox, and connects one PUSH socket to the inbox of
every peer. Messages between two ranks therefore keep their order, a firewall needs one rule for
each process, and a connection that closes names the peer that is gone.
"""

import contextlib
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgpack
import zmq

from ringlet.comm.arrays import Array
from ringlet.comm.errors import CommError
from ringlet.comm.faults import Faults
from ringlet.comm.join.authenticator import report_refused
from ringlet.comm.join.key import JobKey, Token
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.credits import Credits, Parked
from ringlet.comm.sockets.inbox import TICK_MS, Inbox, Key, Message
from ringlet.comm.sockets.listener import Listener
from ringlet.comm.sockets.liveness import Liveness
from ringlet.comm.sockets.notices import Notices
from ringlet.comm.sockets.outbox import Carrier, Outbox, Peer, open_outbox
from ringlet.comm.sockets.seals import Seals
from ringlet.comm.sockets.wire import CONTROL, Damaged, Header, Malformed, checksum, decode, encode

ZERO_COPY_BYTES = 2 << 20
"""Shorter payloads are copied: a copy costs less than to be told when ZeroMQ lets go of them, for
which pyzmq has a thread that wants the interpreter. Measured over TCP, two ranks: an
all-reduce in messages of 1 MiB takes 0.83 to 0.91 of the time if they are copied, of 4 MiB 1.08."""

MORE, LAST = int(zmq.SNDMORE | zmq.NOBLOCK), int(zmq.NOBLOCK)
"""The flags of a message's frames; pyzmq's own names cost a microsecond each time."""

TAMPERED = "what came from it was changed, repeated or held back on its way"

FLUSH_MS = 200
MONITOR_EVERY_S = 4 * TICK_MS / 1000
"""The connections' monitors are read this often while messages come without a pause."""

WORLD = "world"
"""The id of the group of all ranks."""

NOT_OF_THIS_JOB = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    msgpack.UnpackException,
)  # fmt: skip
"""What reading a foreign message raises: all but what is a fault of this process."""


class Endpoint:
    """This process's sockets. `rank` and `size` are the world's; `key`, if any, guards TCP: by
    seals, if `seal` and all ranks can, else by CURVE."""

    def __init__(
        self,
        rank: int,
        size: int,
        job: str,
        generation: int,
        key: JobKey | None = None,
        seal: bool = False,
    ) -> None:
        self.rank, self.size, self.job, self.generation = rank, size, job, generation
        self._key = key
        self.seals = Seals(rank, key if seal and size > 1 else None)
        self.token = secrets.token_urlsafe(12)
        self.faults: Faults | None = None
        self.peers: dict[int, Peer] = {}
        self.dropped: Counter[str] = Counter()
        self.last: dict[int, tuple[Header, float]] = {}
        self.credits = Credits()
        self.liveness = Liveness(self._where)
        self.notices = Notices(self.liveness, self.credits, self._credit)
        self._context = zmq.Context()
        self.inbox = Inbox(self._context, self._accept, self._watch)
        self.listener = Listener(self.inbox.socket, f"rank {rank}")
        self._monitored = 0.0
        self._outboxes: dict[int, zmq.Socket[bytes]] = {}
        self._carriers: Mapping[int, Outbox] = self._outboxes  # of arrays
        self.carrier: Any = None  # a Carrier, if there is one
        self._send_locks: dict[int, threading.Lock] = {}
        self._monitors: dict[int, zmq.Socket[bytes]] = {}

    # -- connecting ---------------------------------------------------------------------------

    def connect(self, peers: dict[int, Peer]) -> None:
        """Let the peers in, and open a connection to every peer's inbox."""
        self.listener.open_port(self.seals.agree(self.job, peers) or self._key or Token(self.token))
        for rank, peer in peers.items():
            proof = self.seals.shown(rank) or self._key or Token(peer.token)
            outbox = open_outbox(self._context, peer.address, proof)
            self._monitors[rank] = outbox.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            outbox.connect(peer.address)
            self._outboxes[rank] = outbox
            self._send_locks[rank] = threading.Lock()
        self.peers = dict(peers)
        # pyzmq's collector of sent memory stops at interpreter exit, in the reverse order of
        # starts: it has to be up before the caller registers its own end.
        zmq.Frame(b"start", track=True, copy=False)

    def carry_by(self, carrier: Carrier) -> None:
        """Send and receive arrays another way from now on. All peers do so."""
        self.carrier = carrier
        self._carriers = {rank: carrier.outbox(rank) for rank in self.peers}
        self.inbox.beside = partial(carrier.read, self._accept_carried)

    def form(self, tick: Callable[[], None]) -> None:
        """Greet every peer and wait until all have greeted this one. `tick` may raise."""
        for rank in self.peers:
            self.notify(rank, "hello", None)
        self.inbox.wait(lambda: self.notices.greeted >= set(self.peers), tick)

    def missing(self) -> list[int]:
        """The peers that have not greeted this process yet."""
        return sorted(set(self.peers) - self.notices.greeted)

    # -- sending ------------------------------------------------------------------------------

    def post(
        self, peer: int, header: Header, payload: Array, frame: "zmq.Frame | None" = None
    ) -> "zmq.MessageTracker | Parked | None":
        """Queue one message of at most SEGMENT_BYTES for a peer; never waits. `frame`, if given,
        holds the payload's bytes in ZeroMQ's memory.

        Returns a tracker while ZeroMQ refers to the payload's memory, or the message waits for the
        peer's credit: the payload must not change until it is done. None if copied, sealed or in a
        frame.
        """
        if peer == self.rank:
            self._deliver(Message(header, bytes(payload.view("u1").data)))
            return None
        with self._send_locks[peer]:
            waiting = self.credits.parked.get(peer)
            if waiting or not self.credits.admits(peer, payload.nbytes):
                parked = Parked(peer, header, payload)
                self.credits.parked.setdefault(peer, deque()).append(parked)
                return parked
            return self._send(peer, header, payload, frame)

    def _send(
        self, peer: int, header: Header, payload: Array, frame: "zmq.Frame | None" = None
    ) -> "zmq.MessageTracker | None":
        """With the send lock held."""
        seal, tracker = self.seals.outgoing.get(peer), None
        data: Any = payload.view("u1").data if frame is None or seal is not None else frame
        copy = data is frame or len(data) < ZERO_COPY_BYTES
        frames = [(encode(header), data)]
        if seal is not None:
            frames = [seal.seal(*frames[0])]
        if self.faults is not None:
            frames = self.faults.sent(*frames[0])
        try:
            outbox = self._carriers[peer]
            for head, data in frames:
                outbox.send(head, MORE)
                tracker = outbox.send(data, LAST, copy=copy, track=not copy)
        except zmq.ZMQError:
            # The connection is closed: whoever waits for an answer will be told why.
            self.liveness.closed(peer)
            return None
        return None if copy or seal is not None else tracker

    def _credit(self, peer: int, taken: int) -> None:
        """The peer has taken so much: what is parked for it may leave."""
        with self._send_locks[peer]:
            self.credits.grant(peer, taken)
            waiting = self.credits.parked.get(peer, ())
            while waiting and self.credits.admits(peer, waiting[0].payload.nbytes):
                parked = waiting.popleft()
                parked.tracker = self._send(peer, parked.header, parked.payload)
                parked.left = True

    def ask_for_credit(self) -> bool:
        """Tell the peers for whom messages are parked; False if there are none, or they know.

        Whoever waits asks for all: an answer to what another call has parked may be what it awaits.
        """
        stalled = {peer for peer, waiting in list(self.credits.parked.items()) if waiting}
        new = stalled - self.credits.asked
        self.credits.asked |= new
        for peer in new:
            self.notify(peer, "full", None)
        return bool(new)

    def welcome(self, peer: int) -> None:
        """Let the peer send more than has been taken: this rank, too, waits for it in the end."""
        self.notify(peer, "credit", self.credits.welcome(peer))

    def notify(self, peer: int, kind: str, content: Any) -> None:
        """Send a control message: see `notices`."""
        try:
            with self._send_locks[peer]:
                frames = self._control(peer, kind, content)
                self._outboxes[peer].send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError:
            self.liveness.closed(peer)

    # -- receiving ----------------------------------------------------------------------------

    def take(self, key: Key) -> Message | None:
        """The oldest message under the key, out of the inbox; None if there is none."""
        message = self.inbox.pop(key)
        if message is not None and key[1] != self.rank:
            taken = self.credits.took(key[1], message.nbytes)
            if taken is not None:
                self.notify(key[1], "credit", taken)
        return message

    def repeated(self) -> None:
        """Count a message that has come before."""
        self.dropped["a message that had come before"] += 1

    def _accept(self, frames: list["zmq.Frame"]) -> None:
        """Check what came from outside; what is not of this job is counted and dropped."""
        source = self.seals.source(frames[0])
        if len(frames) != 2:
            reason = f"a message of {len(frames)} parts"
        else:
            reason = self._take_in(frames[0].buffer, frames[1].buffer, frames[1], source)
        if reason:
            self._drop(frames[0], reason)
            if source is not None:  # only somebody on the way can have done that
                self.liveness.announce(source, f"{self._where(source)}: {TAMPERED}")

    def _accept_carried(self, head: bytes, payload: Any) -> None:
        if reason := self._take_in(head, payload):
            self.dropped[reason] += 1

    def _take_in(
        self,
        head: bytes | memoryview,
        payload: Any,
        frame: "zmq.Frame | None" = None,
        sealed_by: int | None = None,
    ) -> str:
        """Take a message of this job in; returns what is wrong with any other."""
        try:
            seal = None
            if sealed_by is not None:
                head, seal = self.seals.open(sealed_by, bytes(head))
                frame = None
            header = decode(head)
            if (header.job, header.generation) != (self.job, self.generation):
                raise Malformed("a header of another job")
            if header.source not in self.peers:
                raise Malformed("a header of an unknown rank")
            message = Message(header, payload, frame, seal)
            if header.stream == CONTROL:
                content = msgpack.unpackb(message.content(), strict_map_key=False)
                self.notices.handle(header.source, header.signature.operation, content)
                return ""
        except Damaged:
            return "a damaged control message" if sealed_by is None else "a broken seal"
        except NOT_OF_THIS_JOB as error:
            return str(error)[:80] or "no header"
        self._deliver(message)
        return ""

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

    @property
    def addresses(self) -> set[str]:
        """Where this process and its peers listen."""
        return self.listener.addresses | {peer.address for peer in self.peers.values()}

    def _where(self, rank: int) -> str:
        peer = self.peers[rank]
        return f"process {peer.pid} on host {peer.host}"

    # -- leaving ------------------------------------------------------------------------------

    def close(self, linger_s: float) -> None:
        """Say goodbye to every peer, deliver what is queued for up to `linger_s`, and close."""
        until, reachable = time.monotonic() + linger_s, self.liveness.reachable
        parked = self.credits.parked
        self._linger(until, lambda: any(parked[peer] and reachable(peer) for peer in parked))
        farewells = self._say_goodbye() if linger_s else {}
        self._linger(
            until, lambda: any(reachable(peer) and not farewells[peer].done for peer in farewells)
        )
        self.inbox.retire()
        for rank, outbox in self._outboxes.items():
            with self._send_locks[rank]:
                outbox.disable_monitor()
                self._monitors[rank].close(0)
                # What ZeroMQ has let go of may still be on its way through the I/O thread.
                outbox.close(FLUSH_MS if linger_s and reachable(rank) else 0)
        self.listener.close()
        self.inbox.close()
        self._context.term()

    def _linger(self, until: float, pending: Callable[[], bool]) -> None:
        """Read what comes while something is on its way."""
        while pending() and time.monotonic() < until:
            self.inbox.poll()
            time.sleep(0.001)

    def _say_goodbye(self) -> "dict[int, zmq.MessageTracker]":
        """Queue a goodbye, behind everything else, for each peer; the trackers of those sent.

        A lingering socket would not do: it cannot tell a slow peer from one that has left.
        """
        farewells = {}
        for rank, outbox in self._carriers.items():
            if not self.liveness.reachable(rank):
                continue
            with contextlib.suppress(zmq.ZMQError, CommError), self._send_locks[rank]:
                head, content = self._control(rank, "goodbye", self.liveness.gone())
                outbox.send(head, MORE)
                farewells[rank] = outbox.send(content, zmq.NOBLOCK, copy=False, track=True)
        return farewells

    def _control(self, peer: int, kind: str, content: Any) -> tuple[bytes, Any]:
        """With the send lock held."""
        data: bytes = msgpack.packb(content)
        signature, check = Signature(kind, "", (), ""), checksum(data)
        header = Header(self.job, self.generation, self.rank, "", CONTROL, 0, signature, 0, check)
        seal = self.seals.outgoing.get(peer)
        return (encode(header), data) if seal is None else seal.seal(encode(header), data)
