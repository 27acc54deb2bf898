"""Arrays that are exposed to the peers for one call: nobody writes into them afterwards.

The kernel lets a rank write into a peer's ordinary array (`attach`). If the peer gives up meanwhile
(a lost rank, a deadline, an interrupt) its array may be freed and become something else's memory,
which must not be written. So each rank says in the control block for which call its array is
exposed, and withdraws it before an error leaves the call; a writer says that it writes, and checks
the exposure before each block. Each first writes its own word and then reads the other's, with a
full fence in between, so not both can miss what the other said (Dekker's argument: Dijkstra,
"Cooperating sequential processes", 1965): either the writer stops, or the owner waits for it.

A writer that is stopped in the middle of a block, by a signal say, cannot be waited for. Then the
owner keeps the array for good, so that its memory never has another owner; after an error the
array's content is undefined anyway. The term is MPI's: an exposure epoch of a window.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ringlet.comm.arrays import Array
from ringlet.comm.shared.control_block import ControlBlock

WRITER_TIMEOUT_S = 0.5
"""A block takes a writer some hundred microseconds."""

KEPT: dict[int, Any] = {}
"""Arrays into which a stopped process may still write, by their id."""

_lock = threading.Lock()


@contextmanager
def writing(control: ControlBlock) -> Iterator[None]:
    """This rank writes into what the others have exposed. Between saying so and checking the
    exposure there must be a call of the kernel: reading the block is one."""
    control.set_writing(True)
    try:
        yield
    finally:
        control.set_writing(False)


def withdraw(control: ControlBlock, array: Array) -> None:
    """End the exposure of an array, and return when nobody writes into it any more; or keep it."""
    if control.processes is None:
        return
    control.withdraw()
    owner = array if array.base is None else array.base
    with _lock:  # its atomic instruction is a full fence
        KEPT[id(owner)] = owner  # until it is known better, even if the wait is interrupted
    until = time.monotonic() + WRITER_TIMEOUT_S
    for rank in range(control.size):
        while rank != control.rank and control.writes(rank) and control.processes.lives(rank):
            if time.monotonic() > until:
                return
            time.sleep(0)
    del KEPT[id(owner)]
