"""How the ranks of a world find each other: everybody tells rank 0, rank 0 tells everybody.

Rank 0 binds the rendezvous and collects one hello from each rank: who it is, and where its
inbox listens. When all are there, each gets the whole table. While some are missing, those who
wait are told which. Over TCP a job key, if there is one, is shown and asked for on both sides.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import zmq

from ringlet.comm.errors import CommError, CommTimeout
from ringlet.comm.join.addresses import allow_ipv6
from ringlet.comm.join.authenticator import Authenticator, Handshakes
from ringlet.comm.join.key import JobKey

MAX_BYTES = 1 << 20
TELL_EVERY_S = 1.0
POLL_MS = 50
SPEAK_EVERY_S = 10.0
LINGER_MS = 2000

_log = logging.getLogger("ringlet.comm")

Check = Callable[[], None]
"""Called while waiting; may raise."""

Hello = dict[str, Any]
"""{"job", "generation", "rank", "size", "host", "name", "pid", "addresses", "token",
"algorithm"}"""


def meet(
    address: str,
    hello: Hello,
    deadline: float,
    timeout: float,
    check: Check,
    key: JobKey | None = None,
) -> list[Hello]:
    """Exchange hellos; returns those of all ranks, by rank.

    Raises CommTimeout naming who is missing at the deadline (monotonic seconds), CommError when
    rank 0 refuses this rank (its job, world size or rank does not fit), AuthenticationError when
    the keys differ. While ranks are missing, both sides log every ten seconds which.
    """
    context: zmq.Context[Any] = zmq.Context()
    key = key if address.startswith("tcp://") else None
    try:
        if hello["rank"] == 0:
            return _Host(context, address, hello, key).collect(deadline, timeout, check)
        return _Visitor(context, address, hello, key).visit(deadline, timeout, check)
    finally:
        context.term()


class _Host:
    """Rank 0's side."""

    def __init__(
        self, context: "zmq.Context[Any]", address: str, hello: Hello, key: JobKey | None
    ) -> None:
        self._address, self._own = address, hello
        self._here: dict[int, Hello] = {0: hello}
        self._routes: dict[int, bytes] = {}
        self._socket = context.socket(zmq.ROUTER)
        self._socket.set(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.set(zmq.BACKLOG, 1024)
        if address.startswith("tcp://"):
            Authenticator(context, key, "rank 0").guard(self._socket)
        allow_ipv6(self._socket, address)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._close(0)
            raise CommError(
                f"rank 0 cannot listen at {address} for the other ranks: {error}. Another program "
                "may use the port, or the address is not this host's"
            ) from error

    def collect(self, deadline: float, timeout: float, check: Check) -> list[Hello]:
        """Every rank's hello, told to every rank."""
        try:
            return self._collect(deadline, timeout, check)
        finally:
            self._close(LINGER_MS)

    def _close(self, linger_ms: int) -> None:
        self._socket.disable_monitor()
        self._socket.close(linger_ms)

    def _collect(self, deadline: float, timeout: float, check: Check) -> list[Hello]:
        size, next_word = self._own["size"], time.monotonic() + TELL_EVERY_S
        speak = _Speaker(self._own["rank"], self._address)
        while len(self._here) < size:
            check()
            if self._socket.poll(POLL_MS):
                self._take()
            missing, now = self._missing(), time.monotonic()
            if missing and now >= min(next_word, deadline):
                next_word = now + TELL_EVERY_S
                self._tell({"missing": missing})
                speak(missing)
            if missing and now >= deadline:
                raise CommTimeout(
                    f"rank 0: rendezvous at {self._address}: {len(self._here)} of {size} ranks "
                    f"came within {timeout:.0f} s; missing: {ranks_text(missing)}",
                    missing,
                )
        table = [self._here[rank] for rank in range(size)]
        self._tell({"table": table})
        self._hide()
        return table

    def _missing(self) -> list[int]:
        return [rank for rank in range(self._own["size"]) if rank not in self._here]

    def _take(self) -> None:
        frames = self._socket.recv_multipart()
        if len(frames) != 2:
            return
        try:
            hello = check_hello(msgpack.unpackb(frames[1]))
            reason = self._objection(hello)
            if reason:
                self._socket.send_multipart([frames[0], msgpack.packb({"refused": reason})])
                return
            self._here[hello["rank"]] = hello
            self._routes[hello["rank"]] = frames[0]
        except (ValueError, TypeError, KeyError, msgpack.UnpackException):
            return  # not of this program

    def _objection(self, hello: Hello) -> str:
        """Why this rank cannot join; empty if it can."""
        own, rank = self._own, hello["rank"]
        if (hello["job"], hello["generation"]) != (own["job"], own["generation"]):
            return "it belongs to another job, or to an earlier start of this one"
        if hello["size"] != own["size"]:
            return f"its world has {hello['size']} ranks, rank 0's has {own['size']}"
        if hello["algorithm"] != own["algorithm"]:
            return (
                f"its RINGLET_ALGORITHM and RINGLET_LINKS are {hello['algorithm']!r}, "
                f"rank 0's {own['algorithm']!r}"
            )
        if not 0 <= rank < own["size"]:
            return f"there is no rank {rank} in a world of {own['size']}"
        other = self._here.get(rank)
        if other is not None and other != hello:
            return f"process {other['pid']} on host {other['name']} is rank {rank} already"
        return ""

    def _tell(self, word: dict[str, Any]) -> None:
        for route in self._routes.values():
            self._socket.send_multipart([route, msgpack.packb(word)])

    def _hide(self) -> None:
        """Remove the socket file: nobody else is to come, and nobody has to clean up."""
        if self._address.startswith("ipc://"):
            Path(self._address.removeprefix("ipc://")).unlink(missing_ok=True)


class _Visitor:
    """The other ranks' side."""

    def __init__(
        self, context: "zmq.Context[Any]", address: str, hello: Hello, key: JobKey | None
    ) -> None:
        self._address, self._own = address, hello
        self._socket = context.socket(zmq.DEALER)
        self._socket.set(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.set(zmq.RECONNECT_IVL, 20)
        self._socket.set(zmq.RECONNECT_IVL_MAX, 500)
        if key is not None:
            key.show(self._socket)
        self._handshakes = Handshakes(self._socket, f"rank {hello['rank']}", address)
        allow_ipv6(self._socket, address)
        self._socket.connect(address)

    def visit(self, deadline: float, timeout: float, check: Check) -> list[Hello]:
        """Every rank's hello, from rank 0."""
        me, missing, speak = self._own["rank"], [0], _Speaker(self._own["rank"], self._address)
        try:
            self._socket.send(msgpack.packb(self._own))
            while time.monotonic() < deadline:
                check()
                self._handshakes.check()
                speak(missing)
                if not self._socket.poll(POLL_MS):
                    continue
                word = self._word(self._socket.recv())
                if "table" in word:
                    return list(word["table"])
                if "refused" in word:
                    raise CommError(
                        f"rank {me}: {self._address} refused this process: {word['refused']}"
                    )
                missing = word["missing"]
        finally:
            self._handshakes.close()
            self._socket.close(0)  # rank 0 has heard all, or is not there
        raise CommTimeout(f"rank {me}: {self._lateness(missing, timeout)}", missing)

    def _lateness(self, missing: list[int], timeout: float) -> str:
        if missing == [0]:
            return (
                f"no answer from rank 0 at {self._address} within {timeout:.0f} s: is it running "
                "there?"
            )
        return (
            f"rendezvous at {self._address}: {ranks_text(missing)} did not come in {timeout:.0f} s"
        )

    def _word(self, data: bytes) -> dict[str, Any]:
        """What rank 0 says, or what another program says that listens there."""
        try:
            return read_word(data, self._own["size"])
        except ValueError as error:
            raise CommError(
                f"rank {self._own['rank']}: what listens at {self._address} is not rank 0 of a "
                "ringlet"
            ) from error


class _Speaker:
    """Logs now and then who is missing."""

    def __init__(self, rank: int, address: str) -> None:
        self._rank, self._address = rank, address
        self._began = self._spoke = time.monotonic()

    def __call__(self, missing: list[int]) -> None:
        now = time.monotonic()
        # One voice is enough: the others speak only where rank 0 does not.
        if now - self._spoke >= SPEAK_EVERY_S and (self._rank == 0 or missing == [0]):
            self._spoke = now
            _log.warning(
                "ringlet: rank %d has waited %.0f s at %s for %s",
                self._rank, now - self._began, self._address, ranks_text(missing),
            )  # fmt: skip


def check_hello(hello: Any) -> Hello:
    """The hello, if it is one; raises TypeError or KeyError for anything else."""
    if type(hello) is not dict or type(hello["addresses"]) is not dict:
        raise TypeError("a hello and its addresses are maps")
    numbers = [hello[name] for name in ("generation", "rank", "size", "pid")]
    texts = [hello[name] for name in ("job", "host", "name", "token", "algorithm")]
    texts += [*hello["addresses"], *hello["addresses"].values()]
    if not all(type(number) is int for number in numbers):
        raise TypeError("generation, rank, size and pid are numbers")
    if not all(type(text) is str for text in texts):
        raise TypeError("job, host, name, token, algorithm and addresses are text")
    return hello


def read_word(data: bytes, size: int) -> dict[str, Any]:
    """Rank 0's word in the bytes: the table of a world of `size`, a refusal, or who is missing.

    Raises ValueError for anything else.
    """
    try:
        word = msgpack.unpackb(data)
        if "table" in word:
            ranks = [check_hello(hello)["rank"] for hello in word["table"]]
            fits = ranks == list(range(size))
        elif "refused" in word:
            fits = type(word["refused"]) is str
        else:
            missing = word["missing"]
            fits = bool(missing) and all(type(rank) is int for rank in missing)
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise ValueError(f"no word of rank 0: {error}") from error
    if type(word) is not dict or not fits:
        raise ValueError("no word of rank 0")
    return word


def ranks_text(ranks: list[int]) -> str:
    """rank 3; ranks 1, 2 and 5."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
