"""Sealed messages: what changes on the way does not open, listeners learn nothing, and no stranger
comes in behind a password that has been overheard."""

import logging
import secrets

import numpy as np
import pytest
import zmq
from overheard import overheard
from quickly import mostly_slow
from waiting import until

from ringlet.comm.join.key import JobKey, Token
from ringlet.comm.sockets import ciphers, seals
from ringlet.comm.sockets.ciphers import CIPHERS, SHORT_BYTES, KeyPair
from ringlet.comm.sockets.outbox import Peer
from ringlet.comm.sockets.seals import Seals
from ringlet.comm.sockets.wire import RECORD_BYTES, Damaged, sealed_bytes
from ringlet.launcher.testing.pool import RanksFailed

SALT = bytes(32)
KEY = JobKey.new().text


def pair(monkeypatch, cipher="AES-256-GCM"):
    monkeypatch.setattr(ciphers, "faster", lambda: cipher)
    return KeyPair(), KeyPair()


def way(ours, theirs, about=("job", 0, 1), salt=SALT):
    """The two ends of the direction from the first to the second, and their passwords."""
    sender, password = ours.way(theirs.offer, salt, about, True)
    receiver, same = theirs.way(ours.offer, salt, about, False)
    return sender, receiver, password, same


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("nbytes", [0, 1, 4096, RECORD_BYTES, RECORD_BYTES + 1, 3 * RECORD_BYTES])
def test_what_is_sealed_opens_at_the_other_end(monkeypatch, cipher, nbytes):
    sender, receiver, password, same = way(*pair(monkeypatch, cipher))
    assert password == same
    for _ in range(3):
        head, array = secrets.token_bytes(150), np.frombuffer(secrets.token_bytes(nbytes), "u1")
        frames = sender.seal(head, array)
        opened, seal = receiver.open(frames[0])
        assert opened == head
        memory = np.empty_like(array)
        seal.open_into(frames[1], memory.data)
        assert (memory == array).all()
        assert seal.open(frames[1]) == array.tobytes()
        assert len(frames[1]) == sealed_bytes(nbytes)


def test_a_slow_aes_on_one_side_is_enough_for_the_other_cipher(monkeypatch):
    ours, _ = pair(monkeypatch, "AES-256-GCM")
    theirs, _ = pair(monkeypatch, "ChaCha20-Poly1305")
    for first, second in ((ours, theirs), (theirs, ours)):
        sender, receiver, *_ = way(first, second)
        assert isinstance(sender._cipher(SALT), CIPHERS["ChaCha20-Poly1305"])
        assert receiver.open(sender.seal(b"head", b"array")[0])[0] == b"head"


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


MESSAGES = [(b"header %d" % number, b"array %d" % number) for number in range(3)]


def opened(receiver, frames):
    """What the receiver makes of the messages; raises Damaged."""
    found = []
    for head, payload in frames:
        text, seal = receiver.open(head)
        found.append((text, seal.open(payload)))
    return found


CHANGED = {
    "repeated": lambda m: [m[0], m[0]],
    "repeated later": lambda m: [m[0], m[1], m[0]],
    "reordered": lambda m: [m[1], m[0]],
    "left out": lambda m: [m[0], m[2]],
    "the first left out": lambda m: [m[1]],
    "an array of another": lambda m: [(m[0][0], m[1][1])],
    "a header of another": lambda m: [(m[1][0], m[0][1])],
    "an array for a header": lambda m: [(m[0][1], m[0][1])],
    "a header for an array": lambda m: [(m[0][0], m[0][0])],
    "no header": lambda m: [(b"", m[0][1])],
    "no array": lambda m: [(m[0][0], b"")],
    "in the clear": lambda m: [MESSAGES[0]],
    **{f"header cut to {n}": lambda m, n=n: [(m[0][0][:n], m[0][1])] for n in (1, 8, 16, 23)},
    **{f"array cut to {n}": lambda m, n=n: [(m[0][0], m[0][1][:n])] for n in (1, 7, 16, 22)},
    "a longer header": lambda m: [(m[0][0] + b"\0", m[0][1])],
    "a longer array": lambda m: [(m[0][0], m[0][1] + b"\0")],
}  # fmt: skip


