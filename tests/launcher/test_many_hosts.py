"""Many hosts: agents that meet, by hand and over ssh, and what becomes of a job when one is lost.

The two hosts are network namespaces with a link between them.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from network_pair import NetworkPair, NetworkPairError

from ringlet.comm.join.key import JobKey
from ringlet.launcher.errors import ExitCode
from ringlet.runtime.planning.cluster import load_cluster

RINGLET = [sys.executable, "-c", "from ringlet.launcher.cli import main; main()"]

SCRIPT = """
import os, sys, time
import numpy as np
from ringlet import comm
world = comm.init()
total = world.all_reduce(np.ones(1 << 16))
print("here", world.rank, world.size, os.environ["LOCAL_RANK"], os.environ["MASTER_ADDR"], total[0])
if sys.argv[1:] == ["wait"]:
    while True:
        world.all_reduce(np.ones(8))
        open(f"turn-{world.rank}", "w").write(f"{time.monotonic()}\\n")
        time.sleep(0.05)
if sys.argv[1:] == [str(world.rank)]:
    os.kill(os.getpid(), 9)
world.barrier()
"""


@pytest.fixture(scope="module")
def pair():
    try:
        with NetworkPair() as pair:
            yield pair
    except NetworkPairError as error:
        pytest.skip(str(error))


@pytest.fixture
def start(pair, tmp_path, monkeypatch):
    """`start(host, *options)` runs `ringlet run` (or another `command`) there; all that is left is
    ended."""
    monkeypatch.chdir(tmp_path)  # where the hosts' commands run, too
    (tmp_path / "script.py").write_text(SCRIPT)
    key = tmp_path / "key"
    key.write_text(JobKey.new().text)
    key.chmod(0o600)
    started = []

    def start(host, *options, variables=None, command="run"):
        process = subprocess.Popen(
            [*pair.enter(host), *RINGLET, command, *options],
            env={**os.environ, "RINGLET_KEY_FILE": str(key), **(variables or {})},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def both(start, *program, master=NetworkPair.addresses[0], **more):
    """The same command on both hosts: one worker on host 0, two on host 1."""
    options = ["--nnodes", "2", "--master", f"{master}:29400", "--timeout", "30"]
    return [
        start(node, *options, "--node-rank", str(node), "-n", str(node + 1), *program, **more)
        for node in range(2)
    ]


def training(start, *options, hosts=(0, 1), nnodes="2"):
    """The same `ringlet train` on both hosts, with one worker each."""
    tiny = ["--preset", "tiny", "--steps", "12", "--checkpoint-every", "4", "--sample", "0"]
    more = ["--nnodes", nnodes, "--master", f"{NetworkPair.addresses[0]}:29400", "--timeout", "30"]
    return [
        start(
            node, *tiny, "--eval-every", "12", "--eval-windows", "64", *more,
            "--node-rank", str(node), "-n", "1", "--out", "o", *options,
            command="train",
        )
        for node in hosts
    ]  # fmt: skip


def outcome(process, seconds=60):
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


def test_the_same_command_on_each_host(start):
    (code0, out0, err0), (code1, out1, err1) = map(outcome, both(start, "script.py"))
    assert (code0, code1) == (0, 0), err0 + err1
    assert re.search(r":0: here 0 3 0 10.77.0.1 3.0\n", out0)
    assert re.search(r":1: here 1 3 0 10.77.0.1 3.0\n", out1)
    assert re.search(r":2: here 2 3 1 10.77.0.1 3.0\n", out1)
    assert "INSECURE" not in err0 + err1


@pytest.mark.parametrize("interface", [pytest.param(False, marks=pytest.mark.slow), True])
def test_hosts_with_ipv6(start, pair, interface):
    if not pair.ipv6:
        pytest.skip("no IPv6 here")
    options = ["--interface", "link0"] if interface else []
    master = f"[{NetworkPair.ipv6_addresses[0]}]"
    outcomes = [*map(outcome, both(start, *options, "script.py", master=master))]
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert re.search(r":0: here 0 3 0 fd77::1 3.0\n", outcomes[0][1])
    assert re.search(r":2: here 2 3 1 fd77::1 3.0\n", outcomes[1][1])


def test_a_dead_worker_is_announced_to_all_hosts_and_all_exit_alike(start):
    for code, _, err in map(outcome, both(start, "script.py", "2")):
        assert code == 128 + signal.SIGKILL
        assert re.search(r"ringlet: rank 2 failed: process \d+ on host .* signal 9", err)


def rows(folder):
    """How many steps the metrics have."""
    path = folder / "o/metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def stepping(folder, rows_then, seconds=40):
    """Wait until there are so many rows."""
    until = time.monotonic() + seconds
    while (there := rows(folder)) < rows_then and time.monotonic() < until:
        time.sleep(0.02)
    assert there >= rows_then


@pytest.mark.slow
def test_training_goes_on_without_a_host_that_is_lost(start, tmp_path):
    """Its agent is killed; the other goes on from the newest checkpoint, alone, and finishes."""
    options = ["--mesh", "dp=2", "--zero", "1", "--steps", "90", "--checkpoint-every", "20"]
    left, lost = training(start, *options, nnodes="1:2")
    stepping(tmp_path, 30)
    lost.kill()
    code, out, err = outcome(left)
    assert code == 0, err
    assert "with 2 workers (dp=2)" in out
    assert "has not been heard for 4.5 s" in err
    assert "continuing with the remaining hosts" in err
    assert "with 1 worker (dp=1)" in out
    assert re.search(r"resumed after step [2-8]0\n", out)
    assert "done after step 90" in out
    assert rows(tmp_path) == 91  # no step is there twice, nor is one missing


@pytest.mark.slow
def test_what_does_not_fit_the_hosts_that_are_left_is_refused(start, tmp_path):
    left, lost = training(start, "--mesh", "tp=2", "--steps", "100000", nnodes="1:2")
    stepping(tmp_path, 10)
    lost.kill()
    code, _, err = outcome(left)
    assert code == ExitCode.PEER_LOST
    assert "not restarted: a mesh of tp=2 has 2 ranks, and there are 1 workers" in err
    assert "start 2 workers" in err


@pytest.mark.slow
def test_a_host_that_comes_later_joins_when_the_job_starts_again(start, tmp_path):
    """It comes while the job runs without it, which then loses a worker."""
    (first,) = training(
        start, "--steps", "100000", "--max-restarts", "1", hosts=[0], nnodes="1:2"
    )  # after a last call
    stepping(tmp_path, 10)
    (second,) = training(start, "--steps", "100000", hosts=[1], nnodes="1:2")
    assert "this host joins it when it starts again" in second.stderr.readline()
    (worker,) = children(first)
    os.kill(worker, signal.SIGKILL)
    stepping(tmp_path, rows(tmp_path) + 30)
    first.send_signal(signal.SIGTERM)
    code, out, err = outcome(first)
    assert code == ExitCode.STOPPED, err
    assert "with 1 worker" in out
    assert "with 2 workers" in out
    assert outcome(second)[0] == ExitCode.STOPPED


def children(process):
    """The workers of an agent."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


