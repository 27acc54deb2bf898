"""All-reduces on shared memory with all that can be prepared prepared.

For a few bytes, and still for a megabyte, the Python around the fences costs as much as the work.
What depends only on the array's place, dtype, shape and the reduction is made at the first call
and kept. The schedules are those of `direct`; the general path (`exchange`) does the same with
any array, and the patient operation takes over where a rank has to be waited for longer than a
moment or is in another call.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ringlet.comm.arrays import REDUCTIONS, check_op, parts, working_dtype
from ringlet.comm.board import Board
from ringlet.comm.channel import Channel
from ringlet.comm.combine import block_elements
from ringlet.comm.exchange import call_number, disagreeing, run_mixed
from ringlet.comm.operation import Meeting, Operation, Program
from ringlet.comm.regions import UNREGISTERED
from ringlet.comm.staging import SHORT_BYTES, Task
from ringlet.comm.stats import Traffic
from ringlet.comm.wire import Array, Signature

MOST_RECIPES = 1024


class _Recipe(NamedTuple):
    """What one kind of call needs, made once."""

    signature: Signature
    place: tuple[int, int]  # UNREGISTERED: through the staging areas
    areas: list[list[Array]]  # [turn][rank]: where short arrays are staged
    traffic: dict[int, Traffic]
    nbytes: int


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

    def announce(self) -> int:
        """Meet the others and see that all are in this call; returns the board's turn."""
        call = call_number(self._recipe.signature, self.sequence)
        turn = self._board.announce(call, *self._recipe.place)
        phase = self._board.arrive()
        if not self._board.watch(phase) or not self._board.agree(call, turn):
            self._wait(phase, turn)
        return turn

    def meet(self) -> None:
        """One more fence."""
        phase = self._board.arrive()
        if not self._board.watch(phase):
            self._wait(phase, None)

    def stage_after_all(self, x: Array, op: str) -> None:
        """Some rank's array is registered and some other's is not: all go by the staging areas."""
        operation = self._operation()
        data = x.reshape(-1)
        task = Task("all_reduce", parts(data, self._board.size), data, cut=True, op=op)
        operation.start(run_mixed(self._board, task), x.nbytes)
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


class PreparedAllReduce:
    """The all-reduces of one channel that are short, or on registered memory."""

    def __init__(self, channel: Channel, board: Board) -> None:
        self._channel, self._board = channel, board
        self._recipes: dict[tuple[Any, ...], _Recipe] = {}
        self._blocks: dict[tuple[Any, ...], list[_Block]] = {}

    def recipe(self, x: Array, op: str) -> _Recipe | None:
        """How to reduce the array here; None: it is neither short nor registered."""
        flags = x.flags
        if not (flags.c_contiguous and flags.writeable and x.size) or self._channel.pending:
            return None
        place = self._channel.endpoint.regions.place(x)
        short = x.nbytes <= SHORT_BYTES
        if not short and place == UNREGISTERED:
            return None
        # Short ones are staged, whether they are registered or not: that saves two fences.
        key = (x.dtype, x.shape, op, UNREGISTERED if short else place)
        return self._recipes.get(key) or self._prepare(x, op, key, short)

    def run(self, recipe: _Recipe, x: Array, op: str, timeout: float, label: str) -> Array:
        """Reduce in place; returns `x`."""
        call = _Call(self._channel, self._board, recipe, timeout, label)
        try:
            if recipe.areas:
                self._run_short(call, recipe, x, op)
            else:
                self._run_registered(call, x, op)
        except BaseException as error:
            self._channel.break_off(error)
            raise
        call.end()
        return x

    def _run_short(self, call: _Call, recipe: _Recipe, x: Array, op: str) -> None:
        areas = recipe.areas[self._board.next_area()]
        np.copyto(areas[self._board.rank], x)
        call.announce()
        _combine([_Block(x, areas, ())], op)

    def _run_registered(self, call: _Call, x: Array, op: str) -> None:
        places = tuple(self._board.places(call.announce()))
        if any(region != places[0][0] for region, _ in places):
            call.stage_after_all(x, op)
            return
        key = (places, x.dtype, x.size)
        _combine(self._blocks.get(key) or self._cut(x, places, key), op)
        call.meet()

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
        self._recipes[key] = recipe = _Recipe(signature, key[-1], areas, traffic, x.nbytes)
        return recipe

    def _cut(
        self, x: Array, places: tuple[tuple[int, int], ...], key: tuple[Any, ...]
    ) -> list[_Block]:
        """This rank's part of the array, on all ranks, in blocks."""
        board, regions, flat = self._board, self._channel.endpoint.regions, x.reshape(-1)
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
