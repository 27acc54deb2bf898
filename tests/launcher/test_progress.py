"""The line that shows how far something is."""

import io
import threading

import pytest
from waiting import until

from ringlet.launcher.commands import progress as module
from ringlet.launcher.commands.progress import progress
from ringlet.launcher.supervisor.output import ERASE_LINE, Screen


class Terminal(io.StringIO):
    """One that is there if it is `live`."""

    encoding = "utf-8"

    def __init__(self, live):
        super().__init__()
        self.live = live

    def isatty(self):
        return self.live


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(module, "SOON_S", 0.0)
    monkeypatch.setattr(module, "EVERY_S", 0.01)


SAID = {
    "of so many": ((3, 4, "settings"), 0.0, "━━━━━━━━━━━━━━━━━━──────  3 of 4 settings  0:00"),
    "of nobody knows how many": ((1234, 0, "found"), 0.0, "planning  1,234 found  0:00"),
    "of so many seconds": (None, 1e-9, "━━━━━━━━━━━━━━━━━━━━━━━━  0:00"),
    "nothing": (None, 0.0, "planning  0:00"),
}


@pytest.mark.parametrize("case", SAID)
def test_a_line_on_a_terminal_that_goes_at_the_end(at_once, case):
    far, seconds, text = SAID[case]
    terminal = Terminal(live=True)
    with pytest.raises(ZeroDivisionError), progress("planning", Screen(terminal), seconds) as at:
        if far is not None:
            at(*far)
        assert until(lambda: text in terminal.getvalue())
        raise ZeroDivisionError
    assert terminal.getvalue().endswith(ERASE_LINE)
    assert "ringlet-progress-line" not in {thread.name for thread in threading.enumerate()}


def test_nothing_where_there_is_no_terminal(at_once):
    terminal = Terminal(live=False)
    with progress("planning", Screen(terminal)) as at:
        at(1, 2, "settings")
        assert "ringlet-progress-line" not in {thread.name for thread in threading.enumerate()}
    assert terminal.getvalue() == ""
