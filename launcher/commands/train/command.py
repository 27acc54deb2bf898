"""`ringlet train`: check everything first, then start the workers and show their progress."""

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any

import click

from ringlet.launcher.commands.on_ray import is_on_ray
from ringlet.launcher.commands.options import with_options, words_given
from ringlet.launcher.commands.traced import tracing
from ringlet.launcher.commands.train.prepare import Training, TrainOptions, prepare
from ringlet.launcher.commands.train.progress import TrainingProgress
from ringlet.launcher.commands.train.trackers.chosen import trackers
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.hosts.agents import open_agent
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.hosts.placed import PlacedOptions, placed
from ringlet.launcher.ray.options import RayOptions
from ringlet.launcher.supervisor.agent import Agent
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.failure import failure_facts
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.restarts import run_with_restarts
from ringlet.launcher.supervisor.supervisor import Supervisor
from ringlet.launcher.supervisor.traces import check_trace
from ringlet.runtime.training.callbacks import EVENTS, Callback, tell
from ringlet.runtime.training.config import TrainConfig
from ringlet.runtime.training.fit import DEFAULT_WORKERS, default_workers
from ringlet.runtime.training.record import Record


@with_options(
    options=TrainOptions, launch=WorkerOptions, hosts=HostOptions, ray=RayOptions, given=TrainConfig
)
def train(
    context: click.Context,
    *,
    options: TrainOptions,
    launch: WorkerOptions,
    hosts: HostOptions,
    ray: RayOptions,
    given: dict[str, Any],
) -> None:
    """Train a transformer on text, and sample from it.

    By default this is nanoGPT's recipe for a CPU, on the text of Python's documentation. To use
    several hosts, run the same command on each with --nnodes, --node-rank and --master, or start
    them all from one with --hosts or --hostfile. Under srun, mpirun and the like, each task starts
    its part of one job. Host 0 decides what is trained.
    With --engine ray, a running Ray cluster places the workers; -n counts them on all hosts.
    """
    launch.check()
    options.check()
    options = options.settled()
    if is_on_ray(context, ray, but={"grace"}):
        raise click.exceptions.Exit(_run_on_ray(options, given, launch, ray))
    if hosts.over_ssh:
        from ringlet.launcher.hosts.ssh import SshLauncher

        command = ["train", *words_given(context, without=hosts.left_out)]
        launcher = SshLauncher(command, hosts, options.workers or DEFAULT_WORKERS)
        raise click.exceptions.Exit(launcher.run())
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
        raise click.exceptions.Exit(_run(training, agent, options))


class _Told:
    """Who is told of a training: the screen, the run's folder, and trackers."""

    def __init__(
        self, screen: Screen, quiet: bool, options: TrainOptions, training: Training | None
    ) -> None:
        self.progress = TrainingProgress(screen, quiet)
        self._screen, self._training = screen, training
        self._callbacks: list[Callback] = [self.progress]
        if training is not None:
            self._callbacks += trackers(options, screen.say)

    def take(self, notice: Notice) -> None:
        """Take what rank 0 reports."""
        if notice.get("event") in EVENTS:
            tell(self._callbacks, notice["event"], notice["facts"])
        else:
            self.progress.note(notice)

    def failed(self, facts: Mapping[str, Any]) -> None:
        """The ranks have failed."""
        tell(self._callbacks, "failure", {"step": self.progress.step_taken, **facts})

    def task(self, generation: int, workers: int) -> str:
        """The task of a start of the training."""
        assert self._training is not None
        task = self._training.task(generation, workers)
        if not generation:
            self._callbacks.append(Record(self._training.folder, self._screen.say))
        self.progress.headline(self._training.settings, workers, self._training.notes)
        return task


def _run(training: Training | None, agent: Agent, options: TrainOptions) -> int:
    """Run the workers of this host. Host 0 has the `training`, which sets the task of all hosts."""
    screen = Screen()
    told = _Told(screen, agent.options.quiet, options, training)
    started: list[Supervisor] = []

    def failed() -> None:
        told.failed(failure_facts(agent.failures, started[-1].doing))

    def start(generation: int) -> Supervisor:
        if generation:
            failed()
        if training is None:
            job, task = agent.next_job(generation)
        else:
            job, task = agent.next_job(generation, partial(told.task, generation))
        module = "ringlet.launcher.workers.train_worker"
        folder = None if training is None else training.folder
        made = Supervisor(
            job, module, [task], screen=screen, agent=agent, inform=told.take, folder=folder
        )
        started.append(made)
        return made

    code = run_with_restarts(start, agent, lambda: told.progress.steps > 0, screen)
    if code not in (ExitCode.OK, ExitCode.STOPPED):
        failed()
    elif training is not None:
        told.progress.conclude(training.folder, training.workers_given)
    return code


def _run_on_ray(
    options: TrainOptions, given: dict[str, Any], launch: WorkerOptions, ray: RayOptions
) -> int:
    """Run the workers as actors. How many hosts they are on is known once Ray has placed them."""
    from ringlet.launcher.ray.job import exit_code
    from ringlet.launcher.ray.training import TrainingWork

    several = max(2, options.workers or 0)
    with closing(prepare(options, given, (several, several), launch)) as training:
        if training.settings.device == "cuda" and not ray.gpus:
            raise UserError("--device cuda on Ray needs --gpus 1: each worker sees its own alone")
        usual = default_workers(training.settings) if training.plan is None else training.plan.ranks
        workers, screen = options.workers or usual, Screen()
        told = _Told(screen, False, options, training)
        job = Job(
            workers, launch.transport, launch.timeout, folder=None, restarts=launch.max_restarts
        )
        work = TrainingWork(lambda start: told.task(start, workers), told, screen, launch.grace)
        code = exit_code(job, ray, work)
        if code in (ExitCode.OK, ExitCode.STOPPED):
            again = {"-n": workers, "--cpus": ray.cpus, "--gpus": ray.gpus}
            words = [word for name, each in again.items() for word in (name, f"{each:g}")]
            told.progress.conclude(training.folder, ["--engine", "ray", *words])
        return code
