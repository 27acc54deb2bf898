"""One call in flight: drives what a transport does for it, and ends with a result or an error."""

import math
import time
from typing import Any, Protocol

from ringlet.comm.arguments import seconds
from ringlet.comm.calls.agreement import check_agreement, check_header, is_repeated
from ringlet.comm.calls.channel import Channel
from ringlet.comm.calls.diagnosis import Diagnosis, describe
from ringlet.comm.calls.recorder import (
    CALL,
    ENDED,
    ERROR,
    ISSUED,
    SEQUENCE,
    SHOWN_WITH_ERROR,
    STREAM,
    Record,
)
from ringlet.comm.errors import CommError, CommTimeout
from ringlet.comm.protocols import Program, Wait
from ringlet.comm.signature import Signature, size_text
from ringlet.comm.sockets.messages import SendWait
from ringlet.comm.sockets.wire import COLLECTIVE, Header
from ringlet.comm.stats import Exchange

NEVER, READY, SOON = range(3)
"""How a thread looks whether a wait is over: not at all, once, or for a short time (`Wait`)."""


class _CallerTimeout(Exception):
    """The caller's own wait is over; the operation is not."""


class Driver(Protocol):
    """What drives calls that are shared."""

    def finish(self, call: "ActiveCall", seconds: float | None) -> bool:
        """Wait until the call has ended; False after `seconds`."""


