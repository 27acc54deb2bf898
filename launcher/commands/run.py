"""`ringlet run`: any script on several workers, on this host or on many."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ringlet.launcher.commands.options.common import (
    DEFAULT_GRACE_S,
    DEFAULT_TIMEOUT_S,
    Grace,
    MaxRestarts,
    Timeout,
    Transport,
    check_options,
)
from ringlet.launcher.commands.options.groups import with_groups, words_given
from ringlet.launcher.commands.options.hosts import HostOptions
from ringlet.launcher.commands.options.workers import WorkerOptions
from ringlet.launcher.errors import UserError
from ringlet.launcher.hosts.hosts import place_of, run_over_ssh
from ringlet.launcher.hosts.plan import Place
from ringlet.launcher.supervisor.control import Message
from ringlet.launcher.supervisor.local import DEFAULT_OPTIONS, Supervisor
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.restarts import Starts, channel, persist


@with_groups(lives=WorkerOptions, hosts=HostOptions)
def run(
    context: typer.Context,
    program: Annotated[
        list[str],
        typer.Argument(
            metavar="SCRIPT [ARGS]...", help="script.py, or -m module, and its arguments."
        ),
    ],
    workers: Annotated[
        int, typer.Option("-n", "--workers", min=1, help="How many worker processes.")
    ] = 2,
    transport: Transport = "auto",
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    grace: Grace = DEFAULT_GRACE_S,
    max_restarts: MaxRestarts = 0,
    *,
    lives: WorkerOptions,
    hosts: HostOptions,
) -> None:
    """Run a script on several worker processes; in it, ringlet.comm.init() joins them.

    On several hosts: the same command on each, with --nnodes, --node-rank and --master; or, from
    one of them, --hosts or --hostfile.
    """
    check_options(transport, timeout)
    if program[0] != "-m" and not Path(program[0]).is_file():
        raise UserError(f"there is no script {program[0]}")
    if program == ["-m"]:
        raise UserError("-m needs the name of a module")
    if hosts.over_ssh:
        command = ["run", *words_given(context, without=["workers", HostOptions]), *program]
        raise typer.Exit(run_over_ssh(command, hosts, workers))
    lives.check()
    place = place_of(hosts, workers, max_restarts)
    raise typer.Exit(
        run_script(program, workers, transport, timeout, grace, lives, max_restarts, place)
    )


def run_script(
    arguments: Sequence[str],
    workers: int,
    transport: str = "auto",
    timeout: float | None = None,
    grace: float = DEFAULT_GRACE_S,
    options: WorkerOptions = DEFAULT_OPTIONS,
    restarts: int = 0,
    place: Place | None = None,
) -> int:
    """Run `script.py arguments...` (or `-m module arguments...`) on so many workers; with
    `place`, on so many of this host, together with the job's other hosts.

    Returns the exit code: 0, the first failed worker's own, or 128 + its signal. A script whose
    ranks have not met is not restarted.
    """
    screen, met = Screen(), []

    def inform(rank: int, message: Message) -> None:
        if "joined" in message:
            met.append(rank)

    with channel(place) as agent:
        starts = Starts(workers, transport, timeout, restarts, agent)

        def start(generation: int) -> Supervisor:
            job, _ = starts.job(generation)
            return Supervisor(
                job,
                "ringlet.launcher.workers.worker",
                arguments,
                screen=screen,
                grace=grace,
                options=options,
                inform=inform,
                agent=agent,
            )

        def say(text: str) -> None:
            screen.line(f"ringlet: {text}", sys.stderr)

        return persist(start, restarts, lambda: bool(met), say, agent)
