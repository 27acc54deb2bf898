"""Many hosts: agents that meet, by hand and over ssh, and what becomes of a job when one is lost.

The two hosts are network namespaces with a cable between them.
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
import threading
import time
from pathlib import Path

import pytest

from ringlet.comm import AuthenticationError
from ringlet.comm.key import JobKey
from ringlet.launcher.addresses import is_own, resolve
from ringlet.launcher.chief import Chief
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.failure import Failure
from ringlet.launcher.host_options import HostOptions
from ringlet.launcher.hosts import parse_hosts, place_of
from ringlet.launcher.link import Link, LinkError
from ringlet.launcher.member import Member
from ringlet.launcher.plan import Place, Plan

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
def link():
    try:
        with Link() as link:
            yield link
    except LinkError as error:
        pytest.skip(str(error))


@pytest.fixture
def start(link, tmp_path, monkeypatch):
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
            [*link.enter(host), *RINGLET, command, *options],
            env={**os.environ, "RINGLET_KEY_FILE": str(key), **(variables or {})},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def both(start, *program, **more):
    """The same command on both hosts: one worker on host 0, two on host 1."""
    options = ["--nnodes", "2", "--master", f"{Link.addresses[0]}:29400", "--timeout", "30"]
    return [
        start(node, *options, "--node-rank", str(node), "-n", str(node + 1), *program, **more)
        for node in range(2)
    ]


def training(start, *options, workers=(1, 1)):
    """The same `ringlet train` on both hosts; the options of the hosts come last."""
    tiny = ["--preset", "tiny", "--steps", "12", "--checkpoint-every", "4", "--sample", "0"]
    more = ["--nnodes", "2", "--master", f"{Link.addresses[0]}:29400", "--timeout", "30"]
    return [
        start(
            node, *tiny, "--eval-every", "12", "--eval-windows", "64", *more,
            "--node-rank", str(node), "-n", str(workers[node]), "--out", "o", *options,
            command="train",
        )
        for node in range(2)
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


def test_a_dead_worker_is_announced_to_all_hosts_and_all_exit_alike(start):
    for code, _, err in map(outcome, both(start, "script.py", "2")):
        assert code == 128 + signal.SIGKILL
        assert re.search(r"ringlet: rank 2 failed: process \d+ on host .* signal 9", err)


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
def test_a_killed_agent_and_a_cut_cable(start, link, tmp_path):
    processes = both(start, "script.py", "wait")
    assert turning(tmp_path)
    link._run(0, "ip link set cable down")  # a short cut is waited out ...
    time.sleep(1)
    link._run(0, "ip link set cable up")
    assert turning(tmp_path, after=time.monotonic())
    processes[1].kill()  # ... a killed agent takes its workers along, and the others hear of it
    began = time.monotonic()
    code, _, err = outcome(processes[0])
    assert code == ExitCode.PEER_LOST, err
    assert re.search(r"rank 1 failed: the agent of host 1 \(.*10.77.0.2\) has not been heard", err)
    assert "PeerLost" in err
    assert time.monotonic() - began < 15


@pytest.mark.slow
def test_a_cable_that_stays_cut_ends_the_job_on_both_sides(start, link, tmp_path):
    processes = both(start, "script.py", "wait")
    assert turning(tmp_path)
    link._run(0, "ip link set cable down")
    try:
        for process in processes:
            code, _, err = outcome(process, 30)
            assert code == ExitCode.PEER_LOST, err
            assert "has not been heard for" in err
    finally:
        link._run(0, "ip link set cable up")


# -- over ssh -------------------------------------------------------------------------------------

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@pytest.fixture
def sshd(link, tmp_path):
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
        [*link.enter(1), SSHD, "-D", "-e", "-p", "22", *[w for o in options for w in ("-o", o)]],
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
def like_ssh(link, tmp_path):
    """A command that runs its words on host 1, as ssh would, on machines without sshd."""
    script = tmp_path / "like-ssh"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(link.enter(1))} sh -c "$3"\n')
    script.chmod(0o700)
    return str(script)


def test_training_from_one_host(start, like_ssh, tmp_path):
    """The given options reach every host, the training's and the launcher's."""
    hosts = f"{Link.addresses[0]}:1,{Link.addresses[1]}:2"
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
    hosts = f"{Link.addresses[0]}:1,{Link.addresses[1]}:2"
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


# -- agents, in this process ----------------------------------------------------------------------


def place(node, nodes=2, master="127.0.0.1:0", key=None, workers=2):
    return Place(node, nodes, workers, "127.0.0.1", master, key)


def offer(hosts):
    if sum(host.workers for host in hosts) > 8:
        raise UserError("at most 8 workers would fit")
    return Plan(hosts, "job", "tcp://127.0.0.1:29500", task="sum")


def meeting(agents, timeout=5.0):
    """Let the agents meet; what each got, or the error."""
    results = {}

    def meet(agent):
        try:
            results[agent] = agent.meet(timeout, offer)
        except (UserError, AuthenticationError) as error:
            results[agent] = error

    threads = [threading.Thread(target=meet, args=[agent]) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[agent] for agent in agents]


@contextlib.contextmanager
def crew(*others, nodes=2, key=None):
    """Agent 0, and others with these differences."""
    agents = [Chief(place(0, nodes, key=key))]
    try:
        agents += [
            Member(
                place(**{"node": 1, "nodes": nodes, "master": agents[0].address, "key": key} | o)
            )
            for o in others
        ]
        yield agents
    finally:
        for agent in agents:
            agent.close(0)


def polled(agent, seconds=5.0, enough=lambda news: news):
    news, until = [], time.monotonic() + seconds
    while not enough(news) and time.monotonic() < until:
        news += agent.poll()
        time.sleep(0.01)
    return news


def test_agents_meet_tell_failures_and_agree():
    key = JobKey.new()
    with crew({"node": 2, "workers": 3}, {"node": 1}, nodes=3, key=key) as agents:
        plans = meeting(agents)
        assert plans[0] == plans[1] == plans[2]
        assert [list(plans[0].ranks(node)) for node in range(3)] == [[0, 1], [2, 3], [4, 5, 6]]
        assert plans[0].rendezvous == "tcp://127.0.0.1:29500"
        echo = Failure(3, "exited", 1, "PeerLost", echo=True, host="b")
        cause = Failure(5, "was killed", -9, host="c")
        agents[2].tell_failure(echo)
        assert polled(agents[0]) == polled(agents[1]) == [echo]
        agents[1].tell_failure(cause)
        assert polled(agents[0]) == polled(agents[2]) == [cause]
        assert not agents[0].concluded()
        for agent in agents:
            agent.ended()
        polled(agents[0], enough=lambda _: agents[0].concluded())
        assert agents[0].verdict(137) == (cause, 137)
        for agent in agents[1:]:
            polled(agent, enough=lambda _: agent.concluded())  # noqa: B023
            assert agent.verdict(1) == (cause, 137)


MEETINGS = {
    "nobody came": ([], 2, "host 1 did not come to 127.0.0.1:"),
    "one did not come": ([{"node": 2}], 4, "hosts 1 and 3 did not come"),
    "another size": ([{"nodes": 3}], 2, "its --nnodes is 3, host 0's is 2"),
    "twice the same": ([{}, {"workers": 1}], 3, "is there already"),
    "too many": ([{"workers": 9}], 2, "at most 8 workers would fit"),
    "another key": ([{"key": JobKey.new()}], 2, "its job key is not the listener's"),
}


@pytest.mark.parametrize("case", MEETINGS)
def test_hosts_that_do_not_meet_are_told_why(case):
    others, nodes, text = MEETINGS[case]
    with crew(*others, nodes=nodes, key=JobKey.new()) as agents:
        assert any(text in str(outcome) for outcome in meeting(agents, timeout=1.0))


WRONG = {
    "no master": ({"nnodes": 2}, "--master HOST:PORT"),
    "no rank": ({"nnodes": 2, "master": "127.0.0.1:1"}, "--node-rank"),
    "too high a rank": ({"nnodes": 2, "master": "127.0.0.1:1", "node_rank": 2}, "from 0 to 1"),
    "no port": ({"nnodes": 2, "master": "127.0.0.1", "node_rank": 0}, "HOST:PORT"),
    "port 0": ({"nnodes": 2, "master": "127.0.0.1:0", "node_rank": 0}, "needs a port"),
    "not here": ({"nnodes": 2, "master": "192.0.2.1:1", "node_rank": 0}, "not an address of this"),
    "no interface": (
        {"nnodes": 2, "master": "127.0.0.1:1", "node_rank": 0, "interface": "pigeon0"},
        "no interface 'pigeon0'; there are lo",
    ),
    "no address": (
        {"nnodes": 2, "master": "127.0.0.1:1", "node_rank": 1, "address": "here"}, "'here'",
    ),
    "no key": (
        {"nnodes": 2, "master": "127.0.0.1:1", "node_rank": 1, "address": "192.0.2.7"}, "key new",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_the_options_cannot_mean(case, monkeypatch):
    for name in ("RINGLET_KEY", "RINGLET_KEY_FILE", "RINGLET_INSECURE"):
        monkeypatch.delenv(name, raising=False)
    options, text = WRONG[case]
    with pytest.raises(UserError, match=re.escape(text)):
        place_of(HostOptions(**options), 2)


def test_addresses():
    assert resolve("127.0.0.1:29400") == "127.0.0.1:29400"
    assert resolve("localhost:1") == "127.0.0.1:1"
    assert is_own("127.0.0.1")
    assert not is_own("192.0.2.1")
    place = place_of(HostOptions(nnodes=2, master="127.0.0.1:1", node_rank=1, interface="lo"), 3)
    assert (place.address, place.workers) == ("127.0.0.1", 3)


def test_lists_of_hosts(tmp_path):
    assert parse_hosts("a:2,b", None, 4) == [("a", 2), ("b", 4)]
    file = tmp_path / "hosts"
    file.write_text("# ours\na slots=2\n\nme@b:3 # the new one\nc\n")
    assert parse_hosts(None, file, 1) == [("a", 2), ("me@b", 3), ("c", 1)]
    for text in ("", "a:0", "a:x", "-oProxyCommand=x:1", ":2", "a b:1"):
        with pytest.raises(UserError):
            parse_hosts(text, None, 1)
    with pytest.raises(UserError, match="cannot read"):
        parse_hosts(None, tmp_path / "none", 1)
