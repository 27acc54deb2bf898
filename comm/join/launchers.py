"""Ranks that another launcher has started: the variables of srun, mpirun (Open MPI, MPICH), Flux,
jsrun, Kubernetes and others, translated into torchrun's.

Only what such a launcher says for certain is taken. If all ranks are on this host, they meet in a
private folder named after the job, which needs no port. If they may be on several hosts, the engine
is asked where rank 0 is, if it can be asked; else the user has to say it.
"""

import functools
import logging
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from ringlet.comm.errors import CommError
from ringlet.comm.join import kubernetes, slurm
from ringlet.comm.join.addresses import free_port, local_address, tcp
from ringlet.comm.join.folders import shared_folder

_log = logging.getLogger("ringlet.comm")


class _Launcher(NamedTuple):
    """The names of a launcher's variables; of `job`, the first that is set counts.

    `tasks_here` tells how many ranks are on this host, where no variable does, and `master` where
    rank 0's host is reached (empty: it is not known)."""

    name: str
    rank: str
    size: str
    local_rank: str = ""
    local_size: str = ""
    nodes: str = ""  # how many hosts; 1 says as much as a local size
    job: tuple[str, ...] = ()
    tasks_here: Callable[[Mapping[str, str]], str] | None = None
    master: Callable[[Mapping[str, str]], str] | None = None


def _first_of_rankfile(variables: Mapping[str, str]) -> str:
    """The first host of a file with a host for each slot, after the one on which jsrun runs."""
    try:
        hosts = Path(variables.get("LSB_DJOB_RANKFILE", "")).read_text().split()
    except (OSError, UnicodeDecodeError):
        return ""
    return next((host for host in hosts if host != hosts[0]), "")


_OMPI = "OMPI_COMM_WORLD"
_MV2 = "MV2_COMM_WORLD"
_SLURM = "SLURM_STEP"
_JSM = "JSM_NAMESPACE"
LAUNCHERS = (
    # IBM's Job Step Manager, which sets Open MPI's variables, too; as Lightning reads it.
    _Launcher(
        "jsrun", f"{_JSM}_RANK", f"{_JSM}_SIZE", f"{_JSM}_LOCAL_RANK", job=("LSB_JOBID",),
        master=_first_of_rankfile,
    ),
    # https://docs.open-mpi.org/en/main/tuning-apps/environment-var.html
    _Launcher(
        "Open MPI's mpirun",
        f"{_OMPI}_RANK", f"{_OMPI}_SIZE", f"{_OMPI}_LOCAL_RANK", f"{_OMPI}_LOCAL_SIZE",
        job=("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid"),
    ),
    # Hydra sets these; so do Intel MPI's mpirun and others made from MPICH.
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
        "srun", "SLURM_PROCID", f"{_SLURM}_NUM_TASKS", "SLURM_LOCALID",
        nodes=f"{_SLURM}_NUM_NODES", job=("SLURM_JOB_ID",),
        tasks_here=slurm.tasks_here, master=slurm.first_address,
    ),
    # flux-run(1), ENVIRONMENT
    _Launcher(
        "Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID", nodes="FLUX_JOB_NNODES",
        job=("FLUX_JOB_ID",),
    ),
    # Cray's mpiexec, on hosts of PBS mostly; an application's id is new for each start.
    _Launcher(
        "PALS's mpiexec", "PALS_RANKID", "PMI_SIZE", "PALS_LOCAL_RANKID", "PALS_LOCAL_SIZE",
        job=("PALS_APID",),
    ),
    # PyTorch's operator and trainer for Kubernetes give torchrun its options: a pod is one rank.
    _Launcher(
        "Kubeflow", "PET_NODE_RANK", "PET_NNODES",
        master=lambda variables: variables.get("PET_MASTER_ADDR", ""),
    ),
    # The manifest has to say how many there are: pods may not ask for it.
    _Launcher(
        "Kubernetes", "JOB_COMPLETION_INDEX", "WORLD_SIZE", master=kubernetes.first_pod,
    ),
    _Launcher("a launcher that speaks PMI", "PMI_RANK", "PMI_SIZE"),
)  # fmt: skip
"""The first whose variables are all there counts: mpirun may start its own helpers by srun, and
srun sets PMI's variables."""

