"""What every meeting of processes has in common, be it of ranks (rendezvous.py) or of the agents
of a job's hosts (launcher/hosts): one process binds a socket and the others connect to it, both
sides prove that they hold the job's key, exchange small msgpack maps, and learn who is missing.
"""

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msgpack
import zmq

from ringlet.comm.errors import AuthenticationError
from ringlet.comm.join.addresses import allow_ipv6
from ringlet.comm.join.authenticator import Authenticator, Handshakes
from ringlet.comm.join.key import JobKey

MAX_BYTES = 4 << 20
POLL_MS = 50
LINGER_MS = 2000
TELL_EVERY_S = 1.0
LOG_EVERY_S = 5.0
CONNECT_MS = 3000
"""How long a host is tried before its name is asked for again: it may have come anew elsewhere."""

QUIET_S = 2.0
"""How long nobody answers before spare ports are looked at."""

PROBE_S = 0.5
"""How long one of them may take to accept a connection."""

Notice: TypeAlias = dict[str, Any]
Check: TypeAlias = Callable[[Notice], object]
"""Raises TypeError, ValueError or LookupError for a notice that is malformed."""

_log = logging.getLogger("ringlet.comm")


class MeetingPoint(NamedTuple):
    """Where processes meet: at an address or, if something else listens there, at a `spare` port of
    the same host. All of them hold the `key`, if there is one."""

    address: str
    key: JobKey | None = None
    spare: Sequence[int] = ()

    @property
    def addresses(self) -> list[str]:
        """The address, and those with the spare ports."""
        host = self.address.rpartition(":")[0]
        return [self.address, *(f"{host}:{port}" for port in self.spare)]


