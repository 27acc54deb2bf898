"""Collectives of device arrays between GPUs by NCCL, through CuPy's binding: RINGLET_NCCL=1.

A group has one communicator, made at its first call: rank 0's id travels over the group itself.
Calls run in the order in which they are made, on a stream of their own, after what the caller's
stream has to do until then; `wait` holds up the caller's stream, not the host. NCCL has no
deadlines, so a thread watches what is in flight: at the group's timeout, or at an error of NCCL's,
it aborts the communicator, which is the only way out, and all later calls and waits raise. Sums
differ in bits from ringlet's, and NCCL notices no mismatch of sizes.

NVIDIA, "NCCL user guide", https://docs.nvidia.com/deeplearning/nccl/user-guide (communicators,
asynchronous errors).
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

from ringlet.comm import CommError, CommTimeout, Group
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import chosen, xp

VARIABLE = "RINGLET_NCCL"

DTYPES = (
    "float16", "float32", "float64", "int8", "uint8", "int32", "uint32", "int64", "uint64",
)  # fmt: skip
OPERATIONS = {"sum": "NCCL_SUM", "prod": "NCCL_PROD", "max": "NCCL_MAX", "min": "NCCL_MIN"}

NAP_S = 1e-3
"""How often what is in flight is looked at."""

BOOT = Path("/proc/sys/kernel/random/boot_id")

_known: "WeakKeyDictionary[Group, Communicator]" = WeakKeyDictionary()


def communicator(group: Group, x: Array, op: str = "sum") -> "Communicator | None":
    """The group's communicator; None if NCCL is not asked for, or cannot take such an array.

    A collective at the first call. Raises CommError if there is no NCCL, or two ranks of the group
    share a GPU.
    """
    wanted = os.environ.get(VARIABLE, "0")
    if wanted not in ("0", "1"):
        raise CommError(f"{VARIABLE} is {wanted!r}; it must be 0 or 1")
    possible = x.dtype.name in DTYPES and op in OPERATIONS and x.flags.c_contiguous
    if wanted == "0" or not possible or group.size == 1:
        return None
    if group not in _known:
        _known[group] = Communicator(group)
    return _known[group]


class InFlight:
    """A collective that the GPU has yet to do."""

    def __init__(self, owner: "Communicator", event: Any, result: Array) -> None:
        self._owner, self._event, self._result = owner, event, result

    def wait(self, timeout: float | None = None) -> Array:
        """The result, for whatever the caller's stream does from now on."""
        self._owner.check()
        self._owner.cuda.get_current_stream().wait_event(self._event)
        return self._result

    def done(self) -> bool:
        """Whether the GPU has done it."""
        done = bool(self._event.done)
        self._owner.check()  # afterwards: what is aborted is done as well
        return done


