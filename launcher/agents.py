"""The agents of a job's hosts: one `ringlet run` on each, and the channel between them.

Agent 0 listens where --master says; the others connect. When all are there, ranks are given out
in the order of the hosts. From then on each agent tells the others which of its workers have
failed, and when all have ended, agent 0 says how the job has ended, so that all exit alike. An
agent that is not heard for SILENCE_S is taken for dead, with its host.
"""

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

import msgpack
import zmq

import ringlet
from ringlet.comm.gate import Gate, Handshakes
from ringlet.comm.key import JobKey
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.failure import Failure, first_cause

LISTENING = "ringlet-agent-0-listens-at "
"""Begins agent 0's line about its address, where another launcher started it."""

BEAT_S = 0.5
SILENCE_S = 8.0
TELL_EVERY_S = 1.0
SPEAK_EVERY_S = 5.0
POLL_MS = 100
LINGER_MS = 2000
MAX_BYTES = 4 << 20

Word: TypeAlias = dict[str, Any]

_log = logging.getLogger("ringlet.agents")


@dataclass(frozen=True)
class Host:
    """One host of the job, as its agent says: number, workers, name, address."""

    node: int
    workers: int
    name: str
    address: str

    def __str__(self) -> str:
        return f"host {self.node} ({self.name}, {self.address})"


@dataclass(frozen=True)
class Place:
    """What one agent is told to be: `node` of `nodes`, and where agent 0 listens."""

    node: int
    nodes: int
    workers: int
    address: str
    master: str
    key: JobKey | None
    started: bool = False  # by a launcher, which shows the output of all hosts


@dataclass(frozen=True)
class Plan:
    """What all agents agree on: the hosts, the job's name, the ranks' rendezvous."""

    hosts: list[Host]
    job: str
    rendezvous: str

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return sum(host.workers for host in self.hosts)

    def ranks(self, node: int) -> range:
        """The ranks of one host."""
        first = sum(host.workers for host in self.hosts[:node])
        return range(first, first + self.hosts[node].workers)


@dataclass
class _Heard:
    """What one agent knows of another."""

    route: bytes = b""
    last: float = field(default_factory=time.monotonic)
    ended: bool = False
    gone: bool = False


