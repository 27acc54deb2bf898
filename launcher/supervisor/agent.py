"""The agent: how the launcher of a host learns what becomes of its job, and decides what next."""

from collections.abc import Callable
from typing import Any, TypeAlias

from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.failure import Failure, first_cause
from ringlet.launcher.supervisor.options import WorkerOptions

TaskFor: TypeAlias = Callable[[int], str]
"""The workers' task, by their number; raises UserError if the job cannot run on that many."""


class Agent:
    """The agent of a job that runs on this host alone. Those that share their job with other hosts
    are in launcher/hosts.

    For each start of the job: `next_job`; then `poll` often; `ended` and `outcome` at its end, and
    `agree` on whether to start again.
    """

    node = 0
    elastic = False
    """Whether the job goes on without hosts that are lost."""
    poll_s = 0.2

    def __init__(self, workers: int, options: WorkerOptions) -> None:
        self.workers, self.options = workers, options
        self.failures: list[Failure] = []
        self.ranks = range(0)  # of this host, in the last start

    @property
    def host_left(self) -> bool:
        """Whether a host was stopped, and will not be there at the next start."""
        return False

    @property
    def shown_elsewhere(self) -> bool:
        """Whether host 0 shows the outcome on the same terminal."""
        return False

    def next_job(self, generation: int, task_for: TaskFor = lambda size: "") -> tuple[Job, str]:
        """Start `generation` of the job, and the workers' task, which host 0 decides."""
        self.failures = []
        task = task_for(self.workers)  # before the Job, which makes a folder
        return self._job(self.workers, generation), task

    def _job(self, size: int, generation: int, **more: Any) -> Job:
        options = self.options
        job = Job(
            size,
            options.transport,
            options.timeout,
            generation=generation,
            restarts=options.max_restarts,
            pin=options.pin,
            variables=options.variables,
            **more,
        )
        self.ranks = job.ranks
        return job

    def report(self, failure: Failure) -> None:
        """A worker of this host has failed."""
        self.failures.append(failure)

    def poll(self) -> list[Failure]:
        """The failures on other hosts that have become known since the last call."""
        return []

    def ended(self, leaving: bool) -> None:
        """The workers of this host have all ended; `leaving` if the job was stopped here."""

    def concluded(self) -> bool:
        """Whether the workers of every host have ended, as far as is known; if not, `poll` on."""
        return True

    def outcome(self, code: int) -> tuple[Failure | None, int]:
        """How this start has ended: its first failure, and the exit code. Host 0's `code` counts
        for all."""
        return first_cause(self.failures), code

    def agree(self, again: bool) -> bool:
        """Whether the job starts again, as host 0 has decided."""
        return again

    def close(self) -> None:
        """Take leave of the other hosts."""
