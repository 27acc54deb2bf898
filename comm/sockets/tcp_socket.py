"""A plain TCP socket, on which messages to a peer and from it travel.

Each is framed by the lengths of its header and its array. Nothing here waits: what does not fit the
kernel's buffer stays in the caller's memory until there is room (tcp_sockets.py).

An interrupt may come after any call. So what a call has moved is counted in one step with it, by
`extend`, and taken over where no call is between.
"""

import contextlib
import fcntl
import socket
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import zmq

from ringlet.comm.arrays import Array
from ringlet.comm.sockets.arriving import Sink
from ringlet.comm.sockets.wire import HEADER_BYTES, MOST_BYTES, TAG_BYTES

if TYPE_CHECKING:
    from ringlet.comm.sockets.ciphers import SealedArray

    Body: TypeAlias = memoryview | SealedArray  # body[start:] are its next bytes, perhaps not all

BUFFER_BYTES = 64 << 10
"""What is read at once if it is not known how much comes: short messages, several of them."""

WAKING_BYTES = 512 << 10
"""So much of an array has to be there before its reader wakes: a wake-up takes some 20 us from who
computes beside it."""

_QUIETLY, _MORE = int(socket.MSG_NOSIGNAL), int(zmq.SNDMORE)
_FRAME = struct.Struct(">HI")  # bytes of the header, bytes of the array

Accept = Callable[[bytes, Any, int, Any], None]
"""Takes a header, the bytes that came with it or the sink that has them, from which rank, and what
opens them (None: they are not sealed)."""

Announced: TypeAlias = tuple[bytes, Any, Sink | None]

Begin = Callable[[int, int, bytes, int], Announced]
"""From a rank comes the message of this number, by its header; an array of so many bytes follows.
Returns the header as it was before it was sealed, what opens the array, and what waits for it."""


class Leaving:
    """A message on its way into the kernel's buffer. Has the face of ZeroMQ's trackers."""

    def __init__(self, head: bytes, body: "Body", lock: threading.Lock) -> None:
        self._lock = lock  # held by whoever pushes it
        self._head, self._body, self._left = head, body, len(head) + len(body)
        self._sent: list[int] = []

    @property
    def done(self) -> bool:
        """Whether the memory may be written again."""
        body = self._body  # it may be dropped meanwhile
        return not self._left or (not isinstance(body, memoryview) and body.done)

    def wait(self, timeout: float) -> None:
        """Raise zmq.NotDone after `timeout` seconds: who reads the inbox moves it, nobody else."""
        if not self.done:
            time.sleep(timeout)
            raise zmq.NotDone

    def own(self) -> None:
        """Copy what has not left: its memory may be written from now on."""
        with self._lock:
            self.copy()

    def copy(self) -> None:
        """The same, with the lock held."""
        if isinstance(self._body, memoryview):
            self._body = memoryview(bytes(self._body))
        else:
            self._body.own()

    def push(self, connection: socket.socket) -> bool:
        """Write what fits the kernel's buffer; whether that is all. Raises OSError."""
        while self._left:
            if not self._sent:
                at = len(self._head) + len(self._body) - self._left
                body = self._body[max(0, at - len(self._head)) :]
                parts: list[Any] = [self._head[at:], body] if at < len(self._head) else [body]
                sends: map[int] = map(connection.sendmsg, (parts,), ((),), (_QUIETLY,))
                try:
                    self._sent.extend(sends)
                except BlockingIOError:
                    return False
            self._left -= self._sent[0]
            del self._sent[0]
        return True

    def drop(self) -> None:
        """Its connection is closed."""
        self._left, self._body = 0, memoryview(b"")


