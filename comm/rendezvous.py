"""How the ranks of a world find each other: everybody tells rank 0, rank 0 tells everybody.

Rank 0 binds the rendezvous and collects one hello from each rank: who it is, and where its
inbox listens. When all are there, each gets the whole table. While some are missing, those who
wait are told which.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import zmq

from ringlet.comm.errors import CommError, CommTimeout

MAX_BYTES = 1 << 20
TELL_EVERY_S = 1.0
POLL_MS = 50

Check = Callable[[], None]
"""Called while waiting; may raise."""

Hello = dict[str, Any]
"""{"job", "generation", "rank", "size", "host", "name", "pid", "addresses"}"""


def meet(address: str, hello: Hello, deadline: float, timeout: float, check: Check) -> list[Hello]:
    """Exchange hellos; returns those of all ranks, by rank.

    Raises CommTimeout naming who is missing at the deadline (monotonic seconds), CommError when
    rank 0 refuses this rank (its job, world size or rank does not fit).
    """
    context = zmq.Context()
    try:
        if hello["rank"] == 0:
            return _Host(context, address, hello).collect(deadline, timeout, check)
        return _visit(context, address, hello, deadline, timeout, check)
    finally:
        context.destroy(linger=2000)


class _Host:
    """Rank 0's side."""

    def __init__(self, context: "zmq.Context[Any]", address: str, hello: Hello) -> None:
        self._address, self._own = address, hello
        self._here: dict[int, Hello] = {0: hello}
        self._routes: dict[int, bytes] = {}
        self._socket = context.socket(zmq.ROUTER)
        self._socket.set(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.set(zmq.BACKLOG, 1024)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            raise CommError(
                f"rank 0 cannot listen at {address} for the other ranks: {error}. Another program "
                "may use the port, or the address is not this host's"
            ) from error

    def collect(self, deadline: float, timeout: float, check: Check) -> list[Hello]:
        size, next_word = self._own["size"], time.monotonic() + TELL_EVERY_S
        while len(self._here) < size:
            check()
            if self._socket.poll(POLL_MS):
                self._take()
            now = time.monotonic()
            if now >= next_word or now >= deadline:
                next_word = now + TELL_EVERY_S
                self._tell({"missing": self._missing()})
            if now >= deadline:
                raise CommTimeout(
                    f"rank 0: rendezvous at {self._address}: {len(self._here)} of {size} ranks "
                    f"came within {timeout:.0f} s; missing: {ranks_text(self._missing())}",
                    self._missing(),
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
            hello = msgpack.unpackb(frames[1])
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
        texts = [hello["host"], hello["name"], *hello["addresses"].values()]
        if type(rank) is not int or type(hello["pid"]) is not int:
            raise TypeError("rank and pid are numbers")
        if not all(type(text) is str for text in texts):
            raise TypeError("host, name and addresses are text")
        if (hello["job"], hello["generation"]) != (own["job"], own["generation"]):
            return "it belongs to another job, or to an earlier start of this one"
        if hello["size"] != own["size"]:
            return f"its world has {hello['size']} ranks, rank 0's has {own['size']}"
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


def _visit(
    context: "zmq.Context[Any]",
    address: str,
    hello: Hello,
    deadline: float,
    timeout: float,
    check: Check,
) -> list[Hello]:
    """The other ranks' side."""
    me, missing = hello["rank"], [0]
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.MAXMSGSIZE, MAX_BYTES)
    socket.set(zmq.RECONNECT_IVL, 20)
    socket.set(zmq.RECONNECT_IVL_MAX, 500)
    socket.connect(address)
    socket.send(msgpack.packb(hello))
    while time.monotonic() < deadline:
        check()
        if not socket.poll(POLL_MS):
            continue
        word = msgpack.unpackb(socket.recv())
        if "table" in word:
            table: list[Hello] = word["table"]
            return table
        if "refused" in word:
            raise CommError(f"rank {me}: {address} refused this process: {word['refused']}")
        missing = word["missing"]
    if missing == [0]:
        text = f"no answer from rank 0 at {address} within {timeout:.0f} s: is it running there?"
    else:
        text = f"rendezvous at {address}: {ranks_text(missing)} did not come in {timeout:.0f} s"
    raise CommTimeout(f"rank {me}: {text}", missing)


def ranks_text(ranks: list[int]) -> str:
    """rank 3; ranks 1, 2 and 5."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"