@pytest.mark.parametrize("cipher", CIPHERS)
def test_what_is_changed_on_the_way_does_not_open(monkeypatch, cipher):
    both = pair(monkeypatch, cipher)

    def sent():
        sender, receiver, *_ = way(*both)
        return [tuple(map(bytes, sender.seal(*message))) for message in MESSAGES], receiver

    frames, receiver = sent()
    assert opened(receiver, frames) == MESSAGES
    for change in CHANGED.values():
        frames, receiver = sent()
        with pytest.raises(Damaged):
            opened(receiver, change(frames))
    for part in (0, 1):
        for bit in range(8 * len(sent()[0][0][part])):
            (first, *_), receiver = sent()
            parts = [flipped(data, bit) if n == part else data for n, data in enumerate(first)]
            with pytest.raises(Damaged):
                opened(receiver, [parts])


RECORD = RECORD_BYTES + 16
RECORDS = {
    "as they were": lambda a: a,
    "one left out": lambda a: a[:RECORD] + a[2 * RECORD :],
    "the last left out": lambda a: a[: 2 * RECORD],
    "exchanged": lambda a: a[RECORD : 2 * RECORD] + a[:RECORD] + a[2 * RECORD :],
    "repeated": lambda a: a[:RECORD] + a[:RECORD] + a[2 * RECORD :],
    "one more": lambda a: a[:RECORD] + a,
    "cut": lambda a: a[:-1],
    "cut to a tag": lambda a: a[: 2 * RECORD + 16],
    "cut to less": lambda a: a[: 2 * RECORD + 5],
}


@pytest.mark.parametrize("change", RECORDS)
def test_records_are_those_that_were_sealed(monkeypatch, change):
    sender, receiver, *_ = way(*pair(monkeypatch))
    array = secrets.token_bytes(2 * RECORD_BYTES + 100)
    head, sealed = sender.seal(b"head", array)
    changed = RECORDS[change](bytes(sealed))
    _, seal = receiver.open(head)
    if changed == sealed:
        assert seal.open(changed) == array
        return
    with pytest.raises(Damaged):
        seal.open(changed)


@pytest.mark.parametrize("nbytes", [SHORT_BYTES + 1, RECORD_BYTES, 3 * RECORD_BYTES + 1])
def test_what_is_sealed_when_it_is_wanted_is_what_is_sealed_at_once(monkeypatch, nbytes):
    both, array = pair(monkeypatch), bytearray(secrets.token_bytes(nbytes))
    (sender, *_), (same, *_) = way(*both), way(*both)
    head, later = sender.seal_later(b"head", array)
    expected, found = same.seal(b"head", array), b""
    assert len(later) == len(expected[1])
    while len(found) < len(later):
        assert not later.done
        found += later[len(found) :][: draw_one(found)]
        if later.done:
            array[:] = bytes(nbytes)  # nothing of it is needed any more
            found += later[len(found) :]
    assert (head, found) == (expected[0], bytes(expected[1]))


def draw_one(found):
    """How much of it leaves next."""
    return 1 + len(found) * 7919 % RECORD_BYTES


def test_only_the_two_ends_have_the_keys_of_a_direction(monkeypatch):
    """Not who sends back what was sent to them, nor another rank, job, key or start."""
    ours, theirs = pair(monkeypatch)
    stranger, _ = pair(monkeypatch)
    sender, _, password, _ = way(ours, theirs)
    frames = [sender.seal(*message) for message in MESSAGES]
    others = {
        "reflected": theirs.way(ours.offer, SALT, ("job", 1, 0), True),
        "reflected under the same name": ours.way(theirs.offer, SALT, ("job", 0, 1), False),
        "another job": theirs.way(ours.offer, SALT, ("other", 0, 1), False),
        "another rank": theirs.way(ours.offer, SALT, ("job", 0, 2), False),
        "another job key": theirs.way(ours.offer, bytes(31) + b"\1", ("job", 0, 1), False),
        "a third": stranger.way(ours.offer, SALT, ("job", 0, 1), False),
        "another meeting": KeyPair().way(ours.offer, SALT, ("job", 0, 1), False),
    }
    for receiver, word in others.values():
        assert word != password
        with pytest.raises(Damaged):
            opened(receiver, frames[:1])


