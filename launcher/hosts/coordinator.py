"""Agent 0: it gathers the hosts, passes on what fails, and decides how the job ends."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import NoReturn

import zmq

import ringlet
from ringlet.comm.join import meeting
from ringlet.comm.join.meeting import numbered
from ringlet.launcher.errors import UserError
from ringlet.launcher.hosts.network_agent import (
    ENDED,
    AgentState,
    Assign,
    NetworkAgent,
    meeting_point,
)
from ringlet.launcher.hosts.node import NodeSpec, gone
from ringlet.launcher.hosts.notices import Assignment, HostInfo, check_notice, parse
from ringlet.launcher.supervisor.failure import Failure
from ringlet.launcher.supervisor.options import WorkerOptions

LAST_CALL_S = 10.0
"""How long an elastic job waits for more hosts once it has enough of them."""


class Coordinator(NetworkAgent):
    """Agent 0's end of the channel."""

    def __init__(self, spec: NodeSpec, workers: int, options: WorkerOptions) -> None:
        self._waiting: dict[int, tuple[HostInfo, AgentState]] = {}
        point = meeting_point(spec)
        try:
            channel = meeting.MeetingSocket.bind(point, "host 0", check_notice)
        except zmq.ZMQError as error:
            raise UserError(
                f"cannot listen at {point.address} for the other hosts: {error}. --node-rank 0 "
                "must run on the host that --master names, and the port must be free"
            ) from error
        super().__init__(spec, workers, options, channel)

    # -- meeting ------------------------------------------------------------------------------

    def meet(self, timeout: float, assign: Assign) -> Assignment:
        """See NetworkAgent. A job that starts again does so with the hosts that are left and those
        that have come in the meantime."""
        hosts = self._gather(timeout)
        try:
            assignment = assign(hosts)
        except UserError as error:
            self._refuse(str(error))
        self._send_all({"assignment": asdict(assignment)})
        return self._begin(assignment)

    def _gather(self, timeout: float) -> list[HostInfo]:
        here = {0: self._own()}
        before = self._others
        last_call = 0.0 if self.assignment.hosts else LAST_CALL_S
        self._others = {}
        for node, (host, state) in self._waiting.items():
            if not state.silent:
                here[node], self._others[node] = host, state
        self._waiting = {}
        deadline, enough_since = time.monotonic() + timeout, float("inf")
        tell = meeting.Every(meeting.TELL_EVERY_S)
        log = meeting.MissingLog("host", "host 0", self.address)
        lost = gone if not self.assignment.hosts else set[int]()  # later, others may replace them
        while missing := [node for node in range(self.spec.nodes) if node not in here]:
            if len(here) + len({*missing} - lost) < self.spec.least:
                self._refuse(f"{numbered('host', sorted({*missing} & lost))} cannot come: {ENDED}")
            now, names = time.monotonic(), [str(here[node]) for node in sorted(here)]
            if len(here) >= self.spec.least:
                enough_since = min(enough_since, now)
            if {*missing} <= lost:
                break
            awaited = any(before[node].expected for node in missing if node in before)
            if not awaited and now - enough_since >= last_call:
                break
            if tell.due():
                self._send_all({"missing": missing, "here": names})
            log(missing, names)
            if now >= deadline:
                self._refuse(self._lateness(missing, timeout))
            self._socket.poll()
            self._admit(here)
        return [here[node] for node in sorted(here)]

    def _refuse(self, reason: str) -> NoReturn:
        self._send_all({"refused": reason})
        raise UserError(reason)

    def _admit(self, here: dict[int, HostInfo]) -> None:
        for route, notice in self._socket.receive():
            if "join" in notice and (host := self._welcome(route, notice, here)):
                here[host.node] = host
                self._others[host.node] = self._state(route)

    def _welcome(
        self, route: bytes, notice: meeting.Notice, here: dict[int, HostInfo], refusal: str = ""
    ) -> HostInfo | None:
        """The host that asks to join; None if it was refused: it does not suit those that are
        `here`, or there is a `refusal` for all."""
        host, nodes, version = parse(HostInfo, notice["join"]), notice["nodes"], notice["version"]
        later = bool(refusal)
        if version != ringlet.__version__:
            refusal = f"it has ringlet {version}, and host 0 has {ringlet.__version__}"
        elif notice["job"] != self.spec.placed.job:
            refusal = f"it belongs to {notice['job'] or 'another job'}, not to this job"
        elif nodes != self.spec.nodes:
            refusal = f"its --nnodes is {nodes}, host 0's is {self.spec.nodes}"
        elif not 0 < host.node < self.spec.nodes or host.workers < 1:
            refusal = f"there is no host {host.node} among {self.spec.nodes}"
        elif here.get(host.node, host) != host:
            refusal, later = f"{here[host.node]} is there already", True
        if not refusal:
            return host
        self._socket.send({"refused": refusal, "later": later}, route)
        return None

    # -- running ------------------------------------------------------------------------------

    def _handle(self, route: bytes, notice: meeting.Notice) -> Iterator[Failure]:
        if "join" in notice:
            self._put_off(route, notice)
        state = self._state_of(route)
        if state is not None and "ended" in notice:
            state.ended, state.leaving = True, notice["leaving"]
        if state is not None and "failure" in notice:
            self._send_all(notice, but=route)
        yield from super()._handle(route, notice)

    def _put_off(self, route: bytes, notice: meeting.Notice) -> None:
        """A host that comes while the job is running waits for the next start."""
        if self._state_of(route) is not None:
            return  # it has joined, and had asked twice
        lost = [node for node, state in self._others.items() if state.lost]
        here = {each.node: each for each in self.assignment.hosts if each.node not in lost}
        refusal = "the job is already running, and does not restart when it fails (--max-restarts)"
        restarts = self.options.max_restarts or self.elastic
        host = self._welcome(route, notice, here, "" if restarts else refusal)
        if host is not None:
            self._waiting[host.node] = host, self._state(route)
            self._socket.send({"wait": True}, route)

    def _mark_lost(self, node: int, state: AgentState) -> Iterator[Failure]:
        for failure in super()._mark_lost(node, state):
            self._send_all({"failure": asdict(failure)})
            yield failure

    # -- ending -------------------------------------------------------------------------------

    def concluded(self) -> bool:
        return all(state.ended or state.lost for state in self._others.values())

    def outcome(self, code: int) -> tuple[Failure | None, int]:
        failure, code = super().outcome(code)
        self._send_all({"outcome": None if failure is None else asdict(failure), "code": code})
        return failure, code

    def agree(self, again: bool) -> bool:
        self._send_all({"again": again})
        return again

    def close(self, linger_ms: int = meeting.LINGER_MS) -> None:
        """See NetworkAgent. Hosts that wait for the next start learn that there is none."""
        for _, state in self._waiting.values():
            self._socket.send({"refused": "the job has ended", "later": True}, state.route)
        super().close(linger_ms)
