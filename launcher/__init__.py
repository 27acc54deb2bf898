"""Processes that start, are watched, and end: the command line, and functions on several ranks."""

from collections.abc import Callable
from typing import Any

A_WEEK_S = 7 * 24 * 3600.0


def spawn(
    function: Callable[..., Any],
    workers: int,
    *,
    deadline: float = A_WEEK_S,
    timeout: float = 300.0,
    transport: str = "auto",
    **arguments: Any,
) -> list[Any]:
    """Run `function(world, **arguments)` on so many new processes of this host; returns what each
    rank returned. For scripts (under `if __name__ == "__main__":`) and notebooks, where the
    function is sent as its own source: it has `np` and `comm`, and imports what else it needs.

    Arguments and results are what `comm` can send as objects. Raises RanksFailed (pool.py), with
    every rank's traceback, unless all return within `deadline` seconds; `timeout` bounds each
    wait of a rank for another.
    """
    from ringlet.launcher.testing.pool import WorkerPool

    with WorkerPool(workers, transport, timeout, show=True) as pool:
        return pool.run(function, deadline, **arguments)
