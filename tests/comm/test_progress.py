"""The progress thread: each group's order is kept; across groups the shortest goes first."""

import threading
import time
from collections import deque

from ringlet.comm.calls.progress import Progress


class Inbox:
    """Nobody to hear of."""

    def wake(self):
        """See Inbox."""

    def wait(self, ready, tick, patience_ms):
        """See Inbox."""
        while not ready():
            time.sleep(0.001)


class Endpoint:
    """Nobody to hear of."""

    inbox = Inbox()


class Channel:
    """A group's."""

    def __init__(self, name):
        self.name, self.queue = name, deque()


class Call:
    """An operation that ends where it starts."""

    def __init__(self, channel, nbytes, started, gate=None):
        self.channel, self.nbytes, self.finished = channel, nbytes, False
        self._started, self._gate = started, gate
        self.begun, self.ended = threading.Event(), threading.Event()

    def share(self, program, driver):
        """See ActiveCall."""

    def advance(self):
        """Note it, and hold the thread up if told."""
        self.begun.set()
        if self._gate is not None:
            assert self._gate.wait(10)
        self._started.append((self.channel.name, self.nbytes))
        self.finished = True
        self.ended.set()
        return True


def test_short_ones_go_first_across_groups_and_none_overtakes_in_its_own():
    a, b, c, d = map(Channel, "abcd")
    started, gate = [], threading.Event()
    progress = Progress(Endpoint())
    first = Call(a, 8, started, gate)
    progress.submit(first, None)
    assert first.begun.wait(10)  # while this holds the thread up, the others queue
    others = [Call(*call, started) for call in ((b, 1000), (b, 1), (c, 10), (d, 100))]
    for call in others:
        progress.submit(call, None)
    gate.set()
    for call in (first, *others):
        assert call.ended.wait(10)
    progress.stop()
    assert started == [("a", 8), ("c", 10), ("d", 100), ("b", 1000), ("b", 1)]
