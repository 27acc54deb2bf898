"""Authenticate connections to a listening socket by the job's key or a token, and log the others.

ZeroMQ asks a ZAP handler (https://rfc.zeromq.org/spec/27) about every connection that completes
CURVE's handshake. Earlier failures (raw bytes, no key, another key) show on the socket's monitor.
"""

import contextlib
import logging
import os
import socket
import struct
import threading
from typing import Any

import zmq

from ringlet.comm.errors import AuthenticationError
from ringlet.comm.join.key import Proof, Token

HANDSHAKE_MS = 10_000
"""Connections that have not completed the handshake by then are dropped."""

REFUSALS = 3
"""Failed handshakes in a row that mean the keys differ; one may come from a process that ended."""

LOGGED_ADDRESSES = 64
"""Refused addresses to log, so that a flood of connections does not flood the log."""

UNKNOWN = "an unknown address"
"""Stands for a connection that ZeroMQ closed before its address could be read."""

NO_KEY, ONE_KEY = "it does not hold the job's key", "only one of the two sides has a key"

_ZAP = "inproc://zeromq.zap.01"
_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _FAILURES

_log = logging.getLogger("ringlet.comm")
_refused: set[str] = set()


class Authenticator:
    """Guards whatever a socket binds from now on, on a thread that ends with the socket's context.

    Without a key or a token it accepts every client that speaks ZeroMQ, and still logs those that
    do not. `who` begins its log lines: "rank 3".
    """

    def __init__(self, listener: "zmq.Socket[Any]", key: Proof | None, who: str) -> None:
        self._who, self._key = who, key
        self._zap = listener.context.socket(zmq.REP)
        self._zap.bind(_ZAP)
        self._poller = zmq.Poller()
        self._poller.register(self._zap, zmq.POLLIN)
        self._open: dict[int, str] = {}  # descriptors of connections to addresses
        self._inside = 0
        self._reason = ""
        listener.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        if key is not None:
            key.serve(listener)
        self._monitor = listener.get_monitor_socket(_EVENTS)
        self._poller.register(self._monitor, zmq.POLLIN)
        threading.Thread(target=self._serve, name="ringlet-authenticator", daemon=True).start()

    def _serve(self) -> None:
        try:
            while True:
                for ready, _ in self._poller.poll():
                    if ready is self._zap:
                        self._zap.send_multipart(self._answer(self._zap.recv_multipart()))
                    else:
                        self._watch(*read_event(self._monitor))
        except zmq.ZMQError:  # the context ends
            self._zap.close(0)
            self._monitor.close(0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """The ZAP reply: version, id, status, text, user, metadata."""
        version, number, domain, _, _, mechanism, *credentials = request
        # Without a key no domain is set, and ZeroMQ does not ask.
        user = None if self._key is None else self._key.admit(domain, mechanism, *credentials)
        status = (b"400", b"unknown key") if user is None else (b"200", b"OK")
        return [version, number, *status, user or b"", b""]

    def _watch(self, kind: int, value: int) -> None:
        """Follow a connection from its acceptance to its end.

        A success event does not say which connection it means, so successes are only counted;
        an event of a connection that ends during the handshake does say.
        """
        if kind == zmq.EVENT_ACCEPTED:
            self._open[value] = _address(value)
        elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._inside += 1
        elif kind & _FAILURES:
            self._reason = _text(kind, value)
            if isinstance(self._key, Token) and self._reason in (NO_KEY, ONE_KEY):
                self._reason = "it has not met the ranks of this job"
        elif kind == zmq.EVENT_DISCONNECTED and value not in self._open:
            # It came by what was bound without a proof, before this watched.
            self._inside = min(self._inside, len(self._open))
        elif kind == zmq.EVENT_DISCONNECTED:
            address = self._open.pop(value)
            refused = self._reason or len(self._open) >= self._inside
            if not refused:
                self._inside -= 1
            else:
                reason = self._reason or "not a process of ringlet"
                report_refused(self._who, address or UNKNOWN, reason)
            self._reason = ""


class Handshakes:
    """Watches a connecting socket's handshakes: does the listener accept this process?"""

    def __init__(self, connecting: "zmq.Socket[Any]", who: str, address: str) -> None:
        self._socket, self._who, self._address = connecting, who, address
        self._monitor = connecting.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | _FAILURES)
        self._failures = 0

    def check(self) -> None:
        """Raise AuthenticationError if the listener has refused the connection."""
        while self._monitor.poll(0):
            event, _ = read_event(self._monitor)
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._failures = 0
                continue
            self._failures += 1
            # ZeroMQ retries after this one: the listener may be starting up, or shutting down.
            if event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL or self._failures >= REFUSALS:
                raise AuthenticationError(
                    f"{self._who}: {self._address} refused this process: its job key differs from "
                    "the listener's, only one of them has a key, or another program listens there"
                )

    def close(self) -> None:
        """Stop watching; call it before closing the socket."""
        # In this order: an event without a reader would block ZeroMQ's I/O thread for ever.
        self._socket.disable_monitor()
        self._monitor.close(0)


def report_refused(who: str, address: str, reason: str) -> None:
    """Log a refused connection or a message from another job, once for each address."""
    host = address.rpartition(":")[0] or address
    if host in _refused or len(_refused) > LOGGED_ADDRESSES:
        return
    _refused.add(host)
    if len(_refused) > LOGGED_ADDRESSES:
        _log.warning("%s: refused connections from more than %d addresses; further ones are not "
                     "logged", who, LOGGED_ADDRESSES)  # fmt: skip
    else:
        _log.warning(
            "%s: refused a connection from %s: %s (more from %s are not logged)",
            who, address, reason, host,
        )  # fmt: skip


def read_event(monitor: "zmq.Socket[Any]") -> tuple[int, int]:
    """Wait for the monitor's next event: one of zmq.EVENT_*, and a file descriptor, an error or a
    reason. pyzmq's own reader imports asyncio, a tenth of a worker's start."""
    fields, _ = monitor.recv_multipart()  # the second part is an address
    kind, value = struct.unpack("=Hi", fields)
    return kind, value


def _text(kind: int, value: int) -> str:
    if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return NO_KEY
    if kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return "it disconnected or fell silent during the handshake"
    if value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
        return "it holds another key"
    if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return ONE_KEY
    return "it does not speak this job's protocol"


def _address(descriptor: int) -> str:
    """The peer's address of a TCP connection; empty if ZeroMQ has already closed it."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            host, port, *_ = connection.getpeername()
            return f"{host}:{port}"
    return ""
