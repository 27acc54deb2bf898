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
from ringlet.comm.join import meeting
from ringlet.comm.join.addresses import resolve
from ringlet.comm.join.meeting import MeetingPoint

Hello = dict[str, Any]
"""{"job", "generation", "rank", "size", "host", "name", "pid", "addresses", "token",
"seal", "algorithm"}"""


FIND_EVERY_S = 0.5


def find_host(
    address: str, number: int, timeout: float, check: Callable[[], None], noun: str = "rank"
) -> str:
    """The address, with the host's IP address in place of its name, for the rank (`noun`) of this
    number. Number 0's own host must know the name at once; the others wait for it, since in
    clusters of containers a name comes with its host. Raises CommError if nobody knows it."""
    who = f"{noun} {number}"
    deadline, log = time.monotonic() + timeout, meeting.MissingLog(noun, who, address)
    while True:
        try:
            return resolve(address)
        except OSError as error:
            if number == 0 or time.monotonic() >= deadline:
                raise CommError(
                    f"{who}: cannot find the host of {address}: {error.strerror or error}"
                ) from error
        check()
        log([0])
        time.sleep(min(FIND_EVERY_S, timeout))


def meet(
    point: MeetingPoint, hello: Hello, timeout: float, check: Callable[[], None]
) -> list[Hello]:
    """Exchange hellos; returns those of all ranks, by rank.

    `check` is called while waiting, and may raise. If something else listens at the point's
    address, rank 0 takes one of the spare ports, and the others look for it there.

    Raises CommTimeout naming who is missing after `timeout` seconds, CommError when rank 0 refuses
    this rank (its job, world size or rank does not fit), AuthenticationError when the keys differ.
    While ranks are missing, rank 0 logs every few seconds which.
    """
    if not point.address.startswith("tcp://"):
        point = point._replace(key=None)
    side = _gather if hello["rank"] == 0 else _join
    return side(point, hello, timeout, check)


def _gather(
    point: MeetingPoint, own: Hello, timeout: float, check: Callable[[], None]
) -> list[Hello]:
    """Rank 0's side: it collects every rank's hello and sends the table to all."""
    try:
        socket = meeting.MeetingSocket.bind(point, "rank 0", check_hello)
    except zmq.ZMQError as error:
        raise CommError(
            f"rank 0 cannot listen at {point.address} for the other ranks: {error}. Another "
            "program may use the port, or the address is not this host's"
        ) from error
    address = socket.address
    size, deadline = own["size"], time.monotonic() + timeout
    here, routes = {0: own}, dict[int, bytes]()
    tell = meeting.Every(meeting.TELL_EVERY_S, first=meeting.TELL_EVERY_S)
    log = meeting.MissingLog("rank", "rank 0", address)

    def send_all(notice: meeting.Notice) -> None:
        for route in routes.values():
            socket.send(notice, route)

    try:
        while missing := [rank for rank in range(size) if rank not in here]:
            check()
            late = time.monotonic() >= deadline
            if tell.due() or late:
                send_all({"missing": missing})
            log(missing)
            if late:
                raise CommTimeout(
                    f"rank 0: rendezvous at {address}: {len(here)} of {size} ranks came within "
                    f"{timeout:.0f} s; missing: {meeting.numbered('rank', missing)}",
                    missing,
                )
            socket.poll()
            for route, hello in socket.receive():
                if reason := objection(hello, here):
                    socket.send({"refused": reason}, route)
                else:
                    here[hello["rank"]], routes[hello["rank"]] = hello, route
        table = [here[rank] for rank in range(size)]
        send_all({"table": table})
        return table
    finally:
        if address.startswith("ipc://"):  # nobody else will come
            Path(address.removeprefix("ipc://")).unlink(missing_ok=True)
        socket.close()


def objection(hello: Hello, here: dict[int, Hello]) -> str:
    """Why this rank cannot join those that are here; empty if it can."""
    own, rank = here[0], hello["rank"]
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
    other = here.get(rank)
    if other is not None and other != hello:
        return f"process {other['pid']} on host {other['name']} is rank {rank} already"
    return ""


def _join(
    point: MeetingPoint, own: Hello, timeout: float, check: Callable[[], None]
) -> list[Hello]:
    """Every other rank's side: it sends its hello and gets the table from rank 0."""
    address, who = point.address, f"rank {own['rank']}"
    missing, deadline = [0], time.monotonic() + timeout
    log = meeting.MissingLog("rank", who, address)
    socket = meeting.MeetingSocket.connect(
        point, who, lambda notice: check_notice(notice, own["size"])
    )
    tell = meeting.Every(meeting.TELL_EVERY_S if point.spare else timeout)
    try:
        while time.monotonic() < deadline:
            check()
            if missing == [0]:  # else rank 0 logs it for all
                log(missing)
            if tell.due():
                socket.send(own)
            socket.poll()
            for _, notice in socket.receive(strict=not point.spare):
                if "table" in notice:
                    return list(notice["table"])
                if "refused" in notice:
                    raise CommError(f"{who}: {address} refused this process: {notice['refused']}")
                missing = notice["missing"]
    except ValueError as error:
        raise CommError(
            f"{who}: what listens at {address} is not rank 0 of a ringlet job"
        ) from error
    finally:
        socket.close(0)  # rank 0 has heard all, or is not there
    late = f"{timeout:.0f} s"
    absent = meeting.numbered("rank", missing)
    text = f"rendezvous at {address}: {absent} did not come within {late}"
    if missing == [0]:
        text = f"no answer from rank 0 at {address} within {late}: is it running there?"
        text += socket.refusals()
    raise CommTimeout(f"{who}: {text}", missing)


_HELLO_TYPES = {
    "generation": int, "rank": int, "size": int, "pid": int, "job": str, "host": str, "name": str,
    "token": str, "seal": str, "algorithm": str, "addresses": dict,
}  # fmt: skip


def check_hello(hello: Any) -> Hello:
    """The hello; raises TypeError or KeyError for anything else."""
    fields = meeting.check_types(hello, _HELLO_TYPES)
    for text in (*fields["addresses"], *fields["addresses"].values()):
        if type(text) is not str:
            raise TypeError("a hello's addresses are text")
    return fields


def check_notice(notice: meeting.Notice, size: int) -> None:
    """Raise an error unless this is the table of `size` ranks, a refusal, or who is missing."""
    if "table" in notice:
        fits = [check_hello(hello)["rank"] for hello in notice["table"]] == list(range(size))
    elif "refused" in notice:
        fits = type(notice["refused"]) is str
    else:
        missing = notice["missing"]
        fits = bool(missing) and all(type(rank) is int for rank in missing)
    if not fits:
        raise ValueError("not a notice of rank 0")
