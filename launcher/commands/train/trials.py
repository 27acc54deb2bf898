"""`ringlet train --auto --measure`: the best plans, tried for a few steps each."""

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TextIO

import click

from ringlet.launcher.commands.plan.shown import chosen_text
from ringlet.launcher.commands.plan.tables import aligned
from ringlet.launcher.commands.train.planned import Run, the_plan
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.supervisor.agent import Agent
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.supervisor.failure import Failure, first_cause
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.supervisor import Supervisor
from ringlet.launcher.units import seconds_text
from ringlet.runtime.planning.search import Candidate
from ringlet.runtime.planning.settings import Request

TRIED = 3
"""Of the best; and the run as it would be without a plan."""

STEPS, WARM = 12, 4
"""Steps of a trial, and those at its beginning that do not count."""

DEADLINE_S = 30.0
"""For a trial, with the start of its workers."""


class _Unseen(Screen):
    """Takes what a trial's workers print."""

    def line(self, text: str, stream: TextIO | None = None) -> None:
        pass


class _TrialAgent(Agent):
    """Ends its job at a deadline."""

    def __init__(self, workers: int, options: WorkerOptions, seconds: float) -> None:
        super().__init__(workers, options)
        self._ends, self._seconds = time.monotonic() + seconds, seconds

    def poll(self) -> list[Failure]:
        if self.failures or time.monotonic() < self._ends:
            return []
        late = Failure(0, f"took more than {self._seconds:g} s", ExitCode.TIMEOUT)
        self.report(late)
        return [late]


@dataclass(frozen=True)
class Trial:
    """A candidate, and the seconds of a step, or why there are none."""

    candidate: Candidate
    seconds: float = math.inf
    reason: str = ""


def fastest(
    run: Run, request: Request, best: Sequence[Candidate], launch: WorkerOptions
) -> Candidate:
    """The fastest of the candidates; shows what each took. Raises UserError if none works."""
    tried = []
    screen = Screen()
    for number, one in enumerate(best, 1):
        screen.status(f"trying {number} of {len(best)}: {chosen_text(one)}")
        tried.append(attempt(run, request, one, launch))
    screen.status("")
    rows: list[tuple[str, ...]] = [("", "tried", "predicted", "measured")]
    for number, trial in enumerate(tried, 1):
        expected = seconds_text(trial.candidate.simulation.seconds)
        measured = trial.reason or seconds_text(trial.seconds)
        rows.append((str(number), chosen_text(trial.candidate), expected, measured))
    for line in aligned(rows):
        screen.line(line)
    won = min(tried, key=lambda trial: trial.seconds / trial.candidate.setting.batch)
    if won.reason:
        raise UserError(f"none of the plans works: {won.reason}")
    return won.candidate


def attempt(
    run: Run, request: Request, one: Candidate, launch: WorkerOptions, deadline: float = DEADLINE_S
) -> Trial:
    """Train for a few steps, without a folder."""
    plan = the_plan(one, request)
    settings = run.by(plan)
    steps = STEPS + -STEPS % settings.local_steps
    settings = replace(
        settings, steps=steps, eval_every=steps, checkpoint_every=steps, eval_windows=1
    )
    facts = {"config": asdict(settings), "folder": "", "resume": False, "start": None, "sample": 0}
    task = json.dumps({**facts, "variables": plan.variables})
    times: list[float] = []

    def inform(notice: Notice) -> None:
        if notice.get("event") == "step" and not agent.failures:  # those of the end do not count
            times.append(notice["facts"]["step_s"])

    options = replace(launch, output=None, trace=None, quiet=True, max_restarts=0, grace=1.0)
    agent = _TrialAgent(plan.ranks, options, deadline)
    job, _ = agent.next_job(0)
    module = "ringlet.launcher.workers.train_worker"
    supervisor = Supervisor(job, module, [task], screen=_Unseen(), agent=agent, inform=inform)
    code = supervisor.run()
    if supervisor.interrupted:
        raise click.exceptions.Exit(code)
    if (failure := first_cause(agent.failures)) is not None:
        last = (failure.text.strip().splitlines() or [failure.exit_reason])[-1]
        done = f" (after {len(times)} steps)" if code == ExitCode.TIMEOUT else ""
        return Trial(one, reason=f"{last}{done}")
    return Trial(one, statistics.median(times[WARM:]))
