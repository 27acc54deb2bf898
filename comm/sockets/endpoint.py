"""One process's end of all its connections: sockets, the mailbox, and who is gone.

Every process binds one PULL socket, its inbox, and connects one PUSH socket to the inbox of
every peer. Messages between two ranks therefore keep their order, a firewall needs one rule for
each process, and a connection that closes names the peer that is gone.

Whichever thread waits for a message reads the inbox for all (leader and followers): there is no
receiving thread, and a waiting process sleeps in the kernel.
"""

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgpack
import zmq

from ringlet.comm.arrays import Array
from ringlet.comm.faults import Faults
from ringlet.comm.join.addresses import allow_ipv6, tcp
from ringlet.comm.join.authenticator import Authenticator, report_refused
from ringlet.comm.join.key import JobKey
from ringlet.comm.schedules.schedule import SEGMENT_BYTES
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.credits import Credits, Parked
from ringlet.comm.sockets.liveness import Liveness
from ringlet.comm.sockets.wire import (
    CONTROL,
    HEADER_BYTES,
    Header,
    Malformed,
    checksum,
    decode,
    encode,
)

TICK_MS = 50
"""A waiting thread looks around this often: for lost peers, deadlines and mismatches."""

ZERO_COPY_BYTES = 1 << 20
"""Shorter payloads are copied: a copy costs less than to be told when ZeroMQ lets go of them, for
which pyzmq has a thread that wants the interpreter. Measured over TCP, two ranks: with 64 KiB here
an all-reduce of 64 KiB takes 1.25 and one of 1 MiB 1.1 times as long."""

MORE, LAST = int(zmq.SNDMORE | zmq.NOBLOCK), int(zmq.NOBLOCK)
"""The flags of a message's frames; pyzmq's own names cost a microsecond each time."""

FLUSH_MS = 200

INBOX_MESSAGES = 32
"""So many unread messages of one peer are held here; then its sending socket holds them."""

WORLD = "world"
"""The id of the group of all ranks."""

NOT_OF_THIS_JOB = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    msgpack.UnpackException,
)  # fmt: skip
"""What reading bytes raises that are no message: all but what is a fault of this process."""

Key: TypeAlias = tuple[str, int, int]
"""(group, source's world rank, stream): messages under one key keep their order."""


class Peer(NamedTuple):
    """Where a rank is: the name of its host, its process id, and its inbox."""

    rank: int
    host: str
    pid: int
    address: str


class Message(NamedTuple):
    """A header and the bytes that came with it; `frame` is ZeroMQ's memory in which they lie."""

    header: Header
    payload: Any  # supports the buffer protocol
    frame: "zmq.Frame | None" = None

    def is_whole(self) -> bool:
        """Whether the bytes are what was sent."""
        return checksum(self.payload) == self.header.checksum


class Waiting(NamedTuple):
    """A peer's own word on what it waits in, for whom, and when (monotonic) that word came.

    `source` is the rank that it waits for, -1 if for none.
    """

    source: int
    stream: int
    sequence: int
    signature: Signature
    seconds: float
    heard: float


