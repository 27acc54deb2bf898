"""The door of a listening socket: lets in who holds the job's key, and notes who was refused.

ZeroMQ asks a ZAP handler (https://rfc.zeromq.org/spec/27) about every connection that has got
through CURVE's handshake. Connections that do not even get so far (raw bytes, no key, another
key) are seen on the socket's monitor.
"""

import contextlib
import logging
import os
import socket
import threading
from typing import Any

import zmq
from zmq.utils import z85

from ringlet.comm.errors import AuthenticationError
from ringlet.comm.join.key import DOMAIN, JobKey
from ringlet.comm.sockets.monitor import Event, read_event

HANDSHAKE_MS = 10_000
"""Who connects and does not get through the handshake is dropped after so long."""

REFUSALS = 3
"""After so many handshakes that failed one after the other the keys differ; one may be a process
that has just ended."""

LOGGED_ADDRESSES = 64
"""So many refused addresses are logged; a flood from more is not worth a log of its size."""

UNKNOWN = "an address that nobody can tell any more"
"""Of a connection that ZeroMQ had closed before it could be looked at."""

_ZAP = "inproc://zeromq.zap.01"
_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _FAILURES

_log = logging.getLogger("ringlet.comm")
_refused: set[str] = set()


class Gate:
    """Guards the sockets of one context, on a thread of its own that ends with the context.

    Without a key everybody who speaks ZeroMQ gets in, and who does not is noted all the same.
    `who` begins its messages: "rank 3".
    """

    def __init__(self, context: "zmq.Context[Any]", key: JobKey | None, who: str) -> None:
        self._key, self._who = key, who
        self._public = b"" if key is None else z85.decode(key.curve_public)
        self._zap = context.socket(zmq.REP)
        self._zap.bind(_ZAP)
        self._poller = zmq.Poller()
        self._poller.register(self._zap, zmq.POLLIN)
        self._open: dict[int, str] = {}  # descriptors of connections to addresses
        self._inside = 0
        self._reason = ""

    def guard(self, listener: "zmq.Socket[Any]") -> None:
        """Guard what the socket binds from now on. Call it once."""
        listener.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        if self._key is not None:
            self._key.serve(listener)
        self._monitor = listener.get_monitor_socket(_EVENTS)
        self._poller.register(self._monitor, zmq.POLLIN)
        threading.Thread(target=self._serve, name="ringlet-gate", daemon=True).start()

    def _serve(self) -> None:
        try:
            while True:
                for ready, _ in self._poller.poll():
                    if ready is self._zap:
                        self._zap.send_multipart(self._answer(self._zap.recv_multipart()))
                    else:
                        self._watch(read_event(self._monitor))
        except zmq.ZMQError:  # the context ends
            self._zap.close(0)
            self._monitor.close(0)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """ZAP's answer: version, id, status, text, user, metadata."""
        version, number, domain, _, _, mechanism, *credentials = request
        # Without a key no domain is set, and ZeroMQ does not ask.
        known = (domain, mechanism, credentials) == (DOMAIN, b"CURVE", [self._public])
        status = (b"200", b"OK") if known and self._public else (b"400", b"unknown key")
        return [version, number, *status, b"", b""]

    def _watch(self, event: Event) -> None:
        """Follow a connection from its acceptance to its end.

        Events of successes do not say which connection they mean; those that end in the middle
        of a handshake do.
        """
        kind, value = event
        if kind == zmq.EVENT_ACCEPTED:
            self._open[value] = _address(value)
        elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._inside += 1
        elif kind & _FAILURES:
            self._reason = _text(kind, value)
        elif kind == zmq.EVENT_DISCONNECTED:
            address = self._open.pop(value, "")
            refused = self._reason or len(self._open) >= self._inside
            if not refused:
                self._inside -= 1
            else:
                reason = self._reason or "not a process of ringlet"
                report_refused(self._who, address or UNKNOWN, reason)
            self._reason = ""


class Handshakes:
    """Tells a socket that connects when the listener at the address does not let it in."""

    def __init__(self, connecting: "zmq.Socket[Any]", who: str, address: str) -> None:
        self._socket, self._who, self._address = connecting, who, address
        self._monitor = connecting.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | _FAILURES)
        self._failures = 0

    def check(self) -> None:
        """Raise AuthenticationError if the listener has refused the connection."""
        while self._monitor.poll(0):
            event = read_event(self._monitor).kind
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._failures = 0
                continue
            self._failures += 1
            # After this one ZeroMQ tries again: the listener may be on its way up, or down.
            if event != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL or self._failures >= REFUSALS:
                raise AuthenticationError(
                    f"{self._who}: {self._address} refused this process: its job key is not the "
                    "listener's, only one of the two has one, or another program listens there"
                )

    def close(self) -> None:
        """Look no more; before the socket closes."""
        # In this order: an event for a reader that is gone would hold up ZeroMQ's thread for ever.
        self._socket.disable_monitor()
        self._monitor.close(0)


def report_refused(who: str, address: str, reason: str) -> None:
    """Log a refused connection, or a message that is not of this job: each address once."""
    host = address.rpartition(":")[0] or address
    if host in _refused or len(_refused) > LOGGED_ADDRESSES:
        return
    _refused.add(host)
    if len(_refused) > LOGGED_ADDRESSES:
        _log.warning("%s: connections from more than %d addresses were refused; no more of them "
                     "are logged", who, LOGGED_ADDRESSES)  # fmt: skip
    else:
        _log.warning(
            "%s: refused a connection from %s: %s (more from %s are not logged)",
            who, address, reason, host,
        )  # fmt: skip


def _text(kind: int, value: int) -> str:
    if kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "it does not hold the job's key"
    if kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return "it left, or said nothing, in the middle of the handshake"
    if value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
        return "it holds another key"
    if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return "only one of the two sides has a key"
    return "it does not speak this job's protocol"


def _address(descriptor: int) -> str:
    """Who is at the other end of a TCP connection; empty if nobody can say any more, since ZeroMQ
    has closed it."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            host, port, *_ = connection.getpeername()
            return f"{host}:{port}"
    return ""
