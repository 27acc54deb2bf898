"""`ringlet doctor` between hosts: whether they meet and agree, and how fast the way is."""

import typer

from ringlet.launcher.commands.options.hosts import HostOptions
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.hosts.hosts import place_of, run_over_ssh
from ringlet.launcher.supervisor.control import Message
from ringlet.launcher.supervisor.local import Supervisor
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.restarts import Starts, channel


def line(state: str, name: str, text: str) -> str:
    """A finding as it is shown."""
    return f"{state:<5} {name:<14} {text}"


def between_hosts(hosts: HostOptions, timeout: float) -> int:
    """Look at what is between the hosts, with one rank on each; the exit code."""
    if hosts.over_ssh:
        return run_over_ssh(["doctor", f"--timeout={timeout}"], hosts, 1)
    place, states, screen = place_of(hosts, 1), [], Screen()
    if place is None:
        raise UserError("between hosts needs two or more of them: --hosts a,b")

    def inform(rank: int, message: Message) -> None:
        if "finding" in message:
            states.append(message["finding"][0])
            screen.line(line(*message["finding"]))

    with channel(place) as agent:
        try:
            job, _ = Starts(1, "auto", timeout, agent=agent).job(0)
        except UserError as error:
            remedy = "is the way between them open, and the address the right one?"
            typer.echo(line("bad", "meeting", f"{error}: {remedy}"))
            return ExitCode.FAILED
        if agent is not None and not place.node:
            there = ", ".join(map(str, agent.plan.hosts))
            screen.line(line("ok", "meeting", f"{there} have met at {agent.address}"))
        module = "ringlet.launcher.workers.doctor_worker"
        code = Supervisor(job, module, [], screen=screen, inform=inform, agent=agent).run()
    return code or (ExitCode.FAILED if "bad" in states else ExitCode.OK)
