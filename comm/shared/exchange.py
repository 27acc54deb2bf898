"""Run a direct schedule on shared memory.

The peers reach registered arrays where they lie. Others pass through the staging areas of
the board, in chunks, two areas in turns: while one chunk is still in use the next is staged.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import accumulate, islice
from typing import Any

import msgpack
import numpy as np

from ringlet.comm.arrays import address_of
from ringlet.comm.calls.channel import Link
from ringlet.comm.calls.operation import Meeting, Never, Operation, Program
from ringlet.comm.schedules.direct import (
    Combine,
    Fence,
    Read,
    Share,
    Stage,
    Unstage,
    all_reduce_staged,
    direct_steps,
    transfers,
)
from ringlet.comm.schedules.schedule import Copy
from ringlet.comm.shared.attach import AttachedCombiner, Vanished
from ringlet.comm.shared.combine import combine_in_order
from ringlet.comm.shared.control_block import STAGE_BYTES, Board
from ringlet.comm.shared.exposure import take_back, writing
from ringlet.comm.shared.regions import UNREGISTERED, Regions
from ringlet.comm.shared.staging import Staged, Task
from ringlet.comm.sockets.wire import Array, Signature


def exchange(link: Link, board: Board, task: Task) -> Program:
    """Run the task; when it returns every array may be written again, by everybody."""
    place = UNREGISTERED if task.short else link.regions.place(task.exposed)
    staged = stage_early(board, task, place)
    try:
        turn = yield from _announce(link, board, place, address_of(task.exposed))
        try:
            for _ in stretches(link.regions, board, task, staged, turn):
                yield from _meet(board)
        except Vanished:
            yield Never()
    except BaseException:  # the operation ends early
        take_back(board, task.exposed)
        raise
    _count(link, task)


def stage_early(board: Board, task: Task, place: tuple[int, int]) -> Staged | None:
    """Stage the first chunk before the first fence, where nobody can read the array as it lies."""
    if place != UNREGISTERED or attachable(board, task):
        return None
    staged = Staged(board, task)
    staged.stage(0)
    return staged


def stretches(
    regions: Regions, board: Board, task: Task, staged: Staged | None, turn: int
) -> Iterator[None]:
    """All that is left to do after the first fence; yields wherever there is one more.

    Where the arrays lie (`turn`) decides how, for all ranks alike. Raises Vanished when a peer's
    memory is gone.
    """
    places = board.places(turn)
    same = all(region == places[0][0] for region, _ in places)
    if same and places[0] != UNREGISTERED:
        yield from _run_registered(regions, board, task, places)
    elif attachable(board, task):
        yield from _run_attached(board, task, turn)
    else:
        if staged is None:  # some arrays are registered and some are not: stage them all
            staged = Staged(board, task)
            staged.stage(0)
        if not same:
            yield
        yield from _run_staged(board, task, staged)


def attachable(board: Board, task: Task) -> bool:
    """Whether the ranks reach this task's arrays through the kernel: the same on all ranks."""
    return board.attaches(task.operation, task.exposed.nbytes)


def meet(link: Link, board: Board) -> Program:
    """A barrier: its first fence is all. As it stages nothing it takes no turn of the areas, here
    and in `prepared`: on another rank it may go the other way."""
    yield from _announce(link, board, UNREGISTERED, 0)


def hear(link: Link, board: Board, root: int, word: Signature) -> Program:
    """The root's word on what it sends, on all ranks."""
    if link.rank == root:
        board.write_note(msgpack.packb(word))
    turn = yield from _announce(link, board, UNREGISTERED, 0)
    operation, dtype, shape, detail = msgpack.unpackb(board.read_note(root, turn))
    return Signature(operation, dtype, tuple(shape), detail)


def _announce(link: Link, board: Board, place: tuple[int, int], address: int) -> Program:
    """Meet the others, and see that all are in the same call; returns the board's turn."""
    turn = board.announce(call_number(link.signature, link.sequence), *place, address)
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


