"""launcher: starts processes, watches them, and ends them. The command line, and `spawn`.

May import comm, nn and runtime. Of its folders, in the order in which to read them, each may import
those before it: supervisor/ (the workers of this host), hosts/ (several hosts), workers/ (what runs
in the workers), engines/ (Slurm and others) and ray/, testing/ (warm ranks), commands/ (one file
for each command), and then cli.py. errors.py, options.py and units.py know none of them.
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
    """Run `function(world, **arguments)` on new ranks of this host; returns what each has returned.
    What ranks print is shown after their number.

    In scripts call it under `if __name__ == "__main__":`, for the ranks are new processes that
    import the function's file; their arguments, too, are what `comm` can send as objects, as all
    results are (tuples stay tuples). A function that is in no file (of a notebook, or typed at the
    prompt) runs in forks of this process, where it finds all that it finds here.

    Raises RanksFailed (testing/ranks.py), with every rank's traceback, unless all return within
    `deadline` seconds; `timeout` bounds each wait of one rank for another.
    """
    from ringlet.launcher.testing.pool import WorkerPool, is_in_file

    if not is_in_file(function):
        from ringlet.launcher.testing.cells import CellRanks

        ranks = CellRanks(function, arguments, workers, transport, timeout)
        return ranks.results(deadline)
    with WorkerPool(workers, transport, timeout, show=True, tuples=True) as pool:
        return pool.run(function, deadline, **arguments)
