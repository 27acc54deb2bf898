"""Two hosts and a slow link on one machine."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import network_pair
import numpy as np
import pytest
from network_pair import NetworkPair, NetworkPairError, NetworkPairPool


def gathered(world):
    """[host, local rank, whether its ranks share memory, whether all do, a sum]"""
    x = np.arange(1000.0) * (world.rank + 1)
    world.all_reduce(x)
    host = os.environ["RINGLET_HOST"]
    hosts = world.all_gather_object(host)
    near = world.split([rank for rank in range(world.size) if hosts[rank] == host])
    memory = [group.shares_memory for group in (near, world)]
    return [host, int(os.environ["LOCAL_RANK"]), *memory, x]


def test_ranks_of_two_hosts_meet_and_share_memory_only_on_their_own(two_hosts):
    found = two_hosts((0, 0, 1, 1)).run(gathered)
    assert [row[:2] for row in found] == [
        ["host-0", 0],
        ["host-0", 1],
        ["host-1", 0],
        ["host-1", 1],
    ]
    assert all(row[2:4] == [True, False] for row in found)
    for row in found:
        np.testing.assert_array_equal(row[4], np.arange(1000.0) * 10)


def seconds_of_a_mebibyte(world):
    """How long a rank of host 1 waits for 1 MiB, and a rank of the same host."""
    x = np.ones(1 << 18, np.float32)
    world.all_reduce(x)  # connected, and the bucket empty
    started = time.perf_counter()
    world.all_reduce(x)
    return time.perf_counter() - started


@pytest.mark.parametrize("mbit", [100, 400])
def test_the_link_is_as_slow_as_told(two_hosts, mbit):
    # 1 MiB each way, less what the token buckets let through at once
    least = ((1 << 20) - (1 << 18)) * 8 / (mbit * 1e6)
    assert min(two_hosts((0, 1), mbit).run(seconds_of_a_mebibyte)) >= least


def network_namespaces():
    """Those that a process is in."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()))
    return found


MAKE_ONE = """
import time
from pathlib import Path
from network_pair import NetworkPair, NetworkPairPool
pair = NetworkPair(100)
pool = NetworkPairPool(pair)
pool._start()
print(*[Path(f"/proc/{holder.pid}/ns/net").readlink() for holder in pair._holders], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.usefixtures("two_hosts")  # or skipped
def test_nothing_is_left_however_the_run_ends(how, tmp_path):
    command = [sys.executable, "-c", MAKE_ONE]
    found = {"PYTHONPATH": str(Path(network_pair.__file__).parent), "TMPDIR": str(tmp_path)}
    variables = {**os.environ, **found}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=variables) as process:
        made = set(process.stdout.readline().decode().split())
        assert len(made) == 2
        assert made <= network_namespaces()
        process.send_signal(how)
    until = time.monotonic() + 10
    while made & network_namespaces() and time.monotonic() < until:
        time.sleep(0.02)
    assert not made & network_namespaces()
    assert [*tmp_path.iterdir()] == []


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NetworkPairError, match=r"no ip, tc, unshare, nsenter here"):
        NetworkPair()


@pytest.mark.parametrize("hosts", [(), (1, 0), (0, 2)])
def test_hosts_that_are_none_are_refused(hosts):
    with pytest.raises(ValueError, match="each must be 0 or 1, and the first 0"):
        NetworkPairPool(None, hosts)
