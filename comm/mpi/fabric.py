"""Messages over MPI: the frames of sockets/wire.py, sent and received by the library.

Only arrays travel here, and the goodbye behind them. What else endpoints tell each other
(sockets/notices.py), and the connections that show who is gone, stay with ZeroMQ.

In an MPI library nothing moves unless somebody calls it. So whoever waits for a message asks here
and at the ZeroMQ socket in turn, with naps between (process.py); and while something leaves
this rank, a thread asks, too, as ZeroMQ's own does.
"""

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import zmq

from ringlet.comm.errors import CommError, CommTimeout
from ringlet.comm.mpi.process import Process, naps, start

WHOLE, HEAD, BODY, LAST = 1, 2, 3, 4
"""Tags: a short message, with its header behind it; a header, and the array that follows; or
nothing, behind all that a rank has to say. What one rank sends arrives in order, whatever the tags
(MPI 4.1, 3.5)."""

PUSH_S = 0.001
"""How often what leaves is looked after."""

_LENGTH = struct.Struct("<I")

Accept = Callable[[bytes, Any], None]
"""Takes a header and the bytes that came with it."""


class Fabric:
    """This process's messages over MPI, on a communicator of their own."""

    def __init__(self, process: Process, communicator: Any) -> None:
        self.process, self.mpi, self._communicator = process, process.mpi, communicator
        self._lock, self._status = process.lock, process.mpi.Status()
        self._arriving: dict[int, deque[_Arrival]] = {}
        self._heads: dict[int, bytes] = {}
        self._leaving: list[Leaving] = []
        self._leaves = threading.Event()
        self._pusher: threading.Thread | None = None
        self._ends = False
        process.busy = self._is_busy

    def outbox(self, peer: int) -> "Outbox":
        """What the peer's messages leave by."""
        return Outbox(self, peer)

    def leave(self, failed: bool) -> None:
        """The world is left; if it `failed`, the ranks may not all come to the end of MPI."""
        self.process.failed |= failed

    # -- sending ------------------------------------------------------------------------------

    def send(self, peer: int, head: bytes, body: Any, copy: bool) -> "Leaving | None":
        """Send a message; returns what tells when the body's memory is free, unless it is copied.
        Never waits."""
        if copy:
            self._send(b"".join((body, head, _LENGTH.pack(len(head)))), peer, WHOLE)
            return None
        self._send(head, peer, HEAD)
        return self._send(body, peer, BODY)

    def _send(self, memory: Any, peer: int, tag: int) -> "Leaving":
        what, kind = self._communicator, self.mpi.BYTE
        return self.begin(lambda: what.Isend([memory, kind], peer, tag), memory)

    def begin(self, function: Callable[[], Any], memory: Any) -> "Leaving":
        """Begin what the function begins, and returns as a request. MPI needs the memory, and
        somebody who calls it, until that is done."""
        with self._lock:
            try:
                leaving = Leaving(self, function(), memory)
            except self.mpi.Exception as error:
                raise CommError(f"MPI refuses a call: {error}") from error
            if not leaving.look():
                self._leaving.append(leaving)
                self._leaves.set()
                if self._pusher is None:
                    self._pusher = threading.Thread(
                        target=self._push, name="ringlet-mpi", daemon=True
                    )
                    self._pusher.start()
        return leaving

    def _push(self) -> None:
        while self._leaves.wait():
            with self._lock:
                if self.mpi.Is_finalized() or not self._leave():
                    self._leaves.clear()
            time.sleep(PUSH_S)

    def _leave(self) -> bool:
        """Whether something still leaves. With the lock held."""
        self._leaving = [each for each in self._leaving if not each.look()]
        return bool(self._leaving)

    # -- receiving ----------------------------------------------------------------------------

    def read(self, accept: Accept, has_words: Callable[[], bool], seconds: float) -> bool:
        """Hand over what has arrived: see Carrier. Nothing of MPI's can wake anybody."""
        until = time.monotonic() + seconds
        for nap in naps():
            if self._take(accept):
                return True
            if has_words() or time.monotonic() >= until:
                return False
            time.sleep(nap)
        raise AssertionError("naps are endless")

    def _take(self, accept: Accept) -> bool:
        with self._lock:
            arrived = list(self._arrived())
        for head, body in arrived:
            accept(head, body)
        return bool(arrived)

    def _arrived(self) -> Iterator[tuple[bytes, Any]]:
        status, kind = self._status, self.mpi.BYTE
        message = self._communicator.Improbe(status=status)
        if message is not None:
            buffer = np.empty(status.Get_count(kind), np.uint8)
            queue = self._arriving.setdefault(status.Get_source(), deque())
            queue.append(_Arrival(message.Irecv([buffer, kind]), status.Get_tag(), buffer))
        for source, queue in list(self._arriving.items()):
            while queue and queue[0].request.Test():
                _, tag, buffer = queue.popleft()
                if tag == HEAD:
                    self._heads[source] = buffer.tobytes()
                elif tag == BODY:
                    yield self._heads.pop(source), buffer
                elif tag == WHOLE:
                    end = buffer.size - _LENGTH.size
                    start = end - _LENGTH.unpack(buffer[end:])[0]
                    yield buffer[start:end].tobytes(), buffer[:start]
            if not queue:
                del self._arriving[source]

    def _is_busy(self) -> bool:
        """Whether something still leaves, when no world wants what arrives. The last message has
        left once it is read, and with it all before: libraries complain of what nobody has read."""
        while self._take(lambda head, body: None):
            pass
        with self._lock:
            if not self._ends:
                self._ends, what, nothing = True, self._communicator, [b"", self.mpi.BYTE]
                last = [what.Issend(nothing, peer, LAST) for peer in range(what.size)]
                self._leaving += [Leaving(self, request, nothing) for request in last]
            return self._leave()


