"""Asynchronous collectives, which their channels queue, and who drives them: one thread at a time.

While the program computes, that is the progress thread, of which a process has one. A thread that
waits for an operation drives instead, as nobody has to be woken then for each message.

Operations of one group run in the order of issue; those of different groups run side by side, so
that no order across groups can deadlock. Of several that can go on, the shortest goes first: a few
numbers do not wait for a bucket of gradients.

An operation that is waited for takes no lock, which costs a third of a microsecond each time. The
interpreter changes threads at calls and at the end of loops: what is said to be one step has none.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from threading import get_ident

from ringlet.comm.calls.active_call import SOON, ActiveCall
from ringlet.comm.calls.channel import Channel
from ringlet.comm.errors import CommError
from ringlet.comm.protocols import Program
from ringlet.comm.sockets.endpoint import Endpoint
from ringlet.comm.sockets.inbox import TICK_MS

POLL_S = 0.002
"""How often new operations and messages are looked for while this waits on shared memory."""

POLL_BETWEEN_S = 100e-6
"""The same while other operations wait for messages."""

ASIDE_S, LONG_ASIDE_S = 1e-3, 8e-3
"""How often the progress thread looks for operations that nobody drives, while new ones come; less
and less often while it finds none, as a look takes the interpreter from the thread that waits, and
a core from a rank: with one each millisecond, sums of 256 KiB to 1 MiB took 1.3 times as long. Who
issues one, or ends a wait, need not wake it, then: a wait often follows at once."""


class Progress:
    """The channels with asynchronous collectives, and what drives these."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lanes: dict[Channel, deque[ActiveCall]] = {}  # the queues that are not empty
        self._heads: list[ActiveCall] = []
        self._lock = threading.Lock()
        self._queued = threading.Condition(self._lock)  # on which the progress thread sleeps
        self._ended = threading.Condition(self._lock)  # and those who wait for an operation
        self._idle = False  # the progress thread sleeps until it is woken
        self._driver = 0  # the thread that drives
        self._reads = False  # it sleeps until there is a message
        self._waiting: set[int] = set()  # threads that wait for operations
        self._fresh = self._used = self._stopping = False
        self._thread: threading.Thread | None = None

    def submit(self, call: ActiveCall, program: Program) -> None:
        """Queue an operation behind the earlier ones of its channel."""
        call.share(program, self)
        channel = call.channel
        channel.queue.append(call)  # first: who finds it empty forgets it
        self._lanes[channel] = channel.queue
        self._fresh = self._used = True
        if self._idle or self._thread is None:
            self._call_thread()
        if self._reads:
            self._endpoint.inbox.wake()

    def _call_thread(self) -> None:
        """Wake the progress thread, or start it."""
        with self._lock:
            self._idle = False
            self._queued.notify()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="ringlet-progress", daemon=True
                )
                self._thread.start()

    def finish(self, call: ActiveCall, seconds: float | None) -> bool:
        """Wait until the operation has ended, and drive it if nobody does; False after `seconds`.

        An interrupt ends what it meets, as in a blocking call.
        """
        me = get_ident()
        try:  # an interrupt may come anywhere
            if self._take_alone(call, me):
                if call.advance(SOON):
                    return True
                self._leave()
            self._waiting.add(me)
            until = math.inf if seconds is None else time.monotonic() + seconds
            while not call.finished and (left := until - time.monotonic()) > 0:
                if self._take(call, me, None if left == math.inf else left):
                    self._drive(call, until)
                    self._leave()
            return call.finished
        finally:
            if self._driver == me:
                self._leave()
            self._waiting.discard(me)

    def stop(self) -> None:
        """Fail what is still in flight and end the thread."""
        with self._lock:
            self._stopping = self._fresh = True
            self._queued.notify()
        if self._thread is not None:
            self._endpoint.inbox.wake()
            self._thread.join()

    # -- who drives ---------------------------------------------------------------------------

    def _take_alone(self, call: ActiveCall, me: int) -> bool:
        """Become the thread that drives, if the operation is the only one, or the first of the only
        group, and nobody drives: the short way."""
        if len(self._lanes) > 1:
            return False
        # One step from here on.
        if self._driver or self._stopping or call.finished or call.channel.queue[0] is not call:
            return False
        self._driver, self._heads = me, [call]
        return True

    def _take(self, call: ActiveCall, me: int, seconds: float | None) -> bool:
        """Become the thread that drives; False if another does, and something has ended, or the
        time is over."""
        with self._lock:
            if call.finished:
                return False
            if self._driver or self._stopping:
                self._ended.wait(seconds)
                return False
            self._driver = me
            return True

    def _leave(self) -> None:
        """Drive no longer."""
        self._let_go()
        me, self._driver = self._driver, 0
        if self._waiting and self._waiting != {me}:
            with self._lock:
                self._ended.notify_all()

    def _run(self) -> None:
        """The progress thread."""
        while self._called():
            self._drive(None, math.inf)
            self._leave()
        for lane in list(self._lanes.values()):
            for call in list(lane):
                if not call.finished:
                    call.fail(CommError(f"{call.text()} was in flight at shutdown"))
        with self._lock:
            self._ended.notify_all()

    def _called(self) -> bool:
        """Sleep until the progress thread has to drive; False at the end.

        While operations come, it looks for those that are left: one that is there at two looks.
        Others are about to be waited for, and who waits drives them with less ado.
        """
        seen, pause, me = None, ASIDE_S, get_ident()
        while True:
            with self._lock:
                lanes = list(self._lanes.values())
                first = id(lanes[0][0]) if lanes and lanes[0] else None
                # One step: nobody else begins to drive.
                left = first is not None and not (self._driver or self._waiting)
                if (self._stopping and not self._driver) or (left and first == seen):
                    self._driver = 0 if self._stopping else me
                    return not self._stopping
                self._idle = True  # from now on who queues something wakes this thread
                used, self._used = self._used or self._stopping or bool(self._lanes), False
                if not used:
                    self._queued.wait()
                self._idle = False
            if used:
                time.sleep(ASIDE_S if left else pause)
                pause = min(2 * pause, LONG_ASIDE_S)
            seen = first

    # -- driving ------------------------------------------------------------------------------

    def _drive(self, awaited: ActiveCall | None, until: float) -> None:
        """Drive all operations until the awaited one has ended, or until the time; the progress
        thread, which awaits none, until another thread does or nothing is left."""

        def enough() -> bool:
            if awaited is None:
                return bool(self._waiting)
            return awaited.finished or time.monotonic() >= until

        while self._next_round():
            for call in self._heads:
                call.advance()
                if awaited is not None and not isinstance(call.error, Exception | None):
                    raise call.error  # what was for this thread: an interrupt, say
            if any(call.finished for call in self._heads):
                if awaited is not None and awaited.finished:
                    return
            elif enough():
                return
            else:
                self._wait(enough, awaited, until)

    def _wait(self, enough: Callable[[], bool], awaited: ActiveCall | None, until: float) -> None:
        """Until something moves. What waits at a fence sleeps on the others' counters, with the
        interpreter free for the thread that computes, and reads messages now and then."""
        waits = [op.waiting_for for op in self._heads if op.waiting_for is not None]
        if awaited is not None and len(waits) == 1 and waits[0].soon():
            return
        most_s = POLL_S if len(self._heads) == 1 else POLL_BETWEEN_S
        poll_at = time.monotonic() + POLL_S

        def over() -> bool:
            return self._moved() or enough()

        while not over():
            if not any(wait.nap(most_s) for wait in waits):
                poll_ms = min((wait.poll_ms for wait in waits), default=TICK_MS)
                left_ms = 1000 * max(0.0, until - time.monotonic())
                self._reads = True
                try:
                    most_ms = math.ceil(min(poll_ms, left_ms))
                    self._endpoint.inbox.wait(over, self._check, most_ms)
                finally:
                    self._reads = False
                return
            if len(self._heads) > 1 or time.monotonic() >= poll_at:
                poll_at = time.monotonic() + POLL_S
                self._endpoint.inbox.poll()
                self._check()

    def _next_round(self) -> bool:
        """Take ended operations off their lanes and begin the next ones; False if none is left."""
        with self._lock:
            if self._let_go() and self._waiting and self._waiting != {self._driver}:
                self._ended.notify_all()
            self._fresh = False
            self._heads = sorted([lane[0] for lane in list(self._lanes.values())], key=_length)
            return bool(self._heads) and not self._stopping

    def _let_go(self) -> bool:
        """Drop what has ended before this may sleep: a call keeps its group, and so its memory.
        Returns whether something has."""
        some = False
        for call in self._heads:
            queue = call.channel.queue
            if call.finished:
                some = True
                if queue and queue[0] is call:  # not before an interrupt
                    queue.popleft()
                if not queue:  # one step, too
                    self._lanes.pop(call.channel, None)
        self._heads = []
        return some

    def _moved(self) -> bool:
        return self._fresh or any(call.finished or call.ready() for call in self._heads)

    def _check(self) -> None:
        for call in self._heads:
            call.fails()


def _length(call: ActiveCall) -> int:
    return call.nbytes
