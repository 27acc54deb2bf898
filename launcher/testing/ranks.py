"""The ranks of one world on this host, seen from the process that starts them and waits for them.

How a rank is started is a subclass's: as a program of its own (pool), or as a fork (forks). A call
is numbered, so that no answer is taken for that of another; ranks that were left in the middle of
one are ended, whatever ended the wait.
"""

import os
import selectors
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import IO, Any, Protocol, Self

from ringlet.launcher.supervisor.control import Control, Notice
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.process import state_of

STARTUP_S = 30.0

DUMP_S = 2.0
"""The longest that a rank may take to write its stacks."""


class RanksFailed(AssertionError):
    """Some ranks failed; the message shows the traceback of each. `failures` maps these ranks to
    texts, `results` the other ranks to what they returned."""

    def __init__(self, name: str, failures: dict[int, str], results: dict[int, Any]) -> None:
        self._made_of = (name, failures, results)
        self.failures, self.results = failures, results
        parts = [f"--- rank {rank} ---\n{text.rstrip()}" for rank, text in failures.items()]
        super().__init__(f"{name} failed on {len(failures)} ranks\n" + "\n".join(parts))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_of, self.__dict__  # for those who hand it on: see CommError


class Rank(Protocol):
    """One rank's process, with this end of its control channel."""

    rank: int
    control: Control

    @property
    def pid(self) -> int:
        """The process id."""

    def kill(self) -> None:
        """Kill it and everything it started, and collect its exit status."""

    def exit_reason(self) -> str:
        """How it ended; waits until it has."""


class Ranks(ABC):
    """`size` ranks, started by the first call and again after one that failed, with `variables`
    added to their environment."""

    def __init__(
        self,
        size: int,
        transport: str = "auto",
        timeout: float = 20.0,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.size, self._transport, self._timeout = size, transport, timeout
        self._variables = variables or {}
        self._job: Job | None = None
        self._ranks: list[Rank] = []
        self._output: list[IO[bytes]] = []
        self._call = 0
        self._busy = False  # or left in the middle of a call

    def close(self) -> None:
        """End the processes; the next call starts new ones."""
        ranks, self._ranks = self._ranks, []
        outputs, self._output = self._output, []
        job, self._job = self._job, None
        for rank in ranks:
            rank.kill()
        for output in outputs:
            output.close()
        if job is not None:
            job.clean()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def _start_rank(self, job: Job, rank: int, output: IO[bytes]) -> Rank:
        """Start the process, which writes what must not be lost to `output`. It says {"call": 0,
        "result": ...} once it has joined the world, then takes tasks."""

    def _make_job(self) -> Job:
        return Job(self.size, self._transport, self._timeout, variables=self._variables)

    def _run(self, task: Notice, deadline: float) -> dict[int, Notice]:
        """Hand the task to every rank; returns how the call has ended on each: its notice with
        "result", or with "failed" (a text) and "echo" (of another rank's failure)."""
        self._busy = True
        try:
            if not self._ranks:
                self._start()
            self._call += 1
            for rank in self._ranks:
                rank.control.send({**task, "call": self._call}, tuples=bool(task.get("tuples")))
            outcomes = self._outcomes(deadline)
        except BaseException:
            self.close()
            self._busy = False
            raise
        if any("failed" in outcome for outcome in outcomes.values()):
            self.close()
        self._busy = False
        return outcomes

    def _start(self) -> None:
        self._job, self._call = self._make_job(), 0
        self._start_ranks(self._job)
        self._results("starting the ranks", self._outcomes(STARTUP_S))

    def _start_ranks(self, job: Job) -> None:
        for rank in range(self.size):
            self._output.append(tempfile.TemporaryFile())  # noqa: SIM115 - closed with the ranks
            self._ranks.append(self._start_rank(job, rank, self._output[rank]))

    @staticmethod
    def _results(name: str, outcomes: dict[int, Notice]) -> list[Any]:
        """Every rank's result; raises RanksFailed if one has none."""
        failed = {rank: outcome for rank, outcome in outcomes.items() if "failed" in outcome}
        results = {rank: outcomes[rank]["result"] for rank in outcomes if rank not in failed}
        if failed:
            order = sorted(failed, key=lambda rank: (failed[rank]["echo"], rank))
            raise RanksFailed(name, {rank: text_of(failed[rank]) for rank in order}, results)
        return [results[rank] for rank in sorted(results)]

    def _outcomes(self, deadline: float) -> dict[int, Notice]:
        """Wait until the call has ended on every rank, or until the deadline."""
        try:
            outcomes = self._collect(time.monotonic() + deadline)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # somebody's time limit
            for rank, stacks in self._stacks([*range(self.size)]).items():
                error.add_note(f"--- rank {rank} was here ---\n{stacks}")
            raise
        late = [rank for rank in range(self.size) if rank not in outcomes]
        for rank, stacks in self._stacks(late).items():
            text = f"has not returned within {deadline:g} s\n{stacks}"
            outcomes[rank] = {"failed": text, "echo": False}
        return outcomes

    def _collect(self, until: float) -> dict[int, Notice]:
        outcomes: dict[int, Notice] = {}
        with selectors.DefaultSelector() as selector:
            for rank in self._ranks:
                selector.register(rank.control, selectors.EVENT_READ, rank)
            while len(outcomes) < self.size and time.monotonic() < until:
                for key, _ in selector.select(max(0.0, until - time.monotonic())):
                    rank = key.data
                    open_still = rank.control.fill()
                    for notice in rank.control.notices():
                        if notice.get("call") == self._call:
                            outcomes.setdefault(rank.rank, notice)
                    if not open_still:
                        selector.unregister(rank.control)
                        self._announce(rank, outcomes)
        return outcomes

    def _announce(self, dead: Rank, outcomes: dict[int, Notice]) -> None:
        """A rank has ended: tell the others, as a supervisor does."""
        reason = dead.exit_reason()
        text = f"{reason}\n{self._written(dead.rank)}"
        outcomes.setdefault(dead.rank, {"failed": text, "echo": False})
        for rank in self._ranks:
            if rank is not dead:
                rank.control.send({"lost": dead.rank, "cause": reason})

    def _stacks(self, ranks: list[int]) -> dict[int, str]:
        """What the ranks are doing: faulthandler writes every thread's stack on SIGUSR1."""
        stopped = [rank for rank in ranks if state_of(self._ranks[rank].pid) == "T"]
        ranks = [rank for rank in ranks if rank not in stopped]
        before = {rank: len(self._written(rank)) for rank in ranks}
        for rank in ranks:
            os.kill(self._ranks[rank].pid, signal.SIGUSR1)
        texts: dict[int, str] = {}
        end = time.monotonic() + DUMP_S
        while ranks and time.monotonic() < end:
            time.sleep(0.05)
            last, texts = texts, {rank: self._written(rank) for rank in ranks}
            if texts == last and all(len(text) > before[rank] for rank, text in texts.items()):
                break
        return {**texts, **dict.fromkeys(stopped, "its process is stopped (SIGSTOP)")}

    def _written(self, rank: int) -> str:
        """The end of what the rank has written."""
        output = self._output[rank].fileno()
        size = os.fstat(output).st_size
        return os.pread(output, 20_000, max(0, size - 20_000)).decode(errors="replace")


def text_of(outcome: Notice) -> str:
    """The text of a failure, marked if it is an echo."""
    text: str = outcome["failed"]
    return f"(an echo of another rank's failure)\n{text}" if outcome["echo"] else text
