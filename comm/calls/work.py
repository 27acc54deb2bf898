"""Handles of operations in flight."""

import threading
from collections import deque
from typing import Any, Protocol

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


class ProgressWork:
    """An asynchronous collective, driven by the progress thread."""

    def __init__(self, call: ActiveCall) -> None:
        self._call = call

    def wait(self, timeout: float | None = None) -> Any:
        if not self._call.wait_for_end(timeout):
            raise self._call.timed_out()
        return self._call.outcome()

    def done(self) -> bool:
        return self._call.finished


class Lane:
    """Transfers that must be driven in order: the receives from one rank with one tag."""

    def __init__(self) -> None:
        self._calls: deque[ActiveCall] = deque()
        self._lock = threading.Lock()

    def append(self, call: ActiveCall) -> "LaneWork":
        """Queue a started operation."""
        self._calls.append(call)
        return LaneWork(self, call)

    def drive(self, call: ActiveCall, timeout: float | None) -> Any:
        """Drive everything up to the operation, in the caller's thread."""
        with self._lock:
            while not call.finished:
                self._calls[0].complete(timeout)
                self._discard_finished()
        return call.outcome()

    def step(self) -> None:
        """Drive what can be driven without waiting."""
        if self._lock.acquire(blocking=False):
            try:
                while self._calls and self._calls[0].step():
                    self._calls.popleft()
            finally:
                self._lock.release()

    def _discard_finished(self) -> None:
        while self._calls and self._calls[0].finished:
            self._calls.popleft()


class LaneWork:
    """A transfer, driven by whoever waits for it."""

    def __init__(self, lane: Lane, call: ActiveCall) -> None:
        self._lane, self._call = lane, call

    def wait(self, timeout: float | None = None) -> Any:
        return self._lane.drive(self._call, timeout)

    def done(self) -> bool:
        if not self._call.finished:
            self._call.channel.endpoint.inbox.poll()
            self._lane.step()
        return self._call.finished
