"""A Ray cluster of nodes on this host, at loopback addresses of their own, with two cores each.

`ray stop` would end every Ray process of the user; these are ended by their ids: the cluster's
folder, and the node's address, are named in their environment. (Ray takes 127.0.0.1 for the host's
own address.)
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from processes import pids, variables, words
from waiting import until

from ringlet.comm.join.addresses import free_port

START_S = 120

OURS = "RAY_NODE_OF_A_TEST"

RAY = (sys.executable, "-m", "ray.scripts.scripts")


class Cluster:
    """The running cluster; its head is the first node."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.nodes: list[str] = []
        self.address = f"127.0.0.2:{free_port('127.0.0.2')}"

    def add(self) -> str:
        """Start another node; returns its address."""
        node = f"127.0.0.{len(self.nodes) + 2}"
        how = [f"--address={self.address}"]
        if not self.nodes:
            port = self.address.partition(":")[2]
            how = ["--head", f"--port={port}", "--include-dashboard=false"]
            how.append(f"--temp-dir={self.folder}")
        done = subprocess.run(
            [*RAY, "start", *how, f"--node-ip-address={node}", "--num-cpus=2",
             "--disable-usage-stats", "--object-store-memory=80000000"],
            capture_output=True, text=True, timeout=START_S,
            env={**os.environ, OURS: f"{self.folder}@{node}@"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        self.nodes.append(node)
        return node

    def pids(self, node: str = "") -> list[int]:
        """The processes of a node, or of all."""
        mark = f"{self.folder}@" + (f"{node}@" if node else "")
        return [pid for pid in pids() if variables(pid).get(OURS, "").startswith(mark)]

    def ranks(self, node: str) -> list[int]:
        """The processes of a node's ranks, as Ray names them."""
        return [pid for pid in self.pids(node) if b"ray::Rank" in words(pid)]

    def kill(self, node: str = "") -> None:
        """End a node as if its host died, or all."""
        assert until(lambda: not [_kill(pid) for pid in self.pids(node)])

    def drain(self, node: str) -> None:
        """Say that a node will be taken away."""
        from ray._raylet import GcsClient  # `ray drain-node` takes seconds to start

        client, preemption = GcsClient(address=self.address), 2
        infos = client.get_all_node_info().items()
        name = next(name for name, info in infos if info.node_manager_address == node)
        accepted, reason = client.drain_node(name.hex(), preemption, "a test", 0)
        assert accepted, reason


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def ray_cluster(nodes: int) -> Iterator[Cluster]:
    """A running cluster of so many nodes."""
    cluster = Cluster(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # names of sockets are short
    try:
        for _ in range(nodes):
            cluster.add()
        yield cluster
    finally:
        cluster.kill()
        shutil.rmtree(cluster.folder, ignore_errors=True)
