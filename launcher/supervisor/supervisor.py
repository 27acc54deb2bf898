"""Run workers on this host: start them, watch them, announce deaths, end all, leave nothing."""

import contextlib
import errno
import os
import resource
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from ringlet.launcher.errors import ExitCode, user_errors
from ringlet.launcher.supervisor.agent import Agent
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.failure import Failure, first_cause
from ringlet.launcher.supervisor.listing import Listing
from ringlet.launcher.supervisor.output import READ, Pipe, RankFile, Screen
from ringlet.launcher.supervisor.process import Warden, Worker, reap
from ringlet.launcher.supervisor.signals import noted_signals

SURVIVORS_S = 3.0
"""How long the other workers may take to report a death and end."""

TERMINATE_S = 1.0
"""Then they get SIGTERM, and this much later SIGKILL."""

END_S = 0.1
"""How long to wait for a process whose control channel has closed."""

END_TOLD_S = 0.2
"""How long after a worker's end without a failure the others are told."""

HELD_S = 0.02
"""How long to leave workers alone whose output nobody takes."""

PARTIAL_S = 1.0
"""After so long what has no newline is shown, though more is coming."""

STREAMS = 3
"""A worker's, each a descriptor here: its output, its errors and the control channel."""

IN_A_PIPE = 1 << 20
"""No worker has left more than this in a pipe when it ends (pipe(7): pipe-max-size)."""


@dataclass
class _Watched:
    """A worker, its output on the way to the screen, and what it has said of its failure."""

    worker: Worker
    file: RankFile | None
    pipes: list[Pipe] = field(default_factory=list)
    ended: bool = False
    asked: bool = False
    report: Notice = field(default_factory=lambda: {"failed": "", "line": "", "echo": False})


