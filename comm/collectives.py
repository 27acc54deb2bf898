"""What each collective does with its arrays: lays out the slots, runs the schedule, finishes."""

from collections.abc import Sequence

import numpy as np

from ringlet.comm.algorithms import steps_of
from ringlet.comm.arrays import REDUCTIONS, flat, parts, store, working_dtype
from ringlet.comm.channel import Link
from ringlet.comm.operation import Program
from ringlet.comm.run import run
from ringlet.comm.wire import Array, Header, allocate


def all_reduce(link: Link, x: Array, op: str) -> Program:
    """In place; returns `x`."""
    data = flat(x).astype(working_dtype(x.dtype, op), copy=False)
    yield from _reduce(link, "all_reduce", parts(data, link.size), op)
    _finish(link, data, op)
    store(x, data)
    return x


def reduce_scatter(link: Link, x: Array, op: str, out: Array | None) -> Program:
    """x: (size * k, ...) -> (k, ...)."""
    data = x.astype(working_dtype(x.dtype, op), order="C", copy=True).reshape(-1)
    slots = parts(data, link.size)
    yield from _reduce(link, "reduce_scatter", slots, op)
    mine = slots[link.rank]
    _finish(link, mine, op)
    result = np.empty(_share(link, x), x.dtype) if out is None else out
    store(result, mine)
    return result


def all_gather(link: Link, x: Array, out: Array | None) -> Program:
    """x: shape -> (size, *shape)."""
    result = np.empty((link.size, *x.shape), x.dtype) if out is None else out
    data = flat(result)
    slots = parts(data, link.size)
    slots[link.rank][...] = flat(x)
    yield from _move(link, "all_gather", slots)
    store(result, data)
    return result


def all_to_all(link: Link, x: Array, out: Array | None) -> Program:
    """x: (size * k, ...) -> the same shape."""
    result = np.empty(x.shape, x.dtype) if out is None else out
    data = flat(result)
    if np.may_share_memory(data, x):
        data = np.empty_like(data)
    yield from _move(link, "all_to_all", parts(flat(x), link.size) + parts(data, link.size))
    store(result, data)
    return result


def broadcast(link: Link, x: Array, root: int) -> Program:
    """In place; returns `x`."""
    data = flat(x)
    yield from _move(link, "broadcast", [data], root)
    if link.rank != root:
        store(x, data)
    return x


def reduce(link: Link, x: Array, root: int, op: str) -> Program:
    """In place on the root, which gets `x`; the others' arrays stay as they are."""
    at_root = link.rank == root
    data = flat(x).astype(working_dtype(x.dtype, op), copy=not at_root)
    yield from _reduce(link, "reduce", [data], op, root)
    if not at_root:
        return None
    _finish(link, data, op)
    store(x, data)
    return x


def gather(link: Link, x: Array, root: int) -> Program:
    """x: shape -> (size, *shape) on the root."""
    if link.rank != root:
        yield from _move(link, "gather", _only(link, flat(x)), root)
        return None
    result = np.empty((link.size, *x.shape), x.dtype)
    slots = parts(result.reshape(-1), link.size)
    slots[root][...] = flat(x)
    yield from _move(link, "gather", slots, root)
    return result


def scatter(link: Link, x: Array | None, root: int) -> Program:
    """x: (size, *shape) on the root -> shape. The others learn shape and dtype on arrival."""
    if x is not None and link.rank == root:
        yield from _move(link, "scatter", parts(flat(x), link.size), root)
        return x[root : root + 1].reshape(x.shape[1:]).copy()  # a row of 1-D is no scalar
    header: Header = yield from link.peek(root)
    link.expect(header)
    sent = header.signature
    result = allocate(sent._replace(shape=sent.shape[1:]))
    yield from _move(link, "scatter", _only(link, result.reshape(-1)), root)
    return result


def barrier(link: Link) -> Program:
    """Nothing but messages without content."""
    yield from _move(link, "barrier", [np.empty(0, np.uint8)])


def _move(link: Link, operation: str, slots: Sequence[Array | None], root: int = 0) -> Program:
    return run(link, steps_of(operation, link.rank, link.size, root), slots)


def _reduce(
    link: Link, operation: str, slots: Sequence[Array | None], op: str, root: int = 0
) -> Program:
    steps = steps_of(operation, link.rank, link.size, root)
    return run(link, steps, slots, REDUCTIONS[op])


def _finish(link: Link, data: Array, op: str) -> None:
    if op == "mean":
        np.divide(data, link.size, out=data)


def _only(link: Link, mine: Array) -> list[Array | None]:
    return [mine if rank == link.rank else None for rank in range(link.size)]


def _share(link: Link, x: Array) -> tuple[int, ...]:
    return (x.shape[0] // link.size, *x.shape[1:])
