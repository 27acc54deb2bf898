"""Messages recorded in an earlier start of a job are refused and counted, whoever sends them: where
they are not sealed (test_sealing.py), with CURVE or in the clear."""

import time

import numpy as np
import pytest
import zmq
from overheard import overheard
from waiting import until

from ringlet.comm.join.key import JobKey, Token
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.testing.pool import WorkerPool

ANOTHER_JOB = "a header of another job"


class Start(WorkerPool):
    """One start of a job that has been started before, over TCP."""

    def __init__(self, generation, key=None):
        variables = {} if key is None else {"RINGLET_KEY": key.text, "RINGLET_SEALED": "0"}
        super().__init__(2, "tcp", variables=variables)
        self._generation = generation

    def _make_job(self):
        return Job(
            2, "tcp", 20.0, job="again", generation=self._generation, variables=self._variables
        )


def work(world):
    """Some of each: collectives in one message and in many, sends, words between endpoints."""
    assert (world.all_reduce(np.ones(1000)) == 2).all()
    assert (world.all_reduce(np.ones(1 << 19)) == 2).all()
    assert world.all_gather_object({"rank": world.rank}) == [{"rank": 0}, {"rank": 1}]
    if world.rank == 1:
        world.send(np.arange(5), 0)
        notices = world._endpoint.notices.waiting
        inbox = world._endpoint.inbox
        until(lambda: inbox.poll() or any(rank == 0 for _, rank in notices))  # it says it waits
    else:
        assert (world.recv(1) == np.arange(5)).all()
    world.barrier()


def record(world):
    """Every message that arrives in the work."""
    with overheard(world) as heard:
        work(world)
    return heard


def listens_at(world):
    (address,) = world._endpoint.addresses - {p.address for p in world._endpoint.peers.values()}
    return address, world._endpoint.token


def work_until(world, count):
    """Work until so many messages have been refused on rank 0; how many were, why, on each."""
    endpoint, until = world._endpoint, time.monotonic() + 10
    more = True
    while more:
        work_a_little(world)
        endpoint.inbox.poll()
        wanted = endpoint.dropped.total() < count and time.monotonic() < until
        more = world.broadcast_object(wanted)
    work(world)
    return dict(endpoint.dropped)


def work_a_little(world):
    for number in range(20):
        assert (world.all_reduce(np.full(number, 1.0)) == 2).all()


def replay(world, frames):
    """Rank 1 sends what it may have sent in another life, on its own connection, between and
    before its own messages."""
    endpoint = world._endpoint
    for head, data in frames if world.rank == 1 else ():
        for outbox in (endpoint._outboxes[0], endpoint._carriers[0]):
            outbox.send(head, zmq.SNDMORE)
            outbox.send(data, 0)
    return work_until(world, 2 * len(frames))


@pytest.fixture(scope="module", params=["open", "with a key"])
def key(request):
    return None if request.param == "open" else JobKey.new()


@pytest.fixture(scope="module")
def recorded(key):
    """What the two ranks of generation 3 heard."""
    with Start(3, key) as first:
        frames = first.run(record)
    assert all(len(heard) >= 5 for heard in frames)
    return [frame for heard in frames for frame in heard]


@pytest.mark.parametrize(
    ("generation", "who"),
    [
        pytest.param(4, "a stranger", id="restarted, a stranger"),
        pytest.param(3, "a peer", id="started anew by hand, a peer"),
        pytest.param(3, "a stranger", id="started anew, a stranger", marks=pytest.mark.slow),
        pytest.param(4, "a peer", id="restarted, a peer", marks=pytest.mark.slow),
    ],
)
def test_recorded_messages_are_refused_and_counted(key, recorded, generation, who):
    with Start(generation, key) as job, zmq.Context() as context:
        if who == "a peer":
            dropped = job.run(replay, frames=recorded)
            expected = 2 * len(recorded)
        else:
            address, token = job.run(listens_at)[0]
            with context.socket(zmq.PUSH) as push:
                push.set(zmq.LINGER, 5000)
                (key or Token(token)).show(push)  # whoever listens, and was inside before
                push.connect(address)
                for frame in recorded:
                    push.send_multipart(frame)
            expected = len(recorded)
            dropped = job.run(work_until, count=expected)
        assert dropped == [{ANOTHER_JOB: expected}, {}]
        assert job.run(work) == [None, None]  # all is well
