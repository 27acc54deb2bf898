"""The program of a benchmark's ranks: check every operation, then time it."""

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ringlet import comm
from ringlet.comm import Group
from ringlet.comm.arrays import Array
from ringlet.comm.group import Options
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.units import fastest
from ringlet.launcher.workers.worker import run_task

BUDGET_S = 0.3
"""How long to repeat each operation at each size, within the bounds below."""

FEWEST, MOST = 5, 1000


class BenchCase(NamedTuple):
    """One operation at one size: the call, and whether its result is right.

    `nbytes` is the size of the array as nccl-tests counts it. `factor` turns nbytes over time into
    the bandwidth that each rank's link needs at least (bus bandwidth). A call makes `trips` trips:
    a ping-pong two.
    """

    call: Callable[[], Any]
    right: Callable[[Any], bool]
    nbytes: int
    factor: float
    trips: int = 1


def make(
    world: Group, operation: str, count: int, registered: bool, algorithm: str = ""
) -> BenchCase:
    """The case for about `count` float32 elements. Data are whole numbers: sums are exact."""
    if operation in ("send_recv", "ping_pong"):
        return _point_to_point(world, operation, count)
    n, rank = world.size, world.rank
    options: Options = {"algorithm": algorithm} if algorithm else {}
    each = max(1, count // n)

    def filled(size: int, value: float) -> Array:
        x = (world.empty if registered else np.empty)(size, np.float32)
        x[...] = value
        return x

    def case(right: Callable[[Any], bool], nbytes: int, *arrays: Any, **more: Any) -> BenchCase:
        call = partial(getattr(world, operation), *arrays, **more, **options)
        factor = 1.0 if operation in ("broadcast", "reduce", "barrier") else (n - 1) / n
        factor *= 2 if operation == "all_reduce" else 1
        return BenchCase(call, right, nbytes, factor)

    def out(*shape: int) -> Array:
        return filled(math.prod(shape), 0).reshape(shape)

    one, all_ranks = 4 * count, 4 * each * n  # bytes
    rows = np.arange(n, dtype=np.float32)[:, None]
    cases = {
        # The maximum, the largest rank's number, stays the same however often it is reduced.
        "all_reduce": lambda: case(_all(n - 1), one, filled(count, rank), op="max"),
        "reduce_scatter": lambda: case(_all(n), all_ranks, filled(each * n, 1), out=out(each)),
        "all_gather": lambda: case(_rows(n), all_ranks, filled(each, rank), out=out(n, each)),
        "all_to_all": lambda: case(_rows(n), all_ranks, filled(each * n, rank), out=out(each * n)),
        "broadcast": lambda: case(_all(7), one, filled(count, 0 if rank else 7)),
        "reduce": lambda: case(_all(1, rank == 0), one, filled(count, rank == n - 1), op="max"),
        "gather": lambda: case(_rows(n, rank == 0), all_ranks, filled(each, rank)),
        "scatter": lambda: case(_all(rank), all_ranks, None if rank else np.repeat(rows, each, 1)),
        "barrier": lambda: case(lambda result: result is None, 0),
    }
    return cases[operation]()


def _point_to_point(world: Group, operation: str, count: int) -> BenchCase:
    """All ranks in a circle at the same time; or a round trip between two."""
    n, rank = world.size, world.rank
    x, y = np.full(count, rank, np.float32), np.full(count, -1, np.float32)
    to, source = (rank + 1) % n, (rank - 1) % n

    def send_recv() -> Array:
        work = world.isend(x, to)
        world.recv(source, out=y)
        work.wait()
        return y

    def ping_pong() -> Array:
        if rank == 0:
            world.send(x, 1)
            world.recv(1, out=y)
        elif rank == 1:
            world.recv(0, out=y)
            world.send(x, 0)
        return y

    if operation == "send_recv":
        return BenchCase(send_recv, _all(source), x.nbytes, 1.0)
    return BenchCase(ping_pong, _all(1 - rank if rank < 2 else -1), x.nbytes, 1.0, trips=2)


def _all(value: float, here: bool = True) -> Callable[[Any], bool]:
    return lambda result: bool((result == value).all()) if here else result is None


def _rows(n: int, here: bool = True) -> Callable[[Any], bool]:
    rows = np.arange(n, dtype=np.float32)[:, None]
    return lambda result: bool((result.reshape(n, -1) == rows).all()) if here else result is None


def measure(world: Group, case: BenchCase) -> tuple[float, bool]:
    """The median time of a call in seconds, on the slowest rank, and whether the results are right
    on all ranks."""
    right = case.right(case.call())
    world.barrier()
    start = time.perf_counter()
    case.call()
    once = world.all_reduce(np.array([time.perf_counter() - start]), "max")[0]
    times = []
    for _ in range(int(min(MOST, max(FEWEST, BUDGET_S / once)))):
        start = time.perf_counter()
        case.call()
        times.append(time.perf_counter() - start)
    last = case.call()  # on every rank, even if the first result was wrong
    right = right and case.right(last)
    median = statistics.median(times) / case.trips
    slowest = world.all_reduce(np.array([median, not right], np.float64), "max")
    return float(slowest[0]), not slowest[1]


def copy_bandwidth() -> float:
    """Bytes per second of a large copy on this rank, while all ranks copy."""
    source, target = np.zeros(1 << 24, np.float32), np.zeros(1 << 24, np.float32)
    np.copyto(target, source)
    return source.nbytes / fastest(lambda: np.copyto(target, source), 4)


def work(task: dict[str, Any], report: Callable[[Notice], None]) -> None:
    """Measure all operations and sizes of the task, and report a row for each."""
    world = comm.init()
    world.barrier()
    copy = float(world.all_reduce(np.array([copy_bandwidth()]), "min")[0])
    for operation in task["operations"]:
        for nbytes in task["sizes"] if operation != "barrier" else [0]:
            count = max(1, nbytes // 4)
            case = make(world, operation, count, task["registered"], task["algorithm"])
            seconds, right = measure(world, case)
            bandwidth = case.nbytes / seconds
            row = {
                "operation": operation,
                "bytes": case.nbytes,
                "ranks": world.size,
                "time_us": seconds * 1e6,
                "algorithm_bandwidth": bandwidth,
                "bus_bandwidth": bandwidth * case.factor,
                "share_of_copy": bandwidth * case.factor / copy,
                "right": right,
            }
            report({"row": row})
    comm.shutdown()


if __name__ == "__main__":
    run_task(work)
