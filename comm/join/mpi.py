"""Ranks started by mpirun: the environment variables of Open MPI and of MPICH's Hydra.

On one host the ranks meet in a private folder named after the user and the job. The job is
identified by the name that mpirun gave it, else by the process that started all of its ranks.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ringlet.comm.errors import CommError


class _MpiVariables(NamedTuple):
    """The names of an MPI's variables. `job`: the first that is set counts."""

    launcher: str
    rank: str
    size: str
    local_rank: str
    local_size: str
    job: tuple[str, ...]


_OMPI = "OMPI_COMM_WORLD"
MPIS = (
    _MpiVariables(
        "Open MPI", f"{_OMPI}_RANK", f"{_OMPI}_SIZE", f"{_OMPI}_LOCAL_RANK", f"{_OMPI}_LOCAL_SIZE",
        ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_ess_jobid"),
    ),
    _MpiVariables(
        "MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", ("PMI_JOBID",)
    ),
)  # fmt: skip


def translate(variables: Mapping[str, str]) -> Mapping[str, str]:
    """The variables, with torchrun's names added if only mpirun's are set.

    Raises CommError if the ranks are on several hosts and nothing says where rank 0 is.
    """
    names = next((mpi for mpi in MPIS if mpi.rank in variables and mpi.size in variables), None)
    if names is None or "RANK" in variables or "WORLD_SIZE" in variables:
        return variables
    size = variables[names.size]
    local_size = variables.get(names.local_size, size)
    added = {"RANK": variables[names.rank], "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": local_size}
    if names.local_rank in variables:
        added["LOCAL_RANK"] = variables[names.local_rank]
    if "MASTER_ADDR" not in variables and "RINGLET_RENDEZVOUS" not in variables:
        if local_size != size:
            raise CommError(
                f"{names.launcher} has started {size} ranks, {local_size} of them on this host: "
                "set MASTER_ADDR (an address of rank 0's host), MASTER_PORT and RINGLET_KEY_FILE "
                "for all of them"
            )
        job = next((variables[name] for name in names.job if name in variables), "")
        job = job or f"parent {os.getppid()}"
        digest = hashlib.blake2b(f"{names.launcher}\0{job}".encode(), digest_size=8).hexdigest()
        folder = Path(tempfile.gettempdir()) / f"ringlet-mpi-{os.getuid()}-{digest}"
        added["RINGLET_RENDEZVOUS"] = f"ipc://{folder}/rendezvous"
        added["RINGLET_JOB"] = variables.get("RINGLET_JOB", job)
    return {**variables, **added}
