"""Ranks that another launcher has started: the variables of mpirun (Open MPI, MPICH), srun, Flux
and jsrun, translated into torchrun's.

Only what such a launcher says for certain is taken. If all ranks are on this host, they meet in a
private folder named after the job, which needs no port. If they may be on several hosts, somebody
has to say where rank 0 is.
"""

import functools
import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from ringlet.comm.errors import CommError
from ringlet.comm.join.addresses import free_port, local_address, tcp
from ringlet.comm.join.folders import shared_folder

_log = logging.getLogger("ringlet.comm")


class _Launcher(NamedTuple):
    """The names of a launcher's variables; of `job`, the first that is set counts."""

    name: str
    rank: str
    size: str
    local_rank: str = ""
    local_size: str = ""
    nodes: str = ""  # how many hosts; 1 says as much as a local size
    job: tuple[str, ...] = ()


_OMPI = "OMPI_COMM_WORLD"
_MV2 = "MV2_COMM_WORLD"
_SLURM = "SLURM_STEP"
LAUNCHERS = (
    _Launcher(
        "Open MPI's mpirun",
        f"{_OMPI}_RANK", f"{_OMPI}_SIZE", f"{_OMPI}_LOCAL_RANK", f"{_OMPI}_LOCAL_SIZE",
        job=("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid"),
    ),
    _Launcher(
        "MPICH's mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
        job=("PMI_JOBID",),
    ),
    _Launcher(
        "MVAPICH's mpirun",
        f"{_MV2}_RANK", f"{_MV2}_SIZE", f"{_MV2}_LOCAL_RANK", f"{_MV2}_LOCAL_SIZE",
    ),
    # SLURM_NTASKS and SLURM_PROCID are set in batch scripts, too, which are no rank of several.
    _Launcher(
        "srun", "SLURM_PROCID", f"{_SLURM}_NUM_TASKS", "SLURM_LOCALID", nodes=f"{_SLURM}_NUM_NODES",
        job=("SLURM_JOB_ID",),
    ),
    _Launcher(
        "Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID", nodes="FLUX_JOB_NNODES",
        job=("FLUX_JOB_ID",),
    ),
    _Launcher(
        "jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK",
    ),
    _Launcher("a launcher that speaks PMI", "PMI_RANK", "PMI_SIZE"),
)  # fmt: skip
"""The first whose variables are all there counts: mpirun may start its own helpers by srun, and
srun sets PMI's variables."""

RANKS = {"PMIX_RANK", "PALS_RANKID", "ALPS_APP_PE"} | {each.rank for each in LAUNCHERS}
RANKS -= {"SLURM_PROCID"}
"""Set by launchers that may not say how many ranks there are."""

WHERE = "MASTER_ADDR (an address of rank 0's host), MASTER_PORT and RINGLET_KEY_FILE"


def translate(variables: Mapping[str, str]) -> Mapping[str, str]:
    """The variables, with torchrun's names added if only another launcher's are set.

    Raises CommError if the ranks may be on several hosts and nothing says where rank 0 is.
    """
    if "RANK" in variables or "WORLD_SIZE" in variables:
        return variables
    # Where the number of ranks alone is known, one that says no more is still a launcher.
    found = next((each for each in LAUNCHERS if _speaks(each, variables)), None) or next(
        (each for each in LAUNCHERS if each.rank in variables and each.size in variables), None
    )
    if found is None:
        _warn_of_others(variables)
        return variables
    size = variables[found.size]
    local_size = variables.get(found.local_size) or (
        size if variables.get(found.nodes) == "1" else ""
    )
    added = {"RANK": variables[found.rank], "WORLD_SIZE": size}
    if local_size:
        added["LOCAL_WORLD_SIZE"] = local_size
    if found.local_rank in variables:
        added["LOCAL_RANK"] = variables[found.local_rank]
    known = variables.get("MASTER_ADDR") or variables.get("RINGLET_RENDEZVOUS")
    if size != "1" and not known:
        if local_size != size:
            here = f", {local_size} of them on this host" if local_size else ""
            raise CommError(f"{found.name} has started {size} ranks{here}: set {WHERE} for all")
        job = _job(found, variables)
        added["RINGLET_RENDEZVOUS"] = f"ipc://{shared_folder(found.name, job)}/rendezvous"
        added["RINGLET_JOB"] = variables.get("RINGLET_JOB", job)
    return {**variables, **added}


def _warn_of_others(variables: Mapping[str, str]) -> None:
    """A process that is one of several does not become a world of one without a word."""
    for name in sorted(RANKS):
        if name in variables:
            text = (
                f"a launcher has started this process as {name}={variables[name]}, and does not "
                "say of how many: set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
            )
            if variables[name] != "0":
                raise CommError(text)
            _log.warning("ringlet: %s unless it is the only one", text)


def _speaks(launcher: _Launcher, variables: Mapping[str, str]) -> bool:
    needed = (launcher.rank, launcher.size, launcher.local_size, launcher.nodes)
    return all(name in variables for name in needed if name)


def _job(launcher: _Launcher, variables: Mapping[str, str]) -> str:
    """What names this start of a job among all others on this host."""
    name = next((variables[name] for name in launcher.job if name in variables), "")
    if launcher.name == "srun":
        return f"{name}.{variables.get('SLURM_STEP_ID', '')}"
    return name or f"parent {_starter()}"


def _starter() -> int:
    """The process that has started all ranks of this host: Hydra's proxy, which may have done so
    through other programs, else the parent."""
    pid = parent = os.getppid()
    while pid > 1:
        try:
            head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        except OSError:
            break
        if "hydra" in head or "pmi_proxy" in head:
            return pid
        pid = int(tail.split()[1])
    return parent


def torchrun_rendezvous(
    variables: Mapping[str, str], host: str, port: int, timeout_s: float
) -> str | None:
    """Where the ranks meet under torchrun, whose own store listens at the host's port; None if the
    port is free."""
    if variables.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    restart = variables.get("TORCHELASTIC_RESTART_COUNT", "0")
    if variables.get("LOCAL_WORLD_SIZE") == variables["WORLD_SIZE"]:
        run = variables.get("TORCHELASTIC_RUN_ID", "")
        return f"ipc://{shared_folder('torchrun', run, host, str(port), restart)}/rendezvous"
    tells, own = variables["RANK"] == "0", variables.get("RINGLET_ADDRESS")
    return _through_store(host, port, restart, tells, own, timeout_s)


@functools.cache  # who joins again does so at the same address
def _through_store(
    host: str, port: int, restart: str, tells: bool, own: str | None, timeout_s: float
) -> str:
    """Rank 0 tells the others through torchrun's store where it will listen."""
    try:
        from torch.distributed import TCPStore
    except ImportError as error:
        raise CommError(
            f"torchrun's store listens at {host}:{port}, and its ranks are on several hosts: "
            "install torch for them too, or set RINGLET_RENDEZVOUS=tcp://ADDRESS:PORT with another "
            "port of rank 0's host for all of them"
        ) from error
    name = f"ringlet/{restart}"
    try:
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_s))
        if tells:
            address = own or local_address(tcp(host, port))
            store.set(name, tcp(address, free_port(address)))
        return str(store.get(name).decode())
    except RuntimeError as error:  # torch's DistError
        raise CommError(f"torchrun's store at {host}:{port} does not answer: {error}") from error
