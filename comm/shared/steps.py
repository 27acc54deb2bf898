"""Steps that can be run: the moves of one kind of call, bound to memory.

What stays where it is (staging areas, registered arrays of peers) is bound once. Of this rank's own
arrays, which are others in every call, a step knows the part; of arrays that are reached through
the kernel, the offset.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from ringlet.comm.arrays import CACHE_LINE, Array, address_of
from ringlet.comm.machine import level_2_bytes
from ringlet.comm.schedules.direct import Move
from ringlet.comm.shared.attach import ProcessMemory, Vanished
from ringlet.comm.shared.combine import Combiner, block_elements
from ringlet.comm.shared.control_block import ControlBlock
from ringlet.comm.shared.exposure import writing
from ringlet.comm.shared.fused import MOST_BYTES, IntoBoth, sum_into_both
from ringlet.comm.shared.lower import AREA, Span

BLOCK_SHARES = 4
"""The blocks that are combined at once are so small a part of the cache that those of the peers are
still there, too, when they are written. With two ranks and 2 MiB, blocks of 96, 128, 192, 256 and
384 KiB take 1.78, 1.69, 1.65, 1.64 and 1.78 ms for 16 MiB."""

SHORT = 8
"""Where two arrays fill less of the cache than one in so many, one pass is no faster."""

TRIALS = 6
"""The calls that find out which way is faster; the first meets new pages."""

Own: TypeAlias = tuple[Array, Array]
"""This rank's source and result in one call."""

Part: TypeAlias = tuple[int, slice]
"""A part of the source (0) or of the result (1)."""

Operand: TypeAlias = Array | Part


class Peers(NamedTuple):
    """Where all ranks' sources lie in their own processes, and in which call."""

    addresses: list[int]
    call: int


class BoundMove(Protocol):
    """One move."""

    def __call__(self, own: Own, peers: Peers | None) -> None:
        """Do it."""


class BoundCopy:
    """target = source."""

    def __init__(self, target: Operand, source: Operand) -> None:
        self._target, self._source = target, source

    def __call__(self, own: Own, peers: Peers | None) -> None:
        target, source = self._target, self._source
        found = own[source[0]][source[1]] if isinstance(source, tuple) else source
        if isinstance(target, tuple):
            own[target[0]][target[1]] = found
        else:
            target[...] = found


class BoundCombine:
    """target = sources[0] op sources[1] op ..., and then every copy = target.

    What is longer than the cache goes block by block: a block is stored everywhere while it is in
    the cache. It is one loop, not a step for each block, as the arrays have driven all that Python
    needs out of the cache.
    """

    def __init__(
        self, combine: Combiner, target: Part, sources: list[Operand], copies: list[Array]
    ) -> None:
        self._combine, self._target = combine, target
        self._sources, self._copies = sources, copies
        count, arrays = target[1].stop - target[1].start, len(sources)
        itemsize = combine.dtype.itemsize
        long = arrays * count * itemsize > level_2_bytes()
        self._block = block_elements(itemsize, arrays) if long else max(count, 1)

    def __call__(self, own: Own, peers: Peers | None) -> None:
        memory, part = self._target
        out, step = own[memory][part], self._block
        sources = [own[s[0]][s[1]] if isinstance(s, tuple) else s for s in self._sources]
        for start in range(0, out.size, step):
            block = slice(start, start + step)
            into = out[block]
            self._combine(into, [source[block] for source in sources])
            for copy in self._copies:
                np.copyto(copy[block], into)


class BoundInBoth(BoundCombine):
    """The same of two arrays that both become their sum: block by block, or in one pass.

    Each way does some of the first calls, and the faster the rest: which one is depends on the
    caches and on BLAS, and no bit depends on it.
    """

    def __init__(
        self,
        combine: Combiner,
        target: Part,
        sources: list[Operand],
        copies: list[Array],
        into_both: IntoBoth,
    ) -> None:
        super().__init__(combine, target, sources, copies)
        self._into_both, self._trials = into_both, TRIALS
        self._seconds = [float("inf")] * 2  # block by block, in one pass

    def __call__(self, own: Own, peers: Peers | None) -> None:
        once = self._trials % 2 if self._trials else self._seconds[1] < self._seconds[0]
        started = time.perf_counter()
        if once:
            x, y = [own[s[0]][s[1]] if isinstance(s, tuple) else s for s in self._sources]
            self._into_both(x, y)
        else:
            super().__call__(own, peers)
        if self._trials:
            self._trials -= 1
            seconds = time.perf_counter() - started
            self._seconds[once] = min(self._seconds[once], seconds)


class BoundPair:
    """target = first op second, where one ufunc does it."""

    def __init__(self, ufunc: np.ufunc, target: Part, first: Operand, second: Operand) -> None:
        self._ufunc, self._target, self._first, self._second = ufunc, target, first, second
        # NumPy need not look for overlaps where the result goes into an operand itself.
        self._in_first = isinstance(first, tuple) and first == target
        self._in_second = isinstance(second, tuple) and second == target

    def __call__(self, own: Own, peers: Peers | None) -> None:
        first, second, target = self._first, self._second, self._target
        a = own[first[0]][first[1]] if isinstance(first, tuple) else first
        b = own[second[0]][second[1]] if isinstance(second, tuple) else second
        if self._in_first:
            self._ufunc(a, b, out=a)
        elif self._in_second:
            self._ufunc(a, b, out=b)
        else:
            self._ufunc(a, b, out=own[target[0]][target[1]])