def test_keys_are_renewed_and_forgotten(monkeypatch):
    monkeypatch.setattr(ciphers, "RENEWED_AFTER", 2)
    sender, receiver, *_ = way(*pair(monkeypatch))
    made = []
    for number in range(6):
        frames = sender.seal(b"head", b"array")
        assert opened(receiver, [frames]) == [(b"head", b"array")]
        if number % 2 == 0:
            assert sender._aead is not (made[-1] if made else None)
            made.append(sender._aead)
            assert sender._secret not in made
            made.append(sender._secret)


OFFERS = ["", "x", "AES-256-GCM", "AES-256-GCM zz", "AES-256-GCM 00", f"AES-256-GCM {'00' * 32}"]


@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_that_is_none_is_refused(offer):
    with pytest.raises(ValueError):
        KeyPair().way(offer, SALT, ("job", 0, 1), True)


# -- who seals ------------------------------------------------------------------------------------


def peers(*offers):
    return {
        rank: Peer(rank, f"host-{rank}", 1, f"tcp://192.0.2.{rank}:4", "", offer)
        for rank, offer in enumerate(offers, 1)
    }


def test_who_lacks_the_package_is_named_once_and_all_use_curve(caplog, monkeypatch):
    offer = Seals(1, JobKey.new()).offer
    with caplog.at_level(logging.WARNING, "ringlet.comm"):
        rank_0 = Seals(0, JobKey.new())
        assert rank_0.agree("job", peers(offer, "")) is None
        assert Seals(1, JobKey.new()).agree("job", peers(offer, "")) is None
        (said,) = caplog.messages
        assert "rank 2 on host host-2" in said
        assert "CURVE" in said
        assert "pip install 'ringlet[hosts]'" in said
        assert rank_0.outgoing == {}
        assert rank_0.shown(1) is None
        caplog.clear()
        monkeypatch.setattr(seals, "missing", lambda: "the package cryptography is missing")
        assert Seals(0, JobKey.new()).agree("job", peers(offer, offer)) is None
        (said,) = caplog.messages
        assert "rank 0 cannot seal messages (the package cryptography is missing)" in said
        caplog.clear()
        assert Seals(0, None).agree("job", peers(offer, offer)) is None  # not wanted
        assert caplog.messages == []


# -- ranks ----------------------------------------------------------------------------------------


def work(world):
    assert (world.all_reduce(np.ones(1000)) == world.size).all()
    assert (world.all_reduce(np.ones(1 << 20)) == world.size).all()
    assert (world.broadcast(np.full(1 << 19, world.rank + 1.0)) == 1).all()
    assert world.all_gather_object(world.rank) == list(range(world.size))
    world.barrier()


def recorded(world):
    """What somebody on the network sees of some work: all frames that arrive."""
    with overheard(world) as heard:
        secret = np.frombuffer(b"the same secret!" * 40, "u1").copy()
        for _ in range(3):
            world.all_gather(secret)
        work(world)
        world.barrier()
    job = world._endpoint.job.encode()
    words = [b"secret", b"all_gather", b"all_reduce", b"world", b"float", job]
    return {
        "frames": len(heard),
        "known": [word for word in words for frame in heard if any(word in part for part in frame)],
        "the same": len(heard) - len({head for head, _ in heard}),
    }


def passwords(world):
    """Where rank 1 listens, and what each peer has shown there."""
    own = world._endpoint.addresses - {peer.address for peer in world._endpoint.peers.values()}
    used = {rank: token._passwords[1] for rank, token in [(world.rank, world._endpoint.seals)]
            if world.rank != 1}  # fmt: skip
    return [*own, *used.values()]


def dropped(world):
    world._endpoint.inbox.poll()
    work(world)
    return dict(world._endpoint.dropped)


