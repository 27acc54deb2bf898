"""The inbox: messages that have arrived and are not taken yet, and the threads that wait for them.

Whichever thread waits for a message reads the socket for all (leader and followers): there is no
receiving thread, and a waiting process sleeps in the kernel.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import zmq

from ringlet.comm.arrays import Array
from ringlet.comm.machine import level_2_bytes
from ringlet.comm.schedules.schedule import SEGMENT_BYTES
from ringlet.comm.sockets.wire import (
    HEADER_BYTES,
    SUMMED_BYTES,
    TAG_BYTES,
    Damaged,
    Header,
    checksum,
    sum_of_words,
)

if TYPE_CHECKING:
    from ringlet.comm.sockets.ciphers import Seal

TICK_MS = 50
"""A waiting thread looks around this often: for lost peers, deadlines and mismatches."""

LEADER_S = 1.0
"""How long, at the end, the thread that reads may take to see it."""

MOST_MESSAGES = 32
"""This many unread messages of one peer are held here; then its sending socket holds them."""

CACHED = 8
"""An array is combined in blocks of this part of the second-level cache. Of 2 MiB that have left
it, on a Xeon (2 MiB of it), both checksums and the sum take 0.6 to 0.75 of the time as a whole."""

AWAKE, NAP_S, LONGEST_NAP_S = 20, 20e-6, 1e-3
"""So many looks without a nap, the first nap, and the longest: a second of waiting takes some
hundredths of a second of a core."""

Combine: TypeAlias = Callable[..., Any]
"""A NumPy ufunc of two arguments: combine(a, b, out=a)."""

Key: TypeAlias = tuple[str, int, int]
"""(group, source's world rank, stream): messages under one key keep their order."""


class Message(NamedTuple):
    """A header and the bytes that came with it; `frame` is ZeroMQ's memory in which they lie as
    they were sent. With a `seal` they are still encrypted."""

    header: Header
    payload: Any  # supports the buffer protocol
    frame: "zmq.Frame | None" = None
    seal: "Seal | None" = None

    @property
    def nbytes(self) -> int:
        """How many bytes were sent."""
        return memoryview(self.payload).nbytes - (0 if self.seal is None else TAG_BYTES)

    def content(self) -> Any:
        """The bytes that were sent, perhaps in the transport's memory and unaligned; raises Damaged
        if these are others."""
        if self.seal is not None:
            return self.seal.open(self.payload)
        self._compare(checksum(self.payload))
        return self.payload

    def copy_into(self, segment: Array) -> None:
        """Write them into memory of their length; raises Damaged, perhaps with rubbish in it."""
        memory = segment.view(np.uint8)
        if self.seal is not None:
            self.seal.open_into(self.payload, memory)
        elif memory.size < SUMMED_BYTES:
            memory[...] = np.frombuffer(self.content(), np.uint8)
        else:
            payload, total = np.frombuffer(self.payload, np.uint8), 0
            for part in blocks(memory):
                memory[part] = payload[part]
                total += sum_of_words(memory[part])
            self._compare(total)

    def combine_into(
        self, segment: Array, combine: Combine, peer_first: bool, wants_check: bool
    ) -> int | None:
        """Combine them with memory of their length, `peer_first`: as the first operand. Returns the
        checksum of the result if it is wanted, and at hand; raises Damaged, perhaps with rubbish in
        the memory."""
        if self.seal is not None or segment.nbytes < SUMMED_BYTES:
            arrived = np.frombuffer(self.content(), segment.dtype)
            combine(*((arrived, segment) if peer_first else (segment, arrived)), out=segment)
            return None
        payload, total, check = np.frombuffer(self.payload, segment.dtype), 0, 0
        for part in blocks(segment):
            arrived, own = payload[part], segment[part]
            total += sum_of_words(arrived.view(np.uint8))
            combine(*((arrived, own) if peer_first else (own, arrived)), out=own)
            if wants_check:
                check += sum_of_words(own.view(np.uint8))
        self._compare(total)
        return check % 2**64 if wants_check else None

    def _compare(self, total: int) -> None:
        if total % 2**64 != self.header.checksum:
            raise Damaged


def blocks(array: Array) -> Iterator[slice]:
    """The contiguous 1-D array in parts of which a sum, and what is done with them besides, stay in
    the second-level cache. All but the last are whole words."""
    step = max(1, level_2_bytes() // CACHED // 8 // array.itemsize) * 8
    return (slice(start, start + step) for start in range(0, array.size, step))


class Inbox:
    """Calls `accept` with the frames that arrive, and `watch(quiet)` in between."""

    def __init__(
        self,
        context: "zmq.Context[Any]",
        accept: Callable[[list["zmq.Frame"]], None],
        watch: Callable[[bool], None],
    ) -> None:
        self.accept, self._watch = accept, watch
        self.beside: Callable[[], bool] | None = None  # reads what comes by another way
        self._messages: dict[Key, deque[Message]] = {}
        self._arrived = threading.Condition()
        self._led = False  # whether a thread reads the socket
        self.socket = context.socket(zmq.PULL)
        self.socket.set(zmq.RCVTIMEO, TICK_MS)
        self.socket.set(zmq.RCVHWM, MOST_MESSAGES)
        self.socket.set(zmq.MAXMSGSIZE, max(SEGMENT_BYTES, HEADER_BYTES) + 4096)
        self.socket.set(zmq.BACKLOG, 1024)
        self.socket.set(zmq.LINGER, 0)
        self.socket.bind("inproc://inbox")
        self._waker = context.socket(zmq.PUSH)
        self._waker.connect("inproc://inbox")
        self._wake_lock = threading.Lock()

    def put(self, message: Message) -> None:
        """A message has arrived."""
        header = message.header
        key = (header.group, header.source, header.stream)
        with self._arrived:
            self._messages.setdefault(key, deque()).append(message)
            self._arrived.notify_all()

    def peek(self, key: Key) -> Message | None:
        """The oldest message under the key, left where it is; None if there is none."""
        queue = self._messages.get(key)
        return queue[0] if queue else None

    def pop(self, key: Key) -> Message | None:
        """The same, taken out."""
        queue = self._messages.get(key)
        return queue.popleft() if queue else None

    def wait(
        self, ready: Callable[[], bool], tick: Callable[[], None], tick_ms: int = TICK_MS
    ) -> None:
        """Read the socket until `ready()`. Between messages, and every `tick_ms`, `tick()`."""
        while not ready():
            if self._lead(ready, tick_ms):
                with self._leading():
                    self._read(tick_ms)
            if not ready():
                tick()

    def poll(self) -> None:
        """Read what has arrived, without waiting."""
        with self._arrived:
            if self._led:
                return
            self._led = True
        with self._leading():
            while self._read(0):
                pass

    def wake(self) -> None:
        """Let every waiting thread check its condition again."""
        with self._wake_lock:
            if not self._waker.closed:
                with contextlib.suppress(zmq.Again):  # a full pipe wakes whoever reads, too
                    self._waker.send(b"", zmq.NOBLOCK)
        with self._arrived:
            self._arrived.notify_all()

    def retire(self) -> None:
        """Return when no thread reads the socket; none will again."""
        with self._arrived:
            self._arrived.wait_for(lambda: not self._led, LEADER_S)
            self._led = True

    def close(self) -> None:
        """Close the socket, with what nobody has read."""
        self.socket.disable_monitor()
        self.socket.close(0)
        with self._wake_lock:
            self._waker.close(0)

    def _lead(self, ready: Callable[[], bool], tick_ms: int) -> bool:
        """Become the thread that reads the socket; False if another did, and something came."""
        with self._arrived:
            if self._led and not ready():
                self._arrived.wait(tick_ms / 1000)
            if self._led or ready():
                return False
            self._led = True
            return True

    @contextlib.contextmanager
    def _leading(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._arrived:
                self._led = False
                self._arrived.notify_all()

    def _read(self, tick_ms: int) -> bool:
        """Read one message, waiting up to `tick_ms`; False if none came."""
        self._watch(False)
        try:
            if self.beside is not None:
                if self._look_at_both(self.beside, tick_ms):
                    return True
                tick_ms = 0
            if tick_ms < TICK_MS and not self.socket.poll(tick_ms):
                raise zmq.Again
            frames = [self.socket.recv(copy=False)]
            while frames[-1].more:
                frames.append(self.socket.recv(copy=False))
        except zmq.Again:
            self._watch(True)
            return False
        if len(frames) > 1 or len(frames[0]):  # else it is from `wake`
            self.accept(frames)
        return True

    def _look_at_both(self, beside: Callable[[], bool], tick_ms: int) -> bool:
        """Wait until something has come by the other way (True), or here, or the time is over."""
        until = time.monotonic() + tick_ms / 1000
        for nap in naps():
            if beside():
                return True
            if int(self.socket.get(zmq.EVENTS)) & zmq.POLLIN or time.monotonic() >= until:
                break
            time.sleep(nap)
        return False


def naps() -> Iterator[float]:
    """How long to sleep between looks at what cannot wake anybody: first not at all."""
    yield from (0.0,) * AWAKE
    nap = NAP_S
    while True:
        yield nap
        nap = min(2 * nap, LONGEST_NAP_S)
