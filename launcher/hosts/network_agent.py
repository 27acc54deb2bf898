"""The agents of a job on several hosts: one `ringlet run` on each, and the channel between them.

Agent 0, the coordinator, listens where --master says; the others connect. When they have met,
ranks are given out in the order of the hosts. From then on each agent tells the others which of
its workers have failed. When all workers have ended, the coordinator decides how the job has
ended, so that all agents exit alike, and whether it starts again: then they meet again. An agent
that has not been heard for a while (--host-timeout) counts as dead, and its host as lost. Agents
say that they live from a thread of their own, whatever else they are doing.
"""

import atexit
import os
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TypeAlias

from ringlet.comm.join.addresses import free_port, tcp
from ringlet.comm.join.folders import abandon_folder, join_folder, leave_folder
from ringlet.comm.join.meeting import LINGER_MS, MeetingPoint, MeetingSocket, Notice, numbered
from ringlet.launcher.errors import ExitCode
from ringlet.launcher.hosts.node import NodeSpec
from ringlet.launcher.hosts.notices import Assignment, HostInfo, parse
from ringlet.launcher.supervisor.agent import Agent, TaskFor
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.failure import Failure
from ringlet.launcher.supervisor.options import WorkerOptions

HEARTBEAT_S = 0.25

ENDED = "what was started there over ssh has ended"

Assign: TypeAlias = Callable[[list[HostInfo]], Assignment]
"""The coordinator's assignment for these hosts; raises UserError if they do not suit the job."""


@dataclass
class AgentState:
    """What one agent knows of another: the route to it, when it was last heard, whether its
    workers have `ended`, whether it is `leaving` the job, and whether it is `lost`."""

    route: bytes
    silence_s: float
    last: float = field(default_factory=time.monotonic)
    ended: bool = False
    leaving: bool = False
    lost: bool = False

    @property
    def silent(self) -> bool:
        """Whether it has not been heard for too long."""
        return time.monotonic() - self.last > self.silence_s

    @property
    def expected(self) -> bool:
        """Whether it will be there at the next start, as far as is known."""
        return not (self.lost or self.leaving or self.silent)


def meeting_point(spec: NodeSpec) -> MeetingPoint:
    """Where the agents meet. If that is in a folder, this process joins it until it ends, also by a
    signal before it has an agent to close."""
    folder, process = spec.placed.folder, os.getpid()
    if folder is not None:
        atexit.register(lambda: abandon_folder(folder) if os.getpid() == process else None)
        join_folder(folder)
    return MeetingPoint(spec.endpoint, spec.key, spec.placed.spare)


class NetworkAgent(Agent, ABC):
    """One end of the agents' channel. `address` is where the coordinator listens."""

    poll_s = 0.05

    def __init__(
        self, spec: NodeSpec, workers: int, options: WorkerOptions, channel: MeetingSocket
    ) -> None:
        super().__init__(workers, options)
        self.spec, self.node, self.elastic = spec, spec.node, spec.elastic
        self.assignment = Assignment([], "", "")
        self._name = secrets.token_hex(8)
        self._others: dict[int, AgentState] = {}
        self._socket = channel
        self.address = self._socket.address.removeprefix("tcp://")
        self._closing = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="ringlet-heart", daemon=True)
        self._heart.start()

    def _beat(self) -> None:
        while not self._closing.wait(HEARTBEAT_S):
            self._send_all({"alive": self.node})

    def _state(self, route: bytes = b"") -> AgentState:
        return AgentState(route, self.spec.silence_s)

    @abstractmethod
    def meet(self, timeout: float, assign: Assign) -> Assignment:
        """Wait for the other hosts, and return what the coordinator assigns to those that are
        there.

        Raises UserError naming the hosts that did not come, or saying why this one is refused.
        """

    def next_job(self, generation: int, task_for: TaskFor = lambda size: "") -> tuple[Job, str]:
        spec = self.spec

        def assign(hosts: list[HostInfo]) -> Assignment:
            folder = spec.placed.folder
            rendezvous = (
                tcp(spec.address, free_port(spec.address))
                if folder is None
                else f"ipc://{folder}/rendezvous"
            )
            assignment = Assignment(hosts, self._name, rendezvous, generation)
            return replace(assignment, task=task_for(assignment.size))

        assignment = self.meet(self.options.timeout, assign)
        ranks = assignment.ranks(spec.node)
        job = self._job(
            assignment.size,
            assignment.generation,
            job=assignment.job,
            folder=None,
            first=ranks.start,
            local_size=len(ranks),
            node=spec.node,
            rendezvous=assignment.rendezvous,
            address=spec.address,
            task=spec.placed.task,
            tasks=spec.placed.tasks,
        )
        return job, assignment.task

    def _lateness(self, missing: list[int], timeout: float) -> str:
        hosts = numbered("host", missing)
        return f"{hosts} did not come to {self.address} within {timeout:.0f} s"

    def _own(self) -> HostInfo:
        return HostInfo(self.node, self.workers, socket.gethostname(), self.spec.address)

    def _begin(self, assignment: Assignment) -> Assignment:
        """A start of the job begins: nobody has failed yet."""
        self.assignment, self.failures = assignment, []
        for state in self._others.values():
            state.last, state.ended = time.monotonic(), False
        return assignment

    # -- running ------------------------------------------------------------------------------

    def report(self, failure: Failure) -> None:
        super().report(failure)
        self._send_all({"failure": asdict(failure)})

    def poll(self) -> list[Failure]:
        news: list[Failure] = []
        for route, notice in self._socket.receive():
            news += self._handle(route, notice)
        for node, state in self._others.items():
            if state.silent and not state.lost and not state.ended:
                news += self._mark_lost(node, state)
        self.failures += news
        return news

    def _handle(self, route: bytes, notice: Notice) -> Iterator[Failure]:
        """Take a notice; the failures in it."""
        state = self._state_of(route)
        if state is None:
            return
        state.last = time.monotonic()
        if "failure" in notice:
            yield parse(Failure, notice["failure"])

    def _state_of(self, route: bytes) -> AgentState | None:
        """The agent at the end of the route; None for a stranger and for one that is lost."""
        states = self._others.values()
        return next((each for each in states if each.route == route and not each.lost), None)

    def _mark_lost(self, node: int, state: AgentState) -> Iterator[Failure]:
        """An agent is silent: the workers of its host are lost. (When an agent other than the
        coordinator hears nothing any more, the coordinator is what it has lost.)"""
        state.lost = True
        host = self.assignment.host(node)
        reason = f"the agent of {host} has not been heard for {state.silence_s:g} s"
        for rank in self.assignment.ranks(node):
            yield Failure(rank, reason, ExitCode.PEER_LOST, host=host.name)

    # -- ending -------------------------------------------------------------------------------

    @property
    def host_left(self) -> bool:
        return any(state.leaving for state in self._others.values())

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close the channel, once what was sent has been delivered."""
        self._closing.set()
        self._heart.join()
        self._socket.close(linger_ms)
        if self.spec.placed.folder is not None:
            if self.node == 0:
                (self.spec.placed.folder / "agents").unlink(missing_ok=True)
            leave_folder(self.spec.placed.folder)

    def _send_all(self, notice: Notice, but: bytes | None = None) -> None:
        """Send to every agent this one is connected to, except the one at the route `but`."""
        for state in list(self._others.values()):
            if not state.lost and (but is None or state.route != but):
                self._socket.send(notice, state.route)
