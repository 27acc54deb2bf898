"""A sender does not fill the memory of a rank that does not take what it sends, nor its own."""

import time
from pathlib import Path

import numpy as np
import pytest
from waiting import until

from ringlet import comm

WINDOW = 8 << 20


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def narrow(world, window=WINDOW):
    credits = world._channel.endpoint.credits
    credits.window = window
    world.barrier()
    return credits


def sleeper(world, folder):
    """Rank 1 takes nothing, and then waits for rank 2, while rank 0 sends it far more than a
    window."""
    narrow(world)
    large, small, count = np.zeros(1 << 19), np.zeros(7000), 40
    before, blocked = resident(), folder / "blocked"
    if world.rank == 0:
        works = [world.isend(large, 1) for _ in range(count)]  # 160 MiB
        sent = 0
        with pytest.raises(comm.CommTimeout):  # by rank 1's silence
            while True:  # copied at once, up to 32 MiB
                sent += 1
                world.send(small, 1, tag=1, timeout=0.3)
        blocked.touch()
        for _ in range(600 - sent):
            world.send(small, 1, tag=1)
        grown = resident() - before
        for work in works:
            work.wait()
    elif world.rank == 1:
        assert until(blocked.exists)
        world.recv(2)
        grown = resident() - before
        for number in range(count):
            large[:] = 1
            assert not world.recv(0, out=large).any(), number
        for _ in range(600):
            world.recv(0, tag=1, out=small)
    else:
        assert until(blocked.exists)
        world.send(small, 1)
        grown = 0
    world.barrier()
    return grown


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_memory_stays_bounded_while_a_receiver_is_silent_or_waits_for_another(
    ranks, transport, tmp_path
):
    pool = ranks(3, transport)
    sender, receiver, _ = pool.run(sleeper, folder=tmp_path)
    pool.close()
    assert sender < 3 * WINDOW, sender
    assert receiver < 3 * WINDOW, receiver


def both_send_first(world):
    """Many windows each way before anybody receives."""
    narrow(world, 4 << 20)
    x = np.full(1 << 22, world.rank, np.float64)  # 32 MiB
    world.send(x, (world.rank + 1) % world.size)
    left = (world.rank - 1) % world.size
    assert (world.recv(left) == left).all()
    world.barrier()


def through_another(world):
    """0 waits for 2, 2 for 1, and 1 for 0 to take what it sends."""
    narrow(world, 4 << 20)
    x = np.ones(1 << 21)
    if world.rank == 0:
        world.recv(2)
        assert world.recv(1).all()
    elif world.rank == 1:
        world.send(x, 0)
        world.send(x[:3], 2)
    else:
        world.recv(1)
        world.send(x[:3], 0)
    world.barrier()


def mail_first(world):
    """Two windows that nobody receives before collectives are over, whose messages come behind."""
    narrow(world, 4 << 20)
    work = world.isend(np.ones(1 << 20), (world.rank + 1) % world.size)
    world.barrier()
    assert (world.all_reduce(np.ones(3), algorithm="ring") == world.size).all()
    assert world.recv((world.rank - 1) % world.size).all()
    work.wait()


def less_than_was_told(world):
    """A window that is less than what was taken and not told yet."""
    for number in range(9):
        world.broadcast(np.ones(1 << 17), root=number % world.size, algorithm="tree")
    narrow(world, 1 << 20)


@pytest.mark.parametrize(
    "program", [both_send_first, through_another, mail_first, less_than_was_told]
)
def test_ranks_that_wait_in_a_circle_go_on(ranks, program):
    pool = ranks(3, "tcp")
    pool.run(program)
    pool.close()


def runs_ahead(world):
    """A root that only sends is held back, too; and everything arrives in order."""
    narrow(world, 4 << 20)
    for number in range(300):
        if world.rank and number == 100:
            time.sleep(0.3)
        x = np.full(7000, number if world.rank == 0 else -1)
        assert (world.broadcast(x, algorithm="tree") == number).all()
    big = np.arange(1 << 20, dtype=np.float32) % 10
    assert (world.all_reduce(big.copy(), algorithm="ring") == big * world.size).all()
    work = world.all_reduce(big.copy(), algorithm="recursive_doubling", async_op=True)
    assert (work.wait() == big * world.size).all()
    world.barrier()


def test_collectives_run_in_a_narrow_window(ranks):
    pool = ranks(3, "tcp")
    pool.run(runs_ahead)
    pool.close()
