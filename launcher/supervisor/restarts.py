"""The starts of a job on this host: the first, and again when it has failed, as often as was
allowed. With several hosts all of them start alike, on agent 0's word."""

import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from ringlet.comm.join.addresses import tcp
from ringlet.comm.join.environment import DEFAULT_TIMEOUT_S
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.hosts.agents import Agent
from ringlet.launcher.hosts.plan import Host, Place, Plan
from ringlet.launcher.supervisor.environment import Job, free_port
from ringlet.launcher.supervisor.local import Supervisor

LISTENING = "ringlet-agent-0-listens-at "
"""Begins agent 0's line about its address, where another launcher started it."""


@contextmanager
def channel(place: Place | None) -> Iterator[Agent | None]:
    """The agent that speaks with the job's other hosts, if there are any."""
    if place is None:
        yield None
        return
    from ringlet.launcher.hosts.agent import Member
    from ringlet.launcher.hosts.coordinator import Chief

    agent = Member(place) if place.node else Chief(place)
    if place.started and not place.node:
        print(f"{LISTENING}{agent.address}", flush=True)  # for the launcher that started this
    try:
        yield agent
    finally:
        agent.close()


class Starts:
    """Makes the job for each start of this host's workers."""

    def __init__(
        self,
        workers: int,
        transport: str,
        timeout: float | None,
        restarts: int = 0,
        agent: Agent | None = None,
    ) -> None:
        self._workers, self._transport, self._timeout = workers, transport, timeout
        self._restarts, self._agent = restarts, agent
        self._name = secrets.token_hex(8)

    def job(self, generation: int, task_for: Callable[[int], str] | None = None) -> tuple[Job, str]:
        """The job, once all hosts have met, and the workers' task: `task_for(size)` on host 0,
        which may raise UserError for that many workers."""
        task_for = task_for or (lambda size: "")
        if self._agent is None:
            task = task_for(self._workers)  # first: a Job makes a folder
            job = Job(
                self._workers,
                self._transport,
                self._timeout,
                generation=generation,
                restarts=self._restarts,
            )
            return job, task
        place = self._agent.place

        def offer(hosts: list[Host]) -> Plan:
            meeting = tcp(place.address, free_port(place.address))
            plan = Plan(hosts, self._name, meeting, generation)
            return replace(plan, task=task_for(plan.size))

        plan = self._agent.meet(self._timeout or DEFAULT_TIMEOUT_S, offer)
        ranks = plan.ranks(place.node)
        job = Job(
            plan.size,
            self._transport,
            self._timeout,
            job=plan.job,
            folder=None,
            generation=plan.generation,
            restarts=self._restarts,
            first=ranks.start,
            local_size=len(ranks),
            node=place.node,
            rendezvous=plan.rendezvous,
            address=place.address,
        )
        return job, plan.task


def persist(
    start: Callable[[int], Supervisor],
    restarts: int,
    begun: Callable[[], bool],
    say: Callable[[str], None],
    agent: Agent | None = None,
) -> int:
    """Run `start(generation)` until it succeeds or stops on a signal, with so many restarts at
    most; returns the last exit code.

    A program that fails before it has `begun` its work would fail again: it is not restarted. An
    elastic job that has lost a host goes on without; that does not count.
    """
    code: int = ExitCode.OK
    used = 0
    for generation in itertools.count():
        try:
            supervisor = start(generation)
        except UserError as error:
            if not generation:
                raise
            say(f"not restarted: {error}")
            return code
        code = supervisor.run()
        if code in (ExitCode.OK, ExitCode.STOPPED):
            return code
        if agent is not None and agent.place.node:  # host 0 decides
            if supervisor.interrupted or not agent.agree(True):
                return code
            continue
        again = not supervisor.interrupted
        if again and _lost_a_host(code, agent):
            say("going on with the hosts that are left")
        elif again := again and restarts > 0:
            reason = _objection(code, used, restarts, begun, agent)
            again, used = not reason, used + 1
            say(reason or f"restart {used} of at most {restarts}")
        if agent is not None:
            agent.agree(again)
        if not again:
            return code
    raise AssertionError("counts for ever")


def _lost_a_host(code: int, agent: Agent | None) -> bool:
    """Whether that is why the job has ended, and it may go on without."""
    if agent is None or not agent.place.elastic:
        return False
    return code == ExitCode.PEER_LOST or agent.deserted


def _objection(
    code: int, used: int, restarts: int, begun: Callable[[], bool], agent: Agent | None
) -> str:
    """Why the job is not to be started again; empty if it is."""
    if used == restarts:
        return f"not restarted: it has been restarted {restarts} times"
    if code != ExitCode.PEER_LOST and not begun():  # a host that is lost is not the program's fault
        return "not restarted: it failed before its first step"
    if agent is not None and agent.deserted:
        return "not restarted: it was stopped on another host"
    return ""
