"""Writing to what others hold, without waiting for them: a pager that does not read, a terminal
after Ctrl-S, a disk that is full or far away.

Only a thread can wait for all of these and let the launcher go on: whether a pipe or a terminal
takes the next bytes cannot be known beforehand when others write there, too.
"""

import io
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO

from ringlet.launcher.supervisor.signals import noted_signals

TOGETHER = 1 << 16
"""Bytes that are written at once."""

FULL = 1 << 20
"""With so much waiting to be written, whoever writes should be held back."""

MOST = 1 << 26
"""What comes on top of so much is dropped, since not everybody can be held back."""

HURRY_S = 1.0
"""How long to wait for readers at the end, once a signal has come."""


class Writer:
    """Writes to one file, of which there may be several descriptors, on a thread of its own.

    `broken` says that a pipe's reader has gone. What cannot be written for another reason is
    dropped, and the first time stderr says so.
    """

    def __init__(self) -> None:
        self.broken = self.hurried = False
        self._waiting: deque[tuple[int, bytearray]] = deque()
        self._bytes = self._dropped = 0
        self._failed = self._closed = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="ringlet-writer", daemon=True).start()

    @property
    def full(self) -> bool:
        """Whether so much waits that nobody should write more."""
        return self._bytes >= FULL

    def write(self, descriptor: int, data: bytes) -> None:
        """Write the data soon."""
        with self._changed:
            if self._bytes + len(data) > (FULL if self.hurried else MOST):
                self._dropped += len(data)
                return
            if self._dropped:
                data = f"ringlet: {self._dropped:,} bytes were not read in time\n".encode() + data
                self._dropped = 0
            last = self._waiting[-1] if self._waiting else None
            if last is not None and last[0] == descriptor and len(last[1]) < TOGETHER:
                last[1].extend(data)
            else:
                self._waiting.append((descriptor, bytearray(data)))
            if not self._bytes:
                self._changed.notify_all()
            self._bytes += len(data)

    def written(self, seconds: float) -> bool:
        """Wait until all has been written, at most so long; returns whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._bytes, seconds)

    def close(self) -> None:
        """End the thread, once all has been written."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                descriptor, data = self._waiting.popleft()
            self._write(descriptor, data)
            with self._changed:
                self._bytes -= len(data)
                self._changed.notify_all()

    def _write(self, descriptor: int, data: bytearray) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:  # somebody who shares it wants it so
                select.select([], [descriptor], [])
            except BrokenPipeError:
                self.broken = True
                return
            except OSError as error:
                if not self._failed:
                    self._failed = True
                    self._complain(f"ringlet: output is lost: {error.strerror}\n")
                return

    def _complain(self, text: str) -> None:
        other = writer_of(sys.stderr)
        if other not in (None, self):
            other.write(sys.stderr.fileno(), text.encode())


_writers: dict[tuple[int, int], Writer] = {}
_lock = threading.Lock()


def writer_of(stream: IO[str]) -> Writer | None:
    """The writer of the stream's file, the same for stdout and stderr of one terminal, so that the
    order stays; None if the stream is no file."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return None
    with _lock:
        file = status.st_dev, status.st_ino
        if file not in _writers:
            _writers[file] = Writer()
        return _writers[file]


def finish() -> None:
    """Wait until all has been written, or a signal comes."""
    with noted_signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        until = time.monotonic() + HURRY_S
        while any(not writer.written(0.1) for writer in list(_writers.values())):
            hurried = any(writer.hurried for writer in _writers.values())
            if signals or (hurried and time.monotonic() > until):
                break
    for writer in _writers.values():
        writer.close()
    _writers.clear()
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at its end, and change the exit code
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115


def prepare_streams() -> None:
    """Open /dev/null for the standard streams that are closed, before another file gets their
    numbers; and let a character that an encoding lacks be written as an escape sequence."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            setattr(sys, name, Path(os.devnull).open("w" if number else "r"))  # noqa: SIM115
        stream = getattr(sys, name)
        if number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
