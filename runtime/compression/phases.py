"""Computations with collectives in them, written from top to bottom and run a phase at a time.

A generator issues an asynchronous collective and yields its Work; it resumes when that has ended.
While it is suspended the caller computes.
"""

from collections.abc import Generator
from typing import Any, TypeAlias

from ringlet.comm import Work
from ringlet.nn.autograd.tensor import Array

Phases: TypeAlias = Generator[Work, Any, Array]
"""Yields the Work of each phase, is sent what its `wait()` returned, and returns the result."""


class PhasedWork:
    """Phases in progress: the first begins at once, the others when they are reached."""

    def __init__(self, phases: Phases) -> None:
        self._phases = phases
        self._work: Work | None = None
        self._result: Array | None = None
        self._phase = 0
        self.ended = False
        self._next()

    def reach(self, phase: int) -> None:
        """Wait until this phase (1, 2, ...) has begun, or none is left."""
        while self._phase < phase and not self.ended:
            self._next()

    def wait(self) -> Any:
        """Go through all phases and return the result."""
        while not self.ended:
            self._next()
        return self._result

    def _next(self) -> None:
        arrived = None if self._work is None else self._work.wait()
        try:
            self._work = self._phases.send(arrived)
            self._phase += 1
        except StopIteration as end:
            self._work, self._result, self.ended = None, end.value, True
