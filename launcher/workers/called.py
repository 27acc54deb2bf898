"""A rank that is called: the other end of what testing/ranks.py says and hears."""

import faulthandler
import signal
import sys
from typing import IO, Any

from ringlet.comm import world as comm
from ringlet.comm.group import Group
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.workers.worker import Guard


class CalledRank:
    """Joins the world, takes calls, and answers each under its number; what is said before the
    first has the number 0."""

    def __init__(self, guard: Guard, output: IO[bytes] | None = None) -> None:
        """SIGUSR1 writes every thread's stack to `output`, or to stderr."""
        self._guard, self._call = guard, 0
        comm.show_last_operations_on_signal()
        faulthandler.register(signal.SIGUSR1, output or sys.stderr, all_threads=True, chain=True)

    def join(self) -> Group:
        """Join the world, and say so."""
        world = comm.init()
        self.answer({"result": "ready"})
        return world

    def take(self) -> Notice:
        """Wait for the next call, and inject its faults; or for the notice of the end."""
        task = self._guard.inbox.get()
        if "end" not in task:
            self._call = task["call"]
            comm.inject(task["faults"])
        return task

    def answer(self, outcome: Notice, tuples: bool = False) -> None:
        """Say how the call has ended: "result", or "failed" (a text) and "echo"."""
        self._guard.control.send({"call": self._call, **outcome}, tuples=tuples)

    def answer_result(self, name: str, result: Any, tuples: bool) -> None:
        """Send what the function of this name has returned; raises TypeError if that is
        impossible."""
        try:
            self.answer({"result": result}, tuples)
        except TypeError as error:
            kind = type(result).__name__
            raise TypeError(f"{name} has returned a {kind} that cannot be sent: {error}") from None

    def leave(self) -> None:
        """Leave the world, and wait for the end of all: whoever ended first would look lost to the
        others."""
        comm.shutdown()
        self._guard.inbox.get()  # killed here