@pytest.mark.slow
def test_training_on_two_hosts(start, tmp_path):
    """A mesh across them, each saving its shards; host 0 speaks. Then too small a mesh."""
    (code0, out0, err0), (code1, out1, err1) = map(outcome, training(start, "--mesh", "tp=2"))
    assert (code0, code1) == (0, 0), err0 + err1
    assert "with 2 workers (tp=2)" in out0
    assert "done after step 12" in out0
    assert out1 == ""
    assert len(list((tmp_path / "o/checkpoints/step-000012").glob("*.safetensors"))) == 2
    for code, _, err in map(outcome, training(start, "--mesh", "tp=4", "--resume", "--steps=50")):
        assert code == ExitCode.USER_ERROR
        assert "start 4 workers" in err


RESTARTED = """
import os, sys
from ringlet import comm
world = comm.init()
count = os.environ["TORCHELASTIC_RESTART_COUNT"]
print("start", count, "of rank", world.rank)
world.barrier()
if (count, world.rank) in [("0", 1), ("1", 0)]:
    os.kill(os.getpid(), 9)
world.barrier()
"""


def test_all_hosts_start_again_together(start, tmp_path):
    (tmp_path / "script.py").write_text(RESTARTED)
    outcomes = [*map(outcome, both(start, "--max-restarts", "2", "script.py"))]
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert "restart 2 of at most 2" in outcomes[0][2]
    for rank in range(3):
        starts = re.findall(rf"start (\d) of rank {rank}\n", outcomes[min(rank, 1)][1])
        assert starts == ["0", "1", "2"]