def _run_registered(
    regions: Regions, board: Board, task: Task, places: list[tuple[int, int]]
) -> Iterator[None]:
    """Read the peers' arrays where they lie."""
    exposed = [
        task.exposed
        if rank == board.rank
        else regions.view(region, board.ranks[rank], offset, task.exposed)
        for rank, (region, offset) in enumerate(places)
    ]
    table = [task.pieces(array, board.size) for array in exposed]
    yield from _take(board, task, task.operation, task.slots, table, first=1)


def _run_staged(board: Board, task: Task, staged: Staged) -> Iterator[None]:
    """Chunk by chunk through the staging areas; the first chunk is there already."""
    operation = staged.operation
    if operation == "all_reduce":
        yield from _run_staged_all_reduce(board, task, staged)
        return
    last = -1 if direct_steps(operation, board.rank, board.size, task.root)[-1] == Fence() else None
    for chunk in range(staged.chunks):
        if chunk:
            staged.stage(chunk)
            yield
        slots, table = staged.views(chunk)
        # The areas take turns, so the fence at the end is the next chunk's first.
        yield from _take(board, task, operation, slots, table, first=1, last=last)


def _run_staged_all_reduce(board: Board, task: Task, staged: Staged) -> Iterator[None]:
    """The first chunk is staged and the first fence passed already."""
    steps = all_reduce_staged(board.rank, board.size, staged.chunks)
    for step in islice(steps, 2, None):
        if isinstance(step, Fence):
            yield
        elif isinstance(step, Stage):
            staged.stage(step.chunk)
        elif isinstance(step, Unstage):
            staged.fetch(step.chunk)
        else:
            assert isinstance(step, Share)
            target, others = staged.shared(step.chunk)
            sources = [*others[: board.rank], target, *others[board.rank :]]
            combine_in_order(target, sources, task.op, others)
    board.free_areas()


def _run_attached(board: Board, task: Task, turn: int) -> Iterator[None]:
    """Reach the peers' arrays through the kernel."""
    assert board.attached is not None
    read, addresses, call = board.attached.read, board.addresses(turn), board.calls(turn)[0]
    pieces = task.pieces(task.exposed, board.size)
    offsets = [0, *accumulate(piece.nbytes for piece in pieces)]  # of a root's, too
    for step in direct_steps(task.operation, board.rank, board.size, task.root)[1:]:
        if isinstance(step, Fence):
            yield
        elif isinstance(step, Combine | Share):
            target, mine = _own(task.slots, step.slot), pieces[step.slot]
            starts = [address + offsets[step.slot] for address in addresses]
            combine = AttachedCombiner(board.attached, board.rank, task.op, target.dtype)
            if isinstance(step, Share):
                with writing(board):
                    combine(target, mine, starts, partial(board.lent, call))
            else:
                combine(target, mine, starts)
        elif isinstance(step, Read):
            source = step.source % len(pieces)
            read(step.peer, addresses[step.peer] + offsets[source], _own(task.slots, step.slot))
        else:
            assert isinstance(step, Copy)
            np.copyto(_own(task.slots, step.slot), pieces[step.source])


def _take(
    board: Board,
    task: Task,
    operation: str,
    slots: Sequence[Array | None],
    table: list[list[Array]],
    first: int,
    last: int | None = None,
) -> Iterator[None]:
    """Take the steps; `table[rank][slot]` is what may be read of each rank."""
    for step in direct_steps(operation, board.rank, board.size, task.root)[first:last]:
        if isinstance(step, Fence):
            yield
        elif isinstance(step, Combine):
            target = _own(slots, step.slot)
            combine_in_order(target, [exposed[step.slot] for exposed in table], task.op)
        elif isinstance(step, Share):
            everybody = [exposed[step.slot] for exposed in table]
            others = everybody[: board.rank] + everybody[board.rank + 1 :]
            combine_in_order(everybody[board.rank], everybody, task.op, others)
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


def _count(link: Link, task: Task) -> None:
    """Count what was read and stored across ranks, on both sides."""
    lengths = [piece.nbytes for piece in task.pieces(task.exposed, link.size)]
    for receiver, source, slot in transfers(task.operation, link.rank, link.size, task.root):
        nbytes = lengths[slot % len(lengths)]
        if receiver == link.rank:
            link.count_received(source, nbytes)
        else:
            link.count_sent(receiver, nbytes)