class Agent:
    """One end of the agents' channel. `meet` first; then `poll` often; `conclude` at the end."""

    def __init__(self, place: Place) -> None:
        self.place, self.plan = place, Plan([], "", "")
        self._chief = place.node == 0
        self._context: zmq.Context[Any] = zmq.Context()
        self._others: dict[int, _Heard] = {}
        self._failures: list[Failure] = []
        self._ended_ranks: set[int] = set()
        self._verdict: Word | None = None
        self._beat = 0.0
        self._handshakes: Handshakes | None = None
        self._socket = self._context.socket(zmq.ROUTER if self._chief else zmq.DEALER)
        self._socket.set(zmq.MAXMSGSIZE, MAX_BYTES)
        self._socket.set(zmq.LINGER, LINGER_MS)
        try:
            self.address = self._listen() if self._chief else self._connect()
        except BaseException:
            self.close(0)
            raise

    # -- meeting ------------------------------------------------------------------------------

    def _listen(self) -> str:
        place = self.place
        Gate(self._context, place.key, "agent 0").guard(self._socket)
        try:
            self._socket.bind(f"tcp://{place.master}")
        except zmq.ZMQError as error:
            raise UserError(
                f"cannot listen at {place.master} for the other hosts: {error}. --node-rank 0 has "
                "to run on the host that --master names, and the port has to be free"
            ) from error
        endpoint = self._socket.get(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        return endpoint.decode().removeprefix("tcp://").rstrip("\0")

    def _connect(self) -> str:
        place = self.place
        if place.key is not None:
            place.key.show(self._socket)
        self._socket.set(zmq.RECONNECT_IVL, 50)
        self._socket.set(zmq.RECONNECT_IVL_MAX, 500)
        self._handshakes = Handshakes(self._socket, f"agent {place.node}", place.master)
        self._socket.connect(f"tcp://{place.master}")
        self._others[0] = _Heard()
        return place.master

    def meet(self, timeout: float, job: str, port: int) -> Plan:
        """Wait for every host; `job` and `port`, the rendezvous' on host 0, are agent 0's word.

        Raises UserError naming the hosts that did not come, or saying why this one may not.
        """
        until = time.monotonic() + timeout
        own = Host(self.place.node, self.place.workers, socket.gethostname(), self.place.address)
        if self._chief:
            self._gather(own, until, timeout)
            rendezvous = f"tcp://{self.place.address}:{port}"
            self.plan = Plan(self.plan.hosts, job, rendezvous)
            self._tell({"plan": asdict(self.plan)})
        else:
            self._join(own, until, timeout)
        now = time.monotonic()
        for heard in self._others.values():
            heard.last = now
        return self.plan

    def _gather(self, own: Host, until: float, timeout: float) -> None:
        here, next_word, speaker = {0: own}, 0.0, _Speaker(self.address)
        while len(here) < self.place.nodes:
            if self._socket.poll(POLL_MS):
                self._admit(here)
            missing = [node for node in range(self.place.nodes) if node not in here]
            now = time.monotonic()
            if missing and now >= next_word:
                next_word = now + TELL_EVERY_S
                self._tell({"missing": missing, "here": [str(here[node]) for node in sorted(here)]})
                speaker.speak(missing, [str(here[node]) for node in sorted(here)])
            if missing and now >= until:
                self._tell({"refused": speaker.text(missing, timeout)})
                raise UserError(speaker.text(missing, timeout))
        self.plan = Plan([here[node] for node in sorted(here)], "", "")

    def _admit(self, here: dict[int, Host]) -> None:
        for route, word in self._words():
            try:
                host = _host(word["join"])
                reason = self._objection(word, host, here)
            except (KeyError, TypeError):
                continue
            if reason:
                self._send({"refused": reason}, route)
            else:
                here[host.node] = host
                self._others[host.node] = _Heard(route)

    def _objection(self, word: Word, host: Host, here: dict[int, Host]) -> str:
        nodes, version = word["nodes"], word["version"]
        if version != ringlet.__version__:
            return f"it has ringlet {version}, and host 0 has {ringlet.__version__}"
        if nodes != self.place.nodes:
            return f"its --nnodes is {nodes}, host 0's is {self.place.nodes}"
        if not 0 < host.node < self.place.nodes or host.workers < 1:
            return f"there is no host {host.node} among {self.place.nodes}"
        if here.get(host.node, host) != host:
            return f"{here[host.node]} is there already"
        return ""

    def _join(self, own: Host, until: float, timeout: float) -> None:
        missing, speaker = [0], _Speaker(self.address)
        join = {"join": asdict(own), "nodes": self.place.nodes, "version": ringlet.__version__}
        self._send(join)
        while time.monotonic() < until:
            if self._handshakes is not None:
                self._handshakes.check()
            self._socket.poll(POLL_MS)
            for _, word in self._words():
                if "plan" in word:
                    plan = word["plan"]
                    hosts = [_host(host) for host in plan["hosts"]]
                    self.plan = Plan(hosts, str(plan["job"]), str(plan["rendezvous"]))
                    return
                if "refused" in word:
                    raise UserError(f"host 0 at {self.address} refused: {word['refused']}")
                missing = word.get("missing", missing)
            speaker.speak(missing, [])
        raise UserError(speaker.text(missing, timeout))

    # -- running ------------------------------------------------------------------------------

    def tell_failure(self, failure: Failure) -> None:
        """Tell every host that one of this host's workers has failed."""
        self._failures.append(failure)
        self._tell({"failure": asdict(failure)})

    def poll(self) -> list[Failure]:
        """Take what the others say: the failures of their workers, and of whole hosts."""
        news: list[Failure] = []
        for route, word in self._words():
            with contextlib.suppress(KeyError, TypeError):  # not of this program
                news += self._heed(route, word)
        now = time.monotonic()
        if now - self._beat >= BEAT_S:
            self._beat = now
            self._tell({"alive": self.place.node})
        for node, heard in self._others.items():
            if now - heard.last > SILENCE_S and not heard.gone and not heard.ended:
                news += self._bury(node, heard)
        return news

    def _heed(self, route: bytes, word: Word) -> Iterator[Failure]:
        for heard in self._others.values():
            if heard.route == route:
                heard.last = time.monotonic()
                heard.ended = heard.ended or "ended" in word
        if "failure" in word:
            failure = Failure(**word["failure"])
            self._failures.append(failure)
            if self._chief:
                self._tell(word, but=route)
            yield failure
        elif "verdict" in word and not self._chief:
            self._verdict = word

    def _bury(self, node: int, heard: _Heard) -> Iterator[Failure]:
        """An agent is silent: its workers are lost with it, and for agent 0 all other hosts'."""
        heard.gone = True
        host = self.plan.hosts[node]
        cause = f"the agent of {host} has not been heard for {SILENCE_S:.0f} s"
        for rank in self.plan.ranks(node):
            failure = Failure(rank, cause, ExitCode.PEER_LOST, host=host.name)
            self._failures.append(failure)
            if self._chief:
                self._tell({"failure": asdict(failure)})
            yield failure

    # -- ending -------------------------------------------------------------------------------

    def ended(self) -> None:
        """This host's workers have all ended."""
        if not self._chief:
            self._tell({"ended": self.place.node})

    def concluded(self) -> bool:
        """Whether every host's workers have ended, as far as anybody can tell; `poll` on if not."""
        if self._chief:
            return all(heard.ended or heard.gone for heard in self._others.values())
        return self._verdict is not None or self._others[0].gone

    def verdict(self, code: int) -> tuple[Failure | None, int]:
        """How the job has ended: its first failure and the exit code. All hosts get agent 0's."""
        if self._chief:
            failure = first_cause(self._failures)
            self._tell({"verdict": None if failure is None else asdict(failure), "code": code})
            return failure, code
        if self._verdict is None:
            return first_cause(self._failures), ExitCode.PEER_LOST
        failure = self._verdict["verdict"]
        return None if failure is None else Failure(**failure), int(self._verdict["code"])

    @property
    def silent(self) -> bool:
        """Whether agent 0 shows the verdict to whoever looks at this agent's output, too."""
        return self.place.started and not self._chief and self._verdict is not None

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close the channel; what was said is delivered first."""
        if self._handshakes is not None:
            self._handshakes.close()
        else:
            self._socket.disable_monitor()
        self._socket.close(linger_ms)
        self._context.term()

    # -- words --------------------------------------------------------------------------------

    def _words(self) -> Iterator[tuple[bytes, Word]]:
        """What has come: whose route it came from, and the word."""
        while int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            *route, data = self._socket.recv_multipart()
            with contextlib.suppress(ValueError, msgpack.UnpackException):
                word = msgpack.unpackb(data)
                if type(word) is dict and len(route) == int(self._chief):
                    yield (route[0] if route else b""), word

    def _send(self, word: Word, route: bytes = b"") -> None:
        frames = [route, msgpack.packb(word)] if self._chief else [msgpack.packb(word)]
        with contextlib.suppress(zmq.Again):  # its silence will tell
            self._socket.send_multipart(frames, zmq.NOBLOCK)

    def _tell(self, word: Word, but: bytes | None = None) -> None:
        """Say it to all (to agent 0, which passes failures on)."""
        for heard in self._others.values():
            if but is None or heard.route != but:
                self._send(word, heard.route)


def _host(fields: Any) -> Host:
    host = Host(**fields)
    if type(host.node) is not int or type(host.workers) is not int:
        raise TypeError("node and workers are numbers")
    return Host(host.node, host.workers, str(host.name), str(host.address))


class _Speaker:
    """Says now and then who is there and who is missing."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._began = self._spoke = time.monotonic()

    def speak(self, missing: list[int], here: list[str]) -> None:
        """Say it, if it has not been said for a while."""
        now = time.monotonic()
        if missing and now - self._spoke >= SPEAK_EVERY_S:
            self._spoke = now
            there = f" (here: {', '.join(here)})" if here else ""
            _log.warning(
                "ringlet: has waited %.0f s at %s for %s%s",
                now - self._began, self._address, hosts_text(missing), there,
            )  # fmt: skip

    def text(self, missing: list[int], timeout: float) -> str:
        """The reproach at the end."""
        return f"{hosts_text(missing)} did not come to {self._address} within {timeout:.0f} s"


def hosts_text(nodes: list[int]) -> str:
    """host 3; hosts 1, 2 and 5."""
    if len(nodes) == 1:
        return f"host {nodes[0]}"
    return f"hosts {', '.join(map(str, nodes[:-1]))} and {nodes[-1]}"
