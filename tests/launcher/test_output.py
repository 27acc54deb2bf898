"""Lines cut from bytes, and the live line under them."""

import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from ringlet.launcher.supervisor.output import ERASE_LINE, LONGEST, Lines, Screen

TEXT = "plain\n\nnaïve 日本 🙂\nand\ttabs\rand returns\n"


def cut(*pieces):
    """The lines that come of the pieces; None: the launcher shows what there is."""
    written = []
    lines = Lines(written.append)
    for piece in pieces:
        if piece is None:
            lines.flush()
        else:
            lines.feed(piece)
    return written


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_do_not_depend_on_how_the_bytes_are_cut(size):
    data = TEXT.encode()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert cut(*pieces) == TEXT.split("\n")[:-1]


CUTS = {
    "nothing": ([None, b"", None], []),
    "no newline yet": ([b"be"], []),
    "shown, then ended": ([b"be", None, b"gun\n"], ["be", "gun"]),
    "shown once": ([b"be", None, None, b""], ["be"]),
    "whole character across a flush": ([b"na\xc3", None, b"\xafve\n"], ["na", "ïve"]),
    "bad byte": ([b"a\xffb\n"], ["a\ufffdb"]),
    "character never ended": ([b"a\xc3", b"", None], ["a\ufffd"]),
    "newline of its own": ([b"a", b"\n", b"\n"], ["a", ""]),
}


@pytest.mark.parametrize("case", CUTS)
def test_partial_lines(case):
    pieces, expected = CUTS[case]
    assert cut(*pieces) == expected


@pytest.mark.parametrize("piece", [b"x", b"\r50 %", b"\x00", b"\xff", "é".encode()])
def test_a_line_without_end_is_written_in_pieces(piece):
    data = piece * (1 << 16)
    written = cut(*[data] * 50, None)
    assert max(map(len, written)) < LONGEST + len(data)
    assert "".join(written) == (data * 50).decode(errors="replace")


class Terminal(io.StringIO):
    """Shows what would be seen: everything that comes in order, erased lines gone."""

    def isatty(self):
        return True

    def seen(self):
        rows = []
        for row in self.getvalue().split("\n"):
            rows.append(row.rpartition(ERASE_LINE)[2])
        return rows


def test_the_status_line_stays_below_the_lines():
    terminal = Terminal()
    screen = Screen(terminal)
    screen.status("step 1")
    assert terminal.seen() == ["step 1"]
    screen.line("hello")
    assert terminal.seen() == ["hello", "step 1"]
    screen.status("step 2")
    screen.line("two\nlines\n")
    assert terminal.seen() == ["hello", "two", "lines", "step 2"]
    screen.status("")
    assert terminal.seen() == ["hello", "two", "lines", ""]
    screen.line("end")
    assert terminal.seen() == ["hello", "two", "lines", "end", ""]


class Buffered(io.StringIO):
    """A stream that reaches its terminal when flushed, as stdout does."""

    def __init__(self, terminal):
        super().__init__()
        self._terminal = terminal

    def isatty(self):
        return True

    def flush(self):
        self._terminal.write(self.getvalue())
        self.seek(0)
        self.truncate()


def test_errors_and_status_share_a_terminal():
    terminal = Terminal()
    stdout, stderr = Buffered(terminal), Buffered(terminal)
    screen = Screen(stdout)
    screen.status("step 1")
    screen.line("careful", stderr)
    assert terminal.seen() == ["careful", "step 1"]


def test_without_a_terminal_there_is_no_status():
    stream = io.StringIO()
    screen = Screen(stream)
    screen.status("step 1")
    screen.line("hello")
    screen.status("")
    assert not screen.live
    assert stream.getvalue() == "hello\n"


@pytest.mark.parametrize(
    ("columns", "shown"), [(5, "step"), (60, "step 1 of 2"), (0, "step 1 of 2")]
)
def test_the_status_line_fits_the_terminal(columns, shown):
    """What is wrapped cannot be erased, and would scroll away with every step."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as stream, os.fdopen(ours, "rb", buffering=0) as terminal:
        Screen(stream).status("step 1 of 2")
        assert terminal.read(100).decode() == ERASE_LINE + shown


def test_a_terminal_that_cannot_erase_has_no_status_line(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen(terminal := Terminal())
    screen.status("step 1")
    assert (screen.live, terminal.getvalue()) == (False, "")
