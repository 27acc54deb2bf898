"""The inbox: messages that have arrived and are not taken yet, and the threads that wait for them.

Whichever thread waits for a message reads the socket for all (leader and followers): there is no
receiving thread, and a waiting process sleeps in the kernel.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
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

NOBODY = -1
"""In place of a thread, at the end."""

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
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._leader = 0  # the thread that reads the socket
        self._followers = 0  # threads that sleep until it has read something
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
        with self._lock:
            self._messages.setdefault(key, deque()).append(message)
            self._tell()

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
        me = get_ident()
        try:  # an interrupt may come anywhere
            while True:
                if self._lead(ready, tick_ms, me):
                    self._read(tick_ms)
                    self._follow()
                if ready():
                    return
                tick()
        finally:
            if self._leader == me:
                self._follow()

    def poll(self) -> None:
        """Read what has arrived, without waiting."""
        me = get_ident()
        if self._leader == me:
            return
        try:
            with self._lock:
                if self._leader:
                    return
                self._leader = me
            while self._read(0):
                pass
            self._follow()
        finally:
            if self._leader == me:
                self._follow()

    def wake(self) -> None:
        """Let every waiting thread check its condition again."""
        with self._wake_lock:
            if not self._waker.closed:
                with contextlib.suppress(zmq.Again):  # a full pipe wakes whoever reads, too
                    self._waker.send(b"", zmq.NOBLOCK)
        with self._lock:
            self._tell()

    def retire(self) -> None:
        """Return when no thread reads the socket; none will again."""
        with self._lock:
            self._followers += 1
            self._arrived.wait_for(lambda: not self._leader, LEADER_S)
            self._leader = NOBODY

    def close(self) -> None:
        """Close the socket, with what nobody has read."""
        self.socket.disable_monitor()
        self.socket.close(0)
        with self._wake_lock:
            self._waker.close(0)

    def _lead(self, ready: Callable[[], bool], tick_ms: int, me: int) -> bool:
        """Become the thread that reads the socket; False if another did, and something came."""
        with self._lock:
            if self._leader and not ready():
                self._followers += 1
                try:
                    self._arrived.wait(tick_ms / 1000)
                finally:
                    self._followers -= 1
            if self._leader or ready():
                return False
            self._leader = me
            return True

    def _follow(self) -> None:
        """Lead no longer."""
        with self._lock:
            self._leader = 0
            self._tell()

    def _tell(self) -> None:
        if self._followers:
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
