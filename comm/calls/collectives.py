"""What each collective does with its arrays: lays them out as a task, runs it, hands back a result.

The functions are programs (`protocols.Program`): they run when the call's turn has come, which is
later than its issue if it is asynchronous.
"""

import numpy as np

from ringlet.comm.arrays import Array, address_of, flat, store
from ringlet.comm.calls.active_call import ActiveCall
from ringlet.comm.calls.kinds import Kind
from ringlet.comm.protocols import Program
from ringlet.comm.sockets.wire import allocate

NOTHING = np.empty(0, np.uint8)


def all_reduce(call: ActiveCall, kind: Kind, x: Array) -> Program:
    """In place; returns `x`."""
    data = flat(x)
    yield from kind.transport.run(call, kind.task, data, data)
    if not x.flags.c_contiguous:
        store(x, data)
    return x


def reduce_scatter(call: ActiveCall, kind: Kind, x: Array, out: Array | None) -> Program:
    """x: (size * k, ...) -> (k, ...)."""
    size, source = len(call.channel.ranks), flat(x)
    result = np.empty((x.shape[0] // size, *x.shape[1:]), x.dtype) if out is None else out
    mine = flat(result)
    if out is not None and not _apart(mine, source, call.channel.index):
        mine = np.empty_like(mine)  # peers read this rank's array until the end
    yield from kind.transport.run(call, kind.task, source, mine)
    store(result, mine)
    return result


def all_gather(call: ActiveCall, kind: Kind, x: Array, out: Array | None) -> Program:
    """x: shape -> (size, *shape)."""
    size, rank = len(call.channel.ranks), call.channel.index
    result = np.empty((size, *x.shape), x.dtype) if out is None else out
    source, data = flat(x), flat(result)
    if out is not None and not _apart(source, data, rank):
        source = source.copy()
    _row(data, size, rank)[...] = source
    yield from kind.transport.run(call, kind.task, source, data)
    store(result, data)
    return result


def all_to_all(call: ActiveCall, kind: Kind, x: Array, out: Array | None) -> Program:
    """x: (size * k, ...) -> the same shape."""
    result = np.empty(x.shape, x.dtype) if out is None else out
    data = flat(result)
    if np.may_share_memory(data, x):
        data = np.empty_like(data)
    yield from kind.transport.run(call, kind.task, flat(x), data)
    store(result, data)
    return result


def broadcast(call: ActiveCall, kind: Kind, x: Array) -> Program:
    """In place; returns `x`."""
    data = flat(x)
    yield from kind.transport.run(call, kind.task, data, data)
    if call.channel.index != kind.task.root:
        store(x, data)
    return x


def reduce(call: ActiveCall, kind: Kind, x: Array) -> Program:
    """In place on the root, which gets `x`; the others' arrays stay as they are."""
    data = flat(x)
    yield from kind.transport.run(call, kind.task, data, data)
    if call.channel.index != kind.task.root:
        return None
    store(x, data)
    return x


def gather(call: ActiveCall, kind: Kind, x: Array) -> Program:
    """x: shape -> (size, *shape) on the root."""
    size, source, root = len(call.channel.ranks), flat(x), kind.task.root
    at_root = call.channel.index == root
    result = np.empty((size, *x.shape), x.dtype) if at_root else None
    rows = _placeholder(source, size) if result is None else result.reshape(-1)
    if at_root:
        _row(rows, size, root)[...] = source
    yield from kind.transport.run(call, kind.task, source, rows)
    return result


def scatter(call: ActiveCall, kind: Kind, x: Array | None) -> Program:
    """x: (size, *shape) on the root -> shape. The others learn shape and dtype on arrival."""
    size, root, name = len(call.channel.ranks), kind.task.root, kind.task.algorithm
    call.signature = yield from kind.transport.learn(call, kind.task)
    kind = call.channel.kinds.of(call.signature, root=root, name=name)
    if x is not None and call.channel.index == root:
        source = flat(x)
        # A row of a 1-D array would be a scalar.
        result = x[root : root + 1].reshape(x.shape[1:]).copy()
    else:
        result = allocate(call.signature._replace(shape=call.signature.shape[1:]))
        source = _placeholder(result, size)
    yield from kind.transport.run(call, kind.task, source, result.reshape(-1))
    return result


def barrier(call: ActiveCall, kind: Kind) -> Program:
    """Nothing but a fence, or messages without content."""
    return kind.transport.run(call, kind.task, NOTHING, NOTHING)


def _apart(part: Array, whole: Array, rank: int) -> bool:
    """Whether a rank's part is where it belongs in the whole, or nowhere in it. Both are flat."""
    own = address_of(part) == address_of(whole) + rank * part.nbytes
    return own or not np.may_share_memory(part, whole)


def _row(rows: Array, size: int, rank: int) -> Array:
    """A rank's row of `size` that lie one after the other."""
    length = rows.size // size
    return rows[rank * length : (rank + 1) * length]


def _placeholder(row: Array, size: int) -> Array:
    """For `size` rows that another rank has: as long, without memory."""
    return np.broadcast_to(np.empty(1, row.dtype), (row.size * size,))
