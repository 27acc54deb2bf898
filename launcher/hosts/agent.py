"""The agents of the other hosts than host 0: they join, tell what fails, and heed the chief."""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict

import zmq

import ringlet
from ringlet.comm.join.addresses import allow_ipv6
from ringlet.comm.join.authenticator import Handshakes
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.hosts.agents import LINGER_MS, POLL_MS, TELL_EVERY_S, Agent, Heard, Offer
from ringlet.launcher.hosts.plan import Place, Plan, Speaker, Word
from ringlet.launcher.supervisor.failure import Failure, first_cause

_log = logging.getLogger("ringlet.agents")


class Member(Agent):
    """Another agent's end of the channel."""

    def __init__(self, place: Place) -> None:
        self._handshakes: Handshakes | None = None
        self._verdict: Word | None = None
        self._again: bool | None = None
        super().__init__(place, zmq.DEALER)

    def _open(self) -> str:
        place = self.place
        if place.key is not None:
            place.key.show(self._socket)
        self._socket.set(zmq.RECONNECT_IVL, 50)
        self._socket.set(zmq.RECONNECT_IVL_MAX, 500)
        self._handshakes = Handshakes(self._socket, f"agent {place.node}", place.master)
        allow_ipv6(self._socket, f"tcp://{place.master}")
        self._socket.connect(f"tcp://{place.master}")
        self._others[0] = Heard()
        return place.master

    def meet(self, timeout: float, offer: Offer) -> Plan:
        """See Agent. A host that comes while the job runs waits for its next start, however long
        that takes."""
        missing, speaker, waiting = [0], Speaker(self.address), False
        join = {"join": asdict(self._own()), "nodes": self.place.nodes}
        join["version"] = ringlet.__version__
        until, next_word = time.monotonic() + timeout, 0.0
        while (now := time.monotonic()) < until:
            if self._handshakes is not None:
                self._handshakes.check()
            if now >= next_word:
                next_word = now + TELL_EVERY_S
                self._send(join)
            self._socket.poll(POLL_MS)
            for _, word in self._words():
                self._others[0].last = time.monotonic()
                if "plan" in word:
                    return self._begin(Plan.parse(word["plan"]))
                if "refused" in word:
                    raise UserError(f"host 0 at {self.address} refused: {word['refused']}")
                if "wait" in word:
                    until = time.monotonic() + timeout
                    if not waiting:
                        _log.warning("ringlet: the job runs; this host joins it when it starts "
                                     "again")  # fmt: skip
                    waiting = True
                missing = word.get("missing", missing)
            if self.plan.hosts and self._others[0].silent:
                break
            if not waiting:
                speaker.speak(missing, [])
        raise UserError(speaker.text(missing, timeout))

    def _begin(self, plan: Plan) -> Plan:
        self._verdict = self._again = None
        return super()._begin(plan)

    def _heed(self, route: bytes, word: Word) -> Iterator[Failure]:
        if "verdict" in word:
            self._verdict = word
        if "again" in word:
            self._again = bool(word["again"])
        yield from super()._heed(route, word)

    def ended(self, leaving: bool = False) -> None:
        """See Agent."""
        self._tell({"ended": self.place.node, "leaving": leaving})

    def concluded(self) -> bool:
        """See Agent."""
        return self._verdict is not None or self._others[0].gone

    def verdict(self, code: int) -> tuple[Failure | None, int]:
        """See Agent."""
        if self._verdict is None:
            return first_cause(self._failures), ExitCode.PEER_LOST
        failure = self._verdict["verdict"]
        return None if failure is None else Failure(**failure), int(self._verdict["code"])

    def agree(self, again: bool) -> bool:
        """See Agent; no, if nothing is heard of the chief."""
        while self._again is None and not self._others[0].gone:
            self._socket.poll(POLL_MS)
            self.poll()
        return bool(self._again)

    @property
    def silent(self) -> bool:
        """See Agent."""
        return self.place.started and self._verdict is not None

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """See Agent."""
        if self._handshakes is not None:
            self._handshakes.close()
            self._handshakes = None
        super().close(linger_ms)
