"""Where the peers' programs are (see peers/setup.sh), and what they have to be told."""

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
