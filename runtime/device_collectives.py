"""Collectives of arrays on the host or on a device: device arrays travel through host memory.

A host array is passed on as it is. A device array is copied to pinned memory and travels from
there; what arrives is copied back by the thread that waits for it, so that the progress thread
never touches the device; or GPUs exchange it by themselves (nccl.py). Functions mean what the
methods of Group mean.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ringlet.comm import Group, Work
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import asarray, chosen, copy_from_host, to_host, xp
from ringlet.runtime.nccl import communicator


class Pending(Protocol):
    """An array that may still be in flight."""

    def wait(self) -> Any:
        """Return the array once it has arrived."""


class Ready:
    """An array that is already here."""

    def __init__(self, value: Array) -> None:
        self._value = value

    def wait(self) -> Array:
        return self._value


class Then:
    """Work whose result is passed through a function, in the thread that waits for it."""

    def __init__(self, work: Any, finish: Callable[[Array], Array]) -> None:
        self._work, self._finish = work, finish
        self._result: Array | None = None

    def wait(self, timeout: float | None = None) -> Array:
        if self._result is None:
            arrived = self._work.wait() if timeout is None else self._work.wait(timeout)
            self._result = self._finish(arrived)
        return self._result

    def done(self) -> bool:
        return self._work.done()


def all_reduce(
    group: Group, x: Array, op: str = "sum", *, async_op: bool = False, label: str = ""
) -> Any:
    """In place."""
    if _on_host(x):
        return group.all_reduce(x, op, async_op=async_op, label=label)
    if nccl := communicator(group, x, op):
        return _now(nccl.all_reduce(x, op), async_op)
    return _staged(group.all_reduce(fetched(x), op, async_op=True, label=label), x, async_op)


def all_gather(
    group: Group, x: Array, *, out: Array | None = None, async_op: bool = False, label: str = ""
) -> Any:
    """x -> (size, *x.shape)."""
    if _on_host(x):
        return group.all_gather(x, out=out, async_op=async_op, label=label)
    if nccl := communicator(group, x):
        return _now(nccl.all_gather(x, out), async_op)
    space = chosen().pinned((group.size, *x.shape), x.dtype)
    work = group.all_gather(fetched(x), out=space, async_op=True, label=label)
    return _staged(work, out, async_op)


def reduce_scatter(
    group: Group, x: Array, *, out: Array | None = None, async_op: bool = False, label: str = ""
) -> Any:
    """(size * k, ...) -> (k, ...)."""
    if _on_host(x):
        return group.reduce_scatter(x, out=out, async_op=async_op, label=label)
    if nccl := communicator(group, x):
        return _now(nccl.reduce_scatter(x, out), async_op)
    work = group.reduce_scatter(fetched(x), async_op=True, label=label)
    return _staged(work, out, async_op)


def all_to_all(group: Group, x: Array, *, label: str = "") -> Array:
    """(size * k, ...) -> the same shape."""
    if _on_host(x):
        return group.all_to_all(x, label=label)
    if nccl := communicator(group, x):
        return nccl.all_to_all(x).wait()
    return put_back(group.all_to_all(fetched(x), label=label), None)


def isend(group: Group, x: Array, dst: int, tag: int = 0) -> Work:
    """A device array may be changed at once, a host array after `wait()`."""
    return group.isend(fetched(x), dst, tag)


def irecv(group: Group, src: int, tag: int, *, out: Array) -> Work:
    """Receive into `out`."""
    if _on_host(out):
        return group.irecv(src, tag, out=out)
    work = group.irecv(src, tag, out=chosen().pinned(out.shape, out.dtype))
    return Then(work, lambda arrived: put_back(arrived, out))


def empty(group: Group, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Memory for the group's collectives: registered with this host's ranks, or the device's."""
    return xp.empty(shape, dtype) if chosen().on_device else group.empty(shape, dtype)


def _on_host(x: Any) -> bool:
    return isinstance(x, np.ndarray)


def fetched(x: Array) -> Array:
    """The array where a collective can take it: itself, or a copy in pinned memory."""
    return x if _on_host(x) else to_host(x, out=chosen().pinned(x.shape, x.dtype))


def put_back(arrived: Array, out: Array | None) -> Array:
    """Copy an array to the device, into `out` or a new one; its memory is free afterwards."""
    if out is None:
        out = asarray(arrived)
    else:
        copy_from_host(out, arrived)
    chosen().synchronize()
    return out


def _staged(work: Work, out: Array | None, async_op: bool) -> Any:
    return _now(Then(work, lambda arrived: put_back(arrived, out)), async_op)


def _now(work: Pending, async_op: bool) -> Any:
    return work if async_op else work.wait()