class ActiveCall:
    """A call in flight on a channel. `result` or `error` is set once `finished` is.

    `record` is its entry in the flight recorder; `nbytes` and `label` are for errors.
    """

    result: Any = None
    error: BaseException | None = None
    finished = False
    waiting_for: Wait | None = None
    _diagnosis: Diagnosis | None = None  # made when a wait lasts
    _program: Program | None = None
    _driver: "Driver | None" = None  # of one that threads may wait for that do not drive it

    def __init__(
        self,
        channel: Channel,
        signature: Signature,
        record: Record,
        timeout: float,
        label: str = "",
        nbytes: int = 0,
    ) -> None:
        self.channel, self.signature, self.label, self.nbytes = channel, signature, label, nbytes
        self.timeout = timeout
        self.sequence, self.stream, self.started = record[SEQUENCE], record[STREAM], record[ISSUED]
        self.traffic: list[Exchange] = []
        self.sends: list[SendWait] = []
        self._record = record
        record[CALL] = self

    # -- driving ------------------------------------------------------------------------------

    def start(self, program: Program) -> None:
        """Run the program up to its first wait."""
        self._program = program
        self.advance(NEVER)

    def drive(self, program: Program) -> Any:
        """Run the program to its end, waiting as needed; returns its result or raises its error."""
        self._program = program
        if not self.advance(SOON):
            self.complete(math.inf)
        if self.error is not None:
            raise self.error
        return self.result

    def share(self, program: Program, driver: "Driver") -> None:
        """Leave the program to the driver, whose `advance` begins it."""
        self._program, self._driver = program, driver

    def wait(self, timeout: float | None = None) -> Any:
        """`Work.wait`, of one that is shared."""
        limit = None if timeout is None else seconds(timeout)
        if not (self.has_ended() or self.wait_for_end(limit)):
            raise self.timed_out()
        return self.outcome()

    def done(self) -> bool:
        """`Work.done`, of one that is shared."""
        return self.has_ended()

    def wait_for_end(self, timeout: float | None) -> bool:
        """Wait until the driver has driven it to its end; False after `timeout` seconds."""
        assert self._driver is not None
        return self._driver.finish(self, timeout)

    def ready(self) -> bool:
        """Whether `advance` would get further."""
        return self.waiting_for is None or self.waiting_for.ready()

    def advance(self, look: int = READY) -> bool:
        """Run the program for as long as what it waits for is over; never sleeps. Returns whether
        it has finished."""
        program, wait = self._program, self.waiting_for  # None before the first
        if program is None:
            return self.finished
        try:
            while wait is None or (wait.soon() if look == SOON else look and wait.ready()):
                value = wait.take() if wait is not None and wait.brings else None
                self.waiting_for = wait = program.send(value)
        except StopIteration as stop:
            self.result = stop.value
            self._end(None)
        except BaseException as error:
            self.fail(error)
        return self.finished

    def complete(self, until: float) -> bool:
        """Advance to the end, waiting as needed; False if the operation is still in flight at
        `until`."""
        while not self.advance(SOON):
            wait = self.waiting_for
            assert wait is not None
            if not self._wait(wait, until) and not self.finished:
                return False
        return True

    def fails(self) -> bool:
        """Whether it cannot end well any more; then it has ended."""
        try:
            self.check()
        except CommError as error:
            self.fail(error)
        return self.finished

    def has_ended(self) -> bool:
        """Whether it has ended; raises CommError if it cannot any more, since its world is left."""
        if not self.finished:
            self.channel.context.check_open()
        return self.finished

    def outcome(self) -> Any:
        """The result of a finished operation, or its error."""
        if self.error is not None:
            raise self.error
        return self.result

    def fail(self, error: BaseException) -> None:
        """End with an error; a collective's error breaks its channel for all later calls."""
        if self._program is not None:
            self._program.close()
        self._end(error)

    def _wait(self, wait: Wait, until: float) -> bool:
        """Sleep until the wait is over; False if the operation has ended, or it is `until`."""

        def tick() -> None:
            self.check()
            if time.monotonic() >= until:
                raise _CallerTimeout

        try:
            wait.wait(tick, self.channel.endpoint.inbox.poll)
        except _CallerTimeout:
            return False
        except Exception as error:
            self.fail(error)
            return False
        except BaseException as error:  # also where somebody else waits for this call
            self.fail(error)
            raise
        return True

    def _end(self, error: BaseException | None) -> None:
        channel, record, now = self.channel, self._record, time.monotonic()
        record[ENDED], record[CALL] = now, None
        self._program = self.waiting_for = None
        channel.stats.count(self.signature.operation, now - self.started, self.traffic)
        if error is not None:
            self._end_badly(error)
        elif self.stream == COLLECTIVE:
            channel.last_met = record
        if self._diagnosis is not None and error is None:
            self._diagnosis.ended()
            self._diagnosis = None  # each refers to the other
        self.sends.clear()  # each refers to its array
        self.finished = True

    def _end_badly(self, error: BaseException) -> None:
        for send in self.sends:
            send.own()
        self.error, self._record[ERROR] = error, type(error).__name__
        if self.stream == COLLECTIVE:
            self.channel.break_off(error)
        # Tracebacks show notes below the message, which stays as short as it is.
        if isinstance(error, CommError) and not getattr(error, "__notes__", None):
            error.add_note(self.channel.context.recorder.text(SHOWN_WITH_ERROR))

    # -- what transports see ------------------------------------------------------------------

    def tell(self) -> None:
        """Tell the group at once what this rank waits in."""
        self._diagnose().notice_at = time.monotonic()

    def is_repeated(self, header: Header, number: int) -> bool:
        """Whether a message has come before: see `agreement`."""
        return is_repeated(self, header, number)

    def check_header(self, header: Header, number: int) -> None:
        """Raise CollectiveMismatch unless a message is the call's next from its source."""
        check_header(self, header, number)

    # -- what a wait can meet -----------------------------------------------------------------

    def check(self) -> None:
        """Raise if this wait cannot end well; tell the others of it if it lasts."""
        self.channel.context.check_open()
        check_agreement(self)
        self._diagnose().check()

    def timed_out(self) -> CommTimeout:
        """The error for having waited until now, with what is known of the awaited rank."""
        return self._diagnose().timed_out()

    def _diagnose(self) -> Diagnosis:
        if self._diagnosis is None:
            self._diagnosis = Diagnosis(self)
        return self._diagnosis

    def text(self) -> str:
        """The operation with its size, for errors: all_reduce #42 (gradients 3/7, 4.0 MiB)."""
        size = size_text(self.nbytes) if self.nbytes else ""
        remarks = ", ".join(text for text in (self.label, size) if text)
        return describe(
            self.channel.context,
            self.channel.id,
            self.stream,
            self.sequence,
            self.signature,
            remarks,
        )

    def remarks(self) -> str:
        """For the flight recorder: the label, and whom it waits for."""
        wait = self.waiting_for
        waits = "" if wait is None or wait.awaited is None else f"waits for rank {wait.awaited}"
        return ", ".join(filter(None, (self.label, waits)))
