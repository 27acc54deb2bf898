"""One worker process, seen from its launcher."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from types import FrameType
from typing import IO

from ringlet.launcher.supervisor.control import VARIABLE, Control
from ringlet.launcher.supervisor.cores import running_on
from ringlet.launcher.supervisor.environment import Job


class Worker:
    """A process in a session of its own, with the launcher's end of its control channel.

    It runs the module with the arguments, with `prefix` in front of the command; `output` is
    both stdout and stderr of subprocess.Popen.
    """

    def __init__(
        self,
        job: Job,
        rank: int,
        module: str,
        arguments: Sequence[str] = (),
        *,
        output: int | IO[bytes] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
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
                    stderr=output,
                    pass_fds=[theirs.fileno()],
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


@contextlib.contextmanager
def noted_signals(*numbers: signal.Signals) -> Iterator[list[signal.Signals]]:
    """A list that gets these signals when they come, instead of what they do otherwise."""
    noted: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
