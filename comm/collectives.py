"""What each collective does with its arrays: lays out the slots, runs the schedule, finishes."""

from collections.abc import Sequence

import numpy as np

from ringlet.comm.algorithms import steps_of
from ringlet.comm.arrays import REDUCTIONS, flat, parts, store, working_dtype
from ringlet.comm.channel import Link
from ringlet.comm.exchange import Task, exchange, fits, hear
from ringlet.comm.operation import Program
from ringlet.comm.run import run
from ringlet.comm.wire import Array, Header, allocate


def all_reduce(link: Link, x: Array, op: str) -> Program:
    """In place; returns `x`."""
    if link.board is not None and fits(x.dtype, link.size):
        data = flat(x)
        task = Task("all_reduce", parts(data, link.size), data, cut=True, op=op)
        yield from exchange(link, link.board, task)
    else:
        data = flat(x).astype(working_dtype(x.dtype, op), copy=False)
        yield from _reduce(link, "all_reduce", parts(data, link.size), op)
        _finish(link, data, op)
    store(x, data)
    return x


def reduce_scatter(link: Link, x: Array, op: str, out: Array | None) -> Program:
    """x: (size * k, ...) -> (k, ...)."""
    if link.board is not None and fits(x.dtype, link.size):
        result = np.empty(_share(link, x), x.dtype) if out is None else out
        mine = flat(result)
        task = Task("reduce_scatter", _only(link, mine), flat(x), cut=True, op=op)
        yield from exchange(link, link.board, task)
        store(result, mine)
        return result
    wide = working_dtype(x.dtype, op)
    in_place = out is not None and np.may_share_memory(out, x)
    data = flat(x).astype(wide, copy=not in_place)
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
    if link.board is not None and fits(x.dtype, 1):
        yield from exchange(link, link.board, Task("all_gather", slots, flat(x), cut=False))
    else:
        yield from _move(link, "all_gather", slots)
    store(result, data)
    return result


def all_to_all(link: Link, x: Array, out: Array | None) -> Program:
    """x: (size * k, ...) -> the same shape."""
    result = np.empty(x.shape, x.dtype) if out is None else out
    data = flat(result)
    if np.may_share_memory(data, x):
        data = np.empty_like(data)
    source = flat(x)
    slots = parts(source, link.size) + parts(data, link.size)
    if link.board is not None and fits(x.dtype, link.size):
        yield from exchange(link, link.board, Task("all_to_all", slots, source, cut=True))
    else:
        yield from _move(link, "all_to_all", slots)
    store(result, data)
    return result


def broadcast(link: Link, x: Array, root: int) -> Program:
    """In place; returns `x`."""
    data = flat(x)
    if link.board is not None and fits(x.dtype, 1):
        task = Task("broadcast", [data], data, cut=False, root=root, shown=link.rank == root)
        yield from exchange(link, link.board, task)
    else:
        yield from _move(link, "broadcast", [data], root)
    if link.rank != root:
        store(x, data)
    return x


def reduce(link: Link, x: Array, root: int, op: str) -> Program:
    """In place on the root, which gets `x`; the others' arrays stay as they are."""
    at_root = link.rank == root
    if link.board is not None and fits(x.dtype, 1):
        data = flat(x)
        task = Task("reduce", [data], data, cut=False, op=op, root=root)
        yield from exchange(link, link.board, task)
    else:
        data = flat(x).astype(working_dtype(x.dtype, op), copy=not at_root)
        yield from _reduce(link, "reduce", [data], op, root)
        _finish(link, data, op)
    if not at_root:
        return None
    store(x, data)
    return x


def gather(link: Link, x: Array, root: int) -> Program:
    """x: shape -> (size, *shape) on the root."""
    data, result = flat(x), None
    slots: Sequence[Array | None] = _only(link, data)
    if link.rank == root:
        result = np.empty((link.size, *x.shape), x.dtype)
        rows = parts(result.reshape(-1), link.size)
        rows[root][...] = data
        slots = rows
    if link.board is not None and fits(x.dtype, 1):
        task = Task("gather", slots, data, cut=False, root=root)
        yield from exchange(link, link.board, task)
    else:
        yield from _move(link, "gather", slots, root)
    return result


def scatter(link: Link, x: Array | None, root: int) -> Program:
    """x: (size, *shape) on the root -> shape. The others learn shape and dtype on arrival."""
    at_root = x is not None and link.rank == root
    if link.board is not None:
        sent = yield from hear(link, link.board, root, link.signature)
    elif not at_root:
        header: Header = yield from link.peek(root)
        link.expect(header)
        sent = header.signature
    if at_root:
        assert x is not None
        data = flat(x)
        # A row of a 1-D array would be a scalar.
        result = x[root : root + 1].reshape(x.shape[1:]).copy()
        slots: Sequence[Array | None] = parts(data, link.size)
    else:
        result = allocate(sent._replace(shape=sent.shape[1:]))
        data = np.broadcast_to(np.empty(1, result.dtype), (result.size * link.size,))
        slots = _only(link, result.reshape(-1))
    if link.board is not None and fits(result.dtype, link.size):
        task = Task("scatter", slots, data, cut=True, root=root, shown=at_root)
        yield from exchange(link, link.board, task)
    else:
        yield from _move(link, "scatter", slots, root)
    return result


def barrier(link: Link) -> Program:
    """Nothing but a fence, or messages without content."""
    if link.board is not None:
        task = Task("barrier", [], np.empty(0, np.uint8), cut=False)
        yield from exchange(link, link.board, task)
        return
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
