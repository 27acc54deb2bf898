"""Joining a world: the environment, who is missing, who is refused, strangers, what stays."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from quickly import mostly_slow
from waiting import until

from ringlet.comm import AuthenticationError, CommError
from ringlet.comm.errors import LONGEST_S
from ringlet.comm.join.addresses import free_port
from ringlet.comm.join.environment import read_environment
from ringlet.comm.join.meeting import somebody_listens
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.wire import Header, Malformed, decode, encode

PROGRAM = """
import sys
import numpy as np
from ringlet import comm
try:
    world = comm.init(timeout=float(sys.argv[1]))
except comm.CommError as error:
    print(type(error).__name__, error)
    sys.exit(3)
x = world.all_reduce(np.ones(1 << 18))
print(world.rank, world.size, x[0], comm.init() is world)
"""


def start(rank, size, timeout=20.0, program=PROGRAM, **variables):
    """One rank by hand, as without any launcher."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RINGLET_")}
    environment |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1", **variables,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", program, str(timeout)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(processes, deadline=40):
    """(exit code, output) of each."""
    try:
        return [(p.wait(deadline), p.communicate()[0].strip()) for p in processes]
    finally:
        for process in processes:
            process.kill()


def master(**more):
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **more}


@pytest.mark.parametrize(
    ("local", "transport"),
    [
        (True, "auto"),
        (False, "tcp"),
        pytest.param(True, "tcp", marks=pytest.mark.slow),
        pytest.param(False, "auto", marks=pytest.mark.slow),
    ],
)
def test_ranks_meet_with_torchruns_variables_alone(transport, local, tmp_path):
    variables = master(RINGLET_TRANSPORT=transport, TMPDIR=str(tmp_path))
    if local:
        variables["LOCAL_WORLD_SIZE"] = "3"
    results = ended([start(rank, 3, **variables) for rank in (2, 0, 1)])
    assert [code for code, _ in results] == [0, 0, 0], results
    assert sorted(text for _, text in results) == [f"{r} 3 3.0 True" for r in range(3)]
    assert list(tmp_path.iterdir()) == []  # no socket file, no folder


def test_ranks_of_different_hosts_talk_over_tcp(tmp_path):
    variables = master(TMPDIR=str(tmp_path))
    processes = [start(rank, 2, RINGLET_HOST=f"host {rank}", **variables) for rank in range(2)]
    assert [code for code, _ in ended(processes)] == [0, 0]


@pytest.mark.parametrize(
    "occupant", ["another job", pytest.param("a program that says nothing", marks=pytest.mark.slow)]
)
def test_rank_0_takes_a_spare_port_if_its_own_is_in_use(occupant, tmp_path):
    variables = master(TMPDIR=str(tmp_path), RINGLET_SPARE_PORTS=str(free_port()), RINGLET_JOB="b")
    with contextlib.ExitStack() as stack:
        if occupant == "another job":
            other = stack.enter_context(start(0, 3, **{**variables, "RINGLET_JOB": "a"}))
            stack.callback(other.kill)
        else:
            other = stack.enter_context(socket.socket())
            other.bind((variables["MASTER_ADDR"], int(variables["MASTER_PORT"])))
            other.listen()
        assert until(lambda: somebody_listens(f"tcp://127.0.0.1:{variables['MASTER_PORT']}"))
        results = ended([start(rank, 3, **variables) for rank in (2, 0, 1)])
    assert [code for code, _ in results] == [0, 0, 0], results


@pytest.mark.parametrize("host", ["one", "two"])
def test_ranks_meet_over_ipv6(host, tmp_path):
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    variables = master(TMPDIR=str(tmp_path), MASTER_ADDR="::1", RINGLET_TRANSPORT="tcp")
    names = ["one", host]
    processes = [start(rank, 2, RINGLET_HOST=names[rank], **variables) for rank in range(2)]
    assert [code for code, _ in ended(processes)] == [0, 0]


def test_an_ipv6_address_may_have_brackets():
    found = read_environment({**WORLD, "MASTER_ADDR": "[::1]"})
    assert found.rendezvous == "tcp://[::1]:29400"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_host_that_nobody_knows_is_named(rank):
    variables = master(MASTER_ADDR="nobody.invalid", RINGLET_INSECURE="1")
    ((code, text),) = ended([start(rank, 2, timeout=0.2, **variables)])
    assert code == 3
    assert f"CommError rank {rank}: cannot find the host of tcp://nobody.invalid:" in text


TEMPORARY = {"long": b"x" * 90, "not UTF-8": b"\xff\xfe"}


