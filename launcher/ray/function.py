"""A function on all ranks."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ringlet.comm.join.environment import DEFAULT_TIMEOUT_S
from ringlet.launcher.ray.job import Work, run_job
from ringlet.launcher.ray.options import RayOptions
from ringlet.launcher.supervisor.environment import Job


def spawn(
    function: Callable[..., Any],
    workers: int,
    *,
    cpus: float = 1.0,
    gpus: float = 0.0,
    place_timeout: float = 60.0,
    max_restarts: int = 0,
    deadline: float = 7 * 24 * 3600.0,
    timeout: float = DEFAULT_TIMEOUT_S,
    transport: str = "auto",
    **arguments: Any,
) -> list[Any]:
    """Run `function(world, **arguments)` on `workers` ranks of a running Ray cluster; returns what
    each has returned, by rank. Functions, arguments, results and errors travel as Ray sends them.

    Each rank is an actor with so many `cpus` and `gpus`; ray.init(), if it was called, says which
    cluster, else RAY_ADDRESS or the one of this host. If a rank fails, the others get PeerLost, and
    all start again in new places at most `max_restarts` times (RINGLET_GENERATION counts the
    starts): the function has to find what it has saved.

    Raises the error of the rank that failed first, with its traceback as a note; PeerLost if its
    process or host is gone; CommTimeout unless all return within `deadline` seconds of a start;
    UserError if there is no cluster, or no room for all ranks within `place_timeout` seconds.
    """
    options = RayOptions("ray", cpus, gpus, place_timeout)
    job = Job(workers, transport, timeout, folder=None, restarts=max_restarts)
    return run_job(job, options, Work(partial(_joined, function, arguments)), deadline)


def _joined(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    from ringlet import comm

    return function(comm.init(), **arguments)
