"""Warm worker processes that run functions on several ranks: for tests, and for notebooks.

Starting processes takes longer than most distributed tests. A pool starts its ranks once; each
call sends them a function's place and its arguments, and waits for all, with a hard deadline.
"""

import inspect
import selectors
import signal
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ringlet.comm.faults import parse_fault
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.process import Worker

STARTUP_S = 30.0
DUMP_S = 0.5

ECHO = "(an echo of another rank's failure)\n"


class RanksFailed(AssertionError):
    """Some ranks failed; the message shows each one's traceback.

    `failures` maps ranks to texts, `results` the other ranks to what they returned.
    """

    def __init__(self, name: str, failures: dict[int, str], results: dict[int, Any]) -> None:
        self.failures, self.results = failures, results
        parts = [f"--- rank {rank} ---\n{text.rstrip()}" for rank, text in failures.items()]
        super().__init__(f"{name} failed on {len(failures)} ranks\n" + "\n".join(parts))


def _place(function: Callable[..., Any]) -> dict[str, str]:
    """Where workers find a function: its file and name, or a notebook's source text."""
    path, name = inspect.getsourcefile(function), function.__qualname__
    if "<" in name:
        raise TypeError(f"{name} is not a module-level function: workers cannot find it")
    if path is not None and Path(path).is_file():
        return {"path": path, "name": name}
    try:
        return {"source": textwrap.dedent(inspect.getsource(function)), "name": name}
    except (OSError, TypeError):
        raise TypeError(f"{name} has no source that workers could read") from None


class WorkerPool:
    """`size` ranks on this host, started at first use and again after a failure.

    `variables` are more of their environment.
    `run` calls `function(world, **arguments)` on every rank and returns the results by rank.
    """

    def __init__(
        self,
        size: int,
        transport: str = "auto",
        timeout: float = 20.0,
        variables: Mapping[str, str] | None = None,
        show: bool = False,
    ) -> None:
        self._show = show
        self.size, self._transport, self._timeout = size, transport, timeout
        self._variables = variables or {}
        self._job: Job | None = None
        self._workers: list[Worker] = []
        self._output: list[IO[bytes]] = []

    def run(
        self,
        function: Callable[..., Any],
        deadline: float = 30.0,
        faults: Sequence[str] = (),
        **arguments: Any,
    ) -> list[Any]:
        """Run a module-level function on every rank; raises RanksFailed unless all return.

        Arguments and results are what `comm` can send as objects: numbers, text, lists, dicts,
        NumPy arrays; as arguments also paths. `faults` happen on the way (see comm/faults.py):
        "kill rank 2 at its third all_reduce". After `deadline` seconds the stacks of the ranks
        that have not returned are part of the error, and the ranks are killed.
        """
        place, name = _place(function), function.__qualname__
        for fault in faults:
            if parse_fault(fault).rank >= self.size:
                raise ValueError(f"{fault!r}: the ranks are 0 to {self.size - 1}")
        paths = {name: str(value) for name, value in arguments.items() if isinstance(value, Path)}
        plain = {name: value for name, value in arguments.items() if name not in paths}
        if not self._workers:
            self._start()
            self._finish("starting the ranks", STARTUP_S)
        for worker in self._workers:
            worker.control.send(
                {**place, "arguments": plain, "paths": paths, "faults": list(faults)}
            )
        return self._finish(name, deadline)

    def close(self) -> None:
        """End the processes; the next `run` starts new ones."""
        for worker in self._workers:
            worker.kill()
        for output in self._output:
            output.close()
        if self._job is not None:
            self._job.clean()
        self._job, self._workers, self._output = None, [], []

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _make_job(self) -> Job:
        return Job(self.size, self._transport, self._timeout, variables=self._variables)

    def _prefix(self, rank: int) -> Sequence[str]:
        """What goes before a worker's command."""
        return ()

    def _start(self) -> None:
        self._job = self._make_job()
        for rank in range(self.size):
            output = None
            if not self._show:
                output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the pool
                self._output.append(output)
            worker = Worker(
                self._job,
                rank,
                "ringlet.launcher.workers.warm",
                stdout=output,
                stderr=output,
                prefix=self._prefix(rank),
            )
            self._workers.append(worker)

    def _finish(self, name: str, deadline: float) -> list[Any]:
        """Every rank's result; raises RanksFailed, and ends the processes, if one has none."""
        results, failures = self._collect(time.monotonic() + deadline)
        late = [r for r in range(self.size) if r not in results and r not in failures]
        if late:
            failures.update(self._stacks(late, deadline))
        if failures:
            self.close()
            causes_first = sorted(
                failures, key=lambda rank: (failures[rank].startswith(ECHO), rank)
            )
            raise RanksFailed(name, {rank: failures[rank] for rank in causes_first}, results)
        return [results[rank] for rank in range(self.size)]

    def _collect(self, until: float) -> tuple[dict[int, Any], dict[int, str]]:
        """Wait for every rank's word, or its end."""
        results: dict[int, Any] = {}
        failures: dict[int, str] = {}
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.control, selectors.EVENT_READ, worker)
            while len(results) + len(failures) < self.size and time.monotonic() < until:
                for key, _ in selector.select(max(0.0, until - time.monotonic())):
                    worker = key.data
                    if not worker.control.fill():
                        selector.unregister(worker.control)
                        self._announce(worker, failures)
                    for notice in worker.control.notices():
                        if "result" in notice:
                            results[worker.rank] = notice["result"]
                        else:
                            echo = ECHO if notice["echo"] else ""
                            failures[worker.rank] = echo + notice["failed"]
        return results, failures

    def _announce(self, dead: Worker, failures: dict[int, str]) -> None:
        """A rank has ended: tell the others, as a launcher would."""
        reason = dead.exit_reason()
        failures.setdefault(dead.rank, f"{reason}\n{self._written(dead.rank)}")
        for worker in self._workers:
            if worker is not dead:
                worker.control.send({"lost": dead.rank, "cause": reason})

    def _stacks(self, ranks: list[int], deadline: float) -> dict[int, str]:
        """What the ranks are doing: faulthandler writes every thread's stack on SIGUSR1."""
        for rank in ranks:
            if self._workers[rank].running:
                self._workers[rank].process.send_signal(signal.SIGUSR1)
        time.sleep(DUMP_S)
        head = f"has not returned within {deadline:.0f} s"
        return {rank: f"{head}\n{self._written(rank)}" for rank in ranks}

    def _written(self, rank: int) -> str:
        if self._show:
            return ""  # it was seen
        output = self._output[rank]
        output.seek(0)
        return output.read()[-20_000:].decode(errors="replace")
