"""What calls that travel as messages wait for."""

import zmq

from ringlet.comm.protocols import Callback, Wait
from ringlet.comm.sockets.credits import Parked
from ringlet.comm.sockets.endpoint import Endpoint
from ringlet.comm.sockets.inbox import Key, Message


class MessageWait(Wait):
    """Wait for a message, which the call is given (`keep` leaves it in the inbox)."""

    brings = True

    def __init__(self, endpoint: Endpoint, key: Key, keep: bool = False) -> None:
        self._endpoint, self._key, self._keep = endpoint, key, keep
        self.awaited = key[1]

    def ready(self) -> bool:
        return self._endpoint.inbox.peek(self._key) is not None

    def take(self) -> Message | None:
        endpoint = self._endpoint
        return endpoint.inbox.peek(self._key) if self._keep else endpoint.take(self._key)

    def wait(self, tick: Callback, poll: Callback) -> None:
        self._endpoint.inbox.wait(self.ready, tick)


class SendWait(Wait):
    """Wait until a payload for the peer (a world rank) has had credit, and ZeroMQ lets go of it."""

    poll_ms = 1

    def __init__(self, tracker: "zmq.MessageTracker | Parked", peer: int) -> None:
        self._tracker, self.awaited = tracker, peer

    @property
    def needed(self) -> int | None:
        left = not isinstance(self._tracker, Parked) or self._tracker.left
        return None if left else self.awaited

    def ready(self) -> bool:
        return self._tracker.done

    def wait(self, tick: Callback, poll: Callback) -> None:
        """Read messages meanwhile: the peer may have to get rid of its own first."""
        while not self._tracker.done:
            poll()
            try:
                self._tracker.wait(0.002)
            except zmq.NotDone:
                tick()
