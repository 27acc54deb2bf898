"""The progress thread: drives asynchronous collectives while the caller computes.

There is one thread for each process. Operations of one group run in the order of issue; those of
different groups run side by side, so that no order across groups can deadlock. Of several that can
go on, the shortest goes first: a few numbers do not wait for a bucket of gradients.
"""

import threading
import time
from collections import deque

from ringlet.comm.calls.active_call import ActiveCall
from ringlet.comm.calls.channel import Channel
from ringlet.comm.errors import CommError
from ringlet.comm.protocols import Program
from ringlet.comm.sockets.endpoint import Endpoint
from ringlet.comm.sockets.inbox import TICK_MS

POLL_S = 0.002
"""How often new operations and messages are looked for while this waits on shared memory."""

POLL_BETWEEN_S = 100e-6
"""The same while other operations wait for messages."""


class Progress:
    """The queues of asynchronous collectives, one for each channel, and their thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lanes: dict[Channel, deque[tuple[ActiveCall, Program]]] = {}
        self._heads: list[ActiveCall] = []
        self._changed = threading.Condition()
        self._fresh = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    def submit(self, call: ActiveCall, program: Program) -> None:
        """Queue an operation behind the earlier ones of its channel."""
        call.share()
        with self._changed:
            self._lanes.setdefault(call.channel, deque()).append((call, program))
            call.channel.pending += 1
            self._fresh = True
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="ringlet-progress", daemon=True
                )
                self._thread.start()
        self._endpoint.inbox.wake()

    def stop(self) -> None:
        """Fail what is still in flight and end the thread."""
        with self._changed:
            self._stopping = self._fresh = True
            self._changed.notify()
        if self._thread is not None:
            self._endpoint.inbox.wake()
            self._thread.join()

    def _run(self) -> None:
        while self._next_round():
            self._step()
            if not any(call.finished for call in self._heads):
                self._wait()
        for lane in self._lanes.values():
            for call, _ in lane:
                if not call.finished:
                    call.fail(CommError(f"{call.text()} was in flight at shutdown"))

    def _step(self) -> None:
        for call in self._heads:
            call.step()

    def _wait(self) -> None:
        """Until something moves. What waits at a fence sleeps on the others' counters, with the
        interpreter free for the thread that computes, and reads messages now and then."""
        waits = [op.waiting_for for op in self._heads if op.waiting_for is not None]
        most_s = POLL_S if len(self._heads) == 1 else POLL_BETWEEN_S
        poll_at = time.monotonic() + POLL_S
        while not self._moved():
            if not any(wait.nap(most_s) for wait in waits):
                poll_ms = min((wait.poll_ms for wait in waits), default=TICK_MS)
                self._endpoint.inbox.wait(self._moved, self._check, poll_ms)
                return
            if len(self._heads) > 1 or time.monotonic() >= poll_at:
                poll_at = time.monotonic() + POLL_S
                self._endpoint.inbox.poll()
                self._check()

    def _next_round(self) -> bool:
        """Take ended operations off their lanes and start the next ones; False at the end."""
        with self._changed:
            self._let_go()
            self._changed.wait_for(lambda: bool(self._lanes) or self._stopping)
            self._fresh = False
            first = sorted((lane[0] for lane in self._lanes.values()), key=lambda it: it[0].nbytes)
            started = [(op, program) for op, program in first if op not in self._heads]
            self._heads = [call for call, _ in first]
        for call, program in started:
            call.start(program)
        return not self._stopping

    def _let_go(self) -> None:
        """Drop what has ended before this may sleep: a call keeps its group, and so its memory."""
        self._heads = [call for call in self._heads if not call.finished]
        for channel, lane in list(self._lanes.items()):
            while lane and lane[0][0].finished:
                lane.popleft()
                channel.pending -= 1
            if not lane:
                del self._lanes[channel]

    def _moved(self) -> bool:
        return self._fresh or any(call.finished or call.ready() for call in self._heads)

    def _check(self) -> None:
        for call in self._heads:
            call.fails()
