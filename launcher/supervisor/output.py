"""What people see: the workers' output line by line, and one live line below it."""

import codecs
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ringlet.launcher.errors import user_errors

ERASE_LINE = "\r\x1b[K"


class Screen:
    """The terminal: lines scroll, and one status line is redrawn below them.

    Where the output is not a terminal, there is no status line.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._lock = threading.Lock()
        self._status = ""
        self.live = self._stream.isatty()

    def line(self, text: str, stream: IO[str] | None = None) -> None:
        """Write a line (to `stream`, else to the screen's own) above the status."""
        with self._lock:
            if self._status:
                self._stream.write(ERASE_LINE)
                self._stream.flush()  # before the line, which may go to another stream
            target = self._stream if stream is None else stream
            target.write(text if text.endswith("\n") else text + "\n")
            target.flush()
            if self._status:
                self._stream.write(self._status)
            self._stream.flush()

    def say(self, text: str) -> None:
        """Write a line of the launcher's own to stderr."""
        self.line(f"ringlet: {text}", sys.stderr)

    def status(self, text: str) -> None:
        """Redraw the status line; an empty text removes it."""
        if not self.live:
            return
        with self._lock:
            self._stream.write(ERASE_LINE + text if self._status or text else "")
            self._status = text
            self._stream.flush()


class RankFile:
    """The output of one rank, in a file of its own.

    When writing fails, the screen says so, and the job goes on without the file.
    """

    def __init__(self, path: Path, screen: Screen, more: bool) -> None:
        self._path, self._screen = path, screen
        with user_errors(os_error=f"cannot write {path}"):
            self._file = path.open("ab" if more else "wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Append the data."""
        if self._file.closed:
            return
        try:
            self._file.write(data)
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
    """Splits a stream of bytes into lines; a character that arrives in two parts stays whole."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._decoder = codecs.getincrementaldecoder("utf-8")("ringlet-locale")
        self._parts: list[str] = []

    def feed(self, data: bytes) -> None:
        """Write the lines that are complete with this data; no bytes mean the end."""
        first, *others = self._decoder.decode(data, final=not data).split("\n")
        self._parts.append(first)
        for part in others:
            self._write("".join(self._parts))
            self._parts = [part]

    def flush(self) -> None:
        """Write what is left, although it has no newline."""
        if any(self._parts):
            self._write("".join(self._parts))
        self._parts = []


class Pipe(Lines):
    """The output of a process, read without waiting; `copy` gets the bytes, too."""

    def __init__(
        self, stream: IO[bytes] | None, write: Callable[[str], None], copy: RankFile | None = None
    ) -> None:
        super().__init__(write)
        assert stream is not None
        self._stream, self._copy = stream, copy
        os.set_blocking(self.fileno(), False)

    def fileno(self) -> int:
        """For selectors."""
        return self._stream.fileno()

    def read(self) -> bytes | None:
        """Pass on what has arrived. Returns None if nothing has, and no bytes at the end."""
        try:
            data = os.read(self.fileno(), 1 << 16)
        except BlockingIOError:
            return None
        self.feed(data)
        if self._copy is not None:
            self._copy.write(data)
        if not data:
            self.flush()
        return data
