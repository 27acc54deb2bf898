"""What fits this machine, the same on all ranks; no bit of any result depends on it.

How much two ranks stage at once follows from the cache. Whether sums are faster through the kernel,
from which size all-gathers are, and whether short sums are where every rank adds up all of them, is
tried when ranks meet, until choices of this machine are known (`comm/machine`).
"""

import os
import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ringlet.comm import machine
from ringlet.comm.machine import level_2_bytes
from ringlet.comm.shared.attach import VARIABLE
from ringlet.comm.shared.lower import STAGE_BYTES

ATTACH_BYTES = 6 << 20
"""From here on one copy by the kernel, page by page, costs no more than two through the cache, and
far less where ranks wait for a core at each fence."""

FAST_ATTACH_BYTES = 512 << 10
"""The same where the kernel is fast, if each rank has something for every other. In other
operations less is copied, beside as many fences."""

ROUNDS, CALLS = 2, 3


class Constants(NamedTuple):
    """`stage` bytes of an area are used at once by two ranks; `kernel`: whether long arrays that
    are combined are reached through the kernel; `moves`: from this size the arrays that every rank
    has for every other are, if those are not; `whole`: up to this size every rank combines all of
    an all-reduce itself, which saves a fence."""

    stage: int = STAGE_BYTES
    kernel: bool = False
    moves: int = ATTACH_BYTES
    whole: int = 16 << 10


class Choice(NamedTuple):
    """Two values of a constant, of which calls of two ranks on `nbytes` choose; `text` says what
    they are."""

    constant: str
    values: tuple[Any, Any]
    nbytes: int
    text: str
    operation: str = "all_reduce"


CHOICES = (
    Choice("whole", (16 << 10, 64 << 10), 64 << 10, "bytes that each adds up whole"),
    Choice("kernel", (False, True), 2 << 20, "sums through the kernel"),
    Choice(
        "moves",
        (ATTACH_BYTES, FAST_ATTACH_BYTES),
        2 << 20,
        "bytes from which all-gathers go through the kernel",
        "all_gather",
    ),
)


def settle(group: Any, shared: Any) -> None:
    """Let `shared`, the transport that carries the group's calls, use what fits: a collective.

    RINGLET_ATTACH=1 on a rank takes the kernel without a trial.
    """
    names = [f"{group.size} ranks, {choice.text}" for choice in CHOICES]
    known = [machine.known(name) for name in names] if group.rank == 0 else []
    own = min(STAGE_BYTES, level_2_bytes() // 2)
    said = group.all_gather_object([own, os.environ.get(VARIABLE) == "1", known])
    forced = any(asked for _, asked, _ in said)
    reaches = shared.control.processes is not None
    settled, tried = Constants(min(stage for stage, *_ in said)), dict[str, Any]()
    for choice, name, value in zip(CHOICES, names, said[0][2], strict=True):
        if choice.constant == "kernel" and (forced or not reaches):
            value = reaches
        elif choice.constant == "moves" and (settled.kernel or not reaches):
            continue
        elif value not in choice.values:
            value = tried[name] = _faster(group, shared, settled, choice)
        settled = settled._replace(**{choice.constant: value})
    shared.use(settled)
    if tried and group.rank == 0 and not machine.busy():
        machine.keep(tried)


def _faster(group: Any, shared: Any, settled: Constants, choice: Choice) -> Any:
    """The value with which calls take less time, in turns; the least of each, as whatever disturbs
    one only adds to it."""
    least, nbytes = [float("inf")] * 2, choice.nbytes
    if choice.operation == "all_gather":
        nbytes = 2 * nbytes // group.size
        x, out = np.zeros(nbytes, np.uint8), np.zeros((group.size, nbytes), np.uint8)
        call = partial(group.all_gather, x, out=out)
    else:
        call = partial(group.all_reduce, np.zeros(nbytes, np.uint8).view(np.float32))
    for _ in range(ROUNDS):
        for number, value in enumerate(choice.values):
            shared.use(settled._replace(**{choice.constant: value}))
            call()
            for _ in range(CALLS):
                started = time.perf_counter()
                call()
                least[number] = min(least[number], time.perf_counter() - started)
    slowest = group.all_reduce(np.array(least), "max")
    return choice.values[int(np.argmin(slowest))]
