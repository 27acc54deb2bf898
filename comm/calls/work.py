"""Handles of operations in flight."""

import math
import threading
import time
from collections import deque
from typing import Any, Protocol

from ringlet.comm.arguments import seconds
from ringlet.comm.calls.active_call import ActiveCall


class Work(Protocol):
    """A handle of an operation in flight."""

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the end; returns the operation's result or raises its error.

        Raises CommTimeout after `timeout` seconds; the operation stays in flight and may be waited
        for again.
        """

    def done(self) -> bool:
        """Whether it has ended, with a result or an error; never waits."""


class Lane:
    """Transfers that must be driven in order: the receives from one rank with one tag.

    One thread drives them; the others that wait look on, and one of them goes on where it stops.
    """

    def __init__(self) -> None:
        self._calls: deque[ActiveCall] = deque()
        self._moved = threading.Condition()
        self._driven = False

    def append(self, call: ActiveCall) -> "LaneWork":
        """Queue a started operation."""
        self._calls.append(call)
        return LaneWork(self, call)

    def drive(self, call: ActiveCall, until: float) -> bool:
        """Drive everything up to the operation; False if it has not ended by `until`."""
        while not call.finished:
            if not self._enter(call, until):
                return call.finished
            try:
                while not call.finished:
                    if not self._calls[0].complete(until):
                        return False
                    self._discard_finished()
            finally:
                self._leave()
        return True

    def step(self) -> None:
        """Drive what can be driven without waiting."""
        with self._moved:
            if self._driven:
                return
            self._driven = True
        try:
            while self._calls and (self._calls[0].advance() or self._calls[0].fails()):
                self._discard_finished()
        finally:
            self._leave()

    def _enter(self, call: ActiveCall, until: float) -> bool:
        """Become the thread that drives; False if the operation ends first, or at its deadline."""
        until = min(until, call.started + call.timeout)
        with self._moved:
            while self._driven and not call.finished and time.monotonic() < until:
                self._moved.wait(until - time.monotonic())
            if self._driven or call.finished:
                return False
            self._driven = True
            return True

    def _leave(self) -> None:
        with self._moved:
            self._driven = False
            self._moved.notify_all()

    def _discard_finished(self) -> None:
        with self._moved:
            while self._calls and self._calls[0].finished:
                self._calls.popleft()
            self._moved.notify_all()


class LaneWork:
    """A transfer, driven by whoever waits for it."""

    def __init__(self, lane: Lane, call: ActiveCall) -> None:
        self._lane, self._call = lane, call

    def wait(self, timeout: float | None = None) -> Any:
        until = math.inf if timeout is None else time.monotonic() + seconds(timeout)
        if not self._call.has_ended() and not self._lane.drive(self._call, until):
            raise self._call.timed_out()
        return self._call.outcome()

    def done(self) -> bool:
        if not self._call.has_ended():
            self._call.channel.endpoint.inbox.poll()
            self._lane.step()
        return self._call.finished
