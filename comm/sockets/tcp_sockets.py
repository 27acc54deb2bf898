"""A process's plain TCP sockets, for arrays, beside ZeroMQ's, which have the words.

ZeroMQ moves bytes on a thread of its own, which wakes the rank's thread for each message. Here the
thread that sends a message writes it into the kernel's buffer, and the one that waits for it reads
it to where it belongs, and adds it up there: over the loopback that takes two thirds of the time.
What does not fit the kernel's buffer leaves while this process waits for something; if it waits for
nothing, a thread moves both.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping

from ringlet.comm.sockets.inbox import Inbox
from ringlet.comm.sockets.outbox import LOOPBACK_BUFFER
from ringlet.comm.sockets.tcp_socket import Accept, Begin, TcpSocket

HERE = hasattr(select, "epoll") and hasattr(os, "eventfd")
"""Elsewhere arrays travel by ZeroMQ."""

ASIDE_MS, LONG_ASIDE_MS = 2, 8
"""How long bytes may wait for a thread of the program before this module's own moves them: a look
of that thread takes the interpreter from who computes. Longer while others do it."""


class TcpSockets:
    """A process's sockets by peer, and who moves their bytes: whoever reads the inbox, or a thread.

    `closed(peer, why)` is told of a connection that ends, `why` if what came by it was no message.
    """

    def __init__(self, inbox: Inbox, begin: Begin, closed: Callable[[int, str], None]) -> None:
        self._inbox, self._begin, self._closed = inbox, begin, closed
        self._by_descriptor: dict[int, TcpSocket] = {}
        self.outboxes: dict[int, TcpSocket] = {}
        self.inside: set[int] = set()
        """The peers on this host, to whom bytes stay in the kernel."""

        self._reads = 0
        self._unfinished: set[int] = set()  # descriptors that have been read in part
        self._polls: tuple[select.epoll, ...] = ()  # of who reads the inbox, of the thread
        self._ends = -1  # can be read at the end
        self._thread: threading.Thread | None = None

    def open(self, connections: Mapping[int, socket.socket]) -> None:
        """Use these connections from now on."""
        self._polls = (select.epoll(), select.epoll())
        self._ends = os.eventfd(0, os.EFD_CLOEXEC)
        for peer, connection in connections.items():
            self._add(peer, connection)
        self._polls[0].register(self._inbox.socket.FD, select.EPOLLIN)
        self._polls[1].register(self._ends, select.EPOLLIN)
        self._pause = select.poll()
        self._pause.register(self._ends, select.POLLIN)
        thread = threading.Thread(target=self._attend, name="ringlet-tcp", daemon=True)
        thread.start()
        self._thread = thread

    def _add(self, peer: int, connection: socket.socket) -> None:
        descriptor = connection.fileno()

        def turn(waits: bool) -> None:
            events = select.EPOLLIN | (select.EPOLLOUT if waits else 0)
            for poll in self._polls:
                with contextlib.suppress(OSError, ValueError):  # it is closed
                    poll.modify(descriptor, events)

        for poll in self._polls:
            poll.register(descriptor, select.EPOLLIN)
        tcp = TcpSocket(peer, connection, turn, self._begin)
        self.outboxes[peer] = self._by_descriptor[descriptor] = tcp
        with contextlib.suppress(OSError):  # it is closed
            if connection.getsockname()[0] == connection.getpeername()[0]:
                self.inside.add(peer)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOOPBACK_BUFFER)

    def read(self, accept: Accept, seconds: float) -> bool:
        """Move what can be moved. Wait so long until a message has come, or has left, or something
        is at the inbox's socket; False if no message did. One thread at a time."""
        until = time.monotonic() + seconds
        self._reads += 1
        while True:
            moved, ready = False, [(each, select.EPOLLIN) for each in self._unfinished]
            ready = ready or self._polls[0].poll(seconds)
            for descriptor, events in ready:
                tcp = self._by_descriptor.get(descriptor)
                if tcp is None:  # the inbox's own socket
                    seconds = 0.0
                    continue
                if events & select.EPOLLOUT and tcp.push():
                    moved = True
                if events & ~select.EPOLLOUT and self._take(descriptor, tcp, accept):
                    moved = True
            if not ready and seconds > 0:  # should a kernel not wake who waits for so much at once
                awaiting = self._by_descriptor.items()
                self._unfinished |= {each for each, tcp in awaiting if tcp.is_awaiting()}
            if moved or seconds <= 0 or not ready:
                return moved
            seconds = max(0.0, until - time.monotonic())

    def _take(self, descriptor: int, tcp: TcpSocket, accept: Accept) -> bool:
        """Read from a socket; whether a message has come, or the end."""
        self._unfinished.add(descriptor)  # an interrupt may leave something that wakes nobody
        try:
            moved, why = tcp.read(accept), None
        except (OSError, EOFError):
            moved, why = True, ""
        except ValueError as error:
            moved, why = True, str(error)
        self._unfinished.discard(descriptor)
        if why is None:
            return moved
        del self._by_descriptor[descriptor]
        for poll in self._polls:
            with contextlib.suppress(OSError):
                poll.unregister(descriptor)
        tcp.close()
        self._closed(tcp.peer, why)
        return True

    def _attend(self) -> None:
        """The thread: move what nobody moves, as nobody waits for anything."""
        pause = ASIDE_MS
        while True:
            self._polls[1].poll()
            reads = self._reads
            if self._pause.poll(pause):  # the end
                return
            pause = ASIDE_MS if reads == self._reads else min(2 * pause, LONG_ASIDE_MS)
            if reads == self._reads:
                self._inbox.poll()

    def unsent(self, peer: int) -> bool:
        """Whether the peer's kernel lacks something that has been sent."""
        return peer in self.outboxes and self.outboxes[peer].unsent()

    def close(self) -> None:
        """Close all of them; nobody reads the inbox any more."""
        if self._thread is not None:
            os.eventfd_write(self._ends, 1)
            self._thread.join()
        for tcp in self.outboxes.values():
            tcp.close()
        self.leave()

    def leave(self) -> None:
        """Close this process's descriptors: of a fork, which has no such thread."""
        for tcp in self.outboxes.values():
            tcp.leave()
        for poll in self._polls:
            poll.close()
        if self._ends >= 0:
            os.close(self._ends)
            self._ends = -1