class _Arrival(NamedTuple):
    """A message on its way, and where it goes."""

    request: Any
    tag: int
    buffer: Any


class Leaving:
    """Has the face of ZeroMQ's trackers: done when MPI lets go of the memory."""

    def __init__(self, fabric: Fabric, request: Any, memory: Any) -> None:
        self._fabric, self._request, self._memory = fabric, request, memory
        self._over, self._error = False, ""

    def look(self) -> bool:
        """Whether it is over. With the lock held."""
        if not self._over:
            try:
                self._over = bool(self._request.Test())
            except self._fabric.mpi.Exception as error:
                self._over, self._error = True, str(error)
            if self._over:
                self._memory = None
        return self._over

    @property
    def done(self) -> bool:
        """Whether the memory may be written again; raises CommError for what MPI has found."""
        with self._fabric.process.lock:
            over = self.look()
        if self._error:
            raise CommError(f"MPI has failed in a call: {self._error}")
        return over

    def wait(self, timeout: float) -> None:
        """Wait until it is done; raises zmq.NotDone after `timeout` seconds."""
        until = time.monotonic() + timeout
        for nap in naps():
            if self.done:
                return
            if time.monotonic() > until:
                raise zmq.NotDone
            time.sleep(nap)


class Outbox:
    """Takes the frames for a peer as a socket does."""

    def __init__(self, fabric: Fabric, peer: int) -> None:
        self._fabric, self._peer, self._head = fabric, peer, b""

    def send(self, data: Any, flags: int, copy: bool = True, track: bool = False) -> Any:
        """A message's header, with MORE to come, or what belongs to it."""
        if flags & zmq.SNDMORE:
            self._head = data
            return None
        return self._fabric.send(self._peer, self._head, data, copy)


_fabric: Fabric | None = None


def connect(rank: int, size: int, until: float, check: Callable[[], None]) -> Fabric:
    """The fabric, made by the first call: a collective. `check` is called meanwhile, and may raise;
    raises CommTimeout at `until` (monotonic)."""
    global _fabric
    if _fabric is None:
        process = start(rank, size)
        with process.lock:
            communicator, request = process.world.Idup()
        for nap in naps():
            with process.lock:
                if request.Test():
                    break
            check()
            if time.monotonic() > until:
                raise CommTimeout(f"rank {rank}: MPI_Comm_idup: not all ranks came in time")
            time.sleep(nap)
        _fabric = Fabric(process, communicator)
    return _fabric
