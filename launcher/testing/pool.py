"""Warm worker processes that run functions on several ranks: for tests, and for notebooks.

Starting processes takes longer than most distributed tests. A pool starts its ranks once; each call
tells them where a function is and its arguments, and waits for all of them, up to a deadline.
"""

import inspect
import selectors
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ringlet.comm.faults import parse_fault
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.process import Worker

STARTUP_S = 30.0
DUMP_S = 0.5

ECHO = "(an echo of another rank's failure)\n"


class RanksFailed(AssertionError):
    """Some ranks failed; the message shows the traceback of each. `failures` maps these ranks to
    texts, `results` the other ranks to what they returned."""

    def __init__(self, name: str, failures: dict[int, str], results: dict[int, Any]) -> None:
        self.failures, self.results = failures, results
        parts = [f"--- rank {rank} ---\n{text.rstrip()}" for rank, text in failures.items()]
        super().__init__(f"{name} failed on {len(failures)} ranks\n" + "\n".join(parts))


def _place(function: Callable[..., Any]) -> dict[str, str]:
    """Where workers find a function: its file and name, or, in a notebook, its source."""
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
    """`size` ranks on this host, started at first use and again after a failure, with `variables`
    added to their environment. With `show`, their output goes where this process's goes."""

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
        """Run `function(world, **arguments)` on every rank; returns the results by rank.

        The function is at module level. Arguments and results are what `comm` can send as objects:
        numbers, text, lists, dicts, NumPy arrays; arguments also paths. `faults` are injected
        (comm/faults.py): "kill rank 2 at its third all_reduce". Raises RanksFailed unless all
        return within `deadline` seconds, with the stacks of those that hang, and kills the ranks.
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
            call = {**place, "arguments": plain, "paths": paths, "faults": list(faults)}
            worker.control.send({**call, "search": [*map(str, sys.path)]})
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

    def __exit__(self, *error: object) -> None:
        self.close()

    def _make_job(self) -> Job:
        return Job(self.size, self._transport, self._timeout, variables=self._variables)

    def _prefix(self, rank: int) -> Sequence[str]:
        """Words to put in front of a worker's command."""
        return ()

    def _start(self) -> None:
        self._job = self._make_job()
        for rank in range(self.size):
            output = None
            if not self._show:
                output = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the pool
                self._output.append(output)
            module, prefix = "ringlet.launcher.workers.warm", self._prefix(rank)
            self._workers.append(Worker(self._job, rank, module, output=output, prefix=prefix))

    def _finish(self, name: str, deadline: float) -> list[Any]:
        """Every rank's result; ends the processes and raises RanksFailed if one has none."""
        results, failures = self._collect(time.monotonic() + deadline)
        late = [r for r in range(self.size) if r not in results and r not in failures]
        if late:
            failures.update(self._stacks(late, deadline))
        if failures:
            self.close()
            order = sorted(failures, key=lambda rank: (failures[rank].startswith(ECHO), rank))
            raise RanksFailed(name, {rank: failures[rank] for rank in order}, results)
        return [results[rank] for rank in range(self.size)]

    def _collect(self, until: float) -> tuple[dict[int, Any], dict[int, str]]:
        """Wait until every rank has returned, failed or ended."""
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
        """A rank has ended: tell the others, as a supervisor does."""
        reason = dead.exit_reason()
        failures.setdefault(dead.rank, f"{reason}\n{self._written(dead.rank)}")
        for worker in self._workers:
            if worker is not dead:
                worker.control.send({"lost": dead.rank, "cause": reason})

    def _stacks(self, ranks: list[int], deadline: float) -> dict[int, str]:
        """What the ranks are doing: faulthandler writes every thread's stack on SIGUSR1."""
        for rank in ranks:
            self._workers[rank].process.send_signal(signal.SIGUSR1)  # nothing if it has ended
        time.sleep(DUMP_S)
        head = f"has not returned within {deadline:.0f} s"
        return {rank: f"{head}\n{self._written(rank)}" for rank in ranks}

    def _written(self, rank: int) -> str:
        if self._show:
            return ""  # everybody has seen it
        output = self._output[rank]
        output.seek(0)
        return output.read()[-20_000:].decode(errors="replace")
