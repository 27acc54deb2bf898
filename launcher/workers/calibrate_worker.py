"""The program of a calibration's ranks."""

from collections.abc import Callable
from typing import Any

from ringlet import comm, runtime
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.workers.worker import run_task


def work(task: dict[str, Any], report: Callable[[Notice], None]) -> None:
    """Measure, and report what is being measured, and the description."""
    world = comm.init()
    found = runtime.calibrate(world, task["seconds"], lambda what: report({"measuring": what}))
    report({"cluster": str(found)})
    comm.shutdown()


if __name__ == "__main__":
    run_task(work)
