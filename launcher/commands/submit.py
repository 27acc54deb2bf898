"""`ringlet submit`: a job for an engine that places it on hosts and starts it again."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import click

from ringlet.launcher.commands.options import Argument, refuse, with_options
from ringlet.launcher.engines.engine import Engine, Submission
from ringlet.launcher.engines.kubernetes import Kubernetes
from ringlet.launcher.engines.slurm import Slurm
from ringlet.launcher.errors import UserError
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.options import option
from ringlet.launcher.ray.options import RayOptions

ENGINES: dict[str, type[Any]] = {"slurm": Slurm, "kubernetes": Kubernetes}
"""name -> what launcher/engines/engine.py calls an Engine; each has options of its own."""

SUBMITTED = ("train", "run")


@dataclass(frozen=True)
class SubmitOptions:
    """What every engine is told."""

    engine: str = option(..., f"Engine that runs the job: {', '.join(ENGINES)}.")
    nodes: int = option(1, "Number of hosts.", least=1, metavar="N")
    time: float | None = option(
        None, "Longest time that the job may take: 2:00:00, or 90min.", unit="duration"
    )
    name: str = option("ringlet", "Name of the job.")
    cpus: int | None = option(None, "Cores of each host.", least=1, metavar="N", shown="all")
    gpus: int | None = option(None, "GPUs of each host.", least=1, metavar="N")
    print: bool = option(False, "Show what would be submitted, and submit nothing.", "--print")


@with_options(options=SubmitOptions, **ENGINES)
def submit(
    context: click.Context,
    command: Annotated[list[str], Argument("-- COMMAND...", "train or run, with its options.")],
    *,
    options: SubmitOptions,
    **engines: Engine,
) -> None:
    """Submit `ringlet train` or `run` to an engine such as Slurm.

    -n, with the command, is the number of workers on each host. The engine starts the command
    there; which host is which and where they meet, the hosts find out by themselves. A training
    that is stopped before its end goes on from its checkpoint when the engine starts it again.
    """
    if options.engine not in ENGINES:
        raise UserError(f"there is no engine {options.engine!r}; there are {', '.join(ENGINES)}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", options.name, re.ASCII):
        raise UserError(f"--name is {options.name!r}; it is made of letters, digits, -, _ and .")
    for name, kind in ENGINES.items():
        if name != options.engine:
            refuse(context, {each.name for each in fields(kind)}, f"it is for --engine {name}")
    engine = engines[options.engine]
    _check(command, engine.SHARES_FILES and not options.print)
    job = Submission(
        options.name, options.nodes, tuple(command), options.time, options.cpus, options.gpus
    )
    text = engine.write(job)
    click.echo(text.rstrip() if options.print else engine.submit(job, text))


def _check(command: list[str], shares_files: bool) -> None:
    """Refuse now what would fail once the job has waited in its queue; files only where hosts
    have this host's."""
    if command[0] not in SUBMITTED:
        raise UserError(f"{command[0]} is not for an engine; {' and '.join(SUBMITTED)} are")
    hosts = {each.name for each in fields(HostOptions)} - {"interface", "encrypt", "host_timeout"}
    hosts |= {each.name for each in fields(RayOptions)}
    # Imported here: what a command needs is read only for that command.
    from ringlet.launcher.commands.run import check_program, run
    from ringlet.launcher.commands.train.command import train
    from ringlet.runtime.training.corpus import BUILT_IN

    known = {"train": train, "run": run}[command[0]]
    context = known.make_context(f"ringlet {command[0]}", command[1:])
    refuse(context, hosts, "the engine says which hosts there are")
    if known is run and shares_files:
        check_program(context, context.params["program"])
    for name in ("data", "config", "plan") if known is train and shares_files else ():
        path = context.params[name]
        if path not in (None, BUILT_IN) and not Path(path).exists():
            raise UserError(f"--{name} {path}: there is no such file")