def turning(folder, ranks=3, after=0.0, seconds=40):
    """Wait until all ranks have gone round after the moment."""
    files = [folder / f"turn-{rank}" for rank in range(ranks)]

    def turned():
        with contextlib.suppress(OSError, ValueError):
            return all(float(file.read_text()) > after for file in files)

    until = time.monotonic() + seconds
    while time.monotonic() < until and not turned():
        time.sleep(0.05)
    return turned()


@pytest.mark.slow
def test_a_killed_agent_and_a_cut_link(start, pair, tmp_path):
    processes = both(start, "script.py", "wait")
    assert turning(tmp_path)
    pair._run(0, "ip link set link0 down")  # a short cut is waited out ...
    time.sleep(1)
    pair._run(0, "ip link set link0 up")
    assert turning(tmp_path, after=time.monotonic())
    processes[1].kill()  # ... a killed agent takes its workers along, and the others hear of it
    began = time.monotonic()
    code, _, err = outcome(processes[0])
    assert code == ExitCode.PEER_LOST, err
    assert re.search(r"rank 1 failed: the agent of host 1 \(.*10.77.0.2\) has not been heard", err)
    assert "PeerLost" in err
    assert time.monotonic() - began < 15


@pytest.mark.slow
def test_a_link_that_stays_cut_ends_the_job_on_both_sides(start, pair, tmp_path):
    processes = both(start, "script.py", "wait")
    assert turning(tmp_path)
    pair._run(0, "ip link set link0 down")
    try:
        for process in processes:
            code, _, err = outcome(process, 30)
            assert code == ExitCode.PEER_LOST, err
            assert "has not been heard for" in err
    finally:
        pair._run(0, "ip link set link0 up")


