"""Collectives of arrays wherever they live: those of a device travel through the host's memory.

An array of the host goes as it is. One of the device is copied into pinned memory, travels from
there, and what arrives is copied back when it is waited for, by the thread that waits: the
progress thread never touches the device.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ringlet.comm import Group, Work
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import asarray, chosen, copy_from_host, to_host, xp


class Staged:
    """What arrives in the host's memory and is wanted on the device: in `out`, or anew."""

    def __init__(self, work: Work, out: Array | None) -> None:
        self._work, self._out = work, out
        self._result: Array | None = None

    def wait(self, timeout: float | None = None) -> Array:
        """See Work."""
        if self._result is None:
            arrived = self._work.wait(timeout)
            self._result = put_back(arrived, self._out)
        return self._result

    def done(self) -> bool:
        """See Work."""
        return self._work.done()


def all_reduce(
    group: Group, x: Array, op: str = "sum", *, async_op: bool = False, label: str = ""
) -> Any:
    """See Group: in place."""
    if _on_host(x):
        return group.all_reduce(x, op, async_op=async_op, label=label)
    work = group.all_reduce(fetched(x), op, async_op=True, label=label)
    return _ended(Staged(work, x), async_op)


def all_gather(
    group: Group, x: Array, *, out: Array | None = None, async_op: bool = False, label: str = ""
) -> Any:
    """See Group: (size, *x.shape)."""
    if _on_host(x):
        return group.all_gather(x, out=out, async_op=async_op, label=label)
    space = chosen().pinned((group.size, *x.shape), x.dtype)
    work = group.all_gather(fetched(x), out=space, async_op=True, label=label)
    return _ended(Staged(work, out), async_op)


def reduce_scatter(
    group: Group, x: Array, *, out: Array | None = None, async_op: bool = False, label: str = ""
) -> Any:
    """See Group: (size * k, ...) -> (k, ...)."""
    if _on_host(x):
        return group.reduce_scatter(x, out=out, async_op=async_op, label=label)
    work = group.reduce_scatter(fetched(x), async_op=True, label=label)
    return _ended(Staged(work, out), async_op)


def all_to_all(group: Group, x: Array, *, label: str = "") -> Array:
    """See Group: (size * k, ...) -> the same shape."""
    if _on_host(x):
        result: Array = group.all_to_all(x, label=label)
        return result
    return put_back(group.all_to_all(fetched(x), label=label), None)


def isend(group: Group, x: Array, dst: int, tag: int = 0) -> Work:
    """See Group; what is sent from a device may change at once."""
    return group.isend(fetched(x), dst, tag)


def recv(group: Group, src: int, tag: int = 0) -> Array:
    """See Group: an array of the backend."""
    return asarray(group.recv(src, tag))


def irecv(group: Group, src: int, tag: int, *, out: Array) -> Work:
    """See Group."""
    if _on_host(out):
        return group.irecv(src, tag, out=out)
    return Staged(group.irecv(src, tag, out=chosen().pinned(out.shape, out.dtype)), out)


def empty(group: Group, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Memory for what the group's collectives are given: registered with the ranks of this host,
    or the device's."""
    return xp.empty(shape, dtype) if chosen().on_device else group.empty(shape, dtype)


def _on_host(x: Any) -> bool:
    return isinstance(x, np.ndarray)


def fetched(x: Array) -> Array:
    """The array where a collective can take it: itself, or a copy in pinned memory."""
    return x if _on_host(x) else to_host(x, out=chosen().pinned(x.shape, x.dtype))


def put_back(arrived: Array, out: Array | None) -> Array:
    """Copy what has arrived to the device, into `out` or anew; its memory is free afterwards."""
    if out is None:
        out = asarray(arrived)
    else:
        copy_from_host(out, arrived)
    chosen().synchronize()
    return out


def _ended(work: Staged, async_op: bool) -> Any:
    return work if async_op else work.wait()
