"""The agents of a job's hosts: one `ringlet run` on each, and the channel between them.

Agent 0, the chief, listens where --master says; the others connect. When they have met, ranks are
given out in the order of the hosts. From then on each agent tells the others which of its workers
have failed, and when all have ended, the chief says how the job has ended, so that all exit alike,
and whether it starts again: then they meet again. An agent that is not heard for SILENCE_S is
taken for dead, with its host.
"""

import contextlib
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import msgpack
import zmq

from ringlet.launcher.errors import ExitCode
from ringlet.launcher.hosts.plan import Host, Place, Plan, Word, read_word
from ringlet.launcher.supervisor.failure import Failure

BEAT_S = 0.5
SILENCE_S = 4.5
TELL_EVERY_S = 1.0
POLL_MS = 100
LINGER_MS = 2000
MAX_BYTES = 4 << 20


Offer: TypeAlias = Callable[[list[Host]], Plan]
"""What the chief proposes to the hosts that are there; raises UserError if these cannot be."""


@dataclass
class Heard:
    """What one agent knows of another."""

    route: bytes = b""
    last: float = field(default_factory=time.monotonic)
    ended: bool = False
    leaving: bool = False
    gone: bool = False

    @property
    def silent(self) -> bool:
        """Whether it has said nothing for too long."""
        return time.monotonic() - self.last > SILENCE_S


class Agent(ABC):
    """One end of the agents' channel.

    For each start of the job: `meet`; then `poll` often; `ended` and `verdict` at its end, and
    `agree` on whether it was the last.
    """

    def __init__(self, place: Place, kind: int) -> None:
        self.place, self.plan = place, Plan([], "", "")
        self._context: zmq.Context[Any] = zmq.Context()
        self._others: dict[int, Heard] = {}
        self._failures: list[Failure] = []
        self._beat = 0.0
        self._socket = self._context.socket(kind)
        self._socket.set(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.set(zmq.LINGER, LINGER_MS)
        try:
            self.address = self._open()
        except BaseException:
            self.close(0)
            raise

    @abstractmethod
    def _open(self) -> str:
        """Listen or connect; where the chief listens."""

    @abstractmethod
    def meet(self, timeout: float, offer: Offer) -> Plan:
        """Wait for the other hosts; the plan, for which the chief makes its offer to those that
        are there.

        Raises UserError naming the hosts that did not come, or saying why this one may not.
        """

    def _own(self) -> Host:
        place = self.place
        return Host(place.node, place.workers, socket.gethostname(), place.address)

    def _begin(self, plan: Plan) -> Plan:
        """A start of the job begins: nobody has failed."""
        self.plan, self._failures = plan, []
        for heard in self._others.values():
            heard.last, heard.ended = time.monotonic(), False
        return plan

    # -- running ------------------------------------------------------------------------------

    def tell_failure(self, failure: Failure) -> None:
        """Tell every host that one of this host's workers has failed."""
        self._failures.append(failure)
        self._tell({"failure": asdict(failure)})

    def poll(self) -> list[Failure]:
        """Take what the others say: the failures of their workers, and of whole hosts."""
        news: list[Failure] = []
        for route, word in self._words():
            news += self._heed(route, word)
        now = time.monotonic()
        if now - self._beat >= BEAT_S:
            self._beat = now
            self._tell({"alive": self.place.node})
        for node, heard in self._others.items():
            if heard.silent and not heard.gone and not heard.ended:
                news += self._bury(node, heard)
        return news

    def _heed(self, route: bytes, word: Word) -> Iterator[Failure]:
        heard = self._heard_from(route)
        if heard is None:
            return
        heard.last = time.monotonic()
        if "failure" in word:
            failure = Failure(**word["failure"])
            self._failures.append(failure)
            yield failure

    def _heard_from(self, route: bytes) -> Heard | None:
        """Whose route it is; nobody's, if it is of a host that has been given up."""
        of_it = (h for h in self._others.values() if h.route == route and not h.gone)
        return next(of_it, None)

    def _bury(self, node: int, heard: Heard) -> Iterator[Failure]:
        """An agent is silent: its workers are lost with it, and for other agents than the chief
        those of all other hosts."""
        heard.gone = True
        host = self.plan.host(node)
        cause = f"the agent of {host} has not been heard for {SILENCE_S:g} s"
        for rank in self.plan.ranks(node):
            failure = Failure(rank, cause, ExitCode.PEER_LOST, host=host.name)
            self._failures.append(failure)
            yield failure

    # -- ending -------------------------------------------------------------------------------

    @abstractmethod
    def ended(self, leaving: bool = False) -> None:
        """This host's workers have all ended; `leaving` the job, if it was stopped here."""

    @abstractmethod
    def concluded(self) -> bool:
        """Whether every host's workers have ended, as far as anybody can tell; `poll` on if not."""

    @abstractmethod
    def verdict(self, code: int) -> tuple[Failure | None, int]:
        """How this start has ended: its first failure and the exit code. All get the chief's."""

    @abstractmethod
    def agree(self, again: bool) -> bool:
        """Whether the job, which has failed, starts again: the chief's word, on all hosts."""

    @property
    def deserted(self) -> bool:
        """Whether a host has been stopped, and will not be there at the next start."""
        return any(heard.leaving for heard in self._others.values())

    @property
    def silent(self) -> bool:
        """Whether the chief shows the verdict to whoever looks at this agent's output, too."""
        return False

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close the channel; what was said is delivered first."""
        self._socket.disable_monitor()
        self._socket.close(linger_ms)
        self._context.term()

    # -- words --------------------------------------------------------------------------------

    def _words(self) -> Iterator[tuple[bytes, Word]]:
        """What has come: whose route it came from, and the word."""
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            *route, data = self._socket.recv_multipart()
            with contextlib.suppress(ValueError):  # not of this program
                word = read_word(data)
                if len(route) == int(self._socket.type == zmq.ROUTER):
                    yield (route[0] if route else b""), word

    def _send(self, word: Word, route: bytes = b"") -> None:
        frames = [route, msgpack.packb(word)] if route else [msgpack.packb(word)]
        with contextlib.suppress(zmq.Again):  # its silence will tell
            self._socket.send_multipart(frames, zmq.NOBLOCK)

    def _tell(self, word: Word, but: bytes | None = None) -> None:
        """Say it to all (to the chief, which passes failures on)."""
        for heard in self._others.values():
            if not heard.gone and (but is None or heard.route != but):
                self._send(word, heard.route)
