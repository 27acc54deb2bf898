"""Plain TCP sockets for arrays: who gets one, what comes by it, and who moves it."""

import contextlib
import os
import random
import signal
import socket
import struct
import threading
import time

import numpy as np
import pytest
import zmq
from waiting import until

from ringlet import comm
from ringlet.comm.join import authenticator
from ringlet.comm.join.key import JobKey
from ringlet.comm.signature import Signature
from ringlet.comm.sockets import introductions
from ringlet.comm.sockets.arriving import Message, Sink
from ringlet.comm.sockets.ciphers import KeyPair
from ringlet.comm.sockets.inbox import Inbox
from ringlet.comm.sockets.introductions import WORD_BYTES, Introductions
from ringlet.comm.sockets.listener import Listener
from ringlet.comm.sockets.tcp_socket import BUFFER_BYTES, TcpSocket
from ringlet.comm.sockets.tcp_sockets import TcpSockets
from ringlet.comm.sockets.wire import (
    HEADER_BYTES,
    MOST_BYTES,
    RECORD_BYTES,
    TAG_BYTES,
    Damaged,
    Header,
    checksum,
)
from ringlet.launcher.testing.pool import RanksFailed

# -- who gets one ---------------------------------------------------------------------------------


def greeting(rank, word, magic=b"ringlet\1"):
    return struct.pack(f">8sI{WORD_BYTES}s", magic, rank, word)


STRANGERS = {
    "raw bytes": b"GET / HTTP/1.1\r\n\r\n" + bytes(200),
    "ZeroMQ": b"\xff" + bytes(8) + b"\x7f\3" + bytes(100),
    "a wrong word": greeting(2, b"guessed"),
    "no word": greeting(2, b""),
    "another rank's number": greeting(0, b"word of 2"),
    "a rank that there is not": greeting(77, b"word of 2"),
    "its own number": greeting(1, b"word of 2"),
    "another program": greeting(2, b"word of 2", b"ringlet\0"),
    "half of it, and the end": greeting(2, b"word of 2")[:50],
    "nothing, and the end": b"",
}


class Meeting:
    """Rank 1 of 4, which waits for ranks 2 and 3 and comes to rank 0."""

    def __init__(self):
        self.context = zmq.Context()
        self.listener = Listener(self.context.socket(zmq.PULL), "rank 1")
        self.address = self.listener.take_port("127.0.0.1")
        self.port = int(self.address.rpartition(":")[2])
        self.lower = socket.create_server(("127.0.0.1", 0))
        there = f"tcp://127.0.0.1:{self.lower.getsockname()[1]}"
        words = {0: "word of 0", 2: "word of 2", 3: "word of 3"}
        self.lost = []
        self.introductions = Introductions(1, {0: there, 2: "", 3: ""}, words, self.lost.append)
        self.met, self.stopped = None, False
        self.thread = threading.Thread(target=self.meet)
        self.thread.start()

    def meet(self):
        try:
            self.met = self.introductions.meet(self.listener, self.tick)
        except StopIteration:
            self.introductions.close()

    def tick(self):
        if self.stopped:
            raise StopIteration

    def come(self, data, ends=False):
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.sendall(data)
        if ends:
            with contextlib.suppress(OSError):  # it is refused already
                connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        return connection

    def end(self):
        self.stopped = True
        self.thread.join(10)
        self.lower.close()
        self.listener.close()
        self.listener._inbox.close(0)
        self.context.term()


