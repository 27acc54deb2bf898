"""All-reduces and barriers on shared memory with all that can be prepared prepared.

For a few bytes, and still for a megabyte, the Python around the fences costs as much as the work.
What depends only on the array's place, dtype, shape and the reduction is made at the first call
and kept; arrays that are neither short nor registered go the way of all (`exchange`), but are not
driven as operations. The patient operation takes over where a rank has to be waited for longer
than a moment or is in another call.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from ringlet.comm.arrays import REDUCTIONS, address_of, check_op, parts, working_dtype
from ringlet.comm.calls.channel import Channel
from ringlet.comm.calls.operation import Meeting, Never, Operation, Program
from ringlet.comm.shared.attach import AttachedCombiner, Vanished
from ringlet.comm.shared.combine import block_elements
from ringlet.comm.shared.control_block import Board
from ringlet.comm.shared.exchange import (
    attachable,
    call_number,
    disagreeing,
    stage_early,
    stretches,
)
from ringlet.comm.shared.exposure import take_back, writing
from ringlet.comm.shared.regions import UNREGISTERED
from ringlet.comm.shared.staging import SHORT_BYTES, Chunk, Staged, Task
from ringlet.comm.sockets.wire import Array, Signature
from ringlet.comm.stats import Traffic

MOST_RECIPES = 1024

MOST_CHUNKS = 16
"""Plans of longer arrays are not kept."""


class _Recipe(NamedTuple):
    """What one kind of call needs, made once."""

    signature: Signature
    place: tuple[int, int]  # UNREGISTERED: through the staging areas
    areas: list[list[Array]]  # [turn][rank]: where short arrays are staged
    plans: list[list[Chunk]]  # [turn]: how those of a few chunks are staged
    attached: AttachedCombiner | None  # long arrays are reached through the kernel
    bounds: list[int]  # of the ranks' parts, in bytes
    traffic: dict[int, Traffic]
    nbytes: int


_BARRIER = _Recipe(Signature("barrier", "", (), ""), UNREGISTERED, [], [], None, [], {}, 0)


class _Block(NamedTuple):
    """A piece of an array that fits the cache, on all ranks."""

    target: Array
    sources: Sequence[Array]  # all ranks', in order; the target may be among them
    copies: Sequence[Array]  # where else the result is to be stored


class _Call:
    """One call on its way through its fences."""

    def __init__(
        self, channel: Channel, board: Board, recipe: _Recipe, timeout: float, label: str
    ) -> None:
        self._channel, self._board, self._recipe = channel, board, recipe
        self._timeout, self._label = timeout, label
        self.started = time.monotonic()
        self.sequence = channel.number(recipe.signature)
        self._number = call_number(recipe.signature, self.sequence)

    def announce(self, address: int = 0) -> int:
        """Meet the others and see that all are in this call; returns the board's turn."""
        turn = self._board.announce(self._number, *self._recipe.place, address)
        phase = self._board.arrive()
        if not self._board.watch(phase) or not self._board.agree(self._number, turn):
            self._wait(phase, turn)
        return turn

    def lent(self) -> bool:
        """Whether the others' arrays may still be written in this call."""
        return self._board.lent(self._number)

    def meet(self) -> None:
        """One more fence."""
        phase = self._board.arrive()
        if not self._board.watch(phase):
            self._wait(phase, None)

    def finish(self, steps: Iterator[None]) -> None:
        """Take steps that yield at fences."""
        try:
            for _ in steps:
                self.meet()
        except Vanished:
            self.wait_for_loss()

    def wait_for_loss(self) -> None:
        """Some rank's memory is gone: the error that says why has to come."""
        operation = self._operation()
        operation.start(_never(), self._recipe.nbytes)
        operation.drive()

    def end(self) -> None:
        """Count it."""
        recipe, seconds = self._recipe, time.monotonic() - self.started
        self._channel.note(self.sequence, recipe.signature, seconds, recipe.traffic)

    def _wait(self, phase: int, turn: int | None) -> None:
        """The patient end of a fence: with deadlines, lost peers and mismatches."""
        operation = self._operation()
        operation.start(self._fence(operation, phase, turn), self._recipe.nbytes)
        operation.drive()

    def _operation(self) -> Operation:
        operation = self._channel.operation(
            self._recipe.signature, self.sequence, self._timeout, self._label
        )
        operation.counted = False  # `end` does it
        return operation

    def _fence(self, operation: Operation, phase: int, turn: int | None) -> Program:
        yield Meeting(self._board, phase)
        if turn is not None:
            yield from disagreeing(operation, self._board, turn)


