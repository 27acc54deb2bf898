"""A Ray cluster of two nodes on this host, at loopback addresses of their own, with two cores each.

`ray stop` would end every Ray process of the user; these are ended by their ids: the cluster's
folder is named in their environment. (Ray takes 127.0.0.1 for the host's own address.)
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from waiting import until

from ringlet.comm.join.addresses import free_port

START_S = 120

OURS = "RAY_CLUSTER_OF_A_TEST"


def _node(folder: str, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *words, "--num-cpus=2",
         "--disable-usage-stats", "--object-store-memory=80000000"],
        capture_output=True, text=True, timeout=START_S, env={**os.environ, OURS: folder},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _left(folder: str) -> list[int]:
    """The processes of this cluster, killed."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended
            if f"{OURS}={folder}".encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
                found.append(int(path.parent.name))
    return found


@contextlib.contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a running cluster."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets are short
    address = f"127.0.0.2:{free_port('127.0.0.2')}"
    head = ("--head", "--node-ip-address=127.0.0.2", f"--port={address.split(':')[1]}")
    try:
        _node(folder, *head, "--include-dashboard=false", f"--temp-dir={folder}")
        _node(folder, f"--address={address}", "--node-ip-address=127.0.0.3")
        yield address
    finally:
        assert until(lambda: not _left(folder))
        shutil.rmtree(folder, ignore_errors=True)
