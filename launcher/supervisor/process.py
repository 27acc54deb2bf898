"""The processes of a launcher: its workers, and the warden."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from ringlet.launcher.supervisor import warden
from ringlet.launcher.supervisor.control import VARIABLE, Control
from ringlet.launcher.supervisor.cores import running_on
from ringlet.launcher.supervisor.environment import Job

importing = ""
"""The file that this rank is importing, which must not start ranks: they would import it, too."""


class Worker:
    """A process in a session of its own, with the launcher's end of its control channel.

    It runs the module with the arguments, with `prefix` in front of the command; `output` is
    both stdout and stderr of subprocess.Popen, unless there are `errors` for stderr. Raises
    RuntimeError while this process, a rank itself, imports its function.
    """

    def __init__(
        self,
        job: Job,
        rank: int,
        module: str,
        arguments: Sequence[str] = (),
        *,
        output: int | IO[bytes] | None = None,
        errors: int | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        if importing:
            raise RuntimeError(
                f"{importing} starts ranks, and these import it to find their function: put what "
                'starts them under `if __name__ == "__main__":`'
            )
        self.rank = rank
        ours, theirs = socket.socketpair()
        # By its file: with -m, what is in the current folder could replace what it imports.
        program = find_spec(module)
        assert program is not None
        assert program.origin is not None
        environment = {**job.environment(rank), VARIABLE: str(theirs.fileno())}
        try:
            with running_on(job.cores(rank)):
                self.process = subprocess.Popen(
                    [*prefix, sys.executable, program.origin, *arguments],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output if errors is None else errors,
                    pass_fds=[theirs.fileno(), *_of_mpi(job)],
                    start_new_session=True,
                )
        finally:
            theirs.close()
        self.control = Control(ours)

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self.process.pid

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the worker and every process that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill the worker and everything it started, and collect its exit status."""
        self.signal_group(signal.SIGKILL)
        self.process.wait()
        self.control.close()

    def exit_reason(self) -> str:
        """How it ended: process 4711 on host a was killed by signal 9 (SIGKILL)."""
        return exit_text(self.pid, self.process.wait())


def exit_text(pid: int, code: int) -> str:
    """How a process of this host ended, from its code: negative for a signal."""
    head = f"process {pid} on host {socket.gethostname()}"
    if code >= 0:
        return f"{head} exited with code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    return f"{head} was killed by signal {-code}{name}"


def state_of(pid: int) -> str:
    """The letter for a process's state, from the kernel (proc(5)); empty if it has ended, or where
    there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


class Warden:
    """A process that ends groups of processes, and removes sockets and folders, when this one has
    been killed.

    The guard of each worker does so, too, but not in a worker that is stopped, or that holds
    Python's lock in C code. The kernel's parent-death signal (prctl(2)) reaches these, but it would
    end guards before they have ended what their workers had started. The warden is no child of this
    process, so that its children are the workers alone.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._writing = -1

    def _start(self) -> None:
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", warden.__file__],
                cwd="/",
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(reading)

    def toggle(self, thing: Path | int) -> None:
        """From now on, the thing ends with this process; the second time: no more. The first starts
        the warden."""
        if self._process is None:
            self._start()
        self._write(os.fsencode(str(thing)) + b"\0")

    def poll(self) -> int | None:
        """The id of the process that starts the warden, until that has ended."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def close(self) -> None:
        """End the warden: nothing is left."""
        if self._process is not None:
            self._write(warden.DONE)
            os.close(self._writing)
            self._process.wait()

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._writing, data)


def reap(own: Collection[int | None]) -> None:
    """As process 1 of a container, this process inherits the children of those that have ended."""
    if os.getpid() != 1:
        return
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, flags)) and ended.si_pid not in own:
            os.waitpid(ended.si_pid, 0)


def _of_mpi(job: Job) -> list[int]:
    """By which a worker, in this process's place, reaches the mpirun that has started this one."""
    number = os.environ.get("PMI_FD", "")
    return [int(number)] if job.transport == "mpi" and number.isdecimal() else []
