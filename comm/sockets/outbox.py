"""The sending end of a connection to a peer's inbox."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import zmq

from ringlet.comm.join.addresses import allow_ipv6, is_loopback
from ringlet.comm.join.key import Proof
from ringlet.comm.sockets.wire import HEADER_BYTES

IDLE_S, INTERVAL_S, PROBES = 5, 2, 5
"""After so long without a word the kernel asks the peer's, so often: hosts that are gone show."""

KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: IDLE_S, zmq.TCP_KEEPALIVE_INTVL: INTERVAL_S,
    zmq.TCP_KEEPALIVE_CNT: PROBES,
}  # fmt: skip


LOOPBACK_BUFFER = 192 << 10
"""Of the kernel, for what this process sends to its own host (the kernel takes twice of what it is
asked for). What the sender has copied is then still in a cache when the receiver copies it: as the
kernel chooses, it is up to 4 MiB. On a Zen 5, two ranks, an all-reduce of plain sockets takes 0.63
of the time for 1 and 4 MiB, 0.73 and 0.85 for 16 and 64 MiB. Among more ranks than cores each full
buffer is a turn on a core: with 96 KiB four ranks take 1.5 times as long, with 192 KiB 0.9."""


class Peer(NamedTuple):
    """Where a rank is: the name of its host, its process id, its inbox, what that asks for where
    there is no key, and the rank's half of keys for sealed messages (empty: it cannot seal)."""

    rank: int
    host: str
    pid: int
    address: str
    token: str
    offer: str = ""


class Outbox(Protocol):
    """What a peer's messages leave by: a socket, or another carrier (comm/mpi)."""

    def send(self, data: Any, flags: int, copy: bool = True, track: bool = False) -> Any:
        """Take one of a message's two frames, without waiting; returns a tracker for `track`."""


class Carrier(Protocol):
    """A way for arrays beside the sockets."""

    def outbox(self, peer: int) -> Outbox:
        """What the peer's messages leave by."""

    def read(
        self, accept: Callable[[bytes, Any], None], has_words: Callable[[], bool], seconds: float
    ) -> bool:
        """Hand over the header and the array of each message that has arrived; wait so long for
        one, or until the sockets have words. False if there is none. One thread at a time."""

    def leave(self, failed: bool) -> None:
        """The world is left, with an error in a collective if it `failed`."""


def open_outbox(context: "zmq.Context[Any]", address: str, proof: Proof) -> "zmq.Socket[bytes]":
    """A socket that is to be connected to the peer's address, with what that asks for."""
    outbox = context.socket(zmq.PUSH)
    outbox.set(zmq.SNDHWM, 0)  # payloads are references to the callers' arrays
    outbox.set(zmq.LINGER, 0)
    outbox.set(zmq.MAXMSGSIZE, HEADER_BYTES)  # nothing is expected but a handshake
    if address.startswith("tcp://"):
        proof.show(outbox)
    allow_ipv6(outbox, address)
    if is_loopback(address):
        outbox.set(zmq.SNDBUF, LOOPBACK_BUFFER)
    outbox.copy_threshold = 0  # what is to be copied says so
    # What was on its way when a connection broke is lost, and another process may
    # listen on the same address by then: a closed connection is a lost peer.
    outbox.set(zmq.RECONNECT_IVL, -1)
    for option, value in KEEPALIVE.items():
        outbox.set(option, value)
    return outbox