def is_refused(connection):
    """Once it is."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def meeting(monkeypatch):
    monkeypatch.setattr(authenticator, "_refused", set())
    made = Meeting()
    yield made
    made.end()


def test_strangers_are_refused_and_named_and_the_ranks_meet(meeting, caplog, monkeypatch):
    monkeypatch.setattr(introductions, "GREETING_S", 0.3)
    silent = meeting.come(b"")
    slow = meeting.come(greeting(2, b"word of 2")[:50])
    for data in STRANGERS.values():
        with meeting.come(data, ends=True) as stranger:
            assert is_refused(stranger)
    for connection in (silent, slow):
        assert is_refused(connection)
        connection.close()
    there = [meeting.lower.accept()[0]]
    assert there[0].recv(100) == greeting(1, b"word of 0")
    there += [meeting.come(greeting(rank, b"word of %d" % rank)) for rank in (2, 3)]
    assert until(lambda: meeting.met)
    assert sorted(meeting.met) == [0, 2, 3]
    for (_, here), end in zip(sorted(meeting.met.items()), there, strict=True):
        end.sendall(b"x")
        here.setblocking(True)
        assert here.recv(2) == b"x"
        end.close()
    assert [m for m in caplog.messages if "rank 1: refused a connection from 127.0.0.1" in m]
    for connection in meeting.met.values():
        connection.close()


def test_a_word_lets_in_once(meeting):
    with meeting.come(greeting(2, b"word of 2")) as first:
        assert until(lambda: meeting.introductions.missing == {3})
        with meeting.come(greeting(2, b"word of 2")) as second:
            assert is_refused(second)
        first.setblocking(False)
        with pytest.raises(BlockingIOError):
            first.recv(1)


def test_a_rank_that_has_ended_is_told_and_one_that_cannot_be_reached_is_an_error(meeting):
    gone = Introductions(1, {0: "tcp://127.0.0.1:1"}, {0: ""}, meeting.lost.append)

    def tick():
        if meeting.lost:
            raise StopIteration

    with pytest.raises(StopIteration):
        gone.meet(meeting.listener, tick)
    gone.close()
    assert meeting.lost == [0]
    far = Introductions(1, {0: "tcp://255.255.255.255:1"}, {0: ""}, meeting.lost.append)
    with pytest.raises(comm.CommError, match=r"rank 1 cannot reach rank 0 at tcp://255\.255"):
        far.meet(meeting.listener, lambda: None)
    far.close()


# -- what comes by it -----------------------------------------------------------------------------


def frame(head, body):
    return struct.pack(">HI", len(head), len(body)) + head + body


def directions():
    """Twice the sending end of a sealed connection, and its other end."""
    ours, theirs = KeyPair(), KeyPair()
    here = [ours.way(theirs.offer, bytes(32), ("job", 0, 1), True)[0] for _ in range(2)]
    return *here, theirs.way(ours.offer, bytes(32), ("job", 0, 1), False)[0]


def announced(peer, number, head, size):
    """Of a message that is not sealed, and for which nothing waits."""
    return head, None, None


def connected():
    """The two ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = socket.create_connection(server.getsockname())
        here, _ = server.accept()
    here.setblocking(False)
    return here, there


@pytest.fixture
def ends():
    """A plain socket, and the other end of its connection."""
    here, there = connected()
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tcp = TcpSocket(7, here, lambda waits: None, announced)
    yield tcp, there
    tcp.close()
    there.close()


def heard(tcp, count, seconds=10):
    """The first messages that come, so many."""
    messages = []

    def accept(head, body, source, seal):
        assert source == 7
        messages.append((head, bytes(body)))

    assert until(lambda: tcp.read(accept) and len(messages) >= count, seconds), len(messages)
    return messages


LENGTHS = [0, 1, 7, 4096, BUFFER_BYTES - 100, BUFFER_BYTES, BUFFER_BYTES + 1, 300_000, 1 << 20]


@pytest.mark.parametrize("most", [1000, 40_000, 1 << 22])
def test_messages_arrive_however_the_bytes_are_cut(ends, most):
    tcp, there = ends
    draw = random.Random(most)
    sent = [
        (draw.randbytes(draw.choice([1, 90, 200, HEADER_BYTES])), draw.randbytes(size))
        for size in draw.choices(LENGTHS, k=30)
    ]
    data = b"".join(frame(*message) for message in sent)

    def send():
        at = 0
        while at < len(data):
            size = draw.randint(1, most)
            there.sendall(data[at : at + size])
            at += size

    thread = threading.Thread(target=send)
    thread.start()
    assert heard(tcp, len(sent)) == sent
    thread.join()


@pytest.mark.parametrize(
    "data",
    [struct.pack(">HI", HEADER_BYTES + TAG_BYTES + 1, 4),
     struct.pack(">HI", 4, MOST_BYTES + 1), b"\xff" * 100],
    ids=["a long header", "a long array", "rubbish"],
)  # fmt: skip
def test_what_is_no_message_is_refused_before_memory_is_taken(ends, data):
    tcp, there = ends
    there.sendall(frame(b"head", b"body") + data)
    with pytest.raises(ValueError, match="a header of"):
        heard(tcp, 2)


def test_the_end_of_a_connection_is_told_after_what_came_before(ends):
    tcp, there = ends
    there.sendall(frame(b"head", b"body") + frame(b"cut", bytes(1000))[:500])
    there.close()
    assert heard(tcp, 1) == [(b"head", b"body")]
    with pytest.raises(EOFError):
        heard(tcp, 1)
    with pytest.raises(zmq.ZMQError):
        tcp.close()
        tcp.send(b"head", zmq.SNDMORE)
        tcp.send(b"body", 0)