# -- over ssh -------------------------------------------------------------------------------------

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@pytest.fixture
def sshd(pair, tmp_path):
    """A real sshd on host 1; yields the command that reaches it."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("no sshd here: install openssh-server and openssh-client")
    if os.getuid() != 0:
        pytest.skip("sshd needs root")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name])
    Path("/run/sshd").mkdir(exist_ok=True)
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    options = [
        f"HostKey={tmp_path}/host", f"AuthorizedKeysFile={tmp_path}/authorized", "UsePAM=no",
        "StrictModes=no", "PermitRootLogin=yes", f"PidFile={tmp_path}/pid",
    ]  # fmt: skip
    server = subprocess.Popen(
        [*pair.enter(1), SSHD, "-D", "-e", "-p", "22", *[w for o in options for w in ("-o", o)]],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "listening" in server.stderr.readline()
    yield (
        f"ssh -i {tmp_path}/user -o UserKnownHostsFile={tmp_path}/known -o BatchMode=yes "
        "-o StrictHostKeyChecking=no -o LogLevel=ERROR -F none"
    )
    server.terminate()
    server.communicate()


@pytest.fixture
def like_ssh(pair, tmp_path):
    """A command that runs its words on host 1, as ssh would, on machines without sshd."""
    script = tmp_path / "like-ssh"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(pair.enter(1))} sh -c "$3"\n')
    script.chmod(0o700)
    return str(script)


@pytest.mark.slow
def test_two_hosts_and_their_network_are_calibrated(start, tmp_path):
    """One worker on each: there is no other link than the network."""
    master = f"{NetworkPair.addresses[0]}:29400"
    more = ["--nnodes", "2", "--master", master, "-n", "1", "--seconds", "4"]
    hosts = [
        start(node, *more, "--node-rank", str(node), "--out", "c.toml", command="calibrate")
        for node in range(2)
    ]
    (code0, out0, err0), (code1, out1, err1) = map(outcome, hosts)
    assert (code0, code1) == (0, 0), err0 + err1
    assert "network, 2 ranks" in out0
    assert out1 == ""  # host 0 says it
    found = load_cluster(tmp_path / "c.toml")
    assert (found.devices, found.hosts) == (1, 2)
    assert [(tier.name, tier.ranks, tier.memory) for tier in found.links] == [("network", 2, False)]


@pytest.mark.slow
def test_the_doctor_looks_between_hosts(start, like_ssh, pair):
    """Over a link of 100 Mbit/s, each way."""
    pair.set_rate(100)
    try:
        hosts = ",".join(NetworkPair.addresses)
        process = start(
            0, "--hosts", hosts, command="doctor",
            variables={"RINGLET_SSH": like_ssh, "RINGLET_KEY_FILE": ""},
        )  # fmt: skip
        code, out, err = outcome(process)
    finally:
        pair.set_rate(None)
    assert (code, err) == (0, ""), out
    states, names = zip(*(line.split()[:2] for line in out.splitlines()), strict=True)
    assert set(states) == {"ok"}
    assert names == ("meeting", "versions", "clock", "all-reduce", "link")
    assert "host 0 (" in out
    assert "host 1 (" in out
    (rate,) = re.findall(r"\(([\d,]+) Mbit/s\)", out)
    assert 20 < float(rate.replace(",", "")) < 120


def test_the_doctor_says_that_a_host_does_not_come(start):
    more = ["--nnodes", "2", "--node-rank", "0", "--master", f"{NetworkPair.addresses[0]}:29400"]
    code, out, _ = outcome(start(0, *more, "--timeout", "1", command="doctor"))
    assert code == 1
    assert re.match("bad +meeting +host 1 did not come to 10.77.0.1:29400 within 1 s", out)


def test_training_from_one_host(start, like_ssh, tmp_path):
    """The given options reach every host, the training's and the launcher's."""
    hosts = f"{NetworkPair.addresses[0]}:1,{NetworkPair.addresses[1]}:2"
    process = start(
        0, "--hosts", hosts, "--preset", "tiny", "--steps", "4", "--sample=0", "--no-bias",
        "--eval-windows=64", "--out", "o", "--zero", "1", "--timeout", "30",
        variables={"RINGLET_SSH": like_ssh, "RINGLET_KEY_FILE": ""}, command="train",
    )  # fmt: skip
    code, out, err = outcome(process)
    assert code == 0, err
    assert "with 3 workers" in out
    manifest = json.loads((tmp_path / "o/checkpoints/step-000004/manifest.json").read_text())
    assert not manifest["config"]["bias"]
    assert len(manifest["files"]) == 3


@pytest.mark.slow
def test_from_one_host_over_ssh(start, sshd, tmp_path):
    """A run to its end, with a key of its own; then the launcher is killed: nothing is left."""
    hosts = f"{NetworkPair.addresses[0]}:1,{NetworkPair.addresses[1]}:2"
    variables = {"RINGLET_SSH": sshd, "RINGLET_KEY_FILE": ""}
    process = start(0, "--hosts", hosts, "script.py", variables=variables)
    code, out, err = outcome(process)
    assert code == 0, err
    assert sorted(re.findall(r"here (.*)\n", out)) == [
        "0 3 0 10.77.0.1 3.0", "1 3 0 10.77.0.1 3.0", "2 3 1 10.77.0.1 3.0",
    ]  # fmt: skip
    process = start(0, "--hosts", hosts, "script.py", "wait", variables=variables)
    assert turning(tmp_path)
    process.kill()
    time.sleep(2)
    last = time.monotonic()
    assert not turning(tmp_path, after=last, seconds=1)
