"""The starts of a job: the first, and again when it has failed, as often as was allowed."""

import itertools
from collections.abc import Callable

from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.supervisor.agent import Agent
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.supervisor import Supervisor


def run_with_restarts(
    start: Callable[[int], Supervisor],
    agent: Agent,
    begun: Callable[[], bool],
    screen: Screen,
) -> int:
    """Run `start(generation)` until it succeeds or stops on a signal, with at most --max-restarts
    restarts; returns the last exit code. On several hosts all of them start again together.

    A program that fails before it has `begun` its work would fail again: it is not restarted. An
    elastic job that has lost a host goes on without it, which does not count as a restart.
    """
    code: int = ExitCode.OK
    used, restarts = 0, agent.options.max_restarts
    for generation in itertools.count():
        try:
            supervisor = start(generation)
        except UserError as error:
            if not generation:
                raise
            screen.say(f"not restarted: {error}")
            return code
        code = supervisor.run()
        if code in (ExitCode.OK, ExitCode.STOPPED):
            return code
        if agent.node:  # host 0 decides
            if supervisor.interrupted or not agent.agree(True):
                return code
            continue
        again = not supervisor.interrupted
        lost_a_host = code == ExitCode.PEER_LOST or agent.host_left
        if again and agent.elastic and lost_a_host:
            screen.say("continuing with the remaining hosts")
        elif again := again and restarts > 0:
            reason = _objection(code, used, begun, agent)
            again, used = not reason, used + 1
            screen.say(reason or f"restart {used} of at most {restarts}")
        agent.agree(again)
        if not again:
            return code
    raise AssertionError("counts for ever")


def _objection(code: int, used: int, begun: Callable[[], bool], agent: Agent) -> str:
    """Why the job should not start again; empty if it should."""
    if used == agent.options.max_restarts:
        return f"not restarted: it has been restarted {used} times"
    if code != ExitCode.PEER_LOST and not begun():  # a lost host is not the program's fault
        return "not restarted: it failed before its first step"
    if agent.host_left:
        return "not restarted: it was stopped on another host"
    return ""
