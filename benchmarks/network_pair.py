"""Two hosts on one machine, joined by a link of a chosen speed: for tests and benchmarks.

The hosts are network namespaces with a virtual Ethernet pair between them and a token-bucket
filter at both ends (Linux: network_namespaces(7), veth(4), tc-tbf(8)). Each has its own /dev/shm,
as real hosts do. The namespaces belong to child processes of this one and have no names, so
nothing is left behind, however the run ends.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.testing.pool import WorkerPool

TOOLS = ("ip", "tc", "unshare", "nsenter")

PORT = 29500
"""Of the rendezvous. In a fresh namespace every port is free."""

BURST_S = 0.002
"""The bucket holds what passes in this time: the kernel refills it at least as often."""

MIN_BURST_BYTES = 1 << 17
"""Must hold a packet of segments that the kernel has joined (64 KiB)."""

QUEUE_MS = 200

HOLD = "mount -t tmpfs none /dev/shm && echo && exec cat >/dev/null"
"""Prints a line when the namespace is ready, then holds it until its standard input closes."""


class NetworkPairError(RuntimeError):
    """This machine cannot have a network pair; the message says why."""


class NetworkPair:
    """Two hosts and the link between them, of `mbit` Mbit/s each way (None: unlimited).

    Raises NetworkPairError where the tools or the rights for it are missing.
    """

    addresses = ("10.77.0.1", "10.77.0.2")
    ipv6_addresses = ("fd77::1", "fd77::2")

    def __init__(self, mbit: float | None = None) -> None:
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            raise NetworkPairError(f"no {', '.join(missing)} here: install iproute2 and util-linux")
        self._holders: list[subprocess.Popen[bytes]] = []
        self.ipv6 = False  # whether the kernel has it
        try:
            for _ in self.addresses:
                self._holders.append(_hold_namespace())
            self._connect()
            self.set_rate(mbit)
        except BaseException:
            self.close()
            raise

    def enter(self, host: int) -> list[str]:
        """The prefix for a command that is to run on host 0 or 1: `Popen([*enter(0), "ls"])`.

        The command keeps its process id, working folder and environment; RINGLET_HOST is added,
        which tells the hosts apart.
        """
        place = ["env", f"--chdir={Path.cwd()}", f"RINGLET_HOST=host-{host}"]
        return [*self._inside(host), *place]

    def _inside(self, host: int) -> list[str]:
        folder = f"/proc/{self._holders[host].pid}/ns"
        return ["nsenter", f"--net={folder}/net", f"--mount={folder}/mnt", "--"]

    def set_rate(self, mbit: float | None) -> None:
        """Change the rate each way, in Mbit/s (None: unlimited)."""
        for host in range(2):
            if mbit is None:
                kind = "pfifo limit 10000"
            else:
                burst = max(MIN_BURST_BYTES, round(mbit * 1e6 / 8 * BURST_S))
                rate = f"{round(mbit * 1e6)}bit"
                kind = f"tbf rate {rate} burst {burst}b latency {QUEUE_MS}ms"
            self._run(host, f"tc qdisc replace dev link0 root {kind}")

    def close(self) -> None:
        """Remove the hosts and the link, once everything that runs there has ended."""
        for holder in self._holders:
            holder.kill()
            holder.communicate()
        self._holders.clear()

    def __enter__(self) -> "NetworkPair":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _connect(self) -> None:
        other = self._holders[1].pid
        self._run(0, f"ip link add link0 type veth peer name link0 netns {other}")
        for host, address in enumerate(self.addresses):
            self._run(host, f"ip address add {address}/24 dev link0")
            self._run(host, "ip link set link0 up")
            self._run(host, "ip link set lo up")
        # nodad: skip the check that nobody else has the address, which would take a second.
        with contextlib.suppress(NetworkPairError):
            for host, address in enumerate(self.ipv6_addresses):
                self._run(host, f"ip address add {address}/64 dev link0 nodad")
            self.ipv6 = True

    def _run(self, host: int, command: str) -> None:
        words = [*self._inside(host), *command.split()]
        done = subprocess.run(words, capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip()
            raise NetworkPairError(f"{command} failed: {reason}")


def _hold_namespace() -> subprocess.Popen[bytes]:
    """A process in a new network namespace, which ends when this one does."""
    holder = subprocess.Popen(
        ["unshare", "--net", "--mount", "sh", "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdout is not None
    if not holder.stdout.readline():
        _, reason = holder.communicate()
        text = reason.decode(errors="replace").strip()
        raise NetworkPairError(f"cannot create a network namespace: {text}")
    return holder


class NetworkPairPool(WorkerPool):
    """A WorkerPool whose ranks live on the two hosts of a pair: `hosts[rank]` is 0 or 1.

    Rank 0 is on host 0. Close the pool before the pair.
    """

    def __init__(
        self,
        pair: NetworkPair,
        hosts: Sequence[int] = (0, 1),
        transport: str = "auto",
        timeout: float = 20.0,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        if not hosts or hosts[0] != 0 or set(hosts) - {0, 1}:
            raise ValueError(f"hosts are {hosts}: each must be 0 or 1, and the first 0")
        super().__init__(len(hosts), transport, timeout, variables)
        self._pair, self._hosts = pair, tuple(hosts)

    def _make_job(self) -> Job:
        return NetworkPairJob(
            self.size,
            self._transport,
            self._timeout,
            folder=None,
            variables=self._variables,
            rendezvous=f"tcp://{NetworkPair.addresses[0]}:{PORT}",
            hosts=self._hosts,
        )

    def _prefix(self, rank: int) -> Sequence[str]:
        return self._pair.enter(self._hosts[rank])


@dataclass(frozen=True)
class NetworkPairJob(Job):
    """A start of workers on the hosts of a pair. Nobody else can reach the link: no key is
    needed."""

    hosts: tuple[int, ...] = (0, 1)

    def environment(self, rank: int) -> dict[str, str]:
        mine = self.hosts[rank]
        return {
            **super().environment(rank),
            "LOCAL_RANK": str(self.hosts[:rank].count(mine)),
            "LOCAL_WORLD_SIZE": str(self.hosts.count(mine)),
            "RINGLET_INSECURE": "0" if "RINGLET_KEY" in self.variables else "1",
        }
