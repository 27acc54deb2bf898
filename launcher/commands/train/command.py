"""`ringlet train`: check everything first, then start the workers and show their progress."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import typer

from ringlet.launcher.commands.options import with_options, words_given
from ringlet.launcher.commands.traced import tracing
from ringlet.launcher.commands.train.prepare import Training, TrainOptions, prepare
from ringlet.launcher.commands.train.progress import TrainingProgress
from ringlet.launcher.commands.train.trackers.chosen import trackers
from ringlet.launcher.errors import ExitCode
from ringlet.launcher.hosts.agents import open_agent
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.hosts.placed import PlacedOptions, placed
from ringlet.launcher.supervisor.agent import Agent
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.supervisor.failure import failure_facts
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.restarts import run_with_restarts
from ringlet.launcher.supervisor.supervisor import Supervisor
from ringlet.launcher.supervisor.traces import check_trace
from ringlet.runtime.training.callbacks import EVENTS, Callback, tell
from ringlet.runtime.training.config import TrainConfig
from ringlet.runtime.training.fit import DEFAULT_WORKERS
from ringlet.runtime.training.record import Record


@with_options(options=TrainOptions, launch=WorkerOptions, hosts=HostOptions, given=TrainConfig)
def train(
    context: typer.Context,
    *,
    options: TrainOptions,
    launch: WorkerOptions,
    hosts: HostOptions,
    given: dict[str, Any],
) -> None:
    """Train a transformer on text, and sample from it.

    By default this is nanoGPT's recipe for a CPU, on the text of Python's documentation. To use
    several hosts, run the same command on each with --nnodes, --node-rank and --master, or start
    them all from one with --hosts or --hostfile. Under srun, mpirun and the like, each task starts
    its part of one job. Host 0 decides what is trained.
    """
    launch.check()
    options.check()
    options = options.settled()
    if hosts.over_ssh:
        from ringlet.launcher.hosts.ssh import SshLauncher

        command = ["train", *words_given(context, without=hosts.left_out)]
        launcher = SshLauncher(command, hosts, options.workers or DEFAULT_WORKERS)
        raise typer.Exit(launcher.run())
    check_trace(launch.trace)
    hosts = placed(hosts)
    if options.workers is None and isinstance(hosts, PlacedOptions):
        options = replace(options, workers=hosts.workers)
    training, workers = None, options.workers
    if not hosts.node_rank:
        training = prepare(options, given, hosts.range(), launch)
        workers = training.workers if workers is None else workers
    with ExitStack() as stack:
        if training is not None:
            stack.callback(training.close)
        count = DEFAULT_WORKERS if workers is None else workers
        agent = stack.enter_context(open_agent(hosts, count, launch))
        stack.enter_context(tracing(launch.trace, launch.trace_steps, agent))
        raise typer.Exit(_run(training, agent, options))


def _run(training: Training | None, agent: Agent, options: TrainOptions) -> int:
    """Run the workers of this host. Host 0 has the `training`, which sets the task of all hosts."""
    screen = Screen()
    progress = TrainingProgress(screen, agent.options.quiet)
    callbacks: list[Callback] = [progress]
    if training is not None:
        callbacks += trackers(options, screen.say)
    started: list[Supervisor] = []

    def inform(notice: Notice) -> None:
        if notice.get("event") in EVENTS:
            tell(callbacks, notice["event"], notice["facts"])
        else:
            progress.note(notice)

    def failed() -> None:
        ends = failure_facts(agent.failures, started[-1].doing)
        tell(callbacks, "failure", {"step": progress.step_taken, **ends})

    def start(generation: int) -> Supervisor:
        if generation:
            failed()
        if training is None:
            job, task = agent.next_job(generation)
        else:
            job, task = agent.next_job(generation, partial(training.task, generation))
            progress.headline(training.settings, job.size, training.notes)
            if not generation:
                callbacks.append(Record(training.folder, screen.say))
        module = "ringlet.launcher.workers.train_worker"
        started.append(Supervisor(job, module, [task], screen=screen, agent=agent, inform=inform))
        return started[-1]

    code = run_with_restarts(start, agent, lambda: progress.steps > 0, screen)
    if code not in (ExitCode.OK, ExitCode.STOPPED):
        failed()
    elif training is not None:
        progress.conclude(training.folder, training.workers_given)
    return code
