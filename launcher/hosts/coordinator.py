"""Agent 0: it gathers the hosts, passes on what fails, and has the last word."""

import time
from collections.abc import Iterator
from dataclasses import asdict

import zmq

import ringlet
from ringlet.comm.join.addresses import allow_ipv6
from ringlet.comm.join.authenticator import Authenticator
from ringlet.launcher.errors import UserError
from ringlet.launcher.hosts.agents import LINGER_MS, POLL_MS, TELL_EVERY_S, Agent, Heard, Offer
from ringlet.launcher.hosts.plan import Host, Place, Plan, Speaker, Word, parse_host
from ringlet.launcher.supervisor.failure import Failure, first_cause

LAST_CALL_S = 10.0
"""Where fewer hosts than all would do, the others get so long to come."""

RUNNING = "the job runs already, and is not started again when it fails (--max-restarts)"


class Chief(Agent):
    """Agent 0's end of the channel."""

    def __init__(self, place: Place) -> None:
        self._waiting: dict[int, tuple[Host, Heard]] = {}
        super().__init__(place, zmq.ROUTER)

    def _open(self) -> str:
        place = self.place
        Authenticator(self._context, place.key, "agent 0").guard(self._socket)
        allow_ipv6(self._socket, f"tcp://{place.master}")
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

    # -- meeting ------------------------------------------------------------------------------

    def meet(self, timeout: float, offer: Offer) -> Plan:
        """See Agent. When the job starts again: with the hosts that are left, and those that have
        come in the meantime."""
        hosts = self._gather(timeout)
        try:
            plan = offer(hosts)
        except UserError as error:
            self._tell({"refused": str(error)})
            raise
        self._tell({"plan": asdict(plan)})
        return self._begin(plan)

    def _gather(self, timeout: float) -> list[Host]:
        here = {0: self._own()}
        left = {n: h for n, h in self._others.items() if not h.gone and not h.leaving}
        patience = 0.0 if self.plan.hosts else LAST_CALL_S
        self._others = {}
        for node, (host, heard) in self._waiting.items():
            if not heard.silent:
                here[node], self._others[node] = host, heard
        self._waiting = {}
        began, next_word, enough_since = time.monotonic(), 0.0, float("inf")
        speaker = Speaker(self.address)
        while len(here) < self.place.nodes:
            if self._socket.poll(POLL_MS):
                self._admit(here)
            missing = [node for node in range(self.place.nodes) if node not in here]
            now = time.monotonic()
            if len(here) >= self.place.fewest:
                enough_since = min(enough_since, now)
            awaited = any(node not in here and not heard.silent for node, heard in left.items())
            if not awaited and now - enough_since >= patience:
                break
            if missing and now >= next_word:
                next_word = now + TELL_EVERY_S
                self._tell({"missing": missing, "here": [str(here[node]) for node in sorted(here)]})
                speaker.speak(missing, [str(here[node]) for node in sorted(here)])
            if missing and now >= began + timeout:
                self._tell({"refused": speaker.text(missing, timeout)})
                raise UserError(speaker.text(missing, timeout))
        return [here[node] for node in sorted(here)]

    def _admit(self, here: dict[int, Host]) -> None:
        for route, word in self._words():
            if "join" not in word:
                continue
            host = parse_host(word["join"])
            reason = self._objection(word, host, here)
            if reason:
                self._send({"refused": reason}, route)
            else:
                here[host.node] = host
                self._others[host.node] = Heard(route)

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

    # -- running ------------------------------------------------------------------------------

    def _heed(self, route: bytes, word: Word) -> Iterator[Failure]:
        if "join" in word:
            self._put_off(route, word)
        heard = self._heard_from(route)
        if heard is not None and "ended" in word:
            heard.ended, heard.leaving = True, bool(word["leaving"])
        if heard is not None and "failure" in word:
            self._tell(word, but=route)
        yield from super()._heed(route, word)

    def _put_off(self, route: bytes, word: Word) -> None:
        """A host comes while the job runs: it waits for the next start."""
        if self._heard_from(route) is not None:
            return  # it has joined, and had asked twice
        host = parse_host(word["join"])
        here = {each.node: each for each in self.plan.hosts}
        for node, heard in self._others.items():
            if heard.gone:
                del here[node]
        reason = self._objection(word, host, here)
        if not reason and not self.place.restarts and not self.place.elastic:
            reason = RUNNING
        if reason:
            self._send({"refused": reason}, route)
        else:
            self._waiting[host.node] = host, Heard(route)
            self._send({"wait": True}, route)

    def _bury(self, node: int, heard: Heard) -> Iterator[Failure]:
        for failure in super()._bury(node, heard):
            self._tell({"failure": asdict(failure)})
            yield failure

    # -- ending -------------------------------------------------------------------------------

    def ended(self, leaving: bool = False) -> None:
        """See Agent."""

    def concluded(self) -> bool:
        """See Agent."""
        return all(heard.ended or heard.gone for heard in self._others.values())

    def verdict(self, code: int) -> tuple[Failure | None, int]:
        """See Agent."""
        failure = first_cause(self._failures)
        self._tell({"verdict": None if failure is None else asdict(failure), "code": code})
        return failure, code

    def agree(self, again: bool) -> bool:
        """See Agent."""
        self._tell({"again": again})
        return again

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """See Agent; whoever waits for the next start is told that there is none."""
        for _, heard in self._waiting.values():
            self._send({"refused": "the job has ended"}, heard.route)
        super().close(linger_ms)
