"""Warm worker processes that run functions on several ranks: for tests, and for notebooks.

Starting processes takes longer than most distributed tests. A pool starts its ranks once; each call
tells them where a function is and its arguments, and waits for all of them, up to a deadline.
"""

import inspect
import select
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ringlet.comm.faults import parse_fault
from ringlet.comm.objects import pack
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.process import Worker
from ringlet.launcher.testing.printed import Printed
from ringlet.launcher.testing.ranks import Rank, Ranks, RanksFailed

__all__ = ["RanksFailed", "WorkerPool"]

ASK_S = 2.0
"""How long idle ranks may take to end by themselves."""


def is_in_file(function: Callable[..., Any]) -> bool:
    """Whether others can import the function: not in notebooks, nor at the interpreter's prompt."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # of C, or any object that can be called
        return False
    return path is not None and path.endswith(".py") and Path(path).is_file()


def _place(function: Callable[..., Any]) -> dict[str, str]:
    """Where workers find a function: its file and name."""
    if not is_in_file(function):
        raise TypeError(f"{function!r} is in no file: workers cannot import it (spawn can fork)")
    name = function.__qualname__
    if "<" in name:
        raise TypeError(f"{name} is not a module-level function: workers cannot find it")
    path = inspect.getsourcefile(function)
    assert path is not None
    return {"path": path, "name": name}


def _check_argument(function: str, name: str, value: Any) -> None:
    try:
        pack(value)
    except TypeError as error:
        kind = type(value).__name__
        text = f"{function}: the argument {name}, a {kind}, cannot be sent to ranks: {error}"
        raise TypeError(text) from None


class WorkerPool(Ranks):
    """`size` ranks on this host that stay: started by the first call, and again after a failure,
    with `variables` added to their environment. With `show`, their output is shown after their
    rank; with `tuples`, those in arguments and results stay tuples."""

    def __init__(
        self,
        size: int,
        transport: str = "auto",
        timeout: float = 20.0,
        variables: Mapping[str, str] | None = None,
        show: bool = False,
        tuples: bool = False,
    ) -> None:
        super().__init__(size, transport, timeout, variables)
        self._show, self._tuples = show, tuples
        self._printed: Printed | None = None

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
        task: Notice = {
            **_place(function),
            "arguments": plain,
            "paths": paths,
            "faults": list(faults),
        }
        task |= {"search": [*map(str, sys.path)], "tuples": self._tuples}
        try:
            outcomes = self._run(task, deadline)
        except TypeError:
            for name, value in plain.items():
                _check_argument(function.__qualname__, name, value)
            raise
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
        if self._printed is not None:
            self._printed.close()
            self._printed = None

    def _prefix(self, rank: int) -> Sequence[str]:
        """Words to put in front of a worker's command."""
        return ()

    def _start_rank(self, job: Job, rank: int, output: IO[bytes]) -> Rank:
        module, prefix = "ringlet.launcher.workers.warm", self._prefix(rank)
        if self._printed is None:
            return Worker(job, rank, module, output=output, prefix=prefix)
        stdout, stderr = self._printed.pipes(rank)
        return Worker(job, rank, module, output=stdout, errors=stderr, prefix=prefix)

    def _start_ranks(self, job: Job) -> None:
        self._printed = Printed() if self._show else None
        super()._start_ranks(job)
        if self._printed is not None:
            self._printed.begin()
