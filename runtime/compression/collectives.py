"""Collectives of encoded arrays: for activations, and with residuals for gradients.

All-reduce and reduce-scatter are not rings, which would encode a sum again at each hop. Every
number is encoded at most twice, on its way to the rank that sums it and on its way back; sums are
made in float32, in the order of ranks. Two ranks exchange what they have, encoded once, and both
add what both decode: as many bytes, in one round. On one rank nothing is encoded.
"""

from collections.abc import Callable, Generator, Sequence
from functools import partial, wraps
from typing import Any, TypeAlias

import numpy as np

from ringlet.comm import Group, Work
from ringlet.comm.arrays import check_array, flat, store
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.compression.codecs import Codec
from ringlet.runtime.compression.packing import PackedGroup

Phases: TypeAlias = Generator[Work, Any, Array]
"""A computation with collectives in it, written from top to bottom: it yields the Work of each
asynchronous collective, is sent what its `wait()` returned, and returns the result. While it is
suspended the caller computes."""


class PhasedWork:
    """Phases in progress: the first begins at once, the others when they are reached."""

    def __init__(self, phases: Phases) -> None:
        self._phases = phases
        self._work: Work | None = None
        self._result: Array | None = None
        self._phase = 0
        self.ended = False
        self._next()

    def reach(self, phase: int) -> None:
        """Wait until this phase (1, 2, ...) has begun, or none is left."""
        while self._phase < phase and not self.ended:
            self._next()

    def wait(self) -> Any:
        """Go through all phases and return the result."""
        while not self.ended:
            self._next()
        return self._result

    def _next(self) -> None:
        arrived = None if self._work is None else self._work.wait()
        try:
            self._work = self._phases.send(arrived)
            self._phase += 1
        except StopIteration as end:
            self._work, self._result, self.ended = None, end.value, True


def _collective(phases: Callable[[Group, Array, Codec, str], Phases]) -> Callable[..., Any]:
    """Make a collective: (group, x, codec, *, async_op=False, label="") -> its result.

    With `async_op` the result's `wait()` issues the rest: all ranks must wait in the same order.
    """

    @wraps(phases)
    def run(
        group: Group, x: Array, codec: Codec, *, async_op: bool = False, label: str = ""
    ) -> Any:
        work = PhasedWork(phases(group, x, codec, label))
        return work if async_op else work.wait()

    return run


@_collective
def all_reduce(group: Group, x: Array, codec: Codec, label: str) -> Phases:
    """Sum the ranks' float32 arrays in place and return `x`. Every rank gets the same bits."""
    _check(x, writable=True)
    if group.size > 1 and x.size:
        data = yield from sum_encoded(group, flat(x), codec, label=label)
        store(x, data)
    return x


