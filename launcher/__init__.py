"""launcher: starts processes, watches them, and ends them. The command line, and `spawn`.

May import comm, nn and runtime. Of its folders, in the order in which to read them, each may import
those before it: supervisor/ (the workers of this host), hosts/ (several hosts), workers/ (what runs
in the workers), testing/ (warm ranks), commands/ (one file for each command), and then cli.py.
errors.py, options.py and units.py know none of them.
"""

from collections.abc import Callable
from typing import Any


def spawn(
    function: Callable[..., Any],
    workers: int,
    *,
    deadline: float = 7 * 24 * 3600.0,
    timeout: float = 300.0,
    transport: str = "auto",
    **arguments: Any,
) -> list[Any]:
    """Run `function(world, **arguments)` on new processes of this host; returns what each rank
    returned. For scripts (under `if __name__ == "__main__":`) and for notebooks, where the function
    is sent as source: it has `np` and `comm`, and must import everything else itself.

    Arguments and results are what `comm` can send as objects. Raises RanksFailed (testing/pool.py),
    with every rank's traceback, unless all return within `deadline` seconds; `timeout` bounds each
    wait of one rank for another.
    """
    from ringlet.launcher.testing.pool import WorkerPool

    with WorkerPool(workers, transport, timeout, show=True) as pool:
        return pool.run(function, deadline, **arguments)