def test_listeners_learn_nothing_and_an_overheard_password_is_worth_nothing(ranks):
    pool = ranks(3, "tcp", RINGLET_KEY=KEY)
    for seen in pool.run(recorded):
        assert seen["frames"] > 5
        assert seen["known"] == []
        assert seen["the same"] == 0
    (_, first), (address,), (_, third) = pool.run(passwords)
    with zmq.Context() as context:
        for password in (first, third, "guessed"):
            with context.socket(zmq.PUSH) as push:
                push.set(zmq.LINGER, 0)
                push.set(zmq.RECONNECT_IVL, -1)
                monitor = push.get_monitor_socket()
                Token(password).show(push)
                push.connect(address)
                push.send_multipart([b"a", b"b"])
                events = set()
                until(lambda m=monitor, seen=events: seen.add(ended(m)) or True in seen)
                push.disable_monitor()
                monitor.close(0)
    assert pool.run(dropped) == [{}, {}, {}]


def ended(monitor):
    """Whether the monitor has seen the end of a connection that was not let in."""
    while monitor.poll(10):
        kind = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
        assert kind != zmq.EVENT_HANDSHAKE_SUCCEEDED
        if kind == zmq.EVENT_DISCONNECTED:
            return True
    return False


CALLS = {
    "all_reduce": lambda w, x: w.all_reduce(x),
    "all_gather": lambda w, x: w.all_gather(x),
    "broadcast": lambda w, x: w.broadcast(x, root=1),
    "scatter": lambda w, x: w.scatter(x.reshape(4, -1) if w.rank == 2 else None, root=2),
    "all_to_all": lambda w, x: w.all_to_all(x),
}


def on_both_kinds_of_connections(world, asked):
    """What some calls give, by algorithms that pass on what has come in the clear, or sealed."""
    found, seals = {}, world._endpoint.seals
    for name, algorithm in asked:
        x = np.arange(1 << 20, dtype=np.float32) * (world.rank + 1)
        group = world.split([0, 2, 1, 3])
        call = CALLS[name]
        done = call(group, x) if not algorithm else group.broadcast(x, 1, algorithm=algorithm)
        found[f"{name} {algorithm}"] = float(done.sum(dtype=np.float64))
    return found, sorted(seals.outgoing)


@pytest.mark.slow
def test_ranks_of_a_host_talk_in_the_clear_and_hosts_sealed(two_hosts):
    asked = [*((name, "") for name in CALLS), ("broadcast", "chain"), ("broadcast", "tree")]
    hosts = (0, 0, 1, 1)
    results = two_hosts(hosts, RINGLET_KEY=KEY).run(on_both_kinds_of_connections, asked=asked)
    expected = two_hosts(hosts).run(on_both_kinds_of_connections, asked=asked)
    assert [found for found, _ in results] == [found for found, _ in expected]
    assert [sealed for _, sealed in results] == [[2, 3], [2, 3], [0, 1], [0, 1]]
    assert [sealed for _, sealed in expected] == [[], [], [], []]


def works(world):
    while True:
        work(world)


def repeats(world):
    """Rank 1 sends something again, on its own connection."""
    work(world)
    if world.rank == 1:
        direction, sent = world._endpoint.seals.outgoing[0], []
        seal = direction.seal
        direction.seal = lambda *message: sent.append(seal(*message)) or sent[-1]
        work(world)
        world._endpoint._outboxes[0].send_multipart(sent[0])
    works(world)


TAMPERED = "changed, repeated or held back"
ON_THE_WAY = {
    "corrupt rank 1 at its second all_reduce": "damaged message from rank 1: its seal is broken",
    "truncate rank 1 at its second all_reduce": "damaged message from rank 1: its seal is broken",
    "garble rank 1 at its second all_reduce": TAMPERED,
    "duplicate rank 1 at its second all_reduce": TAMPERED,
    "drop rank 1 at its second all_gather": TAMPERED,
}  # fmt: skip


@pytest.mark.parametrize("fault", mostly_slow([*ON_THE_WAY, ""], "", *list(ON_THE_WAY)[:1]))
def test_what_somebody_changes_on_the_way_ends_the_job_at_once(ranks, fault):
    with pytest.raises(RanksFailed) as failed:
        ranks(2, "tcp", RINGLET_KEY=KEY).run(
            works if fault else repeats, faults=[fault] if fault else []
        )
    text = ON_THE_WAY.get(fault, TAMPERED)
    assert text in failed.value.failures[0]
    assert (text == TAMPERED) == ("PeerLost" in failed.value.failures[0])