class _Arrival:
    """A message whose header is there; `sink`, if any, takes its array while that arrives."""

    def __init__(self, announced: Announced, size: int, there: Array | None) -> None:
        self.head, self.seal, sink = announced
        self.sink = sink if size > BUFFER_BYTES else None
        self.left = size if there is None else 0
        if there is None:
            there = np.empty(size if self.sink is None else 0, np.uint8)
        self.body = there

    @property
    def lock(self) -> contextlib.AbstractContextManager[Any]:
        """To be held for `room` and until what is written there is counted."""
        return contextlib.nullcontext() if self.sink is None else self.sink.lock

    def live(self) -> Sink | None:
        """The sink, if it still wants the bytes."""
        sink = self.sink
        return None if sink is None or sink.closed or sink.spoiled else sink

    def room(self, live: Sink | None) -> memoryview:
        """Where its next bytes go."""
        if live is not None:
            return live.room
        if self.sink is not None:  # nowhere
            return memoryview(bytearray(min(self.left, BUFFER_BYTES)))
        return self.body[self.body.size - self.left :].data


class TcpSocket:
    """The connection to one peer, of which `turn` is told whether something waits for room."""

    def __init__(
        self,
        peer: int,
        connection: socket.socket,
        turn: Callable[[bool], None],
        begin: Begin,
    ) -> None:
        self.peer, self._connection, self._turn, self._begin = peer, connection, turn, begin
        self._head, self._lock = b"", threading.Lock()
        self._leaving: deque[Leaving] = deque()
        self._waits = False  # for room
        self._buffer = np.empty(BUFFER_BYTES, np.uint8)
        self._start = self._end = 0  # what of the buffer is not taken
        self._arrival: _Arrival | None = None
        self._number = 0  # of the next message
        self._counts: list[int] = []  # bytes that were read, and are not counted yet
        self._low = 1

    # -- sending ------------------------------------------------------------------------------

    def send(self, data: Any, flags: int, copy: bool = True, track: bool = False) -> Any:
        """A message's header, with MORE to come, or what belongs to it. Returns a tracker while the
        memory is needed, or to `track` it; raises zmq.ZMQError if the connection is closed."""
        if flags & _MORE:
            self._head = data
            return None
        body: Body = memoryview(data) if isinstance(data, (bytes, bytearray)) else data
        leaving = Leaving(_FRAME.pack(len(self._head), len(body)) + self._head, body, self._lock)
        with self._lock:
            if self._connection.fileno() < 0:
                raise zmq.ZMQError(zmq.ENOTSOCK)
            self._leaving.append(leaving)
            if not self._waits:
                self._push()
            if not leaving.done and len(body) <= BUFFER_BYTES:
                leaving.copy()
                return leaving if track else None
        return None if leaving.done and not track else leaving

    def push(self) -> bool:
        """Write what there is room for; whether a message has left."""
        with self._lock:
            return self._push()

    def _push(self) -> bool:
        left = False
        try:
            while self._leaving and self._leaving[0].push(self._connection):
                self._leaving.popleft()
                left = True
        except OSError:  # who reads finds it closed
            left = True
            self._drop()
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        waits = bool(self._leaving)
        if waits != self._waits:
            self._turn(waits)
            self._waits = waits
        return left

    def _drop(self) -> None:
        while self._leaving:
            self._leaving.popleft().drop()

    # -- receiving ----------------------------------------------------------------------------

    def read(self, accept: Accept) -> bool:
        """Take in what has arrived, up to the end of a long array or of the buffer; whether that
        ended a message, or one has left. For one thread at a time, and again if this is not left
        by a return. Raises OSError or EOFError if the connection is closed, ValueError for what is
        no message."""
        if self._arrival is None and self._counts:  # what an interrupt has left
            self._count()
        moved = self._deliver(accept)
        if not moved:
            moved = self._receive_more()
            moved |= self._deliver(accept)
        while self._arrival is not None and self._start < self._end:
            self._read_array(self._arrival)
        self._wake_at(1 if self._arrival is None else self._arrival.left)
        return moved

    def _receive_more(self) -> bool:
        """Read until nothing is there, or an array is; whether a message has left meanwhile."""
        left = False
        try:
            while (arrival := self._arrival) is not None and arrival.left:
                self._read_array(arrival)
                if self._leaving and self.push():
                    left = True
            if arrival is None:
                self._receive(self._buffer[self._end :].data)
                self._count()
        except BlockingIOError:
            pass
        return left

    def is_awaiting(self) -> bool:
        """Whether a message has come in part."""
        return self._arrival is not None

    def _count(self) -> None:
        """What was read is in the buffer."""
        self._end += self._counts[0]
        del self._counts[0]

    def _deliver(self, accept: Accept) -> bool:
        """Hand over the messages that are there; whether one was."""
        ended = False
        while self._arrival is not None or self._find_header():
            arrival = self._arrival
            assert arrival is not None
            if arrival.left:
                break
            if arrival.sink is None or not arrival.sink.closed:
                accept(arrival.head, arrival.sink or arrival.body, self.peer, arrival.seal)
            self._arrival = None  # if an interrupt comes before, the message comes again
            ended = True
        return ended

    def _read_array(self, arrival: _Arrival) -> None:
        with arrival.lock:
            live = arrival.live()
            self._receive(arrival.room(live))
            count = self._counts[0]
            if live is not None:
                live.spoiled = True  # unless `took` comes to its end
            arrival.left -= count
            del self._counts[0]
            if live is not None:
                live.took(count)

    def _receive(self, room: memoryview) -> None:
        """Read what fits the room, from the buffer or the connection, and count it."""
        if self._counts:
            return
        if self._arrival is not None and self._start < self._end:
            count = min(self._end - self._start, len(room))
            np.frombuffer(room, np.uint8)[:count] = self._buffer[self._start : self._start + count]
            self._start += count
            self._counts += [count]
            return
        self._counts.extend(map(self._connection.recv_into, (room,)))
        if not self._counts[0]:
            raise EOFError

    def _find_header(self) -> bool:
        """Begin with the next message in the buffer, if its header is there."""
        start, left = self._start, self._end - self._start
        if left >= _FRAME.size:
            head_bytes, size = _FRAME.unpack_from(self._buffer.data, start)
            if head_bytes > HEADER_BYTES + TAG_BYTES or size > MOST_BYTES:
                raise ValueError(f"a header of {head_bytes} bytes and an array of {size}")
            start += _FRAME.size
            if left >= _FRAME.size + head_bytes:
                self._announce(self._buffer[start : start + head_bytes].tobytes(), size)
                return True
        if self._start:  # what is left goes to a buffer's beginning
            buffer = self._buffer if not left else np.empty(BUFFER_BYTES, np.uint8)
            buffer[:left] = self._buffer[self._start : self._end]
            self._buffer, self._start, self._end = buffer, 0, left
        return False

    def _announce(self, head: bytes, size: int) -> None:
        start, there = self._start + _FRAME.size + len(head), None
        announced = self._begin(self.peer, self._number, head, size)
        if size <= self._end - start:  # it is in the buffer
            there = self._buffer[start : start + size].copy()
            start += size
        arrival = _Arrival(announced, size, there)
        self._arrival, self._start, self._number = arrival, start, self._number + 1

    def _wake_at(self, nbytes: int) -> None:
        low = min(nbytes, WAKING_BYTES)
        if low != self._low:
            self._low = low
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low)

    # -- the end ------------------------------------------------------------------------------

    def unsent(self) -> bool:
        """Whether the peer's kernel lacks something that this has sent."""
        if self._leaving:
            return True
        with contextlib.suppress(OSError, ValueError):  # it is closed
            return fcntl.ioctl(self._connection, termios.TIOCOUTQ, bytes(4)) != bytes(4)
        return False

    def close(self) -> None:
        """Close this process's end."""
        with self._lock:
            self.leave()
            self._drop()

    def leave(self) -> None:
        """Close the descriptor: of a fork, where a thread that there is not may hold the lock."""
        self._connection.close()
