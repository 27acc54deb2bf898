"""One process's end of all its connections: whom it can reach, and what travels.

Every process binds one PULL socket, its inbox, and connects one PUSH socket to the inbox of
every peer. Messages between two ranks therefore keep their order, a firewall needs one rule for
each process, and a connection that closes names the peer that is gone. Where arrays go by TCP they
have a plain socket beside it (tcp_sockets.py).
"""

import contextlib
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgpack
import zmq

from ringlet.comm.arrays import Array
from ringlet.comm.errors import CommError
from ringlet.comm.faults import Faults
from ringlet.comm.join.key import JobKey, Proof, Token
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.arriving import Message
from ringlet.comm.sockets.credits import Parked
from ringlet.comm.sockets.entrance import Entrance
from ringlet.comm.sockets.inbox import Key
from ringlet.comm.sockets.introductions import Introductions
from ringlet.comm.sockets.listener import Listener
from ringlet.comm.sockets.notices import Notices
from ringlet.comm.sockets.outbox import Carrier, Outbox, Peer, open_outbox
from ringlet.comm.sockets.tcp_socket import Leaving
from ringlet.comm.sockets.tcp_sockets import HERE
from ringlet.comm.sockets.wire import CONTROL, Header, checksum, encode

if TYPE_CHECKING:
    from ringlet.comm.sockets.ciphers import Direction

ZERO_COPY_BYTES = 2 << 20
"""Shorter payloads are copied: a copy costs less than to be told when ZeroMQ lets go of them, for
which pyzmq has a thread that wants the interpreter. Measured over TCP, two ranks: an
all-reduce in messages of 1 MiB takes 0.83 to 0.91 of the time if they are copied, of 4 MiB 1.08."""

MORE, LAST = int(zmq.SNDMORE | zmq.NOBLOCK), int(zmq.NOBLOCK)
"""The flags of a message's frames; pyzmq's own names cost a microsecond each time."""

FLUSH_MS = 200

WORLD = "world"
"""The id of the group of all ranks."""


