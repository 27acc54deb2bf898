"""Warm worker processes that run functions on several ranks: for tests, and for notebooks.

Starting processes takes longer than most distributed tests. A pool starts its ranks once; each call
tells them where a function is and its arguments, and waits for all of them, up to a deadline.
"""

import inspect
import select
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ringlet.comm.faults import parse_fault
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.process import Worker
from ringlet.launcher.testing.ranks import Rank, Ranks, RanksFailed

__all__ = ["RanksFailed", "WorkerPool"]

ASK_S = 2.0
"""How long idle ranks may take to end by themselves."""


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


class WorkerPool(Ranks):
    """`size` ranks on this host that stay: started by the first call, and again after a failure,
    with `variables` added to their environment. With `show`, their output goes where this
    process's goes."""

    def __init__(
        self,
        size: int,
        transport: str = "auto",
        timeout: float = 20.0,
        variables: Mapping[str, str] | None = None,
        show: bool = False,
    ) -> None:
        super().__init__(size, transport, timeout, variables)
        self._show = show

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
        for fault in faults:
            if parse_fault(fault).rank >= self.size:
                raise ValueError(f"{fault!r}: the ranks are 0 to {self.size - 1}")
        paths = {name: str(value) for name, value in arguments.items() if isinstance(value, Path)}
        plain = {name: value for name, value in arguments.items() if name not in paths}
        task = {**_place(function), "arguments": plain, "paths": paths, "faults": list(faults)}
        outcomes = self._run({**task, "search": [*map(str, sys.path)]}, deadline)
        return self._results(function.__qualname__, outcomes)

    def close(self) -> None:
        """End the processes, idle ones by asking, so that they can save what they have measured;
        the next `run` starts new ones."""
        until = time.monotonic() + ASK_S
        asked = [] if self._busy else [rank.control for rank in self._ranks]
        for control in asked:
            control.send({"end": True})
        for control in asked:
            while select.select([control], [], [], max(0.0, until - time.monotonic()))[0]:
                if not control.fill():
                    break
        super().close()

    def _prefix(self, rank: int) -> Sequence[str]:
        """Words to put in front of a worker's command."""
        return ()

    def _start_rank(self, job: Job, rank: int, output: IO[bytes]) -> Rank:
        shown = None if self._show else output
        module = "ringlet.launcher.workers.warm"
        return Worker(job, rank, module, output=shown, prefix=self._prefix(rank))
