"""Which cores belong to which worker (`--pin`): each gets as many, and neighbours."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")


def shares(workers: int, cores: list[int] | None = None) -> list[list[int]]:
    """The cores of each of so many workers; of this process's, in the order in which they lie.

    What is left over stays free, so that nobody waits for a worker with fewer; where there are
    more workers than cores, several have the same one.
    """
    cores = in_order(sorted(os.sched_getaffinity(0))) if cores is None else cores
    each = len(cores) // workers
    if not each:
        return [[cores[worker % len(cores)]] for worker in range(workers)]
    return [cores[worker * each : (worker + 1) * each] for worker in range(workers)]


def in_order(cores: list[int], topology: Path = TOPOLOGY) -> list[int]:
    """Socket by socket, and the two threads of a core side by side (sysfs: cputopology)."""

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
    """Processes that are started inside run on these cores only; None: on all."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