def _never() -> Program:
    yield Never()


class Prepared:
    """The all-reduces and barriers of one channel."""

    def __init__(self, channel: Channel, board: Board) -> None:
        self._channel, self._board = channel, board
        self._regions = channel.endpoint.regions
        self._recipes: dict[tuple[Any, ...], _Recipe] = {}
        self._blocks: dict[tuple[Any, ...], list[_Block]] = {}

    def recipe(self, x: Array, op: str) -> _Recipe | None:
        """How to reduce the array here; None: as any other operation."""
        flags = x.flags
        if not (flags.c_contiguous and flags.writeable and x.size) or self._channel.pending:
            return None
        place = self._regions.place(x)
        short = x.nbytes <= SHORT_BYTES
        # Short ones are staged, whether they are registered or not: that saves two fences.
        key = (x.dtype, x.shape, op, self._board.attach_from, UNREGISTERED if short else place)
        return self._recipes.get(key) or self._prepare(x, op, key, short)

    def barrier(self, timeout: float, label: str) -> bool:
        """Wait for the others, unless other operations are in flight; whether it did."""
        if self._channel.pending:
            return False
        call = _Call(self._channel, self._board, _BARRIER, timeout, label)
        try:
            call.announce()
        except BaseException as error:
            self._channel.break_off(error)
            raise
        call.end()
        return True

    def run(self, recipe: _Recipe, x: Array, op: str, timeout: float, label: str) -> Array:
        """Reduce in place; returns `x`."""
        call = _Call(self._channel, self._board, recipe, timeout, label)
        try:
            if recipe.areas:
                self._run_short(call, recipe, x, op)
            elif recipe.plans:
                self._run_chunks(call, recipe, x, op)
            elif recipe.attached is not None:
                self._run_attached(call, recipe, recipe.attached, x)
            elif recipe.place == UNREGISTERED:
                self._run_plain(call, x, op)
            else:
                self._run_registered(call, x, op)
        except BaseException as error:
            self._channel.break_off(error)
            take_back(self._board, x)
            raise
        call.end()
        return x

    def _run_short(self, call: _Call, recipe: _Recipe, x: Array, op: str) -> None:
        areas = recipe.areas[self._board.next_area()]
        np.copyto(areas[self._board.rank], x)
        call.announce()
        _combine([_Block(x, areas, ())], op)

    def _run_chunks(self, call: _Call, recipe: _Recipe, x: Array, op: str) -> None:
        """As `all_reduce_staged` says."""
        board, data = self._board, x.reshape(-1)
        rank, plan = board.rank, recipe.plans[board.next_area()]
        for start, stop, cell in plan[0].staged:
            np.copyto(cell, data[start:stop])
        turn = call.announce()
        if any(region for region, _ in board.places(turn)):
            call.meet()  # others have just begun to stage
        for number, (_, start, stop, shared) in enumerate(plan):
            if number:
                call.meet()
                for start_, stop_, cell in plan[number - 1].staged:
                    np.copyto(data[start_:stop_], cell)
            if number + 1 < len(plan):
                for start_, stop_, cell in plan[number + 1].staged:
                    np.copyto(cell, data[start_:stop_])
            mine = data[start:stop]
            _combine([_Block(mine, [*shared[:rank], mine, *shared[rank:]], shared)], op)
        call.meet()
        for start, stop, cell in plan[-1].staged:
            np.copyto(data[start:stop], cell)
        board.free_areas()

    def _run_attached(
        self, call: _Call, recipe: _Recipe, combine: AttachedCombiner, x: Array
    ) -> None:
        """Registered arrays of others can be reached like all."""
        board, start, stop = self._board, *recipe.bounds[self._board.rank :][:2]
        addresses = board.addresses(call.announce(address_of(x)))
        mine = x.reshape(-1)[start // x.itemsize : stop // x.itemsize]
        try:
            with writing(board):
                combine(mine, mine, [address + start for address in addresses], call.lent)
        except Vanished:
            call.wait_for_loss()
        call.meet()

    def _run_plain(self, call: _Call, x: Array, op: str) -> None:
        task, board = self._task(x, op), self._board
        staged = stage_early(board, task, UNREGISTERED)
        turn = call.announce(address_of(x))
        call.finish(stretches(self._regions, board, task, staged, turn))

    def _run_registered(self, call: _Call, x: Array, op: str) -> None:
        turn = call.announce(address_of(x))
        places = tuple(self._board.places(turn))
        if any(region != places[0][0] for region, _ in places):
            call.finish(stretches(self._regions, self._board, self._task(x, op), None, turn))
            return
        key = (places, x.dtype, x.size)
        _combine(self._blocks.get(key) or self._cut(x, places, key), op)
        call.meet()

    def _task(self, x: Array, op: str) -> Task:
        data = x.reshape(-1)
        return Task("all_reduce", parts(data, self._board.size), data, cut=True, op=op)

    def _prepare(self, x: Array, op: str, key: tuple[Any, ...], short: bool) -> _Recipe | None:
        check_op(x, op)
        if working_dtype(x.dtype, op) != x.dtype:
            return None
        board, ranks = self._board, self._channel.ranks
        lengths = (
            [x.nbytes] if short else [part.nbytes for part in parts(x.reshape(-1), board.size)]
        )
        areas = [
            [
                board.stage(rank, turn)[: x.nbytes].view(x.dtype).reshape(x.shape)
                for rank in range(board.size)
            ]
            for turn in ((0, 1) if short else ())
        ]
        traffic = {
            ranks[peer]: _traffic(lengths, board.rank, peer)
            for peer in range(board.size)
            if peer != board.rank
        }
        signature = Signature("all_reduce", x.dtype.str, x.shape, op)
        if len(self._recipes) >= MOST_RECIPES:
            self._recipes.clear()
        plans: list[list[Chunk]] = []
        task, attached = self._task(x, op), None
        plain = not short and key[-1] == UNREGISTERED
        if plain and board.attached is not None and attachable(board, task):
            attached = AttachedCombiner(board.attached, board.rank, op, x.dtype)
        elif plain:
            staged = Staged(board, task)
            if staged.chunks <= MOST_CHUNKS:
                plans = [staged.plan(first) for first in (0, 1)]
        bounds = [0, *accumulate(lengths)]
        self._recipes[key] = recipe = _Recipe(
            signature, key[-1], areas, plans, attached, bounds, traffic, x.nbytes
        )
        return recipe

    def _cut(
        self, x: Array, places: tuple[tuple[int, int], ...], key: tuple[Any, ...]
    ) -> list[_Block]:
        """This rank's part of the array, on all ranks, in blocks."""
        board, regions, flat = self._board, self._regions, x.reshape(-1)
        everybody = [
            flat
            if rank == board.rank
            else regions.view(region, self._channel.ranks[rank], offset, flat)
            for rank, (region, offset) in enumerate(places)
        ]
        everybody = [parts(array, board.size)[board.rank] for array in everybody]
        others = everybody[: board.rank] + everybody[board.rank + 1 :]
        step = block_elements(x.itemsize, board.size)
        blocks = [
            _Block(
                everybody[board.rank][start : start + step],
                [array[start : start + step] for array in everybody],
                [array[start : start + step] for array in others],
            )
            for start in range(0, everybody[board.rank].size, step)
        ]
        if len(self._blocks) >= MOST_RECIPES:
            self._blocks.clear()
        self._blocks[key] = blocks
        return blocks


def _traffic(lengths: list[int], rank: int, peer: int) -> Traffic:
    """What a rank sends to a peer and receives from it: whole, or part by part."""
    if len(lengths) == 1:
        return Traffic(1, lengths[0], 1, lengths[0])
    # Each reads the other's copy of its own part, and stores the result there.
    both = lengths[rank] + lengths[peer]
    return Traffic(2, both, 2, both)


def _combine(blocks: list[_Block], op: str) -> None:
    """target = sources[0] op sources[1] op ..., and into the copies, block by block."""
    ufunc, scratch = REDUCTIONS[op], None
    with np.errstate(over="ignore", invalid="ignore"):
        for target, sources, copies in blocks:
            total = sources[0]
            for source in sources[1:-1]:
                if scratch is None or scratch.shape != target.shape:
                    scratch = np.empty_like(target)
                ufunc(total, source, out=scratch)
                total = scratch
            ufunc(total, sources[-1], out=target)
            if op == "mean":
                np.divide(target, len(sources), out=target)
            for copy in copies:
                np.copyto(copy, target)