class Supervisor:
    """Runs one start of a job's workers on this host to their end.

    `inform` gets what workers report besides their failures. The `agent` knows the options, and
    speaks with the job's other hosts. `folder` is that of a training run, for those who ask.
    """

    def __init__(
        self,
        job: Job,
        module: str,
        arguments: Sequence[str],
        *,
        screen: Screen,
        agent: Agent,
        inform: Callable[[Notice], None],
        folder: Path | None = None,
    ) -> None:
        self._agent, self._options = agent, agent.options
        self._module, self._arguments = module, arguments
        self._screen, self._inform = screen, inform
        self._host = socket.gethostname()
        command = shlex.join(["ringlet", *sys.argv[1:]])
        facts: dict[str, Any] = {"job": job.job, "size": job.size, "generation": job.generation}
        if folder is not None:
            facts["folder"] = str(folder.absolute())
        self._listing = Listing({**facts, "command": command})
        self._watched: list[_Watched] = []
        self.doing: dict[int, str] = {}  # what ranks have said last, at the first failure
        self._job = job
        self._warden = Warden()
        self._selector = selectors.DefaultSelector()  # its keys' data are called when ready
        if self._listing.path is not None:
            self._selector.register(self._listing, selectors.EVENT_READ, self._ask_workers)
        self._ends: list[tuple[float, Failure]] = []
        self.interrupted = self._held = False
        self._signals: list[signal.Signals] = []
        self._deadlines: list[tuple[float, signal.Signals]] = []

    def run(self) -> int:
        """Start the workers and wait for all; returns the exit code (see ExitCode)."""
        passed_on = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
        with noted_signals(*passed_on) as self._signals:
            try:
                with user_errors(os_error="cannot start the workers (see `ulimit -a`)"):
                    self._start_all()
                while self._running:
                    self._handle_events()
                self._tell_ends()
                self._drain()
                self._listing.close()
                return self._conclude(*self._outcome())
            finally:
                self._clean_up()

    def _clean_up(self) -> None:
        for watched in self._watched:
            watched.worker.kill()
            for pipe in watched.pipes:
                pipe.close()
            if watched.file is not None:
                watched.file.write(watched.report["failed"].encode())
                watched.file.close()
        self._selector.close()
        self._listing.close()
        self._job.clean()
        self._warden.close()

    # -- watching -----------------------------------------------------------------------------

    @property
    def _running(self) -> list[_Watched]:
        return [watched for watched in self._watched if not watched.ended]

    def _start_all(self) -> None:
        for path in (self._job.folder, self._listing.path):
            if path is not None:
                self._warden.toggle(path)
        if len(self._job.ranks) * STREAMS > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # before thousands are started
        for rank in self._job.ranks:
            if self._signals:
                break
            self._start(rank)

    def _start(self, rank: int) -> None:
        file = None
        if self._options.output is not None:
            path = self._options.output / f"rank-{rank}.log"
            file = RankFile(path, self._screen, more=self._job.generation > 0)
        worker = Worker(self._job, rank, self._module, self._arguments, output=subprocess.PIPE)
        watched = _Watched(worker, file)
        self._watched.append(watched)
        self._warden.toggle(worker.pid)
        read_control = partial(self._read_control, watched)
        self._selector.register(worker.control, selectors.EVENT_READ, read_control)
        process = worker.process
        for stream, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            pipe = Pipe(stream, target, partial(self._show, rank, target), watched.file)
            watched.pipes.append(pipe)
            self._selector.register(pipe, selectors.EVENT_READ, partial(self._read_output, pipe))

    def _show(self, rank: int, target: TextIO, text: str) -> None:
        head = f"{self._host}:{rank}: " if self._job.size > 1 and self._options.prefix else ""
        if not self._options.quiet:
            self._screen.line(head + text, target)

    def _handle_events(self) -> None:
        events = self._selector.select(self._agent.poll_s)
        for watched in self._watched:
            watched.worker.control.push()
            for pipe in watched.pipes:
                pipe.flush(PARTIAL_S if events else 0.0)
        for key, _ in events:
            key.data()
        if self._held:
            self._held = False
            time.sleep(HELD_S)
        for watched in self._running:
            if watched.worker.process.poll() is not None:
                self._ended(watched)
        reap({self._warden.poll(), *(watched.worker.pid for watched in self._watched)})
        for failure in self._agent.poll():
            self._announce(failure)
        self._tell_ends(END_TOLD_S)
        self._pass_signals_on()
        self._enforce_deadlines()
        self._listing.answer({each.worker.rank: each.worker.pid for each in self._running})

    def _ask_workers(self) -> None:
        try:
            asked = self._listing.accept()
        except OSError as error:
            self._selector.unregister(self._listing)
            self._listing.close()
            self._screen.say(f"`ringlet ps` does not show this job any more: {error.strerror}")
            return
        for watched in self._running if asked else ():
            if not watched.asked:
                watched.asked = True
                watched.worker.control.send({"doing": True}, wait=False)

    def _read_output(self, pipe: Pipe) -> None:
        """Pass on what a worker has written. While nobody takes what is shown, the workers wait in
        their writes, unless they are to end."""
        if self._screen.full(pipe.target) and not self.interrupted:
            self._held = True
        elif pipe.read() == b"":
            self._selector.unregister(pipe)

    def _read_control(self, watched: _Watched) -> None:
        if not watched.worker.control.fill():
            self._selector.unregister(watched.worker.control)
            with contextlib.suppress(subprocess.TimeoutExpired):
                watched.worker.process.wait(END_S)  # no event will say that it has ended
        self._take_notices(watched)

    def _take_notices(self, watched: _Watched) -> None:
        for notice in watched.worker.control.notices():
            if "failed" in notice:
                watched.report = notice
            elif "doing" in notice:
                watched.asked = False
                rank = watched.worker.rank
                self._listing.states[rank] = notice["state"], notice["awaits"]
                self._listing.doing[rank] = self.doing[rank] = notice["doing"]
            else:
                self._inform(notice)

    def _drain(self) -> None:
        """Read what the workers wrote before they ended. A child that lives on may hold the pipe
        open, and write for ever: do not wait for EOF."""
        for watched in self._watched:
            for pipe in watched.pipes:
                for _ in range(IN_A_PIPE // READ):
                    if not pipe.read():
                        break
                pipe.flush()

    # -- ends ---------------------------------------------------------------------------------

    def _ended(self, watched: _Watched) -> None:
        """A worker has ended. If it failed, tell the others."""
        watched.ended = True
        worker, code = watched.worker, watched.worker.process.returncode
        worker.signal_group(signal.SIGKILL)  # what it started ends with it
        self._warden.toggle(worker.pid)
        # A child in a session of its own may hold the channel open: do not wait for EOF.
        while worker.control.fill(wait=False):
            pass
        self._take_notices(watched)
        text, echo = watched.report["failed"], watched.report["echo"]
        failure = Failure(worker.rank, worker.exit_reason(), code, text, echo, self._host)
        if failure.fatal:
            self._announce(failure)
            self._agent.report(failure)
        else:
            self._ends.append((time.monotonic(), failure))

    def _tell_ends(self, after: float = 0.0) -> None:
        """Tell the others which workers have ended as they should, since they may wait for them at
        the rendezvous: a moment later, when most have ended, too."""
        while self._ends and time.monotonic() >= self._ends[0][0] + after:
            _, end = self._ends.pop(0)
            self._announce(end)
            self._agent.report(end)

    def _announce(self, failure: Failure) -> None:
        """Tell the workers that a rank is lost, and give them a little time to end."""
        kind = "lost" if failure.fatal else "ended"
        first = failure.fatal and not self._deadlines
        if first:
            self.doing.clear()  # what somebody has asked before
        for other in self._running:
            notice = {kind: failure.rank, "cause": failure.exit_reason}
            if first:
                other.worker.control.send({"doing": True}, wait=False)
            other.worker.control.send(notice, wait=False)
        if first:
            now = time.monotonic()
            self._deadlines = [
                (now + SURVIVORS_S, signal.SIGTERM),
                (now + SURVIVORS_S + TERMINATE_S, signal.SIGKILL),
            ]

    def _pass_signals_on(self) -> None:
        """Pass signals on to the workers; SIGKILL follows after the grace period or at the second
        signal. SIGUSR2 only gives notice: another signal will come when time is up. Without a
        reader of the output the job ends, as if by SIGTERM."""
        if self._screen.abandoned and not self.interrupted:
            self._signals.append(signal.SIGTERM)
        while self._signals:
            number = self._signals.pop(0)
            self.interrupted = True
            if number == signal.SIGUSR2:
                self._signal_all(number)
                continue
            self._screen.hurry()
            again = any(kind == signal.SIGKILL for _, kind in self._deadlines)
            self._signal_all(signal.SIGKILL if again else number)
            now = time.monotonic()
            self._deadlines.append((now + self._options.grace, signal.SIGKILL))

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        for deadline, number in list(self._deadlines):
            if now >= deadline:
                self._deadlines.remove((deadline, number))
                self._signal_all(number)

    def _signal_all(self, number: signal.Signals) -> None:
        for watched in self._running:
            watched.worker.signal_group(number)

    def _outcome(self) -> tuple[Failure | None, int]:
        """The job's first failure and its exit code, on which all hosts agree."""
        agent = self._agent
        agent.ended(leaving=self.interrupted)
        while not agent.concluded():
            time.sleep(agent.poll_s)
            agent.poll()
            if self._signals:  # the workers have had theirs
                break
        first = first_cause(agent.failures)
        if first is not None:
            return agent.outcome(first.code if first.code > 0 else ExitCode.SIGNAL - first.code)
        codes = [watched.worker.process.returncode for watched in self._watched]
        return agent.outcome(max(codes, default=ExitCode.OK))  # 0, or STOPPED

    def _conclude(self, first: Failure | None, code: int) -> int:
        """Show the other failures in one line each, then the first in full; returns the code."""
        self._screen.status("")
        for watched in self._watched:
            rank, report = watched.worker.rank, watched.report
            if report["failed"] and (first is None or rank != first.rank):
                self._screen.line(f"{self._host}:{rank}: {report['line']}", sys.stderr)
        if first is not None and not self._agent.shown_elsewhere:
            text = f"\n{first.text.rstrip()}" if first.text else ""
            self._screen.say(f"rank {first.rank} failed: {first.exit_reason}{text}")
        return code
