"""Ranks that are forks of this process: they have everything that it has, and share nothing with it
or with the ranks of another call. Made for one call each; a fork and a new world take some
hundredths of a second."""

import contextlib
import ctypes
import os
import re
import signal
import socket
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, NoReturn

from ringlet.launcher.supervisor.control import Control, Notice
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.process import exit_text
from ringlet.launcher.testing.ranks import Rank, Ranks

Program = Callable[[int, Control, IO[bytes]], None]
"""What a rank does, given its number, its end of the control channel, and the file for what must
not be lost when it hangs or is killed."""

_SET_THREADS = (
    "scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_", "openblas_set_num_threads", "MKL_Set_Num_Threads",
)  # fmt: skip
"""OpenBLAS's function, as NumPy and others build it, and MKL's."""

_BELOW = re.compile(r'  File ".*", line \d+ in pytest_pyfunc_call\n(  File .*\n)*')


class Fork:
    """A child process in a session of its own, which ends with the program that it runs."""

    def __init__(
        self, job: Job, rank: int, program: Callable[[Control], None], earlier: Sequence[Rank] = ()
    ) -> None:
        """`program` gets its end of the control channel; the `earlier` ranks are closed to it."""
        self.rank = rank
        ours, theirs = socket.socketpair()
        with warnings.catch_warnings():
            # Of other threads, whose locks a fork inherits: the Python library's are made new.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            _run(job, rank, lambda: program(Control(theirs)), [ours, *[e.control for e in earlier]])
        theirs.close()
        self.control = Control(ours)
        self._code: int | None = None

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self._pid

    def kill(self) -> None:
        """Kill it and everything it started, and collect its exit status."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        if self._code is None:  # it may not have its session yet
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._wait()
        self.control.close()

    def exit_reason(self) -> str:
        """How it ended; waits until it has."""
        return exit_text(self._pid, self._wait())

    def _wait(self) -> int:
        if self._code is None:
            self._code = self._reap()
        return self._code

    def _reap(self) -> int:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        except ChildProcessError:  # SIGCHLD is ignored here: nobody knows
            return 0


def _run(
    job: Job, rank: int, program: Callable[[], None], others: Iterable[socket.socket | Control]
) -> NoReturn:
    """Run the program as a rank and end, without anything that this process would do at its end;
    the others' ends are closed."""
    code = 1
    try:
        os.setsid()
        for end in others:
            end.close()
        os.environ.update(job.environment(rank))
        limit_blas(os.environ["OPENBLAS_NUM_THREADS"])
        program()
        code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(code)


def limit_blas(threads: str) -> None:
    """Give OpenBLAS and MKL this number of threads: they read their variables when loaded."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() and threads.isdecimal() else []
    found = (line for line in lines if "openblas" in line or "libmkl_rt" in line)
    for path in {line.split(maxsplit=5)[-1] for line in found}:
        library = ctypes.CDLL(path)
        for name in _SET_THREADS:
            if hasattr(library, name):
                getattr(library, name)(int(threads))


class ForkedRanks(Ranks):
    """`size` ranks that run the program, each a fork of this process, for one call."""

    def __init__(
        self,
        size: int,
        program: Program,
        transport: str = "auto",
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
        timeout: float = 20.0,
    ) -> None:
        """`around()` is entered while the forks are made."""
        super().__init__(size, transport, timeout)
        self._program, self._around = program, around

    def run(self, deadline: float = 30.0, faults: Sequence[str] = ()) -> dict[int, Notice]:
        """How the program has ended on each rank, with these faults (comm/faults.py); at the end
        the ranks are gone. Raises RanksFailed if they have not met."""
        try:
            return self._run({"faults": list(faults)}, deadline)
        finally:
            self.close()

    def _start_ranks(self, job: Job) -> None:
        with self._around():
            super()._start_ranks(job)

    def _start_rank(self, job: Job, rank: int, output: IO[bytes]) -> Rank:
        def program(control: Control) -> None:
            self._program(rank, control, output)

        return Fork(job, rank, program, self._ranks)

    def _written(self, rank: int) -> str:
        """Without what is below the test's function in a stack: pytest, and this process's part."""
        return _BELOW.sub("", super()._written(rank))