RANKS = {"PMIX_RANK", "ALPS_APP_PE"} | {each.rank for each in LAUNCHERS}
RANKS -= {"SLURM_PROCID"}
"""Set by launchers that may not say how many ranks there are."""

HOST_LISTS = ("PBS_NODEFILE", "PE_HOSTFILE", "LSB_DJOB_RANKFILE")
"""Files in which PBS, SGE and LSF list a job's hosts. They start no ranks, and do not say which of
the hosts gets rank 0."""

WHERE = "MASTER_ADDR (an address of rank 0's host), MASTER_PORT and RINGLET_KEY_FILE"

OVER_MPI = "mpi"
"""A RINGLET_RENDEZVOUS: the ranks meet over MPI (comm/mpi/meeting.py)."""

BY_HAND = "RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"

SPARE_PORTS = "RINGLET_SPARE_PORTS"
"""Where rank 0 may listen instead, if something else listens at MASTER_PORT."""

FIRST_PORT, PORTS, SPARE = 61000, 4500, 3
"""Ports of jobs that are told none: above those that systems give out (ip(7):
ip_local_port_range)."""


def launcher_of(variables: Mapping[str, str]) -> _Launcher | None:
    """The launcher that has started this process as one of several, if it says of how many."""
    # Where the number of ranks alone is known, one that says no more is still a launcher.
    return next((each for each in LAUNCHERS if _speaks(each, variables)), None) or next(
        (each for each in LAUNCHERS if each.rank in variables and each.size in variables), None
    )


def translate(variables: Mapping[str, str]) -> Mapping[str, str]:
    """The variables, with torchrun's names added if only another launcher's are set. Ranks whose
    messages travel over MPI meet there, too, unless something says where.

    Raises CommError if the ranks may be on several hosts and nothing says where rank 0 is.
    """
    if variables.get("RINGLET_TRANSPORT") == "mpi" and not variables.get("RINGLET_RENDEZVOUS"):
        variables = {**variables, "RINGLET_RENDEZVOUS": OVER_MPI}
    if "RANK" in variables:
        return variables
    found = launcher_of(variables)
    if "WORLD_SIZE" in variables and (found is None or found.size != "WORLD_SIZE"):
        return variables
    if found is None:
        if variables.get("RINGLET_RENDEZVOUS") != OVER_MPI:  # which knows how many there are
            _warn_of_others(variables)
        if text := outside_a_step(variables):
            _log.warning("ringlet: %s", text)
        return variables
    if found.name == "Kubeflow" and variables.get("PET_NPROC_PER_NODE", "1") != "1":
        raise CommError(
            f"PET_NPROC_PER_NODE is {variables['PET_NPROC_PER_NODE']}, but this is one process: "
            "start the script with `ringlet run`"
        )
    return {**variables, **_as_torchrun(found, variables)}


def outside_a_step(variables: Mapping[str, str]) -> str:
    """What to tell a batch script of Slurm, or a shell of salloc: it is no task of its job."""
    tasks, how = slurm.tasks_of_job(variables)
    if tasks == 1 or "SLURM_STEP_NUM_TASKS" in variables:
        return ""
    return f"this is no task of Slurm's job, but a world of one: {how} starts its {tasks} tasks"


