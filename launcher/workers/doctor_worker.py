"""What `ringlet doctor` does on each of several hosts, with one rank on each."""

import platform
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import zmq

from ringlet import comm
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.units import fastest, seconds_text
from ringlet.launcher.workers.worker import run_task
from ringlet.nn import mkl

PINGS = 30
MIN_BYTES, MAX_BYTES, LARGE_S = 1 << 18, 1 << 24, 0.3
"""The large message has the size that travels in LARGE_S, within these bounds."""

CLOCKS_APART_S = 0.5

Report = Callable[[str, str, str], None]


def work(task: dict[str, Any], send: Callable[[Notice], None]) -> None:
    """Join the others, run the checks, and send what was found."""
    world = comm.init()

    def report(state: str, name: str, text: str) -> None:
        send({"finding": [state, name, text]})

    names = world.all_gather_object(socket.gethostname())
    versions(world, report)
    for other in range(1, world.size):
        clock(world, other, names[other], report)
    sums(world, report)
    for other in range(1, world.size):
        link(world, other, names[other], report)
    comm.shutdown()


def versions(world: Any, report: Report) -> None:
    """Whether the versions are the same on all hosts."""
    own = {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "libzmq": zmq.zmq_version(),
        "machine": platform.machine(),
        "products by": mkl.description(),
    }
    found = world.all_gather_object(own)
    text = ", ".join(f"{name} {version}" for name, version in own.items())
    if all(each == own for each in found):
        report("ok", "versions", f"the same on all hosts: {text}")
        return
    parts = [
        f"{name} {', '.join(f'{each[name]} on host {n}' for n, each in enumerate(found))}"
        for name in own
        if len({each[name] for each in found}) > 1
    ]
    text = f"not the same: {'; '.join(parts)}. Hosts may round differently, and other versions of "
    report("note", "versions", f"{text}Python have another built-in text")


def clock(world: Any, other: int, name: str, report: Report) -> None:
    """How far the clock of rank `other` is ahead, measured as NTP does (RFC 5905, section 8)."""
    ping = np.zeros(1)
    best, ahead = float("inf"), 0.0
    for _ in range(PINGS):
        if world.rank == 0:
            began = time.time()
            world.send(ping, dst=other)
            theirs = float(world.recv(src=other)[0])
            ended = time.time()
            if ended - began < best:
                best, ahead = ended - began, theirs - (began + ended) / 2
        elif world.rank == other:
            world.recv(src=0)
            world.send(np.array([time.time()]), dst=0)
    text = f"{seconds_text(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} host 0's"
    text = f"host {other}'s ({name}) is {text}, give or take {seconds_text(best / 2)}"
    apart = abs(ahead) > CLOCKS_APART_S
    remedy = ": times in logs will not agree; check NTP" if apart else ""
    report("note" if apart else "ok", "clock", text + remedy)


def sums(world: Any, report: Report) -> None:
    """Whether all hosts get the same bits, and the right sum."""
    data = [np.random.default_rng(rank).standard_normal(1 << 16) for rank in range(world.size)]
    x, expected = data[world.rank].astype(np.float32), sum(data)
    world.all_reduce(x)
    same = len(set(world.all_gather_object(x.tobytes()))) == 1
    if not same or not np.allclose(x, expected, atol=1e-4):
        report("bad", "all-reduce", "hosts got different or wrong sums: please report this")
        return
    number = np.ones(1, np.float32)
    best = fastest(lambda: world.all_reduce(number, "max"), PINGS)
    text = f"{world.size} ranks got the same bits; {seconds_text(best)} for one number"
    report("ok", "all-reduce", text)


def link(world: Any, other: int, name: str, report: Report) -> None:
    """Latency and bandwidth between rank 0 and rank `other`, from round trips."""
    if world.rank not in (0, other):
        return
    peer = other - world.rank
    latency = _round_trip(world, peer, 1, PINGS) / 2
    seconds = _round_trip(world, peer, MIN_BYTES, 2) / 2
    guess = round(LARGE_S / seconds * MIN_BYTES)
    size = np.array([min(max(guess, MIN_BYTES), MAX_BYTES)])
    if world.rank == 0:  # it decides
        world.send(size, dst=peer)
    else:
        world.recv(src=peer, out=size)
    nbytes = int(size[0])
    seconds = _round_trip(world, peer, nbytes, 3) / 2
    rate = nbytes / max(seconds - latency, 1e-9)
    text = f"{seconds_text(latency)} for the shortest message, {rate / 1e6:,.0f} MB/s "
    text += f"({rate * 8 / 1e6:,.0f} Mbit/s) with {nbytes >> 10:,} KiB"
    report("ok", "link", f"host 0 and host {other} ({name}): {text}")


def _round_trip(world: Any, peer: int, nbytes: int, times: int) -> float:
    """Seconds of the fastest round trip of `nbytes` bytes."""
    data = np.ones(nbytes, np.uint8)

    def round_trip() -> None:
        if world.rank == 0:
            world.send(data, dst=peer)
        world.recv(src=peer, out=data)
        if world.rank:
            world.send(data, dst=peer)

    return fastest(round_trip, times)


if __name__ == "__main__":
    run_task(work)
