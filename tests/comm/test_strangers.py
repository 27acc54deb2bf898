"""Who does not hold the job's key neither joins, reads nor disturbs a job; and keys themselves."""

import contextlib
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import msgpack
import pytest
import zmq
from waiting import until

from ringlet.comm import AuthenticationError
from ringlet.comm.join import authenticator
from ringlet.comm.join.addresses import free_port
from ringlet.comm.join.authenticator import UNKNOWN
from ringlet.comm.join.environment import read_environment
from ringlet.comm.join.key import JobKey, find_key
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.listener import Listener
from ringlet.comm.sockets.wire import CONTROL, Header, encode

WORKER = """
import resource, sys
import numpy as np
from ringlet import comm
try:
    world = comm.init(timeout=float(sys.argv[1]))
except comm.CommError as error:
    print(type(error).__name__, error)
    sys.exit(3)
print(sys.argv[2], flush=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rounds, total = 0, np.zeros(1 << 14)
while True:
    last = world.broadcast_object(sys.stdin.readline() if world.rank == 0 else None)
    total += world.all_reduce(np.ones(1 << 14))
    rounds += 1
    if last != "again\\n":
        break
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print("rounds", rounds, "right", bool((total == rounds * world.size).all()), "grown", grown // 1024)
"""


class Rank:
    """One rank by hand, over TCP."""

    def __init__(self, rank, size, port, key, **variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RINGLET_")}
        environment |= {
            "RANK": str(rank), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RINGLET_TRANSPORT": "tcp",
            "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
            **({} if key is None else {"RINGLET_KEY": key.text}), **variables,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, "20", "joined"], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def joined(self):
        return self.process.stdout.readline() == "joined\n"

    def ports(self):
        """The TCP ports on which the process listens."""
        inodes = set()
        for path in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed by now
                inodes.add(str(path.readlink()))
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return [
            int(row[1].split(":")[1], 16)
            for row in rows
            if row[3] == "0A" and f"socket:[{row[9]}]" in inodes
        ]

    def heard(self, text, seconds=10):
        """What it has written to stderr once that holds the text, or after so long."""
        stream, until, seen = self.process.stderr, time.monotonic() + seconds, ""
        while text not in seen and (left := until - time.monotonic()) > 0:
            if select.select([stream], [], [], left)[0]:
                seen += os.read(stream.fileno(), 1 << 16).decode()
        return seen

    def end(self):
        try:
            out, err = self.process.communicate(timeout=40)
            return self.process.returncode, out, err
        finally:
            self.process.kill()


GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03\x00"


def greeting(mechanism):
    return GREETING + mechanism.ljust(20, b"\0") + bytes(32)


def raw(data):
    def attack(port, context, key):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(0.3)
            try:
                for _ in range(20):
                    connection.sendall(data)
                while connection.recv(1 << 16):
                    pass
            except OSError:
                pass

    return attack


def speaks(prepare):
    """A ZeroMQ socket with the security that `prepare(socket, key)` gives it."""

    def attack(port, context, key):
        with context.socket(zmq.PUSH) as push:
            push.linger = 0
            push.set(zmq.RECONNECT_IVL, -1)
            prepare(push, key)
            push.connect(f"tcp://127.0.0.1:{port}")
            with contextlib.suppress(zmq.Again):  # refused already
                for header in HEADERS:
                    lie = [encode(header), msgpack.packb({1: "a lie"})]
                    push.send_multipart(lie, zmq.NOBLOCK)
            time.sleep(0.2)

    return attack


LIE = Signature("lost", "", (), "")
HEADERS = [Header("", 0, 0, "", CONTROL, 0, LIE, 0), Header("", 0, 1, "", CONTROL, 0, LIE, 0)]


def plain(push, key):
    push.plain_username, push.plain_password = b"root", b"secret"


def own_key(push, key):
    JobKey.new().show(push)


def known_server_key(push, key):
    JobKey.new().show(push)
    push.curve_serverkey = key.curve_public


def known_public_keys(push, key):
    known_server_key(push, key)
    push.curve_publickey = key.curve_public  # but not the secret one


def flood(port, context, key):
    connections = []
    for number in range(300):
        connections.append(socket.create_connection(("127.0.0.1", port)))
        if number % 2:
            connections[-1].sendall(greeting(b"CURVE"))
    time.sleep(0.3)
    for connection in connections:
        connection.close()


ATTACKS = {
    "raw bytes": raw(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 64),
    "an 8 GiB frame": raw(greeting(b"NULL") + b"\x02" + struct.pack(">Q", 8 << 30) + bytes(4096)),
    "an 8 GiB command": raw(greeting(b"CURVE") + b"\x06" + struct.pack(">Q", 8 << 30)),
    "NULL": speaks(lambda push, key: None),
    "PLAIN": speaks(plain),
    "another key": speaks(own_key),
    "the public key": speaks(known_server_key),
    "both public keys": speaks(known_public_keys),
    "a flood": flood,
}


@pytest.mark.parametrize("sealed", ["1", pytest.param("0", marks=pytest.mark.slow)])
def test_strangers_are_refused_and_named_and_the_job_goes_on(sealed):
    key, port, context = JobKey.new(), free_port(), zmq.Context()
    ranks = [Rank(0, 2, port, key, RINGLET_SEALED=sealed)]
    until(lambda: port in ranks[0].ports())
    for attack in ATTACKS.values():  # while rank 0 waits for rank 1 ...
        attack(port, context, key)
    ranks.append(Rank(1, 2, port, key, RINGLET_SEALED=sealed))
    assert [rank.joined() for rank in ranks] == [True, True]
    for rank in ranks:  # ... and while both work
        for attack in ATTACKS.values():
            for listening in rank.ports():
                attack(listening, context, key)
            ranks[0].say("again")
    ranks[0].say("stop")
    for code, out, err in [rank.end() for rank in ranks]:
        assert (code, "right True") == (0, re.search("right True", out)[0]), (out, err)
        assert int(out.split()[-1]) < 64, out  # MiB
        refused = [line for line in err.splitlines() if "refused a connection from 127." in line]
        assert len(refused) == 1, err
    context.term()


def test_a_peer_that_came_by_the_socket_file_before_the_port_opened_is_no_stranger(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(authenticator, "_refused", set())
    context = zmq.Context()
    inbox, peer = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    listener = Listener(inbox, "rank 1")
    peer.connect(listener.bind_ipc(tmp_path / "inbox"))
    peer.send(b"here")
    assert inbox.recv() == b"here"
    port = int(listener.take_port("127.0.0.1").rpartition(":")[2])
    listener.open_port(JobKey.new())
    peer.close(0)
    assert not until(lambda: caplog.messages, seconds=0.2)
    socket.create_connection(("127.0.0.1", port)).close()  # who is one is still named
    until(lambda: caplog.messages)
    assert len(caplog.messages) == 1
    assert "refused a connection from" in caplog.messages[0]
    inbox.close(0)
    context.term()


def come(times, first, second):
    """So often rank 1 comes to rank 0, with these keys: how it ended, and what rank 0 said."""
    port = free_port()
    host = Rank(0, 2, port, **first)
    try:
        for time_ in range(times):
            code, out, _ = Rank(1, 2, port, **second).end()
            yield code, out, host.heard("refused a connection", 1 if time_ else 10)
    finally:
        host.process.kill()
        host.end()


KEY = JobKey.new()


@pytest.mark.parametrize(
    ("first", "second"),
    [({"key": KEY}, {"key": JobKey.new()}), ({"key": KEY}, {"key": None}),
     ({"key": None}, {"key": KEY})],
    ids=["another key", "no key", "a key too many"],
)  # fmt: skip
def test_who_has_not_rank_0s_key_is_told_at_once(first, second):
    said = ""
    for code, out, seen in come(6, first, second):
        said += seen
        assert code == 3
        assert out.startswith("AuthenticationError rank 1: tcp://127.0.0.1:")
        assert "job key" in out  # and no timeout, which is 20 s and another error
        if "rank 0: refused a connection from 127.0.0.1" in said:
            return
        # Now and then ZeroMQ has closed the connection before anybody could look at it.
        assert f"rank 0: refused a connection from {UNKNOWN}" in said
    raise AssertionError("no refusal with its address")


def endless(mechanism, command):
    """A message whose parts, of one byte each, never end: 20 MiB of them, if they are taken. ZeroMQ
    has forty times as much memory for them, and gives none of them before the last."""

    def attack(port, context, key):
        parts = bytes([1, 1, 120]) * 100_000
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(5)
            with contextlib.suppress(OSError):
                connection.sendall(greeting(mechanism))
                connection.recv(64)
                connection.sendall(bytes([4, len(command)]) + command)
                connection.recv(256)
                for _ in range(70):
                    connection.sendall(parts)
                connection.recv(1)

    return attack


READY = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 4) + b"PUSH"
WITHOUT_KEY = {
    **{name: ATTACKS[name] for name in ("raw bytes", "an 8 GiB frame", "NULL", "PLAIN")},
    "endless parts": endless(b"NULL", READY),
    "endless parts behind a guess": endless(b"PLAIN", b"\x05HELLO\x07ringlet\x06secret"),
    "endless parts behind no guess": endless(b"PLAIN", b"\x08INITIATE" + READY[6:]),
}


@pytest.mark.parametrize(
    ("key", "encrypt"),
    [(JobKey.new(), "control"), (None, "all"), (JobKey.new(), "all")],
    ids=["a key for the meeting", "no key", "sealed"],
)
def test_where_curve_guards_no_port_strangers_may_send_nothing(key, encrypt):
    """They do not know the token that each rank told those whom it met."""
    port, context = free_port(), zmq.Context()
    ranks = [Rank(rank, 2, port, key, RINGLET_ENCRYPT=encrypt) for rank in range(2)]
    assert [rank.joined() for rank in ranks] == [True, True]
    for rank in ranks:
        for listening in rank.ports():
            for attack in WITHOUT_KEY.values():
                attack(listening, context, JobKey.new())
        ranks[0].say("again")
    ranks[0].say("stop")
    for code, out, err in [rank.end() for rank in ranks]:
        assert code == 0, err
        assert "right True" in out
        assert int(out.split()[-1]) < 64, out  # MiB
        assert "refused a connection from 127." in err
    context.term()


# -- keys -----------------------------------------------------------------------------------------


def test_a_key_is_derived_the_same_everywhere_and_shows_nothing(tmp_path):
    key = JobKey(bytes(range(32)))
    assert key.curve_public == b"5HTNmOiIRrFvw7]3Wk*f9OU]h:Bod<@J68G4]M!z"
    assert JobKey.parse(key.text + "\n", "here") == key
    assert key.text not in repr(key)
    assert key.curve_secret.decode() not in repr(key)
    assert JobKey.new() != JobKey.new()
    file = tmp_path / "key"
    file.write_text(key.text)
    file.chmod(0o600)
    assert find_key({"RINGLET_KEY_FILE": str(file)}) == key
    assert find_key({"RINGLET_KEY": key.text}) == key
    assert find_key({}) is None


WORLD = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "29400"}
TEXT = JobKey.new().text

