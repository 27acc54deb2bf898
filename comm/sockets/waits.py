"""What calls that travel as messages wait for."""

import zmq

from ringlet.comm.protocols import Action
from ringlet.comm.sockets.credits import Parked
from ringlet.comm.sockets.endpoint import Endpoint
from ringlet.comm.sockets.inbox import TICK_MS, Key, Message

SEND_POLL_MS = 1


class MessageWait:
    """Wait for a message, which the call is given (`keep` leaves it in the mailbox)."""

    brings = True
    poll_ms = TICK_MS

    def __init__(self, endpoint: Endpoint, key: Key, keep: bool = False) -> None:
        self._endpoint, self._key, self._keep = endpoint, key, keep
        self.awaited = self.needed = key[1]

    def soon(self) -> bool:
        """Messages do not come by themselves: somebody must read the inbox."""
        return self._endpoint.inbox.peek(self._key) is not None

    ready = soon

    def take(self) -> Message | None:
        """The message."""
        endpoint = self._endpoint
        return endpoint.inbox.peek(self._key) if self._keep else endpoint.take(self._key)

    def wait(self, tick: Action, poll: Action) -> None:
        """Read the inbox until it comes."""
        self._endpoint.inbox.wait(self.ready, tick)

    def nap(self, seconds: float) -> bool:
        """Reading the inbox is the endpoint's."""
        return False


class SendWait:
    """Wait until ZeroMQ has let go of a payload for the peer (a world rank), or the peer's credit
    lets it leave first."""

    brings = False
    poll_ms = SEND_POLL_MS

    def __init__(self, tracker: "zmq.MessageTracker | Parked", peer: int) -> None:
        self._tracker, self.awaited = tracker, peer

    @property
    def needed(self) -> int | None:
        """The peer, unless the message has left: then it can arrive after the peer's shutdown."""
        left = not isinstance(self._tracker, Parked) or self._tracker.left
        return None if left else self.awaited

    def soon(self) -> bool:
        """Whether the payload's memory may be written again."""
        return self._tracker.done

    ready = soon

    def take(self) -> None:
        """A send brings nothing."""

    def wait(self, tick: Action, poll: Action) -> None:
        """Keep reading meanwhile: the peer may have to get rid of its messages first."""
        while not self._tracker.done:
            poll()
            try:
                self._tracker.wait(0.002)
            except zmq.NotDone:
                tick()

    def nap(self, seconds: float) -> bool:
        """Reading the inbox is the endpoint's."""
        return False
