"""Run workers on this host: start, watch, announce deaths, end all, leave nothing."""

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeAlias

from ringlet.launcher.control import Message
from ringlet.launcher.environment import Job
from ringlet.launcher.errors import ExitCode
from ringlet.launcher.output import Lines, Screen
from ringlet.launcher.process import Worker

Inform: TypeAlias = Callable[[int, Message], None]

DEFAULT_GRACE_S = 30.0
SURVIVORS_S = 3.0
"""After a worker has died the others get so long to say so and end."""

TERMINATE_S = 1.0
"""Then, after SIGTERM, so long before SIGKILL."""

POLL_S = 0.2


@dataclass
class _Failure:
    """How the first worker failed."""

    rank: int
    epitaph: str
    code: int
    text: str = ""


@dataclass
class _Watched:
    """A worker with its output on the way to the screen."""

    worker: Worker
    lines: dict[int, Lines] = field(default_factory=dict)
    ended: bool = False
    text: str = ""
    echo: bool = False


class Supervisor:
    """Runs one job's workers to their end.

    `inform(rank, message)` gets the messages that workers send besides their failures. With
    `prefix`, output lines begin with `host:rank: `.
    """

    def __init__(
        self,
        job: Job,
        module: str,
        arguments: Sequence[str],
        *,
        screen: Screen,
        grace: float = DEFAULT_GRACE_S,
        prefix: bool | None = None,
        inform: Inform | None = None,
    ) -> None:
        self._job, self._module, self._arguments = job, module, arguments
        self._screen, self._grace, self._inform = screen, grace, inform
        self._host = socket.gethostname()
        self._prefix = job.size > 1 if prefix is None else prefix
        self._watched: list[_Watched] = []
        self._selector = selectors.DefaultSelector()
        self._failure: _Failure | None = None
        self._signals: list[signal.Signals] = []
        self._deadlines: list[tuple[float, signal.Signals]] = []

    def run(self) -> int:
        """Start the workers, wait for all; returns the exit code (see ExitCode)."""
        handlers = {
            number: signal.signal(number, self._note_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            for rank in range(self._job.size):
                self._start(rank)
            while not all(watched.ended for watched in self._watched):
                self._turn()
            self._drain()
            return self._conclude()
        finally:
            for watched in self._watched:
                watched.worker.kill()
            self._selector.close()
            self._job.clean()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    # -- watching -----------------------------------------------------------------------------

    def _start(self, rank: int) -> None:
        worker = Worker(
            self._job,
            rank,
            self._module,
            self._arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        watched = _Watched(worker)
        self._watched.append(watched)
        self._selector.register(worker.control, selectors.EVENT_READ, (watched, None))
        for stream, target in (
            (worker.process.stdout, sys.stdout),
            (worker.process.stderr, sys.stderr),
        ):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            watched.lines[stream.fileno()] = Lines(self._writer(rank, target))
            self._selector.register(stream, selectors.EVENT_READ, (watched, stream.fileno()))

    def _writer(self, rank: int, target: Any) -> Callable[[str], None]:
        head = f"{self._host}:{rank}: " if self._prefix else ""
        return lambda text: self._screen.line(head + text, target)

    def _turn(self) -> None:
        """Wait a moment for something to happen, and act on it."""
        events = self._selector.select(POLL_S)
        if not events:
            for watched in self._watched:
                for lines in watched.lines.values():
                    lines.flush()
        for key, _ in events:
            watched, descriptor = key.data
            if descriptor is None:
                self._read_control(watched)
            else:
                self._read_output(key.fileobj, watched.lines[descriptor], descriptor)
        for watched in self._watched:
            if not watched.ended and not watched.worker.running:
                self._ended(watched)
        self._act_on_signals()
        self._act_on_deadlines()

    def _read_output(self, stream: Any, lines: Lines, descriptor: int) -> bool:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return False
        lines.feed(data)
        if not data:
            self._selector.unregister(stream)
            lines.flush()
        return bool(data)

    def _read_control(self, watched: _Watched) -> None:
        if not watched.worker.control.fill():
            self._selector.unregister(watched.worker.control)
        self._take_messages(watched)

    def _take_messages(self, watched: _Watched) -> None:
        for message in watched.worker.control.messages():
            if "failed" in message:
                watched.text, watched.echo = message["failed"], message["echo"]
            elif self._inform is not None:
                self._inform(watched.worker.rank, message)

    def _drain(self) -> None:
        """Take what the ended workers had written; a child that lives on may hold the pipe."""
        for key in list(self._selector.get_map().values()):
            watched, descriptor = key.data
            if descriptor is not None:
                while self._read_output(key.fileobj, watched.lines[descriptor], descriptor):
                    pass
                watched.lines[descriptor].flush()

    # -- ends ---------------------------------------------------------------------------------

    def _ended(self, watched: _Watched) -> None:
        """A worker has ended. If it failed: tell the others, and give them a little time."""
        watched.ended = True
        worker, code = watched.worker, watched.worker.process.returncode
        worker.signal_group(signal.SIGKILL)  # what it started ends with it
        # A forked child in a session of its own may still hold the channel: do not wait for EOF.
        while worker.control.fill(wait=False):
            pass
        self._take_messages(watched)
        if not code:
            return
        epitaph = worker.epitaph()
        for other in self._watched:
            if not other.ended:
                other.worker.control.send({"lost": worker.rank, "cause": epitaph})
        if self._failure is None or (self._failure_is_echo() and not watched.echo):
            self._failure = _Failure(worker.rank, epitaph, code, watched.text)
        if not self._deadlines:
            now = time.monotonic()
            self._deadlines = [
                (now + SURVIVORS_S, signal.SIGTERM),
                (now + SURVIVORS_S + TERMINATE_S, signal.SIGKILL),
            ]

    def _failure_is_echo(self) -> bool:
        return self._failure is not None and self._watched[self._failure.rank].echo

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(signal.Signals(number))

    def _act_on_signals(self) -> None:
        """Pass a signal on; after the grace, or at the second, SIGKILL."""
        while self._signals:
            number = self._signals.pop(0)
            again = any(kind == signal.SIGKILL for _, kind in self._deadlines)
            self._signal_all(signal.SIGKILL if again else number)
            now = time.monotonic()
            self._deadlines.append((now + self._grace, signal.SIGKILL))

    def _act_on_deadlines(self) -> None:
        now = time.monotonic()
        for deadline, number in list(self._deadlines):
            if now >= deadline:
                self._deadlines.remove((deadline, number))
                self._signal_all(number)

    def _signal_all(self, number: signal.Signals) -> None:
        for watched in self._watched:
            if not watched.ended:
                watched.worker.signal_group(number)

    def _conclude(self) -> int:
        """Show the first failure last and whole; returns the exit code."""
        self._screen.status("")
        for watched in self._watched:
            if watched.text and (
                self._failure is None or watched.worker.rank != self._failure.rank
            ):
                last = watched.text.strip().splitlines()[-1]
                self._screen.line(f"{self._host}:{watched.worker.rank}: {last}", sys.stderr)
        if self._failure is None:
            return ExitCode.OK
        failure = self._failure
        text = f"\n{failure.text.rstrip()}" if failure.text else ""
        self._screen.line(
            f"ringlet: rank {failure.rank} failed: {failure.epitaph}{text}", sys.stderr
        )
        return failure.code if failure.code > 0 else ExitCode.SIGNAL - failure.code


def run_script(
    arguments: Sequence[str],
    workers: int,
    *,
    transport: str = "auto",
    timeout: float | None = None,
    grace: float = DEFAULT_GRACE_S,
    screen: Screen | None = None,
) -> int:
    """Run `script.py arguments...` (or `-m module arguments...`) on so many workers.

    Returns the exit code: 0, the first failed worker's own, or 128 + its signal.
    """
    job = Job(workers, transport, timeout)
    supervisor = Supervisor(
        job, "ringlet.launcher.worker", arguments, screen=screen or Screen(), grace=grace
    )
    return supervisor.run()