class MeetingSocket:
    """One end of a meeting: bound by the process that gathers the others, or connected to it.

    `who` names this process in errors ("rank 3"). Only notices that pass `check` are received.
    Any thread may send; one receives.
    """

    def __init__(self, kind: int, address: str, who: str, check: Check) -> None:
        self.address, self._who, self._check = address, who, check
        self._elsewhere: list[str] = []  # where to look, too, until somebody answers
        self._refused: dict[str, str] = {}
        self._quiet = Every(QUIET_S, first=QUIET_S)
        self._context: zmq.Context[Any] = zmq.Context()
        self._handshakes: Handshakes | None = None
        self._socket = self._context.socket(kind)
        self._lock = threading.Lock()  # a socket of ZeroMQ is for one thread at a time
        self._socket.set(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.set(zmq.LINGER, LINGER_MS)
        allow_ipv6(self._socket, address)

    @classmethod
    def bind(cls, point: MeetingPoint, who: str, check: Check) -> "MeetingSocket":
        """Gather others at the point's address, or at a spare port if its own is in use; port 0: a
        free one. Raises zmq.ZMQError if it cannot."""
        end = cls(zmq.ROUTER, point.address, who, check)
        end._socket.set(zmq.BACKLOG, 1024)
        if point.address.startswith("tcp://"):
            Authenticator(end._socket, point.key, who)
        for each in point.addresses:
            try:
                end._socket.bind(each)
                break
            except zmq.ZMQError as error:
                if error.errno != zmq.EADDRINUSE or each == point.addresses[-1]:
                    end.close(0)
                    raise
        end.address = end._socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        return end

    @classmethod
    def connect(cls, point: MeetingPoint, who: str, check: Check) -> "MeetingSocket":
        """Join whoever gathers at the point's address, now or later. If those there refuse this
        process, or do not answer, a spare port is tried where somebody listens: send again
        meanwhile."""
        end = cls(zmq.DEALER, point.address, who, check)
        end._socket.set(zmq.RECONNECT_IVL, 20)
        end._socket.set(zmq.RECONNECT_IVL_MAX, 500)
        end._socket.set(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        if point.key is not None:
            point.key.show(end._socket)
        end._elsewhere = point.addresses[1:]
        end._handshakes = Handshakes(end._socket, who, point.address)
        end._socket.connect(point.address)
        return end

    def poll(self) -> bool:
        """Wait a moment for a message; raises AuthenticationError if this key was refused."""
        if self._handshakes is not None:
            try:
                self._handshakes.check()
            except AuthenticationError as error:
                if not self._turn(str(error)):
                    raise
        if self._elsewhere and self._quiet.due():
            self._turn("")
        if not self._readable():
            ready = select.poll()
            ready.register(self._socket.fileno(), select.POLLIN)
            ready.poll(POLL_MS)
        return self._readable()

    def _readable(self) -> bool:
        with self._lock:
            return bool(int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN)

    def receive(self, strict: bool = False) -> Iterator[tuple[bytes, Notice]]:
        """The notices that have arrived, each with the route back to its sender (empty on the
        connected side). Malformed ones are dropped; if `strict`, they raise ValueError."""
        while self._readable():
            with self._lock:
                *route, data = self._socket.recv_multipart()
            try:
                notice = unpack_notice(data, self._check)
            except ValueError:
                if strict:
                    raise
                continue
            if "refused" in notice and self._turn(str(notice["refused"])):
                return
            self._elsewhere = []
            if len(route) == int(self._socket.type == zmq.ROUTER):
                yield (route[0] if route else b""), notice

    def _turn(self, reason: str) -> bool:
        """Those at this address are not the ones to join, or silent: go where somebody listens.
        Returns whether there are spare ports."""
        if not self._elsewhere:
            return False
        if reason and self.address not in self._refused:
            self._refused[self.address] = reason
            _log.warning("ringlet: %s looks at spare ports: %s", self._who, reason)
        before, places = self.address, [*self._elsewhere, self.address]
        self.address = next(filter(somebody_listens, self._elsewhere), before)
        if self.address == before and not reason:
            return True  # an answer may be on its way
        start = places.index(self.address)
        self._elsewhere = [*places[start + 1 :], *places[:start]]
        self._quiet = Every(QUIET_S, first=QUIET_S)
        with self._lock:
            self._socket.disconnect(before)
            self._socket.connect(self.address)
        return True

    def refusals(self) -> str:
        """Who has refused this process, for an error; mostly nobody."""
        return "".join(f"; {address}: {reason}" for address, reason in self._refused.items())

    def send(self, notice: Notice, route: bytes = b"") -> None:
        """Send without waiting. A receiver that has long read nothing misses the notice."""
        frames = [route, msgpack.packb(notice)] if route else [msgpack.packb(notice)]
        with contextlib.suppress(zmq.Again), self._lock:
            self._socket.send_multipart(frames, zmq.NOBLOCK)

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close, once what was sent is delivered or `linger_ms` have passed."""
        if self._handshakes is not None:
            self._handshakes.close()
        else:
            self._socket.disable_monitor()
        self._socket.close(linger_ms)
        self._context.term()


def somebody_listens(address: str) -> bool:
    """Whether a connection to the tcp:// address is accepted."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname, parts.port), PROBE_S).close()
    except OSError:
        return False
    return True


def unpack_notice(data: bytes, check: Check) -> Notice:
    """The notice in the bytes; raises ValueError unless it is a map that passes `check`."""
    try:
        notice = msgpack.unpackb(data)
        if type(notice) is not dict:
            raise TypeError("not a map")
        check(notice)
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise ValueError(f"malformed notice: {error}") from error
    return notice


def check_types(fields: Any, types: Mapping[str, type]) -> dict[str, Any]:
    """The map, if it has these fields, of exactly these types; else TypeError or KeyError."""
    if type(fields) is not dict:
        raise TypeError(f"{fields!r:.40} is not a map")
    for name, kind in types.items():
        if type(fields[name]) is not kind:
            raise TypeError(f"{name} is {fields[name]!r:.40}, not of type {kind.__name__}")
    return fields


class Every:
    """`due()` is true once in every `seconds`: for the first time at once, or after `first`."""

    def __init__(self, seconds: float, first: float = 0.0) -> None:
        self._seconds, self._next = seconds, time.monotonic() + first

    def due(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class MissingLog:
    """Logs every few seconds which ranks or hosts (`noun`) are missing at the address."""

    def __init__(self, noun: str, who: str, address: str) -> None:
        self._noun, self._who, self._address = noun, who, address
        self._began, self._every = time.monotonic(), Every(LOG_EVERY_S, first=LOG_EVERY_S)

    def __call__(self, missing: Sequence[int], here: Sequence[str] = ()) -> None:
        """Log it, if it is time again."""
        if missing and self._every.due():
            _log.warning(
                "ringlet: %s has waited %.0f s at %s for %s%s",
                self._who, time.monotonic() - self._began, self._address,
                numbered(self._noun, missing), f" (here: {', '.join(here)})" if here else "",
            )  # fmt: skip


def numbered(noun: str, numbers: Sequence[int]) -> str:
    """rank 3; ranks 1, 2 and 5."""
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    return f"{noun}s {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
