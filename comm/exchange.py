"""Run a direct schedule on shared memory.

Registered arrays are read by the peers where they lie. Others pass through the staging areas of
the board, in chunks, two areas in turns: while one chunk is still being read the next is staged.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack
import numpy as np

from ringlet.comm.arrays import REDUCTIONS, parts, working_dtype
from ringlet.comm.board import STAGE_BYTES, Board
from ringlet.comm.channel import Link
from ringlet.comm.direct import Combine, Fence, Read, direct_steps, reads
from ringlet.comm.operation import Meeting, Never, Operation, Program
from ringlet.comm.regions import UNREGISTERED
from ringlet.comm.schedule import Copy
from ringlet.comm.wire import Array, Signature

BLOCK = 64 * 1024
"""Elements combined at once: what is read of all ranks stays in the second-level cache."""

SHORT_BYTES = 16 * 1024
"""Up to here every rank combines the whole array itself, which saves a fence."""


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


def exchange(link: Link, board: Board, task: Task) -> Program:
    """Run the task; when it returns every array may be written again, by everybody."""
    place = link.regions.place(task.exposed)
    if place == UNREGISTERED:
        staged = _Staged(board, task)
        staged.stage(0)
    turn = yield from _announce(link, board, place)
    regions = {region for region, _ in board.places(turn)}
    if regions == {place[0]} and place != UNREGISTERED:
        yield from _run_registered(link, board, task, board.places(turn))
    elif place != UNREGISTERED:
        yield from run_mixed(board, task)
    else:
        if regions != {UNREGISTERED[0]}:
            yield from _meet(board)  # others have just begun to stage: see `run_mixed`
        yield from _run_staged(board, task, staged)
    _count(link, task)


def run_mixed(board: Board, task: Task) -> Program:
    """This rank's array is registered and some other's is not, as all know now: stage it too."""
    staged = _Staged(board, task)
    staged.stage(0)
    yield from _meet(board)
    yield from _run_staged(board, task, staged)


def hear(link: Link, board: Board, root: int, word: Signature) -> Program:
    """The root's word on what it sends, on all ranks."""
    if link.rank == root:
        board.write_note(msgpack.packb(word))
    turn = yield from _announce(link, board, UNREGISTERED)
    operation, dtype, shape, detail = msgpack.unpackb(board.read_note(root, turn))
    return Signature(operation, dtype, tuple(shape), detail)


def _announce(link: Link, board: Board, place: tuple[int, int]) -> Program:
    """Meet the others, and see that all are in the same call; returns the board's turn."""
    turn = board.announce(call_number(link.signature, link.sequence), *place)
    yield from _meet(board)
    yield from disagreeing(link.operation, board, turn)
    return turn


def disagreeing(operation: Operation, board: Board, turn: int) -> Program:
    """Does nothing if all are in one call. If not, all ranks see it here: each says in words
    what it is in, and waits for the CollectiveMismatch that the others' words must bring."""
    calls = board.calls(turn)
    if any(call != calls[0] for call in calls):
        operation.tell()
        yield Never()


def fits(task_dtype: np.dtype[Any], size: int) -> bool:
    """Whether elements are small enough for the staging areas."""
    return task_dtype.itemsize * size <= STAGE_BYTES


