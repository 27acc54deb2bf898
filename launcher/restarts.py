"""Start a job again when it has failed, as often as was allowed."""

import itertools
from collections.abc import Callable

from ringlet.launcher.errors import ExitCode
from ringlet.launcher.local import Supervisor


def persist(
    start: Callable[[int], Supervisor],
    restarts: int,
    begun: Callable[[], bool],
    say: Callable[[str], None],
) -> int:
    """Run `start(generation)` until it succeeds or stops on a signal, with so many restarts at
    most; returns the last exit code.

    A program that fails before it has `begun` its work would fail again: it is not restarted.
    """
    for generation in itertools.count():
        supervisor = start(generation)
        code = supervisor.run()
        if code in (ExitCode.OK, ExitCode.STOPPED) or supervisor.interrupted or not restarts:
            return code
        if not begun():
            say("not restarted: it failed before its first step")
            return code
        if generation == restarts:
            say(f"not restarted: it has been restarted {restarts} times")
            return code
        say(f"restart {generation + 1} of at most {restarts}")
    raise AssertionError("counts for ever")