class Endpoint(Entrance):
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
        super().__init__(rank, size, job, generation, key, seal)
        self._key = key
        self.token = secrets.token_urlsafe(12)
        self.faults: Faults | None = None
        self.notices = Notices(self.liveness, self.credits, self._credit)
        self.listener = Listener(self.inbox.socket, f"rank {rank}")
        self._outboxes: dict[int, zmq.Socket[bytes]] = {}
        self._carriers: Mapping[int, Outbox] = self._outboxes  # of arrays
        self.carrier: Any = None  # a Carrier, if there is one
        self._meeting: Introductions | None = None
        self._send_locks: dict[int, threading.Lock] = {}

    # -- connecting ---------------------------------------------------------------------------

    def connect(self, peers: dict[int, Peer], tick: Callable[[], None], plain: bool = True) -> None:
        """Let the peers in, and open a connection to every peer's inbox; also a plain socket where
        arrays go by TCP, if `plain`, without CURVE. Waits for the peers then: `tick` may raise."""
        self.peers = dict(peers)
        proof = self.seals.agree(self.job, peers) or self._key or Token(self.token)
        if plain and HERE and not isinstance(proof, JobKey):
            self._introduce(proof, tick)
        else:
            self.listener.open_port(proof)
        for rank, peer in peers.items():
            proof = self.seals.shown(rank) or self._key or Token(peer.token)
            outbox = open_outbox(self._context, peer.address, proof)
            self._monitors[rank] = outbox.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            outbox.connect(peer.address)
            self._outboxes[rank] = outbox
            self._send_locks[rank] = threading.Lock()
        self._carriers = {**self._outboxes, **self.tcp.outboxes}
        # pyzmq's collector of sent memory stops at interpreter exit, in the reverse order of
        # starts: it has to be up before the caller registers its own end.
        zmq.Frame(b"start", track=True, copy=False)

    def carry_by(self, carrier: Carrier) -> None:
        """Send and receive arrays another way from now on. All peers do so."""
        self.carrier = carrier
        self._carriers = {rank: carrier.outbox(rank) for rank in self.peers}
        self.inbox.beside = partial(carrier.read, self._accept_carried, self.inbox.has_words)

    def _introduce(self, proof: Proof, tick: Callable[[], None]) -> None:
        """Connect the plain sockets, and give the port to ZeroMQ."""

        def look() -> None:
            self.liveness.check({}, time.monotonic())
            tick()

        addresses, words = dict[int, str](), dict[int, str]()
        for rank, peer in self.peers.items():
            if peer.address.startswith("tcp://"):
                token = peer.token if rank < self.rank else self.token
                addresses[rank], words[rank] = peer.address, self.seals.word(rank) or token
        self._meeting = Introductions(self.rank, addresses, words, self.liveness.closed)
        connections = self._meeting.run(self.listener, proof, look)
        self._meeting = None
        if connections:
            self.tcp.open(connections)
            self.inbox.beside = partial(self.tcp.read, self._accept_carried)

    def form(self, tick: Callable[[], None]) -> None:
        """Greet every peer and wait until all have greeted this one. `tick` may raise."""
        for rank in self.peers:
            self.notify(rank, "hello", None)
        self.inbox.wait(lambda: self.notices.greeted >= set(self.peers), tick)

    def missing(self) -> list[int]:
        """The peers that have not greeted this process yet."""
        if self._meeting is not None:
            return sorted(self._meeting.missing)
        return sorted(set(self.peers) - self.notices.greeted)

    # -- sending ------------------------------------------------------------------------------

    def post(
        self, peer: int, header: Header, payload: Array, frame: "zmq.Frame | None" = None
    ) -> "zmq.MessageTracker | Parked | None":
        """Queue one message of at most SEGMENT_BYTES for a peer; never waits. `frame`, if given,
        holds the payload's bytes in ZeroMQ's memory.

        Returns a tracker while a socket refers to the payload's memory, or the message waits for
        the peer's credit: the payload must not change until it is done. None if copied, sealed as a
        whole or in a frame.
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

    def own(self, peer: int, tracker: "zmq.MessageTracker | Parked") -> None:
        """Copy what has not left, if its memory may be written from now on though it is not done:
        the peer would get something else, and nobody would know. By ZeroMQ and MPI its checksum
        tells."""
        with self._send_locks[peer]:
            if isinstance(tracker, Parked) and not tracker.left:
                tracker.payload = tracker.payload.copy()
        sent: Any = tracker.tracker if isinstance(tracker, Parked) else tracker
        if isinstance(sent, Leaving):
            sent.own()

    def checks(self, peer: int) -> bool:
        """Whether arrays for the peer have a checksum: not where a seal does more, nor where they
        do not leave this host's kernel, unless faults are to be found."""
        if peer in self.seals.outgoing:
            return False
        return self.faults is not None or peer not in self.tcp.inside

    def _seal(self, peer: int) -> "Direction | None":
        """What seals arrays for the peer, and the goodbye behind them."""
        by_tcp = peer in self.tcp.outboxes
        return (self.seals.arrays if by_tcp else self.seals.outgoing).get(peer)

    def _send(
        self, peer: int, header: Header, payload: Array, frame: "zmq.Frame | None" = None
    ) -> "zmq.MessageTracker | None":
        """With the send lock held."""
        seal, tracker, by_tcp = self._seal(peer), None, peer in self.tcp.outboxes
        beside = frame is None or seal is not None or by_tcp
        data: Any = payload.view("u1").data if beside else frame
        copy = data is frame or len(data) < ZERO_COPY_BYTES
        later = by_tcp and self.faults is None  # faults are of what is sealed
        frames = [(encode(header), data)]
        if seal is not None:
            frames = [(seal.seal_later if later else seal.seal)(*frames[0])]
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
        return tracker if later or seal is None else None

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
                frames = self._control(peer, kind, content, self.seals.outgoing.get(peer))
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

    @property
    def addresses(self) -> set[str]:
        """Where this process and its peers listen."""
        return self.listener.addresses | {peer.address for peer in self.peers.values()}

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
        unsent = self.tcp.unsent
        self._linger(until, lambda: any(reachable(peer) and unsent(peer) for peer in self.peers))
        self.inbox.retire()
        self.tcp.close()
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
                head, content = self._control(
                    rank, "goodbye", self.liveness.gone(), self._seal(rank)
                )
                outbox.send(head, MORE)
                farewells[rank] = outbox.send(content, zmq.NOBLOCK, copy=False, track=True)
        return farewells

    def _control(
        self, peer: int, kind: str, content: Any, seal: "Direction | None"
    ) -> tuple[bytes, Any]:
        """With the send lock held."""
        data: bytes = msgpack.packb(content)
        signature, check = Signature(kind, "", (), ""), checksum(data)
        header = Header(self.job, self.generation, self.rank, "", CONTROL, 0, signature, 0, check)
        return (encode(header), data) if seal is None else seal.seal(encode(header), data)