REFUSED = {
    "no key": ({}, "ringlet key new"),
    "no key for the ranks' own address": (
        {"MASTER_ADDR": "127.0.0.1", "RINGLET_ADDRESS": "192.0.2.7"}, "192.0.2.7 can be reached"
    ),
    "a name": ({"MASTER_ADDR": "a.example"}, "a.example:29400 can be reached"),
    "not a key": ({"RINGLET_KEY": "secret"}, "RINGLET_KEY holds no job key"),
    "too short": ({"RINGLET_KEY": TEXT[:-2]}, "RINGLET_KEY holds no job key"),
    "no file": ({"RINGLET_KEY_FILE": "/nowhere/key"}, "/nowhere/key"),
    "a key that is not wanted": ({"RINGLET_KEY": TEXT, "RINGLET_INSECURE": "1"}, "unset one of"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_no_open_network_without_a_key(case):
    variables, text = REFUSED[case]
    with pytest.raises(AuthenticationError, match=re.escape(text)) as refused:
        read_environment({**WORLD, **variables})
    assert TEXT[:-2] not in str(refused.value)


def test_a_key_that_others_can_read_is_refused(tmp_path):
    file = tmp_path / "key"
    file.write_text(TEXT)
    file.chmod(0o640)
    with pytest.raises(AuthenticationError, match="chmod 600"):
        read_environment({**WORLD, "RINGLET_KEY_FILE": str(file)})
