"""Two hosts on one machine, joined by a cable of a chosen speed: for tests and benchmarks.

Two network namespaces with a virtual Ethernet pair between them, and at both ends a token-bucket
filter that lets through so many bits each second (Linux: network_namespaces(7), veth(4),
tc-tbf(8)). Each has a /dev/shm of its own, too, as hosts do. The namespaces belong to processes
that end with this one: nothing has a name, and nothing is left behind, however the run ends.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.testing.pool import WorkerPool

TOOLS = ("ip", "tc", "unshare", "nsenter")

PORT = 29500
"""Of the rendezvous. A fresh namespace has every port free."""

BURST_S = 0.002
"""The bucket holds what may pass in so long: the kernel refills it at least as often."""

LEAST_BURST_BYTES = 1 << 17
"""A packet of segments that the kernel has joined (64 KiB) has to fit in."""

QUEUE_MS = 200

HOLD = "mount -t tmpfs none /dev/shm && echo && exec cat >/dev/null"
"""A word when all is ready; then until the other end of the pipe closes."""


class LinkError(RuntimeError):
    """This machine cannot have such a link; the message says why."""


class Link:
    """Two hosts and the cable between them; `mbit` is its rate each way, None: as fast as it goes.

    Raises LinkError where the tools or the rights for it are missing.
    """

    addresses = ("10.77.0.1", "10.77.0.2")
    ipv6_addresses = ("fd77::1", "fd77::2")

    def __init__(self, mbit: float | None = None) -> None:
        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            raise LinkError(f"no {', '.join(missing)} here: install iproute2 and util-linux")
        self._holders: list[subprocess.Popen[bytes]] = []
        self.ipv6 = False  # whether the kernel has it
        try:
            for _ in self.addresses:
                self._holders.append(_hold_namespace())
            self._join()
            self.set_rate(mbit)
        except BaseException:
            self.close()
            raise

    def enter(self, host: int) -> list[str]:
        """What goes before a command that shall run on host 0 or 1: `Popen([*enter(0), "ls"])`.

        The command keeps the process id, the working folder and the environment, in which
        RINGLET_HOST tells the hosts apart.
        """
        place = ["env", f"--chdir={Path.cwd()}", f"RINGLET_HOST=host-{host}"]
        return [*self._inside(host), *place]

    def _inside(self, host: int) -> list[str]:
        folder = f"/proc/{self._holders[host].pid}/ns"
        return ["nsenter", f"--net={folder}/net", f"--mount={folder}/mnt", "--"]

    def set_rate(self, mbit: float | None) -> None:
        """Change the rate each way, in Mbit/s; None: as fast as it goes."""
        for host in range(2):
            if mbit is None:
                kind = "pfifo limit 10000"
            else:
                burst = max(LEAST_BURST_BYTES, round(mbit * 1e6 / 8 * BURST_S))
                rate = f"{round(mbit * 1e6)}bit"
                kind = f"tbf rate {rate} burst {burst}b latency {QUEUE_MS}ms"
            self._run(host, f"tc qdisc replace dev cable root {kind}")

    def close(self) -> None:
        """Remove the hosts and the cable, once what runs there has ended."""
        for holder in self._holders:
            holder.kill()
            holder.communicate()
        self._holders.clear()

    def __enter__(self) -> "Link":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _join(self) -> None:
        other = self._holders[1].pid
        self._run(0, f"ip link add cable type veth peer name cable netns {other}")
        for host, address in enumerate(self.addresses):
            self._run(host, f"ip address add {address}/24 dev cable")
            self._run(host, "ip link set cable up")
            self._run(host, "ip link set lo up")
        # Without a check that nobody has the address, which would take a second.
        with contextlib.suppress(LinkError):
            for host, address in enumerate(self.ipv6_addresses):
                self._run(host, f"ip address add {address}/64 dev cable nodad")
            self.ipv6 = True

    def _run(self, host: int, command: str) -> None:
        words = [*self._inside(host), *command.split()]
        done = subprocess.run(words, capture_output=True, check=False)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip()
            raise LinkError(f"{command} failed: {reason}")


def _hold_namespace() -> subprocess.Popen[bytes]:
    """A process in a network namespace of its own, which ends when this one does."""
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
        raise LinkError(f"no network namespace: {reason.decode(errors='replace').strip()}")
    return holder


class LinkedPool(WorkerPool):
    """A WorkerPool whose ranks live on the two hosts of a link: `hosts[rank]` is 0 or 1.

    Rank 0 is on host 0. Close it before the link.
    """

    def __init__(
        self,
        link: Link,
        hosts: Sequence[int] = (0, 1),
        transport: str = "auto",
        timeout: float = 20.0,
    ) -> None:
        if not hosts or hosts[0] != 0 or set(hosts) - {0, 1}:
            raise ValueError(f"hosts are {hosts}; each is 0 or 1, and rank 0's is 0")
        super().__init__(len(hosts), transport, timeout)
        self._link, self._hosts = link, tuple(hosts)

    def _make_job(self) -> Job:
        return LinkedJob(
            self.size,
            self._transport,
            self._timeout,
            folder=None,
            rendezvous=f"tcp://{Link.addresses[0]}:{PORT}",
            hosts=self._hosts,
        )

    def _prefix(self, rank: int) -> Sequence[str]:
        return self._link.enter(self._hosts[rank])


@dataclass(frozen=True)
class LinkedJob(Job):
    """A start of workers on the hosts of a link."""

    hosts: tuple[int, ...] = (0, 1)

    def environment(self, rank: int) -> dict[str, str]:
        """See Job. The cable is nobody else's: it needs no keys."""
        mine = self.hosts[rank]
        return {
            **super().environment(rank),
            "LOCAL_RANK": str(self.hosts[:rank].count(mine)),
            "LOCAL_WORLD_SIZE": str(self.hosts.count(mine)),
            "RINGLET_INSECURE": "1",
        }
