"""The program of a benchmark's ranks: checks every operation, then times it."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ringlet import comm
from ringlet.comm import Group
from ringlet.comm.arrays import Array
from ringlet.comm.group import Options
from ringlet.launcher.workers.worker import Guard, start_guard, supervised

BUDGET_S = 0.3
"""So long is each operation repeated at each size, within the bounds below."""

FEWEST, MOST = 5, 1000


class Case(NamedTuple):
    """One operation at one size: what is called, and whether its result is right.

    `nbytes` is the size of the array as nccl-tests counts it, `factor` what turns it, over time,
    into the bandwidth that each rank's link needs at least (bus bandwidth). A call makes so many
    `trips`: a ping-pong two.
    """

    call: Callable[[], Any]
    right: Callable[[Any], bool]
    nbytes: int
    factor: float
    trips: int = 1


def make(world: Group, operation: str, count: int, registered: bool, algorithm: str = "") -> Case:
    """The case for about `count` float32 elements. Data are whole numbers: sums are exact."""
    if operation in ("send_recv", "ping_pong"):
        return _point_to_point(world, operation, count)
    n, rank = world.size, world.rank
    options: Options = {"algorithm": algorithm} if algorithm else {}
    allocate = world.empty if registered else np.empty
    each = max(1, count // n)
    ring = (n - 1) / n

    def filled(size: int, value: float) -> Array:
        x = allocate(size, np.float32)
        x[...] = value
        return x

    if operation == "all_reduce":
        x = filled(count, rank)
        # The largest rank's number stays what it is, however often it is reduced.
        return Case(lambda: world.all_reduce(x, "max", **options), _all(n - 1), x.nbytes, 2 * ring)
    if operation == "reduce_scatter":
        x, out = filled(each * n, 1), filled(each, 0)
        return Case(lambda: world.reduce_scatter(x, out=out, **options), _all(n), x.nbytes, ring)
    if operation == "all_gather":
        x, out = filled(each, rank), filled(each * n, 0).reshape(n, each)
        return Case(lambda: world.all_gather(x, out=out, **options), _rows(n), out.nbytes, ring)
    if operation == "all_to_all":
        x, out = filled(each * n, rank), filled(each * n, 0)
        right = _rows(n)
        return Case(
            lambda: world.all_to_all(x, out=out, **options),
            lambda result: right(result.reshape(n, each)),
            x.nbytes,
            ring,
        )
    if operation == "broadcast":
        x = filled(count, 7 if rank == 0 else 0)
        return Case(lambda: world.broadcast(x, **options), _all(7), x.nbytes, 1.0)
    if operation == "reduce":
        x = filled(count, 1 if rank == n - 1 else 0)
        return Case(lambda: world.reduce(x, op="max", **options), _all(1, rank == 0), x.nbytes, 1.0)
    if operation == "gather":
        x = filled(each, rank)
        rows_right = _rows(n)
        return Case(
            lambda: world.gather(x, **options),
            lambda result: rows_right(result) if rank == 0 else result is None,
            x.nbytes * n,
            ring,
        )
    if operation == "scatter":
        table = np.repeat(np.arange(n, dtype=np.float32)[:, None], each, 1) if rank == 0 else None
        return Case(lambda: world.scatter(table, **options), _all(rank), each * n * 4, ring)
    assert operation == "barrier"
    return Case(lambda: world.barrier(**options), lambda result: result is None, 0, 1.0)


def _point_to_point(world: Group, operation: str, count: int) -> Case:
    """All ranks in a circle at once, each way one array; or there and back between two."""
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
        return Case(send_recv, _all(source), x.nbytes, 1.0)
    return Case(ping_pong, _all(1 - rank if rank < 2 else -1), x.nbytes, 1.0, trips=2)


def _all(value: float, here: bool = True) -> Callable[[Any], bool]:
    return lambda result: bool((result == value).all()) if here else result is None


def _rows(n: int) -> Callable[[Any], bool]:
    return lambda result: bool((result == np.arange(n, dtype=np.float32)[:, None]).all())


def measure(world: Group, case: Case) -> tuple[float, bool]:
    """The median time of one call in seconds, as the slowest rank sees it, and whether all is
    right on all ranks."""
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
    last = case.call()  # on every rank, whatever the first was like
    right = right and case.right(last)
    median = statistics.median(times) / case.trips
    slowest = world.all_reduce(np.array([median, not right], np.float64), "max")
    return float(slowest[0]), not slowest[1]


def copy_bandwidth() -> float:
    """Bytes per second of a large copy on this rank, while all ranks copy."""
    source, target = np.zeros(1 << 24, np.float32), np.empty(1 << 24, np.float32)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return source.nbytes / min(times[1:])


def rows(world: Group, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Measure everything that the task names."""
    world.barrier()
    copy = float(world.all_reduce(np.array([copy_bandwidth()]), "min")[0])
    for operation in task["operations"]:
        for nbytes in task["sizes"] if operation != "barrier" else [0]:
            count = max(1, nbytes // 4)
            case = make(world, operation, count, task["registered"], task["algorithm"])
            seconds, right = measure(world, case)
            bandwidth = case.nbytes / seconds
            yield {
                "operation": operation,
                "bytes": case.nbytes,
                "ranks": world.size,
                "time_us": seconds * 1e6,
                "algorithm_bandwidth": bandwidth,
                "bus_bandwidth": bandwidth * case.factor,
                "share_of_copy": bandwidth * case.factor / copy,
                "right": right,
            }


def work(task: dict[str, Any], guard: Guard | None) -> None:
    """Measure, and send each row to the launcher."""
    world = comm.init()
    for row in rows(world, task):
        if guard is not None and world.rank == 0:
            guard.control.send({"row": row})
    comm.shutdown()


def main() -> None:
    """The worker's main; the task is its only argument, as JSON."""
    guard = start_guard()
    supervised(guard, lambda: work(json.loads(sys.argv[1]), guard))


if __name__ == "__main__":
    main()
