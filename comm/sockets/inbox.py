"""The inbox: messages that have arrived and are not taken yet, and the threads that wait for them.

Whichever thread waits for a message reads the socket for all (leader and followers): there is no
receiving thread, and a waiting process sleeps in the kernel.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import zmq

from ringlet.comm.sockets.arriving import Message, Sink
from ringlet.comm.sockets.wire import MOST_BYTES

TICK_MS = 50
"""A waiting thread looks around this often: for lost peers, deadlines and mismatches."""

LEADER_S = 1.0
"""How long, at the end, the thread that reads may take to see it."""

MOST_MESSAGES = 32
"""This many unread messages of one peer are held here; then its sending socket holds them."""

READABLE = int(zmq.POLLIN)

Key: TypeAlias = tuple[str, int, int]
"""(group, source's world rank, stream): messages under one key keep their order."""


class Inbox:
    """Calls `accept` with the frames that arrive, and `watch(quiet)` in between."""

    def __init__(
        self,
        context: "zmq.Context[Any]",
        accept: Callable[[list["zmq.Frame"]], None],
        watch: Callable[[bool], None],
    ) -> None:
        self.accept, self._watch = accept, watch
        self.beside: Callable[[float], bool] | None = None
        """Reads what comes by another way, and waits for so many seconds until something does, or
        to the socket; False if nothing came."""

        self.sinks: dict[Key, Sink] = {}  # of messages that are waited for
        self._messages: dict[Key, deque[Message]] = {}
        self._arrived = threading.Condition()
        self._led = False  # whether a thread reads the socket
        self.socket = context.socket(zmq.PULL)
        self.socket.set(zmq.RCVTIMEO, TICK_MS)
        self.socket.set(zmq.RCVHWM, MOST_MESSAGES)
        self.socket.set(zmq.MAXMSGSIZE, MOST_BYTES)
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
                if not self.has_words() and self.beside(tick_ms / 1000):
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

    def has_words(self) -> bool:
        """Whether something has come to the socket."""
        return bool(self.socket.get(zmq.EVENTS) & READABLE)
