"""What the staging areas hold: a collective's arrays, chunk by chunk, where the peers reach them.

Two areas take turns: while one chunk is still in use the next is staged.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from ringlet.comm.arrays import parts
from ringlet.comm.shared.control_block import STAGE_BYTES, Board
from ringlet.comm.sockets.wire import Array

SHORT_BYTES = 16 * 1024
"""Up to here every rank combines the whole array itself, which saves a fence."""

PAIR_BYTES = 128 * 1024
"""The chunks of two ranks' all-reduce. All that it touches stays in a second-level cache of 2 MiB,
the interpreter, too: 1 MiB takes 159 us, 166 in chunks of STAGE_BYTES, 4 MiB 655 and 727. More
ranks, which may share cores, have fewer fences."""


class Task(NamedTuple):
    """One collective for the exchange.

    `exposed` is what the peers may read: a contiguous array that is cut into one slot for each
    rank (`cut`), or is one slot as a whole. It has the same size and dtype on all ranks.
    """

    operation: str
    slots: Sequence[Array | None]
    exposed: Array
    cut: bool
    op: str | None = None
    root: int = 0
    shown: bool = True  # whether anybody reads this rank's

    @property
    def short(self) -> bool:
        """Whether it is staged wherever it lies, and combined by every rank: two fences less."""
        return self.operation == "all_reduce" and self.exposed.nbytes <= SHORT_BYTES

    def pieces(self, array: Array, size: int) -> list[Array]:
        """Some rank's exposed array in slots."""
        return parts(array, size) if self.cut else [array]


class Chunk(NamedTuple):
    """Which elements of an array a chunk of an all-reduce has, and where they are staged."""

    staged: list[tuple[int, int, Array]]  # start and stop of each column, and its cell
    start: int  # of this rank's own column
    stop: int
    shared: list[Array]  # the others' cells of it


class Staged:
    """The chunks of a task: columns of all its parts, side by side in the staging areas."""

    def __init__(self, board: Board, task: Task) -> None:
        self._board, self._task = board, task
        self.operation = "all_reduce_whole" if task.short else task.operation
        self._pieces = [task.exposed] if task.short else task.pieces(task.exposed, board.size)
        self._slots = [task.exposed] if task.short else task.slots
        # In the shared all-reduce nobody needs what its owner combines itself.
        self._keeps = self.operation == "all_reduce"
        staged = len(self._pieces) - self._keeps
        width = _stage_bytes(board, task, self._keeps) // (task.exposed.itemsize * staged)
        self._width = width // 64 * 64 or width
        longest = max(piece.size for piece in self._pieces)
        self.chunks = max(1, -(-longest // self._width))
        self._first = 0

    def stage(self, chunk: int) -> None:
        """Copy this rank's part of the chunk to where the peers can reach it."""
        turn = self._board.next_area()
        if chunk == 0:
            self._first = turn
        if self._task.shown:
            for piece, area in self._pairs(chunk):
                np.copyto(area, piece)

    def fetch(self, chunk: int) -> None:
        """Copy back what the peers have stored in this rank's area."""
        for piece, area in self._pairs(chunk):
            np.copyto(piece, area)

    def shared(self, chunk: int) -> tuple[Array, list[Array]]:
        """This rank's own part of the chunk, and what the others, in order, have staged of it."""
        rank, size = self._board.rank, self._board.size
        mine = self._columns(self._pieces[rank], chunk)
        others = (other for other in range(size) if other != rank)
        return mine, [self._cell(other, chunk, rank, mine.size) for other in others]

    def plan(self, first: int) -> list[Chunk]:
        """The chunks of an all-reduce, if the first is staged in this area."""
        self._first, rank = first, self._board.rank
        begins = [0, *accumulate(piece.size for piece in self._pieces)]
        found = []
        for chunk in range(self.chunks):
            columns = [self._columns(piece, chunk).size for piece in self._pieces]
            starts = [begin + chunk * self._width for begin in begins]
            staged = [
                (starts[part], starts[part] + size, self._cell(rank, chunk, part, size))
                for part, size in enumerate(columns)
                if part != rank
            ]
            shared = self.shared(chunk)[1]
            found.append(Chunk(staged, starts[rank], starts[rank] + columns[rank], shared))
        return found

    def views(self, chunk: int) -> tuple[list[Array | None], list[list[Array]]]:
        """This rank's slots, and what can be read of every rank."""
        sizes = [self._columns(piece, chunk).size for piece in self._pieces]
        table = [
            [self._cell(rank, chunk, number, size) for number, size in enumerate(sizes)]
            for rank in range(self._board.size)
        ]
        slots = [None if slot is None else self._columns(slot, chunk) for slot in self._slots]
        return slots, table

    def _pairs(self, chunk: int) -> Iterator[tuple[Array, Array]]:
        """The chunk of each piece that is staged, and where."""
        for number, piece in enumerate(self._pieces):
            if not (self._keeps and number == self._board.rank):
                columns = self._columns(piece, chunk)
                yield columns, self._cell(self._board.rank, chunk, number, columns.size)

    def _columns(self, piece: Array, chunk: int) -> Array:
        return piece[chunk * self._width : (chunk + 1) * self._width]

    def _cell(self, rank: int, chunk: int, number: int, count: int) -> Array:
        """Where a rank stages so many elements of the piece of this number."""
        item = self._task.exposed.itemsize
        start = (number - (self._keeps and number > rank)) * self._width * item
        memory = self._board.stage(rank, (self._first + chunk) % 2)
        return memory[start : start + count * item].view(self._task.exposed.dtype)


def _stage_bytes(board: Board, task: Task, keeps: bool) -> int:
    """How much of an area a chunk takes; the same on all ranks."""
    pair = keeps and board.size == 2
    return PAIR_BYTES if pair and task.exposed.nbytes > 4 * PAIR_BYTES else STAGE_BYTES