def test_what_does_not_fit_the_kernels_buffer_leaves_later_and_memory_is_free_when_it_has(ends):
    tcp, there = ends
    body, small = bytearray(os.urandom(32 << 20)), bytearray(b"small" * 99)
    tcp.send(b"head", zmq.SNDMORE)
    leaving = tcp.send(body, 0)
    assert leaving is not None
    assert not leaving.done
    tcp.send(b"head", zmq.SNDMORE)
    assert tcp.send(small, 0) is None  # a copy waits
    expected = frame(b"head", bytes(body)) + frame(b"head", bytes(small))
    small[:] = bytes(len(small))
    arrived = bytearray()
    while len(arrived) < len(expected):
        tcp.push()
        arrived += there.recv(1 << 20)
    assert arrived == expected
    assert leaving.done
    assert until(lambda: not tcp.unsent())


class Interrupt(BaseException):
    """As KeyboardInterrupt is."""


def interrupted(step, ended):
    """Take the step again and again until all has ended, with interrupts anywhere; how many."""
    armed, count, until = [], 0, time.monotonic() + 20

    def interrupt(number, stack):
        if armed:
            armed.clear()
            raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        while not ended():
            assert time.monotonic() < until
            try:
                armed.append(True)
                while not ended():
                    step()
                armed.clear()
            except Interrupt:
                count += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return count


def test_an_interrupt_loses_no_byte_of_what_is_read(ends):
    tcp, there = ends
    draw, messages = random.Random(3), []
    sent = [(b"%d" % n, draw.randbytes(draw.choice(LENGTHS))) for n in range(400)]
    thread = threading.Thread(target=lambda: [there.sendall(frame(*each)) for each in sent])
    thread.start()

    def accept(head, body, source, seal):
        if not messages or messages[-1][0] != head:  # calls drop what comes again
            messages.append((head, body))

    count = interrupted(lambda: tcp.read(accept), lambda: len(messages) >= len(sent))
    thread.join()
    assert count > 20
    assert [(head, bytes(body)) for head, body in messages] == sent


@pytest.fixture
def sockets():
    """All sockets of a process, which are one, and its other end."""
    here, there = connected()
    context = zmq.Context()
    inbox = Inbox(context, lambda frames: None, lambda quiet: None)
    made = TcpSockets(inbox, announced, lambda peer, why: None)
    made.open({7: here})
    yield made, there
    inbox.retire()
    made.close()
    inbox.close()
    context.term()
    there.close()


def test_an_interrupt_leaves_nothing_that_nobody_wakes_for(sockets):
    """Nothing follows a message until it is there."""
    made, there = sockets
    numbers, ended = [], []

    def send():
        for left in range(400, 0, -1):
            if ended:
                return
            there.sendall(frame(b"%d" % left, bytes(left % 3 * 50_000)))
            while numbers[-1:] != [left] and not ended:
                time.sleep(0.0002)

    def accept(head, body, source, seal):
        if not numbers or numbers[-1] != int(head):
            numbers.append(int(head))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        interrupted(lambda: made.read(accept, 0.05), lambda: numbers[-1:] == [1])
    finally:
        ended.append(True)
        thread.join()
    assert numbers == list(range(400, 0, -1))


@pytest.mark.parametrize("polls", [False, True])
def test_an_interrupt_leaves_the_inbox_to_others(polls):
    """Whoever waits next reads it."""
    context = zmq.Context()
    inbox = Inbox(context, lambda frames: None, lambda quiet: None)
    looks = iter(range(60_000))

    def look():
        if polls:
            next(looks, None)
            inbox.poll()
        else:
            inbox.wait(lambda: next(looks, 2) % 3 == 2, lambda: None, 0)

    try:
        count = interrupted(look, lambda: next(looks, None) is None)
        assert count > 20
        assert inbox._leader == 0
    finally:
        inbox.close()
        context.term()