class BoundRead:
    """target = an array of a peer's, read through the kernel; `offset` is in bytes."""

    def __init__(self, processes: ProcessMemory, target: Part, peer: int, offset: int) -> None:
        self._read, self._target = processes.read, target
        self._peer, self._offset = peer, offset

    def __call__(self, own: Own, peers: Peers | None) -> None:
        assert peers is not None
        memory, part = self._target
        self._read(self._peer, peers.addresses[self._peer] + self._offset, own[memory][part])


class BoundAttached:
    """target = this rank's source combined with the peers', which the kernel reads; if `shares`,
    the result is stored in theirs, too. `offset` is theirs, in bytes.

    Goes block by block. The Python is short: the arrays have driven all that it needs out of the
    cache.
    """

    def __init__(
        self,
        control: ControlBlock,
        processes: ProcessMemory,
        combine: Combiner,
        target: Part,
        source: Part,
        offset: int,
        shares: bool,
    ) -> None:
        self._control, self._processes, self._combine = control, processes, combine
        self._target, self._source = target, source
        self._offset, self._shares = offset, shares
        self._peers = [peer for peer in range(control.size) if peer != control.rank]
        self._block = block_elements(combine.dtype.itemsize, BLOCK_SHARES * control.size)
        self._places: list[int] = []  # of the peers' arrays in their cache lines
        self._cells: list[tuple[int, Array, int]] = []  # peer, where to read into, its address

    def __call__(self, own: Own, peers: Peers | None) -> None:
        assert peers is not None
        starts = [address + self._offset for address in peers.addresses]
        out, mine = own[self._target[0]][self._target[1]], own[self._source[0]][self._source[1]]
        self._find_cells(starts)
        if self._shares:
            with writing(self._control):
                self._run(out, mine, starts, peers.call)
        else:
            self._run(out, mine, starts, None)

    def _run(self, out: Array, mine: Array, starts: list[int], call: int | None) -> None:
        """Raises Vanished when the peers' arrays are not exposed in the call any more."""
        step, item, combine = self._block, mine.itemsize, self._combine
        copy, put, first = self._processes.copy, self._processes.put, address_of(out)
        for start in range(0, mine.size, step):
            sources = [mine[start : start + step]]
            count, begin = sources[0].size, start * item
            nbytes = count * item
            for peer, cell, here in self._cells:
                copy(peer, starts[peer] + begin, here, nbytes)
                sources.insert(peer, cell[:count])
            combine(out[start : start + step], sources)
            if call is None:
                continue
            if not self._control.exposed(call):
                raise Vanished
            for peer in self._peers:
                put(peer, starts[peer] + begin, first + begin, nbytes)

    def _find_cells(self, starts: list[int]) -> None:
        places = [starts[peer] % CACHE_LINE for peer in self._peers]
        if places != self._places:
            self._places = places
            cells = self._processes.scratch(places, self._block, self._combine.dtype)
            self._cells = [
                (peer, cell, address_of(cell))
                for peer, cell in zip(self._peers, cells, strict=True)
            ]


class Stretch(NamedTuple):
    """What is done between two fences; `last` is whether no fence follows."""

    steps: list[BoundMove]
    last: bool


def bind(
    stretches: Sequence[Sequence[Move[Span]]],
    rank: int,
    reach: Callable[[Span], Array],
    combiner: Combiner | None,
) -> list[Stretch]:
    """The steps of a rank; `reach` finds what lies still: staging areas and peers' arrays."""

    def find(span: Span) -> Operand:
        own = span.rank == rank and span.memory < AREA
        return part_of(span) if own else reach(span)

    def step(move: Move[Span]) -> BoundMove:
        sources = [find(span) for span in move.sources]
        if len(sources) == 1:
            return BoundCopy(find(move.targets[0]), sources[0])
        assert combiner is not None
        own = next(span for span in move.targets if span.rank == rank)
        copies = [reach(span) for span in move.targets if span is not own]
        if combiner.is_ufunc and not copies:
            return BoundPair(combiner.ufunc, part_of(own), sources[0], sources[1])
        if combiner.is_ufunc and combiner.ufunc is np.add and move.targets == move.sources:
            into_both = sum_into_both(combiner.dtype)
            nbytes = 2 * (own.stop - own.start) * combiner.dtype.itemsize
            if into_both and level_2_bytes() // SHORT < nbytes <= MOST_BYTES:
                return BoundInBoth(combiner, part_of(own), sources, copies, into_both)
        return BoundCombine(combiner, part_of(own), sources, copies)

    return _stretches([[step(move) for move in moves] for moves in stretches])


def bind_attached(
    stretches: Sequence[Sequence[Move[Span]]],
    control: ControlBlock,
    processes: ProcessMemory,
    combiner: Combiner | None,
    itemsize: int,
) -> list[Stretch]:
    """The same where the peers' arrays are reached through the kernel."""

    def step(move: Move[Span]) -> BoundMove:
        target = next(span for span in move.targets if span.rank == control.rank)
        source, offset = move.sources[0], move.sources[0].start * itemsize
        if len(move.sources) > 1:
            assert combiner is not None
            mine, shares = move.sources[control.rank], len(move.targets) > 1
            return BoundAttached(
                control, processes, combiner, part_of(target), part_of(mine), offset, shares
            )
        if source.rank == control.rank:
            return BoundCopy(part_of(target), part_of(source))
        return BoundRead(processes, part_of(target), source.rank, offset)

    return _stretches([[step(move) for move in moves] for moves in stretches])


def part_of(span: Span) -> Part:
    """A span of this rank's source or result."""
    return span.memory, slice(span.start, span.stop)


def _stretches(steps: list[list[BoundMove]]) -> list[Stretch]:
    return [Stretch(own, at == len(steps) - 1) for at, own in enumerate(steps)]
