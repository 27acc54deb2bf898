"""Arrays that are lent to the peers for one call: nobody writes into what is not lent any more.

The kernel lets a rank write into a peer's ordinary array (`attach`). If the peer gives up meanwhile
(a lost rank, a deadline, an interrupt) its array may be freed and become something else's memory,
which must not be written. So each rank says on the board for which call its array is lent, and
takes that back before an error leaves the call; a writer says that it writes, and looks at the
loans before each block. Each first writes its own word and then reads the other's, with a full
fence in between, so not both can miss what the other said (Dekker's argument: Dijkstra,
"Cooperating sequential processes", 1965): either the writer stops, or the lender waits for it.

A writer that is stopped in the middle of a block, by a signal say, cannot be waited for. Then the
lender keeps the array for good, so that its memory never has another owner; after an error what is
in it is undefined anyway.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ringlet.comm.shared.control_block import Board
from ringlet.comm.sockets.wire import Array

PATIENCE_S = 0.5
"""A block takes a writer some hundred microseconds."""

KEPT: dict[int, Array] = {}
"""Arrays into which a stopped process may still write, by their id."""

_lock = threading.Lock()


@contextmanager
def writing(board: Board) -> Iterator[None]:
    """This rank writes into what the others have lent. Between saying so and looking at the loans
    there has to be a call of the kernel: reading the block is one."""
    board.write(True)
    try:
        yield
    finally:
        board.write(False)


def take_back(board: Board, array: Array) -> None:
    """End the loan of an array, and return when nobody writes into it any more; or keep it."""
    if board.attached is None:
        return
    board.lend(0)
    with _lock:  # its atomic instruction is a full fence
        KEPT[id(array)] = array  # until it is known better, even if the wait is interrupted
    until = time.monotonic() + PATIENCE_S
    for rank in range(board.size):
        while rank != board.rank and board.writes(rank) and board.attached.lives(rank):
            if time.monotonic() > until:
                return
            time.sleep(0)
    del KEPT[id(array)]
