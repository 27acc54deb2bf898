"""Credits: how much a rank may send to another before that one has taken it.

ZeroMQ bounds its queues in messages at best, and a thread that reads the inbox reads for all and
keeps what is not its own. So each sender counts. Beyond WINDOW_BYTES that the receiver has not
taken, data stays in the sender's memory (*parked*) and the sending call blocks. Now and then the
receiver says how much it has taken.

A program may rely on more: two ranks that both send before they receive. Where ranks wait in such a
circle, the rank that sees it lets in another window (`calls.diagnosis`).
"""

import threading
import time
from collections import deque

import zmq

from ringlet.comm.arrays import Array
from ringlet.comm.sockets.wire import Header

WINDOW_BYTES = 64 << 20
"""At least two segments: up to a quarter may be taken without the sender knowing yet."""

MESSAGE_BYTES = 1024
"""What a message counts besides its payload: headers and queues take memory too."""


class Parked:
    """A message without credit. Has the face of ZeroMQ's trackers: done when its memory is free."""

    def __init__(self, peer: int, header: Header, payload: Array) -> None:
        self.peer, self.header, self.payload = peer, header, payload
        self.left = False
        self.tracker: zmq.MessageTracker | None = None

    @property
    def done(self) -> bool:
        """Whether the payload's memory may be written again."""
        return self.left and (self.tracker is None or self.tracker.done)

    def wait(self, timeout: float) -> None:
        """Wait until it is done; raises zmq.NotDone after `timeout` seconds."""
        if self.tracker is not None:
            self.tracker.wait(timeout)
        elif not self.left:
            time.sleep(timeout)
            raise zmq.NotDone


class Credits:
    """One process's accounts with its peers, in bytes since the start."""

    def __init__(self) -> None:
        self.window = WINDOW_BYTES
        self.full: set[int] = set()  # peers that say they wait for this rank's credit
        self.parked: dict[int, deque[Parked]] = {}
        self._lock = threading.Lock()
        self._sent: dict[int, int] = {}
        self._granted: dict[int, int] = {}  # what the peer says that it has taken
        self._arrived: dict[int, int] = {}
        self._taken: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self.asked: set[int] = set()  # peers that know that this rank waits for their credit

    # -- sending: call these with the peer's send lock held -----------------------------------

    def admits(self, peer: int, nbytes: int) -> bool:
        """Count a message that may leave now; False if it must wait for credit."""
        sent = self._sent.get(peer, 0)
        # An idle peer takes a message of any size.
        if sent > self._granted.get(peer, 0) and (
            sent + nbytes + MESSAGE_BYTES > self._granted.get(peer, 0) + self.window
        ):
            return False
        self._sent[peer] = sent + nbytes + MESSAGE_BYTES
        return True

    def grant(self, peer: int, taken: int) -> None:
        """The peer has taken this much in all."""
        self._granted[peer] = max(self._granted.get(peer, 0), taken)
        self.asked.discard(peer)

    # -- receiving ----------------------------------------------------------------------------

    def arrived(self, peer: int, nbytes: int) -> None:
        """A message of the peer's is in the mailbox."""
        with self._lock:
            self._arrived[peer] = self._arrived.get(peer, 0) + nbytes + MESSAGE_BYTES

    def took(self, peer: int, nbytes: int) -> int | None:
        """A message of the peer's was taken; returns what to tell it, if it is time to."""
        with self._lock:
            taken = self._taken[peer] = self._taken.get(peer, 0) + nbytes + MESSAGE_BYTES
            if taken - self._told.get(peer, 0) < self.window // 4:
                return None
            return self._tell(peer, taken)

    def welcome(self, peer: int) -> int:
        """Let in another window beyond what has arrived; returns what to tell the peer."""
        with self._lock:
            return self._tell(peer, self._arrived.get(peer, 0))

    def _tell(self, peer: int, taken: int) -> int:
        self.full.discard(peer)
        self._told[peer] = taken
        return taken