class Endpoint:
    """This process's sockets. `rank` and `size` are the world's; `key`, if any, guards TCP."""

    def __init__(
        self, rank: int, size: int, job: str, generation: int, key: JobKey | None = None
    ) -> None:
        self.rank, self.size, self.job, self.generation = rank, size, job, generation
        self._key = key
        self.faults: Faults | None = None
        self.peers: dict[int, Peer] = {}
        self.dropped: Counter[str] = Counter()
        self.last: dict[int, tuple[Header, float]] = {}
        self.waiting: dict[tuple[str, int], Waiting] = {}
        self.mismatched: dict[str, str] = {}
        self.hosts: dict[int, str] = {}  # rank -> what tells its host from others
        self.credits = Credits()
        self.liveness = Liveness(self._where)
        self._greeted: set[int] = set()
        self._looked = 0.0
        self._mailbox: dict[Key, deque[Message]] = {}
        self._arrived = threading.Condition()
        self._pumping = False
        self._context = zmq.Context()
        self._inbox = self._make_inbox()
        self._waker = self._context.socket(zmq.PUSH)
        self._waker.connect("inproc://inbox")
        self._wake_lock = threading.Lock()
        self._outboxes: dict[int, zmq.Socket[bytes]] = {}
        self._send_locks: dict[int, threading.Lock] = {}
        self._monitors: dict[int, zmq.Socket[bytes]] = {}
        self._socket_files: list[Path] = []
        self.addresses: set[str] = set()  # where this process and its peers listen

    def _make_inbox(self) -> "zmq.Socket[bytes]":
        inbox = self._context.socket(zmq.PULL)
        inbox.set(zmq.RCVTIMEO, TICK_MS)
        inbox.set(zmq.RCVHWM, INBOX_MESSAGES)
        inbox.set(zmq.MAXMSGSIZE, max(SEGMENT_BYTES, HEADER_BYTES) + 4096)
        inbox.set(zmq.BACKLOG, 1024)
        inbox.set(zmq.LINGER, 0)
        inbox.bind("inproc://inbox")
        return inbox

    # -- connecting ---------------------------------------------------------------------------

    def bind_ipc(self, path: Path) -> str:
        """Listen on a socket file, which `hide` removes again; returns the address."""
        address = f"ipc://{path}"
        self._inbox.bind(address)
        self._socket_files.append(path)
        self.addresses.add(address)
        return address

    def bind_tcp(self, host: str) -> str:
        """Listen on a free port of the host's address; returns the address.

        Socket files are bound before: what is bound from here on asks for the key.
        """
        Authenticator(self._context, self._key, f"rank {self.rank}").guard(self._inbox)
        allow_ipv6(self._inbox, tcp(host, "*"))
        self._inbox.bind(tcp(host, "*"))
        address = self._inbox.get(zmq.LAST_ENDPOINT)
        assert isinstance(address, bytes)
        self.addresses.add(address.decode())
        return address.decode()

    def connect(self, peers: dict[int, Peer]) -> None:
        """Open a connection to every peer's inbox."""
        for rank, peer in peers.items():
            outbox = self._context.socket(zmq.PUSH)
            outbox.set(zmq.SNDHWM, 0)  # payloads are references to the callers' arrays
            outbox.set(zmq.LINGER, 0)
            outbox.set(zmq.MAXMSGSIZE, HEADER_BYTES)  # nothing is expected but a handshake
            if self._key is not None and peer.address.startswith("tcp://"):
                self._key.show(outbox)
            allow_ipv6(outbox, peer.address)
            outbox.copy_threshold = 0  # what is to be copied says so
            # What was on its way when a connection broke is lost, and another process may
            # listen on the same address by then: a closed connection is a lost peer.
            outbox.set(zmq.RECONNECT_IVL, -1)
            outbox.set(zmq.TCP_KEEPALIVE, 1)
            outbox.set(zmq.TCP_KEEPALIVE_IDLE, 5)
            outbox.set(zmq.TCP_KEEPALIVE_INTVL, 2)
            outbox.set(zmq.TCP_KEEPALIVE_CNT, 5)
            self._monitors[rank] = outbox.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            outbox.connect(peer.address)
            self._outboxes[rank] = outbox
            self._send_locks[rank] = threading.Lock()
        self.peers = dict(peers)
        self.addresses |= {peer.address for peer in peers.values()}
        # pyzmq's collector of sent memory stops at interpreter exit, in the reverse order of
        # starts: it has to be up before the caller registers its own end.
        zmq.Frame(b"start", track=True, copy=False)

    def form(self, tick: Callable[[], None]) -> None:
        """Greet every peer and wait until all have greeted this one.

        `tick` is called while waiting and may raise.
        """
        for rank in self.peers:
            self.notify(rank, "hello", None)
        self.wait(lambda: self._greeted >= set(self.peers), tick)

    def hosts_of(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """For each rank a number for its host: 0 for that of the first, and so on."""
        numbers: dict[str, int] = {}
        return tuple(numbers.setdefault(self.hosts.get(rank, ""), len(numbers)) for rank in ranks)

    def one_machine(self, ranks: tuple[int, ...]) -> bool:
        """Whether the ranks may share memory: on one host, or in containers on one machine."""
        return len({self.hosts.get(rank, "").partition("/")[0] for rank in ranks}) == 1

    def hide(self) -> None:
        """Remove the socket files: nobody else is to come, and nobody has to clean up."""
        for path in self._socket_files:
            path.unlink(missing_ok=True)

    def missing(self) -> list[int]:
        """The peers that have not greeted this process yet."""
        return sorted(set(self.peers) - self._greeted)

    # -- sending ------------------------------------------------------------------------------

    def post(
        self, peer: int, header: Header, payload: Array, frame: "zmq.Frame | None" = None
    ) -> "zmq.MessageTracker | Parked | None":
        """Queue one message of at most SEGMENT_BYTES for a peer; never waits. `frame`, if there is
        one, holds the payload's bytes in memory of ZeroMQ's.

        Returns a tracker when ZeroMQ still refers to the payload's memory, or the message has to
        wait for the peer's credit: it must not change until the tracker is done. None when the
        payload was copied, or lies in a frame.
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
        data: Any = payload.view("u1").data if frame is None else frame
        copy, tracker = frame is not None or len(data) < ZERO_COPY_BYTES, None
        frames = [(encode(header), data)]
        if self.faults is not None:
            frames = self.faults.sent(*frames[0])
        try:
            outbox = self._outboxes[peer]
            for head, data in frames:
                outbox.send(head, MORE)
                tracker = outbox.send(data, LAST, copy=copy, track=not copy)
        except zmq.ZMQError:
            # The connection is closed: whoever waits for an answer will be told why.
            self.liveness.closed(peer)
            return None
        return None if copy else tracker

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

        Whoever waits asks for all. It may wait for an answer to what is parked, and need not be
        the one who parked it.
        """
        stalled = [peer for peer, waiting in list(self.credits.parked.items()) if waiting]
        new = [peer for peer in stalled if self.credits.complain(peer)]
        for peer in new:
            self.notify(peer, "full", None)
        return bool(new)

    def welcome(self, peer: int) -> None:
        """Let the peer send more than has been taken: this rank, too, waits for it in the end."""
        self.notify(peer, "credit", self.credits.welcome(peer))

    def notify(self, peer: int, word: str, content: Any) -> None:
        """Send a control message."""
        try:
            with self._send_locks[peer]:
                self._outboxes[peer].send_multipart(self._control(word, content), zmq.NOBLOCK)
        except zmq.ZMQError:
            self.liveness.closed(peer)

    # -- receiving ----------------------------------------------------------------------------

    def take(self, key: Key) -> Message | None:
        """The oldest message under the key, out of the mailbox; None if there is none."""
        queue = self._mailbox.get(key)
        if not queue:
            return None
        message = queue.popleft()
        if key[1] != self.rank:
            taken = self.credits.took(key[1], memoryview(message.payload).nbytes)
            if taken is not None:
                self.notify(key[1], "credit", taken)
        return message

    def repeated(self) -> None:
        """Count a message that has come before."""
        self.dropped["a message that had come before"] += 1

    def peek(self, key: Key) -> Message | None:
        """The oldest message under the key, left where it is."""
        queue = self._mailbox.get(key)
        return queue[0] if queue else None

    def unread(self) -> dict[Key, int]:
        """How many messages lie unread, by key."""
        return {key: len(queue) for key, queue in self._mailbox.items() if queue}

    def wait(
        self, ready: Callable[[], bool], tick: Callable[[], None], patience_ms: int = TICK_MS
    ) -> None:
        """Read the inbox until `ready()`. Between messages, and every `patience_ms`, `tick()`."""
        while not ready():
            if self._lead(ready, patience_ms):
                try:
                    self._pump(patience_ms)
                finally:
                    with self._arrived:
                        self._pumping = False
                        self._arrived.notify_all()
            if not ready():
                tick()

    def poll(self) -> None:
        """Read what has arrived, without waiting."""
        with self._arrived:
            if self._pumping:
                return
            self._pumping = True
        try:
            while self._pump(0):
                pass
        finally:
            with self._arrived:
                self._pumping = False
                self._arrived.notify_all()

    def wake(self) -> None:
        """Let every waiting thread look at its condition again."""
        with self._wake_lock:
            if not self._waker.closed:
                self._waker.send(b"", zmq.NOBLOCK)
        with self._arrived:
            self._arrived.notify_all()

    def _lead(self, ready: Callable[[], bool], patience_ms: int) -> bool:
        """Become the thread that reads the inbox; False if another did, and something came."""
        with self._arrived:
            if self._pumping and not ready():
                self._arrived.wait(patience_ms / 1000)
            if self._pumping or ready():
                return False
            self._pumping = True
            return True

    def _pump(self, patience_ms: int) -> bool:
        """Read one message, waiting up to `patience_ms`; False if none came."""
        now = time.monotonic()
        if now - self._looked > 4 * TICK_MS / 1000:
            self._look(now)
        try:
            if patience_ms < TICK_MS and not self._inbox.poll(patience_ms):
                raise zmq.Again
            frames = [self._inbox.recv(copy=False)]
            while frames[-1].more:
                frames.append(self._inbox.recv(copy=False))
        except zmq.Again:
            now = time.monotonic()
            self._look(now)
            self.liveness.quiet(now)
            return False
        if len(frames) == 1 and not len(frames[0]):
            return True  # wake()
        self._accept(frames)
        return True

    def _accept(self, frames: list["zmq.Frame"]) -> None:
        """Check what came from outside; what is not of this job is counted and dropped."""
        if len(frames) != 2:
            self._drop(frames[0], f"a message of {len(frames)} parts")
            return
        try:
            header = decode(frames[0].buffer)
            if (header.job, header.generation) != (self.job, self.generation):
                raise Malformed("a header of another job")
            if header.source not in self.peers:
                raise Malformed("a header of a rank that is none")
            message = Message(header, frames[1].buffer, frames[1])
            if header.stream == CONTROL:
                if not message.is_whole():
                    raise Malformed("a damaged control message")
                self._heed(header, msgpack.unpackb(message.payload, strict_map_key=False))
                return
        except NOT_OF_THIS_JOB as error:
            self._drop(frames[0], str(error)[:80])
            return
        self._deliver(message)

    def _drop(self, frame: "zmq.Frame", reason: str) -> None:
        self.dropped[reason] += 1
        with contextlib.suppress(zmq.ZMQError):  # a socket file has no address
            report_refused(f"rank {self.rank}", str(frame.get("Peer-Address")), reason)

    def _deliver(self, message: Message) -> None:
        header = message.header
        self.last[header.source] = (header, time.monotonic())
        self.credits.arrived(header.source, memoryview(message.payload).nbytes)
        key = (header.group, header.source, header.stream)
        with self._arrived:
            self._mailbox.setdefault(key, deque()).append(message)
            self._arrived.notify_all()

    def _heed(self, header: Header, content: Any) -> None:
        """Act on a control message."""
        source, word = header.source, header.signature.operation
        if word == "hello":
            self._greeted.add(source)
        elif word == "credit":
            self._credit(source, int(content))
        elif word == "full":
            self.credits.full.add(source)
        elif word == "waiting":
            group, waited_for, stream, sequence, signature, seconds = content
            operation, dtype, shape, detail = signature
            self.waiting[str(group), source] = Waiting(
                int(waited_for),
                int(stream),
                int(sequence),
                Signature(str(operation), str(dtype), tuple(shape), str(detail)),
                float(seconds),
                time.monotonic(),
            )
        elif word == "resumed":
            group, stream, sequence = content
            said = self.waiting.get((str(group), source))
            if said is not None and (said.stream, said.sequence) == (stream, sequence):
                del self.waiting[str(group), source]
        elif word == "mismatch":
            self.mismatched.setdefault(str(content["group"]), str(content["text"]))
        elif word in ("lost", "goodbye"):
            self.liveness.hear({int(rank): str(cause) for rank, cause in content.items()})
            if word == "goodbye":
                self.liveness.departed(source)

    def _look(self, now: float) -> None:
        self._looked = now
        self.liveness.look(self._monitors, now)

    def _where(self, rank: int) -> str:
        peer = self.peers[rank]
        return f"process {peer.pid} on host {peer.host}"

    # -- leaving ------------------------------------------------------------------------------

    def close(self, linger_s: float) -> None:
        """Say goodbye to every peer, deliver what is queued for up to `linger_s`, and close."""
        until = time.monotonic() + linger_s
        while self._parked_for_the_living() and time.monotonic() < until:
            self.poll()
            self._look(time.monotonic())
            time.sleep(0.001)
        farewells = self._say_goodbye() if linger_s else {}
        while farewells and time.monotonic() < until:
            self.poll()
            self._look(time.monotonic())
            for rank, tracker in list(farewells.items()):
                if tracker.done or not self.liveness.reachable(rank):
                    del farewells[rank]
            time.sleep(0.001 if farewells else 0)
        for rank, outbox in self._outboxes.items():
            outbox.disable_monitor()
            self._monitors[rank].close(0)
            # What ZeroMQ has let go of may still be on its way through the I/O thread.
            outbox.close(FLUSH_MS if linger_s and self.liveness.reachable(rank) else 0)
        self._inbox.disable_monitor()
        self._inbox.close(0)
        with self._wake_lock:
            self._waker.close(0)
        self._context.term()

    def _parked_for_the_living(self) -> bool:
        parked = self.credits.parked.items()
        return any(waiting and self.liveness.reachable(peer) for peer, waiting in parked)

    def _say_goodbye(self) -> "dict[int, zmq.MessageTracker]":
        """Queue a goodbye, behind everything else, for each peer; the trackers of those sent.

        A lingering socket would not do: it cannot tell a slow peer from one that has left.
        """
        farewells = {}
        for rank, outbox in self._outboxes.items():
            if not self.liveness.reachable(rank):
                continue
            with contextlib.suppress(zmq.ZMQError), self._send_locks[rank]:
                head, content = self._control("goodbye", self.liveness.gone())
                outbox.send(head, MORE)
                farewells[rank] = outbox.send(content, zmq.NOBLOCK, copy=False, track=True)
        return farewells

    def _control(self, word: str, content: Any) -> tuple[bytes, bytes]:
        data: bytes = msgpack.packb(content)
        signature = Signature(word, "", (), "")
        return encode(
            Header(
                self.job,
                self.generation,
                self.rank,
                "",
                CONTROL,
                0,
                signature,
                0,
                checksum(data),
            )
        ), data