@lru_cache(maxsize=4096)
def _hash(signature: Signature) -> int:
    digest = hashlib.blake2b(repr(tuple(signature)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def call_number(signature: Signature, sequence: int) -> int:
    """A call in 64 bits: ranks in different calls have different numbers."""
    if signature.operation == "scatter":  # only the root knows the array
        signature = signature._replace(dtype="", shape=())
    return (_hash(signature) + sequence * 0x9E3779B97F4A7C15) % 2**64


def _meet(board: Board) -> Program:
    """A fence."""
    phase = board.arrive()
    if not board.complete(phase):
        yield Meeting(board, phase)


def _run_registered(link: Link, board: Board, task: Task, places: list[tuple[int, int]]) -> Program:
    """Read the peers' arrays where they lie."""
    exposed = [
        task.exposed
        if rank == link.rank
        else link.regions.view(region, link.world_rank(rank), offset, task.exposed)
        for rank, (region, offset) in enumerate(places)
    ]
    table = [_cut(task, array, link.size) for array in exposed]
    yield from _take(board, task, task.operation, task.slots, table, first=1)


def _run_staged(board: Board, task: Task, staged: "_Staged") -> Program:
    """Chunk by chunk through the staging areas; the first chunk is there already."""
    operation = staged.operation
    last = -1 if direct_steps(operation, board.rank, board.size, task.root)[-1] == Fence() else None
    for chunk in range(staged.chunks):
        if chunk:
            staged.stage(chunk)
            yield from _meet(board)
        slots, table = staged.views(chunk)
        # The areas take turns, so the fence at the end is the next chunk's first.
        yield from _take(board, task, operation, slots, table, first=1, last=last)


def _take(
    board: Board,
    task: Task,
    operation: str,
    slots: Sequence[Array | None],
    table: list[list[Array]],
    first: int,
    last: int | None = None,
) -> Program:
    """Take the steps; `table[rank][slot]` is what may be read of each rank."""
    for step in direct_steps(operation, board.rank, board.size, task.root)[first:last]:
        if isinstance(step, Fence):
            yield from _meet(board)
        elif isinstance(step, Combine):
            target = _own(slots, step.slot)
            combine_in_order(target, [exposed[step.slot] for exposed in table], task.op)
            shown = table[board.rank][step.slot]
            if operation == "all_reduce" and shown.ctypes.data != target.ctypes.data:
                np.copyto(shown, target)
        elif isinstance(step, Read):
            source = table[step.peer]
            np.copyto(_own(slots, step.slot), source[step.source % len(source)])
        else:
            assert isinstance(step, Copy)
            np.copyto(_own(slots, step.slot), table[board.rank][step.source])


def _own(slots: Sequence[Array | None], number: int) -> Array:
    slot = slots[number]
    assert slot is not None
    return slot


def combine_in_order(target: Array, sources: list[Array], op: str | None) -> None:
    """target = sources[0] op sources[1] op ..., in this order, in blocks that fit the cache.

    `target` may be one of the sources. float16 is combined in float32.
    """
    assert op is not None
    ufunc, dtype = REDUCTIONS[op], working_dtype(target.dtype, op)
    plain = dtype == target.dtype
    wide: dict[str, Any] = {} if plain else {"dtype": dtype}
    scratch = np.empty(min(BLOCK, target.size), dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, target.size, BLOCK):
            out = target[start : start + BLOCK]
            first, *others = (source[start : start + BLOCK] for source in sources)
            total = scratch[: out.size]
            for number, other in enumerate(others, 2):
                into = out if plain and number == len(sources) else total
                ufunc(first, other, out=into, **wide)
                first = into
            if op == "mean":
                np.divide(first, len(sources), out=first)
            if not plain:
                np.copyto(out, first, casting="same_kind")


def _cut(task: Task, array: Array, size: int) -> list[Array]:
    return parts(array, size) if task.cut else [array]


class _Staged:
    """The chunks of a task: columns of all its parts, side by side in the staging areas."""

    def __init__(self, board: Board, task: Task) -> None:
        self._board, self._task = board, task
        nbytes = task.exposed.nbytes
        whole = task.operation == "all_reduce" and nbytes <= SHORT_BYTES
        self.operation = "all_reduce_whole" if whole else task.operation
        self._pieces = [task.exposed] if whole else _cut(task, task.exposed, board.size)
        self._slots = [task.exposed] if whole else task.slots
        count = len(self._pieces)
        width = STAGE_BYTES // (task.exposed.itemsize * count)
        self._width = width // 64 * 64 or width
        longest = max(piece.size for piece in self._pieces)
        self.chunks = max(1, -(-longest // self._width))
        self._turn = 0

    def stage(self, chunk: int) -> None:
        """Copy this rank's part of the chunk to where the peers can read it."""
        self._turn = self._board.next_area()
        if not self._task.shown:
            return
        for piece, area in zip(
            self._columns(self._pieces, chunk), self._areas(chunk, self._board.rank), strict=True
        ):
            np.copyto(area, piece)

    def views(self, chunk: int) -> tuple[list[Array | None], list[list[Array]]]:
        """This rank's slots, and what can be read of every rank."""
        table = [self._areas(chunk, rank) for rank in range(self._board.size)]
        start, stop = chunk * self._width, (chunk + 1) * self._width
        return [None if slot is None else slot[start:stop] for slot in self._slots], table

    def _columns(self, pieces: Sequence[Array], chunk: int) -> list[Array]:
        start, stop = chunk * self._width, (chunk + 1) * self._width
        return [piece[start:stop] for piece in pieces]

    def _areas(self, chunk: int, rank: int) -> list[Array]:
        """Where a rank stages each piece's columns."""
        memory, item = self._board.stage(rank, self._turn), self._task.exposed.itemsize
        areas = []
        for number, piece in enumerate(self._columns(self._pieces, chunk)):
            start = number * self._width * item
            areas.append(memory[start : start + piece.size * item].view(self._task.exposed.dtype))
        return areas


def _count(link: Link, task: Task) -> None:
    """Count what was read, on both sides."""
    lengths = [piece.nbytes for piece in _cut(task, task.exposed, link.size)]
    for reader, source, slot in reads(task.operation, link.rank, link.size, task.root):
        nbytes = lengths[slot % len(lengths)]
        if reader == link.rank:
            link.count_received(source, nbytes)
        else:
            link.count_sent(reader, nbytes)