@pytest.mark.parametrize("sealed", [False, True])
def test_an_interrupt_repeats_no_byte_of_what_is_sent(ends, sealed):
    tcp, there = ends
    body, got = os.urandom(48 << 20), bytearray()
    sender, same, _ = directions()
    head, leaves = sender.seal_later(b"head", body) if sealed else (b"head", body)
    head, body = same.seal(b"head", body) if sealed else (head, body)

    def receive():
        while len(got) < 6 + len(head) + len(body):
            got.extend(there.recv(1 << 16))

    thread = threading.Thread(target=receive)
    tcp.send(head, zmq.SNDMORE)
    leaving = tcp.send(leaves, 0)
    thread.start()
    count = interrupted(tcp.push, lambda: leaving.done and not tcp.unsent())
    thread.join()
    assert count > 20
    assert got == frame(head, bytes(body))


# -- where it goes --------------------------------------------------------------------------------

SIZES = [3, 1000, 1 << 15, 300_001, RECORD_BYTES // 2]


def waits(tcp, sink, opens=None):
    """The sink of `sink()` waits for what comes; sealed, if something opens it."""

    def begin(peer, number, head, size):
        head, seal = (head, None) if opens is None else opens.open(head, number)
        sink().begin(seal)
        return head, seal, sink()

    tcp._begin = begin


@pytest.mark.parametrize("combine", [None, np.add, np.subtract])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["checked", "unchecked", "sealed"])
def test_block_by_block_is_what_it_is_at_once(ends, combine, size, kind):
    tcp, there = ends
    checked, (seals, _, opens) = kind == "checked", directions()
    arrived, own = np.random.default_rng(size).normal(size=(2, size)).astype("f4")
    header = Header(*"jggs", 0, 0, Signature("x", "", (), ""), 0, checksum(arrived.data.cast("B")))
    header = header._replace(checksum=header.checksum if checked else None)
    whole, parts = own.copy(), own.copy()
    sinks = [Sink(memory, combine, True, wants_check=True) for memory in (whole, parts)]
    first = Message(header, arrived.tobytes()).take_to(sinks[0])
    sinks[1].checked = checked
    waits(tcp, lambda: sinks[1], opens if kind == "sealed" else None)
    message = b"h" * 90, arrived.tobytes()
    if kind == "sealed":
        message = seals.seal(*message)
    thread = threading.Thread(target=lambda: there.sendall(frame(message[0], bytes(message[1]))))
    thread.start()
    found = []
    assert until(lambda: tcp.read(lambda *message: found.append(message)))
    thread.join()
    head, payload, _, seal = found[0]
    assert (head, seal is not None) == (b"h" * 90, kind == "sealed")
    assert (payload is sinks[1]) == (arrived.nbytes > BUFFER_BYTES)
    second = Message(header, payload, seal=seal).take_to(sinks[1])
    assert (whole == parts).all()
    assert (whole == (arrived if combine is None else combine(arrived, own))).all()
    if arrived.nbytes >= 4096 and (checked or combine is not None):
        assert first == second == checksum(whole.data.cast("B"))


@pytest.mark.parametrize("sealed", [False, True])
def test_an_interrupt_leaves_a_sum_right_or_damaged(ends, sealed):
    """Never wrong without a word, though its bytes have no checksum."""
    tcp, there = ends
    seals, _, opens = directions()
    own, arrived = np.random.default_rng(1).normal(size=(2, 200_001)).astype("f4")
    sinks = [Sink(own.copy(), np.add) for _ in range(200)]
    messages = []
    for sink in sinks:
        sink.checked = False
    waits(tcp, lambda: sinks[len(messages)], opens if sealed else None)
    data = frame(b"head", arrived.tobytes()) * len(sinks)
    if sealed:
        frames = [seals.seal(b"head", arrived.tobytes()) for _ in sinks]
        data = b"".join(frame(head, bytes(array)) for head, array in frames)
    thread = threading.Thread(target=there.sendall, args=(data,))
    thread.start()

    def accept(head, payload, source, seal):
        if not messages or messages[-1][0] is not payload:
            messages.append((payload, seal))

    count = interrupted(lambda: tcp.read(accept), lambda: len(messages) >= len(sinks))
    thread.join()
    assert count > 5
    header = Header(*"jggs", 0, 0, Signature("x", "", (), ""), 0, None)
    right = 0
    for payload, seal in messages:
        try:
            sink = payload if isinstance(payload, Sink) else Sink(own.copy(), np.add)
            Message(header, payload, seal=seal).take_to(sink)
        except Damaged:
            continue
        assert (sink.segment == own + arrived).all()
        right += 1
    assert right > 5


