"""Where the peers' programs are (see peers/setup.sh), and what they and ringlet have to be told."""

from pathlib import Path

DEFAULT_PEERS = Path.home() / ".cache/ringlet-peers/bin"

MPI_AS_ROOT = dict.fromkeys(
    (
        "OMPI_ALLOW_RUN_AS_ROOT",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
        "PRTE_ALLOW_RUN_AS_ROOT",
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM",
    ),
    "1",
)
"""Open MPI refuses to run as root without them."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""BLAS reads them when it is loaded."""