class Communicator:
    """NCCL among the ranks of a group. Functions mean what the methods of Group mean."""

    def __init__(self, group: Group) -> None:
        self.cuda = chosen().module.cuda
        self._nccl, self._size, self._timeout = self.cuda.nccl, group.size, group.timeout
        problem = self._problem(group)
        if problem:
            raise CommError(f"rank {group.rank}: {VARIABLE}=1, but {problem}")
        token = self._nccl.get_unique_id() if group.rank == 0 else None
        token = group.broadcast_object(token)
        token = token if isinstance(token, bytes) else tuple(token)  # numbers until CuPy 13
        self._where = f"rank {group.rank} of {group.size}"
        self._comm = self._nccl.NcclCommunicator(group.size, token, group.rank)
        self._stream = self.cuda.Stream(non_blocking=True)
        self._error: CommError | None = None
        self._flying: SimpleQueue[tuple[Any, float, str, tuple[Array, ...]]] = SimpleQueue()
        threading.Thread(target=self._watch, name="ringlet nccl", daemon=True).start()

    def _problem(self, group: Group) -> str:
        """Why these ranks cannot use NCCL, the same on all of them."""
        here = bool(self._nccl.available)
        gpu = self.cuda.Device().pci_bus_id  # its number depends on CUDA_VISIBLE_DEVICES
        boot = BOOT.read_text().strip() if BOOT.exists() else ""
        found = group.all_gather_object((here, boot, gpu))
        without = [rank for rank, (available, *_) in enumerate(found) if not available]
        if without:
            return f"the CuPy of rank {without[0]} has no NCCL: pip install nvidia-nccl-cu12 there"
        first: dict[tuple[str, str], int] = {}
        for rank, (_, *place) in enumerate(found):
            before = first.setdefault((place[0], place[1]), rank)
            if before != rank:
                return (
                    f"ranks {before} and {rank} have one GPU, {place[1]} of their host: NCCL needs "
                    "one for each rank"
                )
        return ""

    def all_reduce(self, x: Array, op: str = "sum") -> InFlight:
        """In place."""
        there = chosen().address(x)
        args = there, there, x.size, self._dtype(x), self._op(op)
        return self._launch("all_reduce", self._comm.allReduce, args, x, x)

    def all_gather(self, x: Array, out: Array | None) -> InFlight:
        """x -> (size, *x.shape)."""
        out = self._result(out, (self._size, *x.shape), x)
        args = chosen().address(x), chosen().address(out), x.size, self._dtype(x)
        return self._launch("all_gather", self._comm.allGather, args, out, x)

    def reduce_scatter(self, x: Array, out: Array | None) -> InFlight:
        """(size * k, ...) -> (k, ...), summed."""
        self._divides(x)
        out = self._result(out, (x.shape[0] // self._size, *x.shape[1:]), x)
        args = chosen().address(x), chosen().address(out), out.size, self._dtype(x), self._op("sum")
        return self._launch("reduce_scatter", self._comm.reduceScatter, args, out, x)

    def all_to_all(self, x: Array) -> InFlight:
        """(size * k, ...) -> the same shape."""
        self._divides(x)
        out = xp.empty_like(x)
        count, kind = x.size // self._size, self._dtype(x)
        sent, received = chosen().address(x), chosen().address(out)

        def exchange(stream: int) -> None:
            self._nccl.groupStart()
            for peer in range(self._size):
                place = peer * count * x.itemsize
                self._comm.send(sent + place, count, kind, peer, stream)
                self._comm.recv(received + place, count, kind, peer, stream)
            self._nccl.groupEnd()

        return self._launch("all_to_all", exchange, (), out, x)

    def check(self) -> None:
        """Raise what has ended this communicator."""
        if self._error is not None:
            raise self._error

    def _launch(
        self, what: str, call: Callable[..., Any], args: tuple[Any, ...], out: Array, x: Array
    ) -> InFlight:
        self.check()
        self._stream.wait_event(self.cuda.get_current_stream().record())
        call(*args, self._stream.ptr)
        event = self._stream.record()
        deadline = time.monotonic() + self._timeout
        # The arrays live until the GPU has done with them: their stream would reuse the memory.
        self._flying.put((event, deadline, what, (x, out)))
        return InFlight(self, event, out)

    def _watch(self) -> None:
        """Wait for what is in flight, one after the other; end it where it hangs or has failed."""
        while self._error is None:
            event, deadline, what, _arrays = self._flying.get()
            while self._error is None and not event.done:
                try:
                    self._comm.check_async_error()
                except self._nccl.NcclError as error:
                    self._abort(CommError(f"{self._where}: {what} over NCCL failed: {error}"))
                if time.monotonic() > deadline:
                    self._abort(CommTimeout(
                        f"{self._where}: {what} over NCCL has not ended within {self._timeout:g} s;"
                        " its communicator is aborted"
                    ))  # fmt: skip
                time.sleep(NAP_S)

    def _abort(self, error: CommError) -> None:
        self._error = self._error or error
        with contextlib.suppress(self._nccl.NcclError):
            self._comm.abort()

    def _dtype(self, x: Array) -> int:
        return int(getattr(self._nccl, f"NCCL_{x.dtype.name.upper()}"))

    def _op(self, op: str) -> int:
        return int(getattr(self._nccl, OPERATIONS[op]))

    def _divides(self, x: Array) -> None:
        if not x.ndim or x.shape[0] % self._size:
            raise CommError(
                f"{self._where}: shape {x.shape} has no equal parts for {self._size} ranks"
            )

    def _result(self, out: Array | None, shape: tuple[int, ...], x: Array) -> Array:
        if out is None:
            return xp.empty(shape, x.dtype)
        if out.shape != shape or out.dtype != x.dtype or not out.flags.c_contiguous:
            raise CommError(
                f"{self._where}: out has shape {out.shape} and dtype {out.dtype}; it must be a "
                f"contiguous array of {shape} and {x.dtype}"
            )
        return out
