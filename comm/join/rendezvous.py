"""How the ranks of a world find each other: everybody tells rank 0, rank 0 tells everybody.

Rank 0 binds the rendezvous and collects one hello from each rank: who it is, and where its
inbox listens. When all are there, each gets the whole table. While some are missing, the others
are told which. Over TCP both sides prove that they hold the job key, if there is one.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from ringlet.comm.errors import CommError, CommTimeout
from ringlet.comm.join.key import JobKey
from ringlet.comm.join.meeting import (
    TELL_EVERY_S,
    Every,
    MeetingSocket,
    MissingLog,
    Notice,
    check_types,
    numbered,
)

Hello = dict[str, Any]
"""{"job", "generation", "rank", "size", "host", "name", "pid", "addresses", "token",
"algorithm"}"""


def meet(
    address: str,
    hello: Hello,
    deadline: float,
    timeout: float,
    check: Callable[[], None],
    key: JobKey | None = None,
) -> list[Hello]:
    """Exchange hellos; returns those of all ranks, by rank.

    `check` is called while waiting, and may raise.

    Raises CommTimeout naming who is missing at the deadline (monotonic seconds), CommError when
    rank 0 refuses this rank (its job, world size or rank does not fit), AuthenticationError when
    the keys differ. While ranks are missing, rank 0 logs every few seconds which.
    """
    key = key if address.startswith("tcp://") else None
    side = _RankZero if hello["rank"] == 0 else _OtherRank
    return side(address, hello, key).meet(deadline, timeout, check)


class _RankZero:
    """Rank 0's side: it gathers the others."""

    def __init__(self, address: str, hello: Hello, key: JobKey | None) -> None:
        self._address, self._own = address, hello
        self._here: dict[int, Hello] = {0: hello}
        self._routes: dict[int, bytes] = {}
        try:
            self._socket = MeetingSocket.bind(address, key, "rank 0", check_hello)
        except zmq.ZMQError as error:
            raise CommError(
                f"rank 0 cannot listen at {address} for the other ranks: {error}. Another program "
                "may use the port, or the address is not this host's"
            ) from error

    def meet(self, deadline: float, timeout: float, check: Callable[[], None]) -> list[Hello]:
        """Collect every rank's hello; returns the table, which every rank gets."""
        size, tell = self._own["size"], Every(TELL_EVERY_S, first=TELL_EVERY_S)
        log = MissingLog("rank", "rank 0", self._address)
        try:
            while missing := [rank for rank in range(size) if rank not in self._here]:
                check()
                late = time.monotonic() >= deadline
                if tell.due() or late:
                    self._send_all({"missing": missing})
                log(missing)
                if late:
                    raise CommTimeout(
                        f"rank 0: rendezvous at {self._address}: {len(self._here)} of {size} "
                        f"ranks came within {timeout:.0f} s; missing: {numbered('rank', missing)}",
                        missing,
                    )
                self._socket.poll()
                for route, hello in self._socket.receive():
                    self._admit(route, hello)
            table = [self._here[rank] for rank in range(size)]
            self._send_all({"table": table})
            if self._address.startswith("ipc://"):  # nobody else will come
                Path(self._address.removeprefix("ipc://")).unlink(missing_ok=True)
            return table
        finally:
            self._socket.close()

    def _admit(self, route: bytes, hello: Hello) -> None:
        reason = self._objection(hello)
        if reason:
            self._socket.send({"refused": reason}, route)
        else:
            self._here[hello["rank"]], self._routes[hello["rank"]] = hello, route

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

    def _send_all(self, notice: Notice) -> None:
        for route in self._routes.values():
            self._socket.send(notice, route)


class _OtherRank:
    """The side of every other rank."""

    def __init__(self, address: str, hello: Hello, key: JobKey | None) -> None:
        self._address, self._own, self._who = address, hello, f"rank {hello['rank']}"
        size = hello["size"]
        self._socket = MeetingSocket.connect(
            address, key, self._who, lambda notice: check_notice(notice, size)
        )

    def meet(self, deadline: float, timeout: float, check: Callable[[], None]) -> list[Hello]:
        """The table of all ranks, from rank 0."""
        missing, log = [0], MissingLog("rank", self._who, self._address)
        try:
            self._socket.send(self._own)
            while time.monotonic() < deadline:
                check()
                if missing == [0]:  # else rank 0 logs it for all
                    log(missing)
                self._socket.poll()
                for _, notice in self._socket.receive(strict=True):
                    if "table" in notice:
                        return list(notice["table"])
                    if "refused" in notice:
                        raise CommError(
                            f"{self._who}: {self._address} refused this process: "
                            f"{notice['refused']}"
                        )
                    missing = notice["missing"]
        except ValueError as error:
            raise CommError(
                f"{self._who}: what listens at {self._address} is not rank 0 of a ringlet job"
            ) from error
        finally:
            self._socket.close(0)  # rank 0 has heard all, or is not there
        raise CommTimeout(f"{self._who}: {self._lateness(missing, timeout)}", missing)

    def _lateness(self, missing: list[int], timeout: float) -> str:
        if missing == [0]:
            return (
                f"no answer from rank 0 at {self._address} within {timeout:.0f} s: is it running "
                "there?"
            )
        return (
            f"rendezvous at {self._address}: {numbered('rank', missing)} did not come within "
            f"{timeout:.0f} s"
        )


_HELLO_TYPES = {
    "generation": int, "rank": int, "size": int, "pid": int, "job": str, "host": str, "name": str,
    "token": str, "algorithm": str, "addresses": dict,
}  # fmt: skip


def check_hello(hello: Any) -> Hello:
    """The hello; raises TypeError or KeyError for anything else."""
    fields = check_types(hello, _HELLO_TYPES)
    for text in (*fields["addresses"], *fields["addresses"].values()):
        if type(text) is not str:
            raise TypeError("a hello's addresses are text")
    return fields


def check_notice(notice: Notice, size: int) -> None:
    """Raise an error unless this is what rank 0 says in a world of `size`: the table, a refusal, or
    who is missing."""
    if "table" in notice:
        fits = [check_hello(hello)["rank"] for hello in notice["table"]] == list(range(size))
    elif "refused" in notice:
        fits = type(notice["refused"]) is str
    else:
        missing = notice["missing"]
        fits = bool(missing) and all(type(rank) is int for rank in missing)
    if not fits:
        raise ValueError("not a notice of rank 0")
