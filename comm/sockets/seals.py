"""Which connections are sealed, and by which keys.

CURVE encrypts on one thread of ZeroMQ's, without the processor's AES. So where every rank of a job
has the package `cryptography`, CURVE protects the meeting alone, and messages that leave by TCP are
sealed and opened by the threads that move them (ciphers.py). A hello, which CURVE protects, carries
the public half of a key pair that is made for this one meeting; the keys of a connection come from
both ends' pairs and from the job's key. So the keys never travel, and who learns the job's key
later cannot open what was recorded.

A connection begins with a password that only its two ends know and that lets in once. Nobody else
can send a frame, and ZeroMQ says of each frame whose connection it came by.
"""

import importlib.util
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import zmq

from ringlet.comm.errors import AuthenticationError
from ringlet.comm.join.addresses import is_open
from ringlet.comm.join.key import JobKey, Passes, Token
from ringlet.comm.sockets.outbox import Peer
from ringlet.comm.sockets.wire import Damaged

if TYPE_CHECKING:  # `cryptography` is imported where there is a key, and several ranks
    from ringlet.comm.sockets.ciphers import Direction, KeyPair, Seal

ARRAYS = "arrays"

BROKEN = "a broken seal"
"""Why a message is dropped, and its peer lost."""

Source: TypeAlias = int | tuple[str, int]
"""By which connection sealed messages come: a rank's of ZeroMQ, or (ARRAYS, rank), a plain one."""

NEEDED = "pip install 'ringlet[hosts]'"

_log = logging.getLogger("ringlet.comm")


class Seals:
    """One process's seals; `key` is the job's, or None: nothing is sealed."""

    def __init__(self, rank: int, key: JobKey | None) -> None:
        self._rank, self._key = rank, key
        self.offer = ""  # for this rank's hello; empty if it cannot seal
        self._pair: KeyPair | None = None
        self._passwords: dict[int, str] = {}
        self.outgoing: dict[int, Direction] = {}
        self.arrays: dict[int, Direction] = {}  # the same of plain sockets
        self._incoming: dict[Source, Direction] = {}
        self._words: dict[int, str] = {}
        if key is not None and not missing():
            from ringlet.comm.sockets import ciphers

            self._pair = ciphers.KeyPair()
            self.offer = self._pair.offer

    def agree(self, job: str, peers: Mapping[int, Peer]) -> Passes | None:
        """Make the keys with all peers that are reached by TCP. Returns what lets them in, or None:
        not every rank can seal."""
        if self._key is None or not self._can_all(peers):
            return None
        passes = {}
        for rank, peer in peers.items():
            if peer.address.startswith("tcp://"):
                self.outgoing[rank], self._passwords[rank] = self._way(job, peer, True)
                self._incoming[rank], password = self._way(job, peer, False)
                passes[password] = rank
                self.arrays[rank], shown = self._way(job, peer, True, ARRAYS)
                self._incoming[ARRAYS, rank], asked = self._way(job, peer, False, ARRAYS)
                self._words[rank] = shown if rank < self._rank else asked
        self._pair = None  # nobody shall find it here
        return Passes(passes)

    def _can_all(self, peers: Mapping[int, Peer]) -> bool:
        lacking = [peer for peer in peers.values() if not peer.offer]
        if self.offer and not lacking:
            return True
        if self._rank == 0 and any(is_open(peer.address) for peer in peers.values()):
            who = [f"rank {peer.rank} on host {peer.host}" for peer in lacking]
            reason = "" if self.offer else f" ({missing()})"
            _log.warning(
                "ringlet: %s cannot seal messages%s: CURVE encrypts them, which is slower: %s on "
                "all hosts", ", ".join(who[:4]) if self.offer else "rank 0", reason, NEEDED,
            )  # fmt: skip
        return False

    def _way(self, job: str, peer: Peer, from_here: bool, *kind: str) -> "tuple[Direction, str]":
        assert self._pair is not None and self._key is not None
        ranks = (self._rank, peer.rank) if from_here else (peer.rank, self._rank)
        try:
            return self._pair.way(peer.offer, self._key.secret, (job, *ranks, *kind), from_here)
        except ValueError as error:
            raise AuthenticationError(
                f"rank {self._rank}: rank {peer.rank} on host {peer.host} offers a key that is "
                "none: do all hosts have the same version of ringlet?"
            ) from error

    def shown(self, peer: int) -> Token | None:
        """What to show to the peer's inbox, if messages to it are sealed."""
        return Token(self._passwords[peer]) if peer in self._passwords else None

    def word(self, peer: int) -> str:
        """What the higher of two ranks shows where it connects a sealed plain socket."""
        return self._words.get(peer, "")

    def source(self, frame: "zmq.Frame") -> int | None:
        """The rank by whose sealed connection a frame has come; None for other connections."""
        if self.outgoing:
            try:
                return int(str(frame.get("User-Id")))
            except zmq.ZMQError:  # a socket file
                pass
        return None

    def open(
        self, source: "Source", head: bytes, number: int | None = None
    ) -> "tuple[bytes, Seal]":
        """The header of the message of this number from there, by default the next, and what opens
        its array; raises Damaged, also for all that comes after such a message."""
        try:
            return self._incoming[source].open(head, number)
        except (KeyError, Damaged) as error:
            self._incoming.pop(source, None)
            raise Damaged(BROKEN) from error


def missing() -> str:
    """Why this process cannot seal messages; empty if it can."""
    if importlib.util.find_spec("cryptography") is None:
        return "the package cryptography is missing"
    try:
        from ringlet.comm.sockets import ciphers
    except ImportError as error:  # a broken build, or a very old one
        return f"the package cryptography cannot be used: {error}"
    return "" if ciphers.is_new_enough() else "the package cryptography is older than 47"
