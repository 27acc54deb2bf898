"""The MPI library's own all-reduce, for those who ask for it: all_reduce=mpi.

On some fabrics it is faster than any sequence of messages. It promises less. In which order it adds
is the library's affair: the bits may differ from one library, and one run, to the next. It compares
nothing: ranks that call it with different arrays get an error, a wrong result, or neither. Nothing
can call it off: after a CommTimeout it may still write into the array.
"""

import hashlib
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ringlet.comm.arrays import Array, working_dtype
from ringlet.comm.mpi.fabric import Fabric, Leaving
from ringlet.comm.mpi.process import naps
from ringlet.comm.protocols import Callback, Program, Task, Wait
from ringlet.comm.sockets.transport import Sockets

PIECE_BYTES = 1 << 30
"""Counts of elements were 32-bit numbers before MPI 4."""

LOOK_S = 0.005
"""How often a wait is checked."""

INSTEAD = "ring"
"""What runs where the library has no type or operation for an array."""

_OPERATIONS = {"sum": "SUM", "mean": "SUM", "prod": "PROD", "max": "MAX", "min": "MIN"}
_OF_BOOLEANS = {"sum": "LOR", "prod": "LAND", "max": "LOR", "min": "LAND"}
_COMPLEX = ("sum", "mean", "prod")


class LibraryWait(Wait):
    """Wait for the library to be done."""

    poll_ms = 1
    why = "in the MPI library, which does not say for whom"

    def __init__(self, leaving: Leaving) -> None:
        self._leaving = leaving

    def ready(self) -> bool:
        return self._leaving.done

    def wait(self, tick: Callback, poll: Callback) -> None:
        look_at = time.monotonic() + LOOK_S
        for nap in naps():
            if self.ready():
                return
            if time.monotonic() > look_at:
                look_at = time.monotonic() + LOOK_S
                poll()
                tick()
            time.sleep(nap)


class Library:
    """The transport of a group's all-reduce. What it cannot do, `sockets` does."""

    def __init__(self, fabric: Fabric, sockets: Sockets) -> None:
        self._fabric, self._sockets = fabric, sockets
        self._communicator: Any = None

    def run(self, call: Any, task: Task, source: Array, result: Array) -> Program:
        """All-reduce in place."""
        mpi = self._fabric.mpi
        data = result.astype(working_dtype(result.dtype, task.op), copy=False)
        kind, operation = self._kind(data.dtype), self._operation(data.dtype, task.op)
        if kind is None or operation is None:
            instead = replace(task, algorithm=INSTEAD)
            yield from self._sockets.run(call, instead, source, result)
            return
        if self._communicator is None:
            yield from self._open(call)
        step = PIECE_BYTES // data.itemsize
        for start in range(0, max(1, data.size), step):
            piece = data[start : start + step]
            arguments = (mpi.IN_PLACE, [piece, kind], operation)
            yield LibraryWait(
                self._fabric.begin(partial(self._communicator.Iallreduce, *arguments), piece)
            )
        if task.op == "mean":
            np.divide(data, self._sockets.size, out=data)
        if data is not result:
            with np.errstate(over="ignore"):  # a float16 result may be out of range: it is inf
                result[...] = data

    def learn(self, call: Any, task: Task) -> Program:
        """No scatter comes this way."""
        return self._sockets.learn(call, task)

    def _kind(self, dtype: np.dtype[Any]) -> Any:
        """MPI's type for the dtype; None if there is none."""
        if dtype.kind not in "biufc" or not dtype.isnative or dtype == np.float16:
            return None
        return self._fabric.mpi.Datatype.fromcode(dtype.char)

    def _operation(self, dtype: np.dtype[Any], op: str) -> Any:
        if dtype.kind == "c" and op not in _COMPLEX:  # MPI has no order of them
            return None
        name = _OF_BOOLEANS.get(op) if dtype.kind == "b" else _OPERATIONS[op]
        return None if name is None else getattr(self._fabric.mpi, name)

    def _open(self, call: Any) -> Program:
        """Make a communicator of the group: once all its ranks are here, for that cannot be done
        without waiting."""
        sockets, process = self._sockets, self._fabric.process
        nothing = np.empty(0, np.uint8)
        meet = Task("barrier", algorithm="dissemination")
        yield from sockets.run(call, meet, nothing, nothing)
        with process.lock:
            ranks = process.world.Get_group().Incl(list(sockets.ranks))
            tag = int.from_bytes(hashlib.blake2b(sockets.group.encode(), digest_size=2).digest())
            self._communicator = process.world.Create_group(ranks, tag)
