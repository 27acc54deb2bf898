"""The flight recorder: with every error, and at a signal."""

import os
import signal
import tempfile
import traceback

import numpy as np
import pytest

from ringlet import comm
from ringlet.comm.calls.recorder import HISTORY


def with_an_error(world):
    world.all_reduce(np.ones(256, np.float32))
    world.barrier()
    if world.rank == 0:
        world.send(np.ones((2, 3)), 1, tag=4)
        world.recv(1)
        return ""
    world.recv(0, tag=4)
    try:
        world.all_gather(np.ones(5), timeout=0.3, label="norms")
    except comm.CommTimeout as error:
        world.send(np.ones(1), 0)
        return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_every_error_shows_what_the_rank_did_last(ranks, transport):
    pool = ranks(2, transport)
    pool.close()  # calls of earlier tests have numbers too
    text = pool.run(with_an_error)[1]
    pool.close()
    lines = text[text.index("rank 1, its last operations") :].splitlines()
    begins = [
        "  all_reduce #0 of (256,) float32 (sum) 1.0 KiB in group [0, 1]: done in ",
        "  barrier #1 in group [0, 1]: done in ",
        "  recv #0 from rank 0, tag 4 in group [0, 1]: done in ",
        "  all_gather #2 of (5,) float64 40 B in group [0, 1]: in flight, begun ",
    ]
    for line, begin in zip(lines[-4:], begins, strict=True):
        assert line.startswith(begin), text
    assert lines[-1].endswith("ago, norms, waits for rank 0")
    assert len(lines) <= 9


def shown(call):
    """What SIGUSR1 writes to stderr now."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            call()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return file.read().decode()


def at_a_signal(world):
    peer = 1 - world.rank
    for _ in range(2 * HISTORY):
        world.all_reduce(np.ones(1))
    text = ""
    if world.rank == 1:
        works = [
            world.irecv(peer, tag=7),
            world.all_reduce(np.ones(1000), async_op=True, label="gradients 1/2"),
            world.all_reduce(np.ones(1000), "max", async_op=True, label="gradients 2/2"),
        ]
        with pytest.raises(comm.CommTimeout):
            works[1].wait(timeout=0.1)
        text = shown(lambda: None)
        world.send(np.ones(1), peer)
    else:
        world.recv(peer)
        works = [world.all_reduce(np.ones(1000), op, async_op=True) for op in ("sum", "max")]
        world.send(np.ones(1), peer, tag=7)
    for work in works:
        work.wait()
    return [text, [record[-1] for record in world._channel.history if record[-1] is not None]]


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_a_signal_shows_what_is_in_flight_and_whom_it_waits_for(ranks, transport):
    pool = ranks(2, transport)
    pool.close()  # calls of earlier tests have numbers too
    results = pool.run(at_a_signal)
    text, flying = results[1]
    assert flying == results[0][1] == []
    (mine,) = (part for part in text.split("rank 1, its last operations") if "newest" in part)
    lines = [line.strip() for line in mine.splitlines()]
    flights = [line for line in lines if ": in flight, begun " in line]
    assert flights[0].startswith("recv #0 from rank 0, tag 7")
    assert flights[0].endswith("waits for rank 0")
    assert flights[1].endswith("gradients 1/2, waits for rank 0")
    assert "(sum) 7.8 KiB" in flights[1]
    assert "(max) 7.8 KiB" in flights[2]
    assert sum(": done in " in line for line in lines) <= HISTORY


def own_handler(world):
    """A program's own handler stays."""
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    comm.show_last_operations_on_signal()
    os.kill(os.getpid(), signal.SIGUSR1)
    world.barrier()
    signal.signal(signal.SIGUSR1, before)
    return heard


def test_a_handler_of_the_programs_own_stays(ranks):
    pool = ranks(1)
    assert pool.run(own_handler) == [[1]]
    pool.close()
