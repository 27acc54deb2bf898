"""How plain sockets are connected, at the port that ZeroMQ listens at afterwards.

Of two ranks the higher connects to the lower, and says its number and the word that this asks for:
what it told those whom it met, or, where messages are sealed, what only these two know. Everybody
else is refused and named. A rank that all have come to gives its port to ZeroMQ, and tells them so:
nobody speaks ZeroMQ to a port where another connection may be expected.
"""

import contextlib
import errno
import hmac
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urlsplit

from ringlet.comm.errors import CommError
from ringlet.comm.join.addresses import tcp
from ringlet.comm.join.authenticator import report_refused
from ringlet.comm.join.key import Proof
from ringlet.comm.sockets.listener import Listener
from ringlet.comm.sockets.outbox import IDLE_S, INTERVAL_S, PROBES

TICK_S = 0.05
GREETING_S = 10.0
"""A connection that has not said its word by then is dropped."""

OPEN = b"\1"
"""What a rank says when its port is ZeroMQ's."""

WORD_BYTES = 64
_GREETING = struct.Struct(f">8sI{WORD_BYTES}s")
_MAGIC = b"ringlet\1"


class Introductions:
    """Connects this rank with peers, by their `addresses`. `words` are what to show to the lower
    ones, and what the higher ones have to show."""

    def __init__(
        self,
        rank: int,
        addresses: Mapping[int, str],
        words: Mapping[int, str],
        closed: Callable[[int], None],
    ) -> None:
        self._rank, self._addresses, self._closed = rank, addresses, closed
        self._words = {peer: word.encode().ljust(WORD_BYTES, b"\0") for peer, word in words.items()}
        self._selector = selectors.DefaultSelector()
        self._strangers: dict[socket.socket, tuple[str, float]] = {}
        self._met: dict[int, socket.socket] = {}
        self.missing = set(addresses)

    def run(
        self, listener: Listener, proof: Proof, tick: Callable[[], None]
    ) -> dict[int, socket.socket]:
        """A connection to each peer; then the port is ZeroMQ's, for those who show the proof, at
        all ends of these. `tick`, which may raise, is called meanwhile."""
        try:
            connections = self.meet(listener, tick)
            listener.open_port(proof)
            self.say_open(tick)
        except BaseException:
            self.close()
            raise
        return connections

    def meet(self, listener: Listener, tick: Callable[[], None]) -> dict[int, socket.socket]:
        """A connection to each peer."""
        if listener.port is not None:
            self._selector.register(listener.port, selectors.EVENT_READ, self._accept)
        for peer, address in self._addresses.items():
            if peer < self._rank:
                self._connect(peer, address)
        self._run(tick)
        if listener.port is not None:
            self._selector.unregister(listener.port)
        return self._met

    def say_open(self, tick: Callable[[], None]) -> None:
        """Tell the peers that this port is ZeroMQ's, and wait until all have said so."""
        self.missing = set(self._met)
        for peer, connection in self._met.items():
            with contextlib.suppress(OSError):  # its end is told below
                connection.send(OPEN, socket.MSG_NOSIGNAL)
            self._selector.register(connection, selectors.EVENT_READ, partial(self._opened, peer))
        self._run(tick)
        self._selector.close()

    def close(self) -> None:
        """Close what is open, after an error."""
        for connection in [*self._met.values(), *self._strangers]:
            connection.close()
        self._selector.close()

    def _run(self, tick: Callable[[], None]) -> None:
        while self.missing:
            for key, _ in self._selector.select(TICK_S):
                key.data(key.fileobj)
            for connection, (_, since) in list(self._strangers.items()):
                if time.monotonic() - since > GREETING_S:
                    self._refuse(connection, "it said nothing")
            tick()
        for connection in list(self._strangers):
            self._refuse(connection, "not a process of ringlet")

    # -- the lower ranks ----------------------------------------------------------------------

    def _connect(self, peer: int, address: str) -> None:
        parts = urlsplit(address)
        host = parts.hostname or ""
        connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        _prepare(connection)
        self._met[peer] = connection
        result = connection.connect_ex((host, parts.port))
        if result not in (0, errno.EINPROGRESS):
            raise self._unreachable(peer, result)
        self._selector.register(connection, selectors.EVENT_WRITE, partial(self._connected, peer))

    def _connected(self, peer: int, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        result = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if result == errno.ECONNREFUSED:  # it has ended
            self._closed(peer)
        elif result:
            raise self._unreachable(peer, result)
        else:
            with contextlib.suppress(OSError):  # its end is told later
                connection.send(
                    _GREETING.pack(_MAGIC, self._rank, self._words[peer]), socket.MSG_NOSIGNAL
                )
            self.missing.discard(peer)

    def _unreachable(self, peer: int, error: int) -> CommError:
        return CommError(
            f"rank {self._rank} cannot reach rank {peer} at {self._addresses[peer]}: "
            f"{os.strerror(error)}"
        )

    # -- the higher ranks, and strangers ------------------------------------------------------

    def _accept(self, port: socket.socket) -> None:
        try:
            connection, name = port.accept()
        except OSError:  # gone again, or no descriptor is free
            time.sleep(TICK_S / 10)
            return
        with contextlib.suppress(OSError):
            address = tcp(*name[:2])
            _prepare(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _GREETING.size)
            self._strangers[connection] = address.removeprefix("tcp://"), time.monotonic()
            self._selector.register(connection, selectors.EVENT_READ, self._greeted)

    def _greeted(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(_GREETING.size, socket.MSG_PEEK)
        except OSError:
            data = b""
        if len(data) == _GREETING.size:
            magic, rank, word = _GREETING.unpack(data)
            expected = self._words[rank] if self._rank < rank in self.missing else b""
            if magic == _MAGIC and hmac.compare_digest(word, expected):
                connection.recv(_GREETING.size)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                self._selector.unregister(connection)
                del self._strangers[connection]
                self._met[rank] = connection
                self.missing.discard(rank)
                return
        reason = "not a process of ringlet" if data else "it disconnected before it said a word"
        self._refuse(connection, reason)

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        address, _ = self._strangers.pop(connection)
        self._selector.unregister(connection)
        connection.close()
        report_refused(f"rank {self._rank}", address, reason)

    # -- all ----------------------------------------------------------------------------------

    def _opened(self, peer: int, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        try:
            said = connection.recv(len(OPEN))
        except OSError:
            said = b""
        if said == OPEN:
            self.missing.discard(peer)
        else:
            self._closed(peer)


def _prepare(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"KEEPIDLE": IDLE_S, "KEEPINTVL": INTERVAL_S, "KEEPCNT": PROBES, "NODELAY": 1}
    for name, value in options.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"), value)
