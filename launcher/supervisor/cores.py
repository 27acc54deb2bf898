"""Which cores belong to which worker (`--pin`): the same number for each, side by side."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def shares(workers: int, cores: list[int] | None = None) -> list[list[int]]:
    """The cores of each worker, from this process's own, in the order of the hardware.

    A remainder stays unused, so that nobody waits for a worker with fewer cores; where there are
    more workers than cores, some share one.
    """
    cores = in_order(sorted(os.sched_getaffinity(0))) if cores is None else cores
    each = len(cores) // workers
    if not each:
        return [[cores[worker % len(cores)]] for worker in range(workers)]
    return [cores[worker * each : (worker + 1) * each] for worker in range(workers)]


def in_order(cores: list[int], topology: Path = Path("/sys/devices/system/cpu")) -> list[int]:
    """Sort by socket, with the threads of a core side by side (sysfs: cputopology)."""

    def place(core: int) -> tuple[int, int, int]:
        folder = topology / f"cpu{core}/topology"
        try:
            package = int((folder / "physical_package_id").read_text())
            return package, int((folder / "core_id").read_text()), core
        except (OSError, ValueError):
            return 0, core, core

    return sorted(cores, key=place)


@contextlib.contextmanager
def running_on(cores: list[int] | None) -> Iterator[None]:
    """Processes started inside run on these cores only, or on all (None)."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
