"""What each collective does with its arrays: lays out the slots, runs the schedule, finishes."""

from collections.abc import Sequence

import numpy as np

from ringlet.comm.arrays import REDUCTIONS, flat, parts, store, working_dtype
from ringlet.comm.calls.channel import Channel, Link
from ringlet.comm.calls.operation import Program
from ringlet.comm.schedules.algorithms import steps_of
from ringlet.comm.schedules.schedule import Receive
from ringlet.comm.shared.exchange import exchange, fits, hear, meet
from ringlet.comm.shared.staging import Task
from ringlet.comm.sockets.run import KEPT_SEGMENTS, kept_plan, make_plan, run
from ringlet.comm.sockets.wire import Array, Header, allocate


def all_reduce(link: Link, x: Array, op: str) -> Program:
    """In place; returns `x`."""
    if link.board is not None and fits(x.dtype, link.size):
        data = flat(x)
        task = Task("all_reduce", parts(data, link.size), data, cut=True, op=op)
        yield from exchange(link, link.board, task)
    else:
        data = flat(x).astype(working_dtype(x.dtype, op), copy=False)
        yield from all_reduce_flat(link, data, op)
        _finish(link, data, op)
    store(x, data)
    return x


def all_reduce_flat(link: Link, data: Array, op: str) -> Program:
    """Over messages, in place, in the dtype of the 1-D array; for a mean, the sum."""
    name = link.algorithm("all_reduce", data.nbytes)
    if name == "hierarchical" and link.hierarchy is not None and fits(data.dtype, link.size):
        yield from _all_reduce_by_host(link, *link.hierarchy, data, op)
    else:
        yield from _run(link, "all_reduce", [data], name, op=op)


def _all_reduce_by_host(
    link: Link, inside: Channel, across: Channel, data: Array, op: str
) -> Program:
    """As the schedule (`algorithms.hierarchical`) says, with shared memory on the host.

    Each rank of a host ends with the host's sum of its shard, adds it up with the ranks of the
    same place on the other hosts, and reads the other shards of its host.
    """
    on_host, board = link.within(inside), inside.board
    assert board is not None
    shards, op = parts(data, on_host.size), "sum" if op == "mean" else op
    mine = _only(on_host, shards[on_host.rank])
    yield from exchange(on_host, board, Task("reduce_scatter", mine, data, cut=True, op=op))
    yield from all_reduce_flat(link.within(across), shards[on_host.rank], op)
    yield from exchange(on_host, board, Task("all_gather", shards, data, cut=True))


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
    name = link.algorithm("reduce_scatter", data.nbytes)
    yield from _run(link, "reduce_scatter", [data], name, op=op)
    mine = parts(data, link.size)[link.rank]
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
        name = link.algorithm("all_gather", data.nbytes)
        yield from _run(link, "all_gather", [data], name)
    store(result, data)
    return result


def all_to_all(link: Link, x: Array, out: Array | None) -> Program:
    """x: (size * k, ...) -> the same shape."""
    result = np.empty(x.shape, x.dtype) if out is None else out
    data = flat(result)
    if np.may_share_memory(data, x):
        data = np.empty_like(data)
    source = flat(x)
    if link.board is not None and fits(x.dtype, link.size):
        slots = parts(source, link.size) + parts(data, link.size)
        yield from exchange(link, link.board, Task("all_to_all", slots, source, cut=True))
    else:
        name = link.algorithm("all_to_all", data.nbytes)
        yield from _run(link, "all_to_all", [source, data], name)
    store(result, data)
    return result


def broadcast(link: Link, x: Array, root: int) -> Program:
    """In place; returns `x`."""
    data = flat(x)
    if link.board is not None and fits(x.dtype, 1):
        task = Task("broadcast", [data], data, cut=False, root=root, shown=link.rank == root)
        yield from exchange(link, link.board, task)
    else:
        name = link.algorithm("broadcast", data.nbytes)
        yield from _run(link, "broadcast", [data], name, root)
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
        name = link.algorithm("reduce", data.nbytes)
        yield from _run(link, "reduce", [data], name, root, op)
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
        name = link.algorithm("gather", data.nbytes * link.size)
        yield from _run(link, "gather", slots, name, root)
    return result


def scatter(link: Link, x: Array | None, root: int) -> Program:
    """x: (size, *shape) on the root -> shape. The others learn shape and dtype on arrival."""
    at_root = x is not None and link.rank == root
    name = link.algorithm("scatter", 0)
    if link.board is not None:
        sent = yield from hear(link, link.board, root, link.signature)
    elif not at_root:
        sent = yield from _overhear(link, name, root)
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
        yield from _run(link, "scatter", slots, name, root)
    return result


def _overhear(link: Link, name: str, root: int) -> Program:
    """The root's word on what it scatters, from the header of the first message to come, which
    stays where it is; what this rank passes on says it too."""
    steps = steps_of("scatter", link.rank, link.size, root, name)
    source = next(step.peer for step in steps if isinstance(step, Receive))
    header: Header = yield from link.peek(source)
    while link.operation.channel.is_repeated(link.operation, header, 0):
        yield from link.discard(source)
        header = yield from link.peek(source)
    link.expect(header)
    link.operation.signature = header.signature
    return header.signature


def barrier(link: Link) -> Program:
    """Nothing but a fence, or messages without content."""
    if link.board is not None:
        yield from meet(link, link.board)
        return
    yield from _run(link, "barrier", [np.empty(0, np.uint8)], link.algorithm("barrier", 0))


def _run(
    link: Link,
    operation: str,
    memory: Sequence[Array | None],
    name: str,
    root: int = 0,
    op: str | None = None,
) -> Program:
    """The algorithm on 1-D arrays that make up the slots together, each an equal share of them.

    What only passes through need not be there.
    """
    some = next(array for array in memory if array is not None)
    sizes = tuple(some.size if array is None else array.size for array in memory)
    segment = max(1, link.segment_bytes // some.itemsize)
    make = kept_plan if sum(sizes) <= KEPT_SEGMENTS * segment else make_plan
    plan = make(operation, name, link.rank, link.size, root, link.per_host, sizes, segment)
    if any(array is None for array in memory):
        used = {piece.array for piece in plan.pieces}
        memory = [
            np.empty_like(some) if array is None and number in used else array
            for number, array in enumerate(memory)
        ]
    yield from run(link, plan, memory, None if op is None else REDUCTIONS[op])


def _finish(link: Link, data: Array, op: str) -> None:
    if op == "mean":
        np.divide(data, link.size, out=data)


def _only(link: Link, mine: Array) -> list[Array | None]:
    return [mine if rank == link.rank else None for rank in range(link.size)]


def _share(link: Link, x: Array) -> tuple[int, ...]:
    return (x.shape[0] // link.size, *x.shape[1:])