@_collective
def reduce_scatter(group: Group, x: Array, codec: Codec, label: str) -> Phases:
    """Sum the ranks' float32 arrays (size * k, ...) and return this rank's part (k, ...)."""
    _check(x)
    if x.ndim == 0 or x.shape[0] % group.size:
        raise ValueError(f"the first axis of {x.shape} cannot be cut into {group.size} parts")
    shape = (x.shape[0] // group.size, *x.shape[1:])
    if group.size == 1 or x.size == 0:
        return x.reshape(group.size, *shape)[group.rank].copy()
    lost = [None] * group.size
    mine = yield from _sum_own(group, cut(flat(x), group.size), lost, codec, label)
    return mine.reshape(shape)


@_collective
def all_gather(group: Group, x: Array, codec: Codec, label: str) -> Phases:
    """Return the ranks' float32 arrays in the order of ranks: (size, *x.shape).

    This rank's own row, too, is what the others decode.
    """
    _check(x)
    result = np.empty((group.size, *x.shape), np.float32)
    if group.size == 1 or x.size == 0:
        result[...] = x
        return result
    rows = yield group.all_gather(codec.encode(x), async_op=True, label=label)
    for row, part in zip(rows, result.reshape(group.size, -1), strict=True):
        codec.decode(row, part)
    return result


class EncodedCollectives:
    """The collectives of a codec, called like those of device_collectives."""

    def __init__(self, codec: Codec) -> None:
        self.all_reduce = partial(all_reduce, codec=codec)
        self.all_gather = partial(all_gather, codec=codec)
        self.reduce_scatter = partial(reduce_scatter, codec=codec)


def all_reduce_bytes(size: int, codec: Codec, ranks: int) -> int:
    """Bytes that each rank sends to sum `size` elements."""
    if ranks == 2:
        return codec.nbytes(size)
    return 2 * reduce_scatter_bytes(size, codec, ranks)


def reduce_scatter_bytes(size: int, codec: Codec, ranks: int) -> int:
    """Bytes that each rank sends for an array of `size` elements in all."""
    return (ranks - 1) * codec.nbytes(-(-size // ranks))


def sum_encoded(
    group: Group | PackedGroup,
    x: Array,
    codec: Codec,
    residual: Array | None = None,
    label: str = "",
) -> Phases:
    """The phases of an all-reduce of the 1-D array `x`, in place, with `residual` added to it.

    `residual` takes what encoding loses, so that the residuals of all ranks, added to the result,
    are the exact sum (up to rounding). Of more than two ranks each sums one part, and loses some of
    its contribution in the others' parts, and of the sum in its own.
    """
    if group.size == 2:
        return (yield from _exchange(group, x, codec, residual, label))
    if residual is not None:
        add_residual(x, residual)
    parts = cut(x, group.size)
    lost = [None] * group.size if residual is None else cut(residual, group.size)
    mine = parts[group.rank]
    total = yield from _sum_own(group, parts, lost, codec, label)
    row = np.zeros(codec.nbytes(parts[0].size), np.uint8)
    _encode(total, row[: codec.nbytes(mine.size)], codec, mine, lost[group.rank])
    rows = yield group.all_gather(row, async_op=True, label=label)
    for rank, part in enumerate(parts):
        if rank != group.rank:
            codec.decode(rows[rank, : codec.nbytes(part.size)], part)
    return x


def _exchange(
    group: Group | PackedGroup, x: Array, codec: Codec, residual: Array | None, label: str
) -> Phases:
    """The same between two ranks: each adds what both decode, which are the same bits."""
    rows = np.empty((2, codec.nbytes(x.size)), np.uint8)
    mine, other = rows[group.rank], rows[1 - group.rank]
    if residual is None:
        codec.decode(codec.encode(x, mine), x)
    else:
        codec.feed_back(x, residual, mine)
    yield group.all_gather(mine, out=rows, async_op=True, label=label)
    return codec.decode(other, x, add=True)


def add_residual(x: Array, residual: Array) -> None:
    """Add what was lost to a gradient."""
    with np.errstate(over="ignore", invalid="ignore"):
        x += residual


def cut(x: Array, ranks: int) -> list[Array]:
    """Views of the 1-D array, one for each rank; the last ones may be shorter."""
    length = -(-x.size // ranks)
    return [x[rank * length : (rank + 1) * length] for rank in range(ranks)]


def _sum_own(
    group: Group | PackedGroup,
    parts: Sequence[Array],
    lost: Sequence[Array | None],
    codec: Codec,
    label: str,
) -> Generator[Work, Any, Array]:
    """Sum all ranks' parts for this rank; no part is longer than the first."""
    rows = np.zeros((group.size, codec.nbytes(parts[0].size)), np.uint8)
    for rank, part in enumerate(parts):
        if rank != group.rank:
            _encode(part, rows[rank, : codec.nbytes(part.size)], codec, None, lost[rank])
    rows = yield group.all_to_all(rows, async_op=True, label=label)
    mine = parts[group.rank]
    total = np.zeros_like(mine)
    for rank in range(group.size):
        if rank == group.rank:
            with np.errstate(over="ignore", invalid="ignore"):
                total += mine
        else:
            codec.decode(rows[rank, : codec.nbytes(mine.size)], total, add=True)
    return total


def _encode(x: Array, row: Array, codec: Codec, decoded: Array | None, lost: Array | None) -> None:
    """Encode `x` into `row`; store what it decodes to, and what is lost, where wanted."""
    codec.encode(x, row)
    if decoded is None:
        decoded = lost
    if decoded is not None:
        codec.decode(row, decoded)
    if decoded is not None and lost is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(x, decoded, out=lost)


def _check(x: Any, *, writable: bool = False) -> None:
    check_array(x, writable=writable)
    if x.dtype != np.float32:
        raise TypeError(f"only float32 can be encoded, not {x.dtype}")
