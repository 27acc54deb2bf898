"""`ringlet run`: any script on several workers, on this host or on many."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click

from ringlet.launcher.commands.on_ray import is_on_ray
from ringlet.launcher.commands.options import Argument, similar_options, with_options, words_given
from ringlet.launcher.commands.traced import tracing
from ringlet.launcher.errors import UserError
from ringlet.launcher.hosts.agents import open_agent
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.hosts.placed import PlacedOptions, placed
from ringlet.launcher.options import option
from ringlet.launcher.ray.options import RayOptions
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.restarts import run_with_restarts
from ringlet.launcher.supervisor.supervisor import Supervisor
from ringlet.launcher.supervisor.traces import check_trace

WORKERS = 2


@dataclass(frozen=True)
class RunOptions:
    """How many processes run it."""

    workers: int | None = option(
        None, "Worker processes on each host.", "-n", "--workers", least=1, metavar="N",
        shown=f"{WORKERS}; 1 for each task of an engine",
    )  # fmt: skip


@with_options(own=RunOptions, options=WorkerOptions, hosts=HostOptions, ray=RayOptions)
def run(
    context: click.Context,
    program: Annotated[
        list[str],
        Argument("SCRIPT [ARGS]...", "script.py or -m module, with arguments."),
    ],
    *,
    own: RunOptions,
    options: WorkerOptions,
    hosts: HostOptions,
    ray: RayOptions,
) -> None:
    """Run a script on several worker processes.

    In the script, ringlet.comm.init() joins the workers. To use several hosts, run the same command
    on each with --nnodes, --node-rank and --master, or start them all from one with --hosts or
    --hostfile. Under srun, mpirun and the like, each task starts its part of one job.
    With --engine ray, a running Ray cluster places the workers; -n counts them on all hosts.
    """
    workers = own.workers
    options.check()
    check_program(context, program)
    if is_on_ray(context, ray):
        from ringlet.launcher.ray.program import run_script

        job = Job(
            workers or WORKERS, options.transport, options.timeout, folder=None,
            restarts=options.max_restarts,
        )  # fmt: skip
        raise click.exceptions.Exit(run_script(program, job, ray))
    if hosts.over_ssh:
        from ringlet.launcher.hosts.ssh import SshLauncher

        command = ["run", *words_given(context, without=hosts.left_out), *program]
        raise click.exceptions.Exit(SshLauncher(command, hosts, workers or WORKERS).run())
    check_trace(options.trace)
    hosts = placed(hosts)
    if workers is None:
        workers = hosts.workers if isinstance(hosts, PlacedOptions) else WORKERS
    screen = Screen()
    notices: list[Notice] = []  # that ranks have joined

    with (
        open_agent(hosts, workers, options) as agent,
        tracing(options.trace, options.trace_steps, agent),
    ):

        def start(generation: int) -> Supervisor:
            job, _ = agent.next_job(generation)
            module, inform = "ringlet.launcher.workers.worker", notices.append
            return Supervisor(job, module, program, screen=screen, agent=agent, inform=inform)

        raise click.exceptions.Exit(run_with_restarts(start, agent, lambda: bool(notices), screen))


def check_program(context: click.Context, program: list[str]) -> None:
    """Raise UserError unless the words after the options name a program."""
    if program[0].startswith("-") and program[0] != "-m":
        near = similar_options(context, program[0])
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(f"there is no option {program[0]}, and no script of that name{hint}")
    script = Path(program[0])
    if script.is_dir():
        script /= "__main__.py"
    if program[0] != "-m" and not script.is_file():
        raise UserError(f"there is no script {program[0]}")
    if program == ["-m"]:
        raise UserError("-m needs the name of a module")