@pytest.mark.parametrize("case", TEMPORARY)
def test_sockets_go_elsewhere_if_tmpdir_cannot_hold_them(case, tmp_path):
    folder = tmp_path / os.fsdecode(TEMPORARY[case])
    folder.mkdir()
    variables = master(TMPDIR=str(folder))
    results = ended([start(rank, 2, **variables) for rank in range(2)])
    assert [code for code, _ in results] == [0, 0], results
    assert list(folder.iterdir()) == []


WITHOUT_IPV4 = """
ip link set lo up && ip addr del 127.0.0.1/8 dev lo || exit 9
export RANK WORLD_SIZE=2 MASTER_ADDR=::1 MASTER_PORT=29400
for RANK in 0 1; do "$0" -c "$1" 20 & done
wait
"""


def test_a_host_without_ipv4s_loopback(tmp_path):
    """And the ports and addresses that launchers give out there."""
    program = (
        "from ringlet.comm.join import addresses as a\nprint(a.loopback(), a.free_port() > 0)\n"
    )
    plain = {"RINGLET_TRANSPORT": "tcp", "PYTHONUNBUFFERED": ""}  # lines in one piece
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", WITHOUT_IPV4, sys.executable, program + PROGRAM],
        env={**os.environ, **plain, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=40,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no network of its own here: {done.stderr}")
    expected = ["0 2 2.0 True", "1 2 2.0 True", "::1 True", "::1 True"]
    assert sorted(done.stdout.splitlines()) == expected


CHILDREN = """
import subprocess, sys
from ringlet import comm
world = comm.init(timeout=20)
child = subprocess.run([sys.executable, "-c", "from ringlet import comm; comm.init()"],
                       capture_output=True, text=True)
world.barrier()
print(world.rank, child.stderr.splitlines()[-1])
"""


def test_what_a_rank_starts_is_no_rank():
    variables = master()
    results = ended([start(rank, 2, program=CHILDREN, **variables) for rank in range(2)])
    for rank, (code, text) in enumerate(results):
        assert code == 0, text
        assert f"{rank} ringlet.comm.errors.CommError: this process was started by rank" in text


def test_a_world_of_one_needs_nothing():
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    text = subprocess.run(
        [sys.executable, "-c", PROGRAM, "5"], env=environment, capture_output=True, text=True,
        timeout=30,
    )  # fmt: skip
    assert text.stdout.strip() == "0 1 1.0 True", text.stderr


def test_who_is_missing_is_named_by_all_who_came(tmp_path):
    variables = master(TMPDIR=str(tmp_path))
    results = ended([start(rank, 4, timeout=2, **variables) for rank in (0, 2)])
    for code, text in results:
        assert code == 3
        assert text.startswith("CommTimeout")
        assert "ranks 1 and 3" in text
    assert list(tmp_path.iterdir()) == []


def test_a_missing_rank_0_is_named_with_the_address_tried():
    variables = master()
    ((code, text),) = ended([start(1, 2, timeout=1, **variables)])
    assert code == 3
    assert f"tcp://127.0.0.1:{variables['MASTER_PORT']}" in text
    assert "rank 0" in text


def test_a_port_in_use_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        process = start(0, 2, timeout=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        ((code, text),) = ended([process])
    assert code == 3
    assert f"127.0.0.1:{port}" in text


REFUSED = {
    "another job": ({"RINGLET_JOB": "other"}, 1, 2, "another job"),
    "an earlier start": ({"RINGLET_GENERATION": "7"}, 1, 2, "earlier start"),
    "another size": ({}, 1, 3, "world has 3 ranks"),
    "a rank that is there": ({}, 1, 2, "is rank 1 already"),
}


@pytest.mark.parametrize("case", mostly_slow(REFUSED, "another job", "a rank that is there"))
def test_who_does_not_belong_is_told_why_and_the_others_go_on(case):
    changes, rank, size, reason = REFUSED[case]
    variables = master(RINGLET_JOB="this")
    twice = case == "a rank that is there"
    size, world = (3, 3) if twice else (size, 2)
    processes = [start(0, world, **variables)]
    try:
        rivals = [start(rank, size, **{**variables, **changes})]
        if twice:
            rivals.append(start(rank, size, **variables))
        until(lambda: any(rival.poll() is not None for rival in rivals))
        stranger = next(rival for rival in rivals if rival.poll() is not None)
        ((code, text),) = ended([stranger])
        assert code == 3, text
        assert reason in text
        processes += [rival for rival in rivals if rival is not stranger]
        processes.append(start(world - 1, world, **variables))
        assert {code for code, _ in ended(processes)} == {0}
    finally:
        for process in processes:
            process.kill()


WORLD = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29400"}
WRONG = {
    "no WORLD_SIZE": ({"RANK": "0"}, "WORLD_SIZE"),
    "no RANK": ({"WORLD_SIZE": "2"}, "RANK"),
    "rank too high": ({"RANK": "2", "WORLD_SIZE": "2"}, "count from 0"),
    "no number": ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'"),
    "too many": ({"RANK": "0", "WORLD_SIZE": "9" * 18}, "WORLD_SIZE is '999"),
    "nobody": ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
    "no address": ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR"),
    "no port": ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT"),
    "empty address": ({**WORLD, "MASTER_ADDR": " "}, "MASTER_ADDR is empty"),
    "a URL": ({**WORLD, "MASTER_ADDR": "tcp://a"}, "MASTER_ADDR is 'tcp://a'; it must be a host's"),
    "a port, too": ({**WORLD, "MASTER_ADDR": "10.0.0.1:5"}, "MASTER_ADDR is '10.0.0.1:5'"),
    "empty label": ({**WORLD, "MASTER_ADDR": "a..b"}, "MASTER_ADDR is 'a..b'"),
    "not UTF-8": ({**WORLD, "MASTER_ADDR": "\udcff"}, "MASTER_ADDR is"),
    "port too high": ({**WORLD, "MASTER_PORT": "70000"}, "from 1 to 65535"),
    "port 0": ({**WORLD, "MASTER_PORT": "0"}, "from 1 to 65535"),
    "rendezvous": ({**WORLD, "RINGLET_RENDEZVOUS": "tcp://a:99999"}, "RINGLET_RENDEZVOUS is"),
    "rendezvous nowhere": ({**WORLD, "RINGLET_RENDEZVOUS": "10.0.0.1:5"}, "RINGLET_RENDEZVOUS is"),
    "own address": ({**WORLD, "RINGLET_ADDRESS": "tcp://a"}, "RINGLET_ADDRESS is 'tcp://a'"),
    "transport": ({"RINGLET_TRANSPORT": "pigeon"}, "pigeon"),
    "timeout": ({"RINGLET_TIMEOUT": "-3"}, "RINGLET_TIMEOUT"),
    "timeout text": ({"RINGLET_TIMEOUT": "soon"}, "RINGLET_TIMEOUT"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_environment_names_the_variable(case):
    variables, text = WRONG[case]
    with pytest.raises(CommError, match=text):
        read_environment(variables)


def test_a_timeout_without_end_is_as_long_as_clocks_can_count():
    assert read_environment({"RINGLET_TIMEOUT": "inf"}).timeout == LONGEST_S


def test_a_network_that_others_can_reach_is_refused_unless_asked_for():
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "29400"}
    with pytest.raises(AuthenticationError, match="RINGLET_INSECURE=1"):
        read_environment(variables)
    assert read_environment({**variables, "RINGLET_INSECURE": "1"}).size == 2


def test_strangers_bytes_change_nothing():
    """Raw bytes at the rendezvous while it waits."""
    variables = master()
    address = ("127.0.0.1", int(variables["MASTER_PORT"]))
    first = start(0, 2, **variables)

    def connected():
        with contextlib.suppress(OSError):
            return socket.create_connection(address)

    stranger = until(connected)
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 100)
    second = start(1, 2, **variables)
    assert [code for code, _ in ended([first, second])] == [0, 0]
    stranger.close()


HEADER = Header("job", 0, 1, "world", -1, 3, Signature("all_reduce", "<f4", (2, 3), "sum"), 0)


def test_headers_survive_the_wire():
    assert decode(encode(HEADER)) == HEADER


def test_damaged_headers_are_refused_whatever_they_are():
    data = encode(HEADER)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(data[: random.integers(0, len(data) + 1)])
        for _ in range(random.integers(0, 4)):
            if damaged:
                damaged[random.integers(len(damaged))] = random.integers(256)
        try:
            header = decode(bytes(damaged))
        except Malformed:
            refused += 1
        else:
            assert type(header.sequence) is int
            assert type(header.signature.shape) is tuple
    assert refused > 1000
    for junk in (b"", b"\xc1", b"\x00" * 10, b"x" * 100_000, b"\x9f" * 5000):
        with pytest.raises(Malformed):
            decode(junk)


def threads_and_files(world):
    for number in range(300):
        world.all_reduce(np.ones(100 + number))
        world.all_reduce(np.ones(100), async_op=True).wait()
        world.all_gather(np.ones(1 << 15))
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_threads_and_file_descriptors_stay_flat(ranks):
    pool = ranks(2)
    first = pool.run(threads_and_files)
    assert pool.run(threads_and_files) == first
