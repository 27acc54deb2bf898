"""What people see: the workers' output line by line, and one live line below it."""

import codecs
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TextIO

from ringlet.launcher.errors import user_errors
from ringlet.launcher.supervisor.writer import Writer, writer_of

ERASE_LINE = "\r\x1b[K"

LONGEST = 1 << 18
"""Characters of a line; a longer one is shown in pieces."""

READ = 1 << 16
"""Bytes that are read at once."""


class Screen:
    """The terminal: lines scroll, and one status line is redrawn below them.

    Where the output is not a terminal, or one that cannot erase, there is no status line. Nothing
    here waits for who reads.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._lock = threading.Lock()
        self._status, self._drawn, self._columns = "", 0, 0
        self._writers: dict[TextIO, Writer | None] = {}
        self.live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self.unicode = (self._stream.encoding or "").lower() in ("utf-8", "utf8")

    def line(self, text: str, stream: TextIO | None = None) -> None:
        """Write a line (to `stream`, else to the screen's own) above the status."""
        with self._lock:
            if self._status:
                self._write(self._stream, ERASE_LINE)
            self._write(stream or self._stream, text if text.endswith("\n") else text + "\n")
            if self._status:
                self._write(self._stream, self._status)

    def say(self, text: str) -> None:
        """Write a line of the launcher's own to stderr."""
        self.line(f"ringlet: {text}", sys.stderr)

    def status(self, text: str) -> None:
        """Redraw the status line; an empty text removes it."""
        if not self.live or self.full(self._stream):
            return
        with contextlib.suppress(OSError, ValueError):  # not the system's terminal
            width = os.get_terminal_size(self._stream.fileno()).columns
            text = text[: width - 1] if width else text  # what is wrapped cannot be erased
        with self._lock:
            if self._status or text:
                self._write(self._stream, ERASE_LINE + text)
            self._status = text

    def redraw(self, text: str) -> None:
        """Draw these lines where those of the last `redraw` are, on a live screen; below them, if
        it has become narrower, as they may be more lines now."""
        if self.full(self._stream):
            return
        with self._lock:
            columns, _ = self.size()
            self._drawn = self._drawn if columns >= self._columns else 0
            self._columns = columns
            back = f"\x1b[{self._drawn}F" if self._drawn else ""
            self._write(self._stream, f"{back}\x1b[J{text}")
            self._drawn = text.count("\n")

    def size(self) -> tuple[int, int]:
        """Columns and lines; as usual where the terminal does not say."""
        with contextlib.suppress(OSError, ValueError):
            columns, lines = os.get_terminal_size(self._stream.fileno())
            return columns or 80, lines or 24
        return 80, 24

    def full(self, stream: TextIO) -> bool:
        """Whether so much waits for the stream's reader that nobody should write more."""
        writer = self._writer(stream)
        return writer is not None and writer.full

    @property
    def abandoned(self) -> bool:
        """Whether whoever read what is shown has gone, as `head` does."""
        writer = self._writer(self._stream)
        return writer is not None and writer.broken

    def hurry(self) -> None:
        """From now on, do not wait for slow readers."""
        for stream in (self._stream, sys.stderr):
            if writer := self._writer(stream):
                writer.hurried = True

    def _writer(self, stream: TextIO) -> Writer | None:
        if stream not in self._writers:
            self._writers[stream] = writer_of(stream)
        return self._writers[stream]

    def _write(self, stream: TextIO, text: str) -> None:
        """What the stream's encoding lacks becomes an escape sequence of Python's."""
        writer = self._writer(stream)
        if writer is None:
            stream.write(text)
            stream.flush()
        else:
            writer.write(stream.fileno(), text.encode(stream.encoding, "backslashreplace"))


class RankFile:
    """The output of one rank, in a file of its own.

    When writing fails, the screen says so, and the job goes on without the file.
    """

    def __init__(self, path: Path, screen: Screen, more: bool) -> None:
        self._path, self._screen = path, screen
        # A named pipe is not waited for, either (open(2), O_NONBLOCK).
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | (os.O_APPEND if more else os.O_TRUNC)
        with user_errors(os_error=f"cannot write {path}"):
            self._file = os.fdopen(os.open(path, flags, 0o666), "wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Append the data."""
        left = memoryview(b"" if self._file.closed else data)
        try:
            while left:
                left = left[os.write(self._file.fileno(), left) :]
        except OSError as error:
            self._file.close()
            self._screen.say(f"{self._path} ends here: {error.strerror}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _in_the_locale(error: UnicodeError) -> tuple[str, int]:
    """What is not UTF-8 may be text of a locale that is another, which workers share with us."""
    assert isinstance(error, UnicodeDecodeError)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return error.object[error.start : error.end].decode(encoding, "replace"), error.end


codecs.register_error("ringlet-locale", _in_the_locale)


class Lines:
    """Splits a stream of bytes into lines; a character that arrives in two parts stays whole, and
    a line that does not end is written in pieces."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._decoder = codecs.getincrementaldecoder("utf-8")("ringlet-locale")
        self._parts: list[str] = []
        self._size = 0
        self._since = 0.0

    def feed(self, data: bytes) -> None:
        """Write the lines that are complete with this data; no bytes mean the end."""
        for number, part in enumerate(self._decoder.decode(data, final=not data).split("\n")):
            if number:
                self._show()
            if part and not self._size:
                self._since = time.monotonic()
            self._parts.append(part)
            self._size += len(part)
        if self._size >= LONGEST:
            self._show()

    def flush(self, age: float = 0.0) -> None:
        """Write what is left, although it has no newline, if it has waited for so many seconds."""
        if self._size and time.monotonic() - self._since >= age:
            self._show()

    def _show(self) -> None:
        self._write("".join(self._parts))
        self._parts, self._size = [], 0


class Pipe(Lines):
    """The output of a process, read without waiting; `copy` gets the bytes, too. `target` is where
    the lines go."""

    def __init__(
        self,
        stream: IO[bytes] | None,
        target: TextIO,
        write: Callable[[str], None],
        copy: RankFile | None = None,
    ) -> None:
        super().__init__(write)
        assert stream is not None
        self.target = target
        self._stream, self._copy = stream, copy
        os.set_blocking(self.fileno(), False)

    def fileno(self) -> int:
        """For selectors."""
        return self._stream.fileno()

    def read(self) -> bytes | None:
        """Pass on what has arrived. Returns None if nothing has, and no bytes at the end."""
        try:
            data = os.read(self.fileno(), READ)
        except BlockingIOError:
            return None
        self.feed(data)
        if self._copy is not None:
            self._copy.write(data)
        if not data:
            self.flush()
        return data

    def close(self) -> None:
        """Close the pipe."""
        self._stream.close()
