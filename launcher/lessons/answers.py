"""A student's file is checked in a process of its own, which cannot run, print or fork for ever."""

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ringlet.launcher.supervisor.control import VARIABLE, Control
from ringlet.launcher.supervisor.environment import THREAD_VARIABLES
from ringlet.launcher.supervisor.output import READ, Pipe
from ringlet.launcher.supervisor.process import exit_text

DEADLINE_S = 20.0
"""For a whole check, which takes a second or three."""

START_S = 60.0
"""How long the process may take to start, on a machine that has other work."""

GRACE_S = 3.0
"""How much longer than the deadline it may take, to say where it hangs."""

SHOWN = 20_000
"""Characters that are shown of what an answer prints."""

POLL_S = 0.1

PIPE_BYTES = 1 << 20
"""No pipe holds more."""

PIPES = PIPE_BYTES // READ
"""Reads after which a full pipe is empty; what has fled the process group may go on to write."""

THREADS = dict.fromkeys(THREAD_VARIABLES, "1")


def check_answer(
    folder: str, path: Path, show: Callable[[str], None], deadline: float = DEADLINE_S
) -> list[str]:
    """What is wrong with the answer to the lesson of this folder; nothing if it is right.

    `show` gets each line that it prints. Whatever the answer has started in its process group is
    gone at the end, also if this is interrupted.
    """
    running = _Running(folder, path.resolve(), show, deadline)
    try:
        done = running.wait(deadline + GRACE_S)
    finally:
        running.end()
    if not done:
        running.wrong.append(running.reason(deadline))
    return running.wrong


class _Running:
    """The process that checks, and what it has told."""

    def __init__(
        self, folder: str, path: Path, show: Callable[[str], None], deadline: float
    ) -> None:
        self.wrong: list[str] = []
        self._path, self._show = path, show
        self._printed = self._dropped = 0
        self._late, self._stacks = False, b""
        ours, theirs = socket.socketpair()
        self._stacks_pipe, stacks = map(os.fdopen, os.pipe(), ("rb", "wb"))
        words = [folder, str(path), str(stacks.fileno()), str(deadline)]
        with theirs, stacks:
            self._process = subprocess.Popen(
                # -P: what is in the current folder does not replace what is imported.
                [sys.executable, "-P", "-m", "ringlet.launcher.lessons.judge", *words],
                env={**os.environ, **THREADS, VARIABLE: str(theirs.fileno())},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno(), stacks.fileno()],
                start_new_session=True,
            )
        os.set_blocking(self._stacks_pipe.fileno(), False)
        self._control = Control(ours)
        self._pipe = Pipe(self._process.stdout, sys.stdout, self._line)

    def wait(self, seconds: float) -> bool:
        """Until the check has come to its end, which is true, or the process to its own, at most so
        long after its beginning."""
        end = time.monotonic() + START_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._pipe, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0:
                # What it has started may hold its channel open when it has ended.
                ended = self._process.poll() is not None
                ready = {key.fileobj for key, _ in selector.select(min(left, POLL_S))}
                if self._pipe in ready and self._pipe.read() == b"":
                    selector.unregister(self._pipe)
                there = self._control not in ready or self._control.fill()
                for notice in self._control.notices():
                    if "done" in notice:
                        return True
                    if "begins" in notice:
                        end = time.monotonic() + seconds
                    else:
                        self.wrong.append(str(notice["wrong"]))
                if ended and self._control not in ready:
                    return False
                if not there:
                    selector.unregister(self._control)
        self._late = True
        return False

    def end(self) -> None:
        """Kill what still runs, and show the last lines."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for _ in range(PIPES):
            self._pipe.read()
        self._pipe.flush()
        if self._dropped:
            self._show(f"... and {self._dropped:,} characters more, which are not shown")
        with self._stacks_pipe as pipe, suppress(BlockingIOError):  # if nothing was written
            self._stacks = os.read(pipe.fileno(), PIPE_BYTES)
        self._pipe.close()
        self._control.close()

    def reason(self, deadline: float) -> str:
        """Why the check has not come to its end."""
        text = self._stacks.decode(errors="replace")
        place = re.search(rf'File "{re.escape(str(self._path))}", line (\d+) in (\S+)', text)
        where = self._path.name
        if place is not None:
            where += f", line {place[1]}" + ("" if "<" in place[2] else f", in {place[2]}")
        if self._late or "Timeout" in text:
            return f"{where}: does not come to an end: stopped after {deadline:g} s"
        how = exit_text(self._process.pid, self._process.returncode).partition(" on host ")[2]
        return f"{where}: the process {how.partition(' ')[2]} in the middle of the check"

    def _line(self, text: str) -> None:
        room = SHOWN - self._printed
        self._printed += len(text) + 1
        if room > 0:
            self._show(text[:room])
        self._dropped += max(0, len(text) - max(room, 0))