def test_a_change_on_the_way_is_found_and_a_sink_that_is_closed_gets_nothing_more(ends):
    tcp, there = ends
    arrived = np.ones(1 << 20, "f4")
    header = Header(*"jggs", 0, 0, Signature("x", "", (), ""), 0, 17)
    memory = np.zeros_like(arrived)
    sink = Sink(memory)
    waits(tcp, lambda: sink)
    data, found = frame(b"head", arrived.tobytes()), []

    def accept(*message):
        found.append(message)

    for end in (len(data), len(data) // 2):
        sink.spoiled, found[:] = False, []
        thread = threading.Thread(target=there.sendall, args=(data[:end],))
        thread.start()
        until(lambda e=end, t=thread: tcp.read(accept) or (e < len(data) and not t.is_alive()))
        thread.join()
        if found:
            with pytest.raises(Damaged):
                Message(header, found[0][1]).take_to(sink)
            memory[:] = 0
            sink = Sink(memory)
    tcp.read(accept)
    assert memory.any()
    sink.close()
    memory[:] = 5
    there.sendall(data[end:] + frame(b"next", b""))
    assert until(lambda: tcp.read(accept) and found)
    assert [head for head, *_ in found] == [b"next"]
    assert (memory == 5).all()


@pytest.mark.parametrize("combine", [None, np.add])
@pytest.mark.parametrize("place", [0, RECORD_BYTES - 1, RECORD_BYTES + 500, -1])
def test_a_record_that_was_changed_is_found_and_what_follows_is_read(ends, place, combine):
    tcp, there = ends
    seals, _, opens = directions()
    sink = Sink(np.zeros(RECORD_BYTES // 2, "f4"), combine)
    waits(tcp, lambda: sink, opens)
    head, sealed = seals.seal(b"head", bytes(sink.nbytes))
    sealed[place] ^= 1
    last = seals.seal(b"last", b"")
    data = frame(head, bytes(sealed)) + frame(last[0], bytes(last[1]))
    thread = threading.Thread(target=there.sendall, args=(data,))
    thread.start()
    found = []
    assert until(lambda: tcp.read(lambda *message: found.append(message)) and len(found) == 2)
    thread.join()
    header = Header(*"jggs", 0, 0, Signature("x", "", (), ""), 0, None)
    with pytest.raises(Damaged):
        Message(header, found[0][1], seal=found[0][3]).take_to(sink)
    assert found[1][0] == b"last"


def test_what_a_sum_raises_is_raised_in_its_own_call(ends):
    tcp, there = ends

    def refuse(*operands, out):
        raise FloatingPointError("underflow")

    x = np.ones(1 << 16, "f4")
    sink = Sink(x.copy(), refuse)
    waits(tcp, lambda: sink)
    there.sendall(frame(b"head", x.tobytes()) + frame(b"next", b""))
    found = []
    assert until(lambda: tcp.read(lambda *message: found.append(message)) and len(found) == 2)
    header = Header(*"jggs", 0, 0, Signature("x", "", (), ""), 0, None)
    with pytest.raises(FloatingPointError, match="underflow"):
        Message(header, found[0][1]).take_to(sink)


def test_a_fork_lets_go_though_another_thread_sends(ends):
    tcp, there = ends
    with tcp._lock:
        tcp.leave()
    assert there.recv(1) == b""


# -- who moves it ---------------------------------------------------------------------------------

LARGE = 8 << 20  # numbers of 4 bytes: more than the kernel's buffers take


def computing(world, who):
    """`who` computes for two seconds, and waits for nothing; the other one, meanwhile, gets what it
    has sent, and gets rid of what it is to receive. Returns how long that took."""
    x = np.full(LARGE, world.rank, np.float32)
    world.barrier()
    began = time.monotonic()
    if world.rank == who:
        work = world.isend(x, 1 - who)
        while time.monotonic() - began < 2:
            np.add(x, 0, out=np.empty_like(x))
        took = time.monotonic() - began
        work.wait()
        assert (world.recv(1 - who) == 1 - who).all()
    else:
        assert (world.recv(who) == who).all()
        world.send(x, who)
        took = time.monotonic() - began
    world.barrier()
    return took


@pytest.mark.parametrize("who", [0, 1])
def test_what_a_rank_sends_and_gets_moves_while_it_computes(ranks, who):
    took = ranks(2, "tcp").run(computing, who=who)
    assert took[1 - who] < took[who]


def stopped(world):
    """Rank 0 is stopped while it sends; rank 1 gives up, and uses the memory for something else."""
    x = np.full(LARGE, 1, np.float32)
    pids = world.all_gather_object(os.getpid())
    world.barrier()
    if world.rank == 0:
        comm.inject(["stop rank 0 in its first all_reduce"])
        with contextlib.suppress(comm.CommError):  # it may have all it needs
            world.all_reduce(x, timeout=1)
        return None
    try:
        with pytest.raises(comm.CommTimeout):
            world.all_reduce(x, timeout=0.5)
        x[:] = 7
    finally:
        os.kill(pids[0], signal.SIGCONT)
    other = world._endpoint.tcp.outboxes[0]
    until(lambda: world._endpoint.inbox.poll() or other._arrival is None, 0.5)
    return bool((x == 7).all())


def test_nothing_is_written_to_an_array_whose_call_has_ended(ranks):
    assert ranks(2, "tcp", RINGLET_TEST="stopped").run(stopped)[1]


MANY = 96 << 20  # more than credit lets leave at once


def given_up(world, call):
    """Rank 1 is stopped while rank 0 sends, gives up, and uses the memory for something else."""
    pids = world.all_gather_object(os.getpid())
    x = np.ones(MANY, np.uint8)
    world.barrier()
    if world.rank == 0:
        os.kill(pids[1], signal.SIGSTOP)
        try:
            with pytest.raises(comm.CommTimeout):
                CALLS[call](world, x, 0.5)
            x[:] = 7
        finally:
            os.kill(pids[1], signal.SIGCONT)
        world.recv(1)
        return None
    x[:] = 0
    try:
        x = CALLS[call](world, x, 10)
    except comm.CommError:
        x = x[:0]  # it may end so, too
    world.send(np.ones(1), 0)
    return [int(value) for value in np.unique(x)]


CALLS = {
    "send": lambda world, x, timeout: (
        world.recv(0, timeout=timeout) if world.rank else world.send(x, 1, timeout=timeout)
    ),
    "broadcast": lambda world, x, timeout: world.broadcast(x, 0, algorithm="tree", timeout=timeout),
}


@pytest.mark.parametrize("key", [None, JobKey.new().text], ids=["clear", "sealed"])
@pytest.mark.parametrize("call", CALLS)
def test_who_gives_up_a_call_has_sent_what_it_was_called_with(ranks, call, key):
    options = {} if key is None else {"RINGLET_KEY": key}
    found = ranks(2, "tcp", RINGLET_TEST="given up", **options).run(given_up, call=call)
    assert found[1] in ([], [1])


def unchecked(world):
    """A header without a checksum, as if it came from another host."""
    endpoint = world._endpoint
    endpoint.tcp.inside.clear()
    world.barrier()
    if world.rank == 0:
        endpoint.checks = lambda peer: False
        world.send(np.ones(5), 1)
        return None
    with pytest.raises(comm.CommTimeout):
        world.recv(0, timeout=0.3)
    return dict(endpoint.dropped)


def test_between_hosts_everything_has_a_checksum(ranks):
    _, dropped = ranks(2, "tcp", RINGLET_TEST="unchecked").run(unchecked)
    assert dropped == {"a header without a checksum": 1}


def impostor(world):
    """Rank 1 says that it is rank 2."""
    endpoint = world._endpoint
    if world.rank == 1:
        endpoint.rank = 2
        world.send(np.ones(5), 0)
        endpoint.rank = 1
    if world.rank == 0:
        with pytest.raises(comm.CommTimeout):
            world.recv(2, timeout=0.3)
        return dict(endpoint.dropped)
    return None


def test_a_message_is_of_the_rank_whose_connection_it_came_by(ranks):
    dropped, *_ = ranks(3, "tcp", RINGLET_TEST="impostor").run(impostor)
    assert dropped == {"a header of another rank": 1}


def rubbish(world):
    """Rank 1 writes what is no message."""
    if world.rank == 1:
        world._endpoint.tcp.outboxes[0]._connection.sendall(b"\xff" * 100)
    world.all_reduce(np.ones(3))


def test_a_peer_that_writes_rubbish_is_lost(ranks):
    with pytest.raises(RanksFailed) as failed:
        ranks(2, "tcp", RINGLET_TEST="rubbish").run(rubbish)
    assert "changed, repeated or held back" in failed.value.failures[0]


def forked(world):
    """A child has the parent's descriptors, and closes its own."""
    world.all_reduce(np.ones(1 << 18))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return world.all_reduce(np.ones(1 << 18))[0]


def test_a_fork_that_ends_ends_no_connection(ranks):
    assert ranks(2, "tcp").run(forked) == [2, 2]