def described(variables: Mapping[str, str]) -> str:
    """What the variables say, for `ringlet doctor`. Raises CommError as `translate` does."""
    seen = translate(variables)
    if "RANK" not in seen:
        return "no other: `ringlet run` starts the ranks"
    found = None if "RANK" in variables else launcher_of(variables)
    who = "torchrun's variables" if found is None else found.name
    where = seen.get("RINGLET_RENDEZVOUS") or ":".join(
        seen[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in seen
    )
    here = (
        f", {seen['LOCAL_WORLD_SIZE']} of them on this host" if "LOCAL_WORLD_SIZE" in seen else ""
    )
    way = "over MPI" if where == OVER_MPI else f"at {where}"
    meeting = f"; they meet {way}" if where else ""
    return f"{who}: rank {seen['RANK']} of {seen.get('WORLD_SIZE', '?')}{here}{meeting}"


def task_of(variables: Mapping[str, str]) -> dict[str, str] | None:
    """The variables of a program that another launcher has started as one of several, and that
    starts workers itself, under torchrun's names; None if it was started alone. Raises CommError
    as `translate` does."""
    found = launcher_of(variables)
    if "RANK" in variables and (found is None or found.name != "Kubeflow"):
        return None  # one rank, and no launcher
    if found is None:
        if "WORLD_SIZE" not in variables:
            _warn_of_others(variables)
        return None
    return {**variables, **_as_torchrun(found, variables)}


def _as_torchrun(found: _Launcher, variables: Mapping[str, str]) -> dict[str, str]:
    """What the launcher says, under torchrun's names, and where the ranks meet."""
    size = variables[found.size]
    local_size = variables.get(found.local_size, "")
    if not local_size and found.tasks_here is not None:
        local_size = found.tasks_here(variables)
    if not local_size and variables.get(found.nodes) == "1":
        local_size = size
    added = {"RANK": variables[found.rank], "WORLD_SIZE": size}
    if local_size:
        added["LOCAL_WORLD_SIZE"] = local_size
    if found.local_rank in variables:
        added["LOCAL_RANK"] = variables[found.local_rank]
    if size == "1" or variables.get("RINGLET_RENDEZVOUS"):
        return added
    if local_size == size and not variables.get("MASTER_ADDR"):
        job = _job(found, variables)
        added["RINGLET_RENDEZVOUS"] = f"ipc://{shared_folder(found.name, job)}/rendezvous"
        added["RINGLET_JOB"] = variables.get("RINGLET_JOB", job)
        return added
    address = variables.get("MASTER_ADDR") or (found.master(variables) if found.master else "")
    if not address:
        here = f", {local_size} of them on this host" if local_size else ""
        listed = next(
            (f" (the hosts are in ${name})" for name in HOST_LISTS if name in variables), ""
        )
        raise CommError(
            f"{found.name} has started {size} ranks{here}: set {WHERE} for all{listed}; "
            f"scripts with mpi4py may set RINGLET_RENDEZVOUS={OVER_MPI} instead"
        )
    added["MASTER_ADDR"] = address
    if found.master is not None and _is_numbered(found, variables):
        added["RINGLET_JOB"] = variables.get("RINGLET_JOB", _job(found, variables))
    if found.master is not None and "MASTER_PORT" not in variables:
        added["MASTER_PORT"], added[SPARE_PORTS] = _ports(found, variables)
    return added


def _ports(found: _Launcher, variables: Mapping[str, str]) -> tuple[str, str]:
    """Where rank 0 listens, and where it may instead: different for jobs whose numbers are near."""
    known = _is_numbered(found, variables)
    numbers = re.findall(r"\d{1,18}", _job(found, variables)) if known else []
    if not numbers:  # in a pod, which shares its ports with nobody
        return variables.get("PET_MASTER_PORT", kubernetes.PORT), ""
    start = sum(int(number) * factor for number, factor in zip(numbers, (1, 1009), strict=False))
    first, *more = ((start + n * PORTS // SPARE) % PORTS + FIRST_PORT for n in range(SPARE))
    return str(first), ",".join(map(str, more))


def _warn_of_others(variables: Mapping[str, str]) -> None:
    """A process that is one of several does not become a world of one without a word."""
    for name in sorted(RANKS):
        if name in variables:
            remedy = kubernetes.SIZE if name == "JOB_COMPLETION_INDEX" else BY_HAND
            text = (
                f"a launcher has started this process as {name}={variables[name]}, and does not "
                f"say of how many: set {remedy}"
            )
            if variables[name] != "0":
                raise CommError(text)
            _log.warning("ringlet: %s unless it is the only one", text)


def _speaks(launcher: _Launcher, variables: Mapping[str, str]) -> bool:
    needed = (launcher.rank, launcher.size, launcher.local_size, launcher.nodes)
    return all(name in variables for name in needed if name)


def _is_numbered(launcher: _Launcher, variables: Mapping[str, str]) -> bool:
    """Whether the job has a name that is the same on all hosts."""
    return any(name in variables for name in launcher.job)


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
