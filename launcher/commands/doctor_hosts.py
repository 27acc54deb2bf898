"""`ringlet doctor` between hosts: whether they meet and agree, and how fast their network is."""

from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.hosts.agents import open_agent
from ringlet.launcher.hosts.network_agent import NetworkAgent
from ringlet.launcher.hosts.node import node_spec
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.hosts.ssh import run_over_ssh
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.supervisor import Supervisor


def line(state: str, name: str, text: str) -> str:
    """A finding as it is shown."""
    return f"{state:<5} {name:<14} {text}"


def between_hosts(hosts: HostOptions, timeout: float) -> int:
    """Check the hosts and their network, with one rank on each; returns the exit code."""
    if hosts.over_ssh:
        return run_over_ssh(["doctor", f"--timeout={timeout}"], hosts, 1)
    spec, screen = node_spec(hosts), Screen()
    states: list[str] = []

    def inform(rank: int, notice: Notice) -> None:
        if "finding" in notice:
            states.append(notice["finding"][0])
            screen.line(line(*notice["finding"]))

    with open_agent(spec, 1, WorkerOptions(timeout=timeout)) as agent:
        if not isinstance(agent, NetworkAgent):
            raise UserError("to check between hosts, name at least two: --hosts a,b")
        try:
            job, _ = agent.next_job(0)
        except UserError as error:
            remedy = "is the network between them open, and the address the right one?"
            screen.line(line("bad", "meeting", f"{error}: {remedy}"))
            return ExitCode.FAILED
        if not agent.node:
            there = ", ".join(map(str, agent.assignment.hosts))
            screen.line(line("ok", "meeting", f"{there} have met at {agent.address}"))
        module = "ringlet.launcher.workers.doctor_worker"
        code = Supervisor(job, module, ["{}"], screen=screen, agent=agent, inform=inform).run()
    return code or (ExitCode.FAILED if "bad" in states else ExitCode.OK)
