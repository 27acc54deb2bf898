"""A start of a job, and the environment of its workers: who they are and how they meet."""

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ringlet.comm.join.addresses import free_port, loopback, tcp
from ringlet.comm.join.folders import make_folder, remove_folder
from ringlet.comm.machine import cores
from ringlet.launcher.supervisor.cores import shares

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Lets glibc keep freed memory, in huge pages (see `nn.memory`). Messages are received into new
memory: without this, a 16 MiB all-reduce over TCP faults in 1,700 pages and takes a third more
processor time. One heap for all threads: another would take a huge page or more for each thread
that allocates, 8 to 12 MB in a rank that communicates."""


ZEN_4 = re.compile(r"AuthenticAMD.*cpu family\s*: 25\n.*\bavx512f\b", re.DOTALL)
"""Of the family, which is Zen 3's too, Zen 4 alone has AVX-512."""


def blas_kernels(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """The kernels that OpenBLAS is to use where it does not choose the fastest itself.

    A Zen 4 computes AVX-512 in halves. There the kernels for AVX-512 take 3 to 14 % longer for the
    products of a step than those for AVX2 (benchmarks/README.md). The rule depends on the kind of
    processor alone, so that a run has the same bits each time.
    """
    try:
        first = cpuinfo.read_text().partition("\n\n")[0]
    except OSError:
        return {}
    return {"OPENBLAS_CORETYPE": "Zen"} if ZEN_4.search(first) else {}


@dataclass(frozen=True)
class Job:
    """One start of a job: `generation` 0 is the first, and `restarts` are allowed. Of its `size`
    workers, those of this host are `ranks`. `variables` are added to their environment, and with
    `pin` each has its own cores.

    On one host the ranks meet at a socket in `folder`, which is private (0700). On several, they
    meet at `rendezvous` (tcp://address:port), and `address` is this host's own. If an engine has
    started several launchers on this host, this one is number `task` of `tasks`.
    """

    size: int
    transport: str = "auto"
    timeout: float | None = None
    job: str = field(default_factory=lambda: secrets.token_hex(8))
    port: int = field(default_factory=free_port)
    folder: Path | None = field(default_factory=make_folder)
    variables: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    restarts: int = 0
    first: int = 0
    local_size: int | None = None
    node: int = 0
    rendezvous: str | None = None
    address: str | None = None
    pin: bool = False
    task: int = 0
    tasks: int = 1

    @property
    def ranks(self) -> range:
        """The ranks of this host."""
        return range(self.first, self.first + (self.local_size or self.size))

    def cores(self, rank: int) -> list[int] | None:
        """The cores of one worker; None if it may run on all."""
        if not self.pin:
            return None
        here = len(self.ranks) * self._sharing
        return shares(here)[rank - self.first + len(self.ranks) * (self.task % self._sharing)]

    @property
    def _sharing(self) -> int:
        """How many launchers share this process's cores. An engine may have given each its own."""
        given = os.environ.get("SLURM_CPUS_ON_NODE", "")
        here = int(given) if given.isdecimal() else os.cpu_count() or 1
        return self.tasks if cores() >= here else 1

    def environment(self, rank: int) -> dict[str, str]:
        """The whole environment of one worker. The user's own settings of BLAS and of the allocator
        stay."""
        here = len(self.ranks)
        threads = str(max(1, cores() // (here * self._sharing)))
        met = self.rendezvous if self.rendezvous and self.rendezvous.startswith("tcp") else ""
        master = urlsplit(met or tcp(loopback(), self.port))
        chosen = any(name.startswith("MALLOC_") for name in os.environ)
        variables = {
            **dict.fromkeys(THREAD_VARIABLES, threads),
            **({} if chosen else ALLOCATOR),
            **blas_kernels(),
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(rank - self.first + self.task * here),
            "LOCAL_WORLD_SIZE": str(self.tasks * here),
            "GROUP_RANK": str(self.node),
            "MASTER_ADDR": master.hostname or "",
            "MASTER_PORT": str(master.port),
            "TORCHELASTIC_RESTART_COUNT": str(self.generation),
            "TORCHELASTIC_MAX_RESTARTS": str(self.restarts),
            "RINGLET_JOB": self.job,
            "RINGLET_GENERATION": str(self.generation),
            "RINGLET_RENDEZVOUS": self.rendezvous or f"ipc://{self.folder}/rendezvous",
            "RINGLET_TRANSPORT": self.transport,
            "RINGLET_AGENT": "1",
            "PYTHONUNBUFFERED": "1",
            **self.variables,
        }
        if self.address is not None:
            variables["RINGLET_ADDRESS"] = self.address
        if self.timeout is not None:
            variables["RINGLET_TIMEOUT"] = str(self.timeout)
        return variables

    def clean(self) -> None:
        """Remove the folder, with whatever a killed worker left in it."""
        if self.folder is not None:
            remove_folder(self.folder)
