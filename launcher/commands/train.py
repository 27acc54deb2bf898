"""`ringlet train`: check everything first, then start the workers and show how they get on."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

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
from ringlet.launcher.commands.training import Training, prepare
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.hosts.agents import Agent
from ringlet.launcher.hosts.hosts import place_of, run_over_ssh
from ringlet.launcher.supervisor.control import Message
from ringlet.launcher.supervisor.local import Supervisor
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.progress import Progress
from ringlet.launcher.supervisor.restarts import Starts, channel, persist
from ringlet.launcher.supervisor.tensorboard import EventFiles, check_tensorboard
from ringlet.runtime.training.config import DEFAULT_PRESET, PRESETS, TrainConfig
from ringlet.runtime.training.fit import DEFAULT_WORKERS


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of TrainConfig; those not given arrive as None."""
    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind != inspect.Parameter.VAR_KEYWORD]
    for each in fields(TrainConfig):
        text = f"{each.metadata['help']} [default: {_shown(each.default)}]"
        option = typer.Option(None, help=text, show_default=False)
        kind = type(each.default) | None
        own.append(
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind
            )
        )
    changed: Any = command
    changed.__signature__ = signature.replace(parameters=own)
    changed.__annotations__ = {p.name: p.annotation for p in own}
    return command


def _shown(default: Any) -> str:
    names = {False: "no", True: "yes", "": "none"}
    return names[default] if isinstance(default, bool | str) and default in names else str(default)


@with_config
@with_groups(lives=WorkerOptions, hosts=HostOptions)
def train(
    context: typer.Context,
    workers: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--workers",
            help="How many worker processes on this host. "
            f"[default: {DEFAULT_WORKERS}, or as --mesh needs on one host]",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Sizes to start from: {', '.join(PRESETS)}. [default: {DEFAULT_PRESET}]",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file of options; see docs/train.md.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for checkpoints and metrics [default: runs/DATA-PRESET[-NUMBER]]"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")
    ] = False,
    transport: Transport = "auto",
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    grace: Grace = DEFAULT_GRACE_S,
    max_restarts: MaxRestarts = 0,
    sample: Annotated[int, typer.Option(help="Tokens of the sample at the end.")] = 400,
    tensorboard: Annotated[
        Path | None,
        typer.Option(help="A folder for TensorBoard's event files (ringlet[tensorboard])."),
    ] = None,
    *,
    lives: WorkerOptions,
    hosts: HostOptions,
    **given: Any,
) -> None:
    """Train a GPT on text, on any mesh of workers, and show a sample of what it writes.

    The defaults are nanoGPT's recipe for a CPU, on the text of Python's own documentation. On
    several hosts: the same command on each, with --nnodes, --node-rank and --master; or, from one
    of them, --hosts or --hostfile. Host 0 decides what is trained.
    """
    check_options(transport, timeout)
    if sample < 0:
        raise UserError(f"--sample is {sample}; it has to be 0 or more")
    check_tensorboard(tensorboard)
    if hosts.over_ssh:
        command = ["train", *words_given(context, without=["workers", HostOptions])]
        raise typer.Exit(run_over_ssh(command, hosts, workers or DEFAULT_WORKERS))
    training = None
    if not hosts.node_rank:
        training = prepare(preset, config, out, resume, sample, given, hosts.range())
        workers = training.workers if workers is None else workers
    lives.check()
    workers = DEFAULT_WORKERS if workers is None else workers
    place = place_of(hosts, workers, max_restarts)
    with channel(place) as agent:
        starts = Starts(workers, transport, timeout, max_restarts, agent)
        events = None if tensorboard is None or training is None else EventFiles(tensorboard)
        raise typer.Exit(_run(training, starts, grace, lives, max_restarts, agent, events))


def _run(
    training: Training | None,
    starts: Starts,
    grace: float,
    lives: WorkerOptions,
    max_restarts: int,
    agent: Agent | None,
    events: EventFiles | None,
) -> int:
    """Start the workers of this host as often as it takes. Host 0 has the `training`; its workers'
    task is that of the others, too."""
    screen = Screen()
    progress = None if training is None else Progress(screen, training.settings)
    sizes: list[int] = []

    def inform(rank: int, message: Message) -> None:
        if progress is not None:
            progress.take(message)
        if events is not None:
            events.take(message)

    def start(generation: int) -> Supervisor:
        task_for = None if training is None else training.task_for(generation)
        job, task = starts.job(generation, task_for)
        if training is not None and job.size not in sizes[-1:]:
            sizes.append(job.size)
            screen.line(training.headline(job.size))
        return Supervisor(
            job,
            "ringlet.launcher.workers.train_worker",
            [task],
            screen=screen,
            grace=grace,
            options=lives,
            inform=inform,
            agent=agent,
        )

    code = persist(
        start,
        max_restarts,
        lambda: progress is not None and progress.steps > 0,
        lambda text: screen.line(f"ringlet: {text}", sys.stderr),
        agent,
    )
    if events is not None:
        events.close()
    if progress is not None and training is not None and code in (ExitCode.OK, ExitCode.STOPPED):
        progress.conclude(training.folder)
    return code
