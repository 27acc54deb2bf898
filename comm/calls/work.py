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

    def __init__(self, operation: ActiveCall) -> None:
        self._operation = operation

    def wait(self, timeout: float | None = None) -> Any:
        if not self._operation.wait_for_end(timeout):
            raise self._operation.timed_out()
        return self._operation.outcome()

    def done(self) -> bool:
        return self._operation.finished


class Lane:
    """Transfers that must be driven in order: the receives from one rank with one tag."""

    def __init__(self) -> None:
        self._operations: deque[ActiveCall] = deque()
        self._lock = threading.Lock()

    def append(self, operation: ActiveCall) -> "LaneWork":
        """Queue a started operation."""
        self._operations.append(operation)
        return LaneWork(self, operation)

    def drive(self, operation: ActiveCall, timeout: float | None) -> Any:
        """Drive everything up to the operation, in the caller's thread."""
        with self._lock:
            while not operation.finished:
                self._operations[0].complete(timeout)
                self._discard_finished()
        return operation.outcome()

    def step(self) -> None:
        """Drive what can be driven without waiting."""
        if self._lock.acquire(blocking=False):
            try:
                while self._operations and self._operations[0].step():
                    self._operations.popleft()
            finally:
                self._lock.release()

    def _discard_finished(self) -> None:
        while self._operations and self._operations[0].finished:
            self._operations.popleft()


class LaneWork:
    """A transfer, driven by whoever waits for it."""

    def __init__(self, lane: Lane, operation: ActiveCall) -> None:
        self._lane, self._operation = lane, operation

    def wait(self, timeout: float | None = None) -> Any:
        return self._lane.drive(self._operation, timeout)

    def done(self) -> bool:
        if not self._operation.finished:
            self._operation.channel.endpoint.inbox.poll()
            self._lane.step()
        return self._operation.finished
