"""Options of how workers are connected and run, and of where their output goes."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ringlet.comm.join.environment import DEFAULT_TIMEOUT_S, TRANSPORTS
from ringlet.comm.join.launchers import launcher_of
from ringlet.comm.timeline import FOLDER
from ringlet.launcher.errors import UserError, make_folder
from ringlet.launcher.options import option
from ringlet.launcher.supervisor.traces import records_of


@dataclass(frozen=True)
class JoinOptions:
    """How the ranks of a job talk to each other."""

    HEADING: ClassVar = "Workers"
    transport: str = option(
        "auto",
        "Transport within a host: auto (shared memory), ipc (Unix sockets), tcp (loopback); mpi: "
        "all messages over MPI, under mpirun.",
    )
    timeout: float = option(
        DEFAULT_TIMEOUT_S,
        "How long an operation may wait before it raises CommTimeout.",
        unit="seconds",
    )

    def check(self) -> None:
        """Raise UserError for values that are not possible."""
        if self.transport not in TRANSPORTS:
            known = ", ".join(TRANSPORTS)
            raise UserError(f"unknown transport {self.transport!r}; there are {known}")
        if self.transport != "mpi" and os.environ.get("RINGLET_TRANSPORT") == "mpi":
            raise UserError("RINGLET_TRANSPORT=mpi has no effect here: use --transport mpi")
        if self.transport == "mpi" and not self._by_mpi():
            raise UserError(
                "--transport mpi is for ranks that mpirun starts: `mpirun -n 4 ringlet run "
                "--transport mpi ...`, or `ringlet train`"
            )
        if not self.timeout > 0:
            raise UserError(f"--timeout is {self.timeout:g}; it must be above 0")

    def _by_mpi(self) -> bool:
        """Whether these workers may be ranks of MPI: those that measure this host are not."""
        return False


@dataclass(frozen=True)
class WorkerOptions(JoinOptions):
    """How a launcher treats its workers."""

    max_restarts: int = option(
        0, "How often to restart all workers after a worker or a host fails.", least=0
    )
    grace: float = option(30.0, "Time to save and exit after SIGINT or SIGTERM.", unit="seconds")
    pin: bool = option(False, "Pin each worker to its own cores.")
    output: Path | None = option(
        None, "Folder to write each rank's output to as well: rank-3.log.", heading="Output"
    )
    quiet: bool = option(False, "Show only the first failure.", heading="Output")
    prefix: bool = option(True, "Begin each line of output with host:rank.", heading="Output")
    trace: Path | None = option(
        None, "File for a trace of what each rank does and waits for (docs/how-to/tracing.md).",
        metavar="FILE", heading="Output",
    )  # fmt: skip
    trace_steps: int | None = option(
        None, "With --trace: the last so many steps.", least=1, shown="100", heading="Output"
    )

    def _by_mpi(self) -> bool:
        return launcher_of(os.environ) is not None

    def check(self) -> None:
        super().check()
        if self.max_restarts and self.transport == "mpi":
            raise UserError(
                "--max-restarts: MPI starts its processes once; --transport mpi has none"
            )
        if self.pin and not hasattr(os, "sched_setaffinity"):
            raise UserError("--pin: this system does not let programs choose their cores")
        if self.trace is None and self.trace_steps is not None:
            raise UserError("--trace-steps is a part of --trace, which is not given")

    @property
    def variables(self) -> dict[str, str]:
        """What the workers find in their environment."""
        return {} if self.trace is None else {FOLDER: str(records_of(self.trace).absolute())}

    def make_folder(self) -> None:
        """Make the folder for the output; raises UserError."""
        if self.output is not None:
            make_folder(self.output, "--output")
