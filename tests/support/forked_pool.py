"""Warm ranks that are forks of pytest's process: they start in a twentieth of the time."""

import faulthandler
import os
import sys

import ringlet.comm.world  # noqa: F401 - now, and not on each rank
from ringlet.launcher.testing.forks import Fork
from ringlet.launcher.testing.pool import WorkerPool
from ringlet.launcher.workers.warm import serve
from ringlet.launcher.workers.worker import Guard


class ForkedPool(WorkerPool):
    """A WorkerPool whose ranks have what pytest's process has imported."""

    def _start_rank(self, job, rank, output):
        def program(control):
            for number in (1, 2):
                os.dup2(output.fileno(), number)
            sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
            faulthandler.enable()
            serve(Guard(control))

        return Fork(job, rank, program, self._ranks)
