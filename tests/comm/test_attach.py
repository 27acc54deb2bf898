"""Ranks of one host that reach each other's memory through the kernel, and what if they cannot."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ringlet import comm
from ringlet.comm.arrays import address_of
from ringlet.comm.shared.attach import ProcessMemory, Vanished
from ringlet.comm.shared.exposure import KEPT, WRITER_TIMEOUT_S
from ringlet.launcher.testing.pool import RanksFailed

COUNT = 3_000_001  # float32: more than is staged, not divisible by any number of ranks


def reachable():
    """Whether this process may read another's memory: a forked child's."""
    secret = np.frombuffer(b"a few bytes", np.uint8)
    go, end = os.pipe()
    child = os.fork()
    if not child:
        os.close(end)
        os.read(go, 1)
        os._exit(0)
    try:
        seen = np.empty_like(secret)
        ProcessMemory([child]).read(0, address_of(secret), seen)
        return bool((seen == secret).all())
    except (Vanished, comm.CommError):
        return False
    finally:
        os.close(end)
        os.close(go)
        os.waitpid(child, 0)


needs_attach = pytest.mark.skipif(
    not reachable(), reason="the kernel lets no process read another's memory here (Yama, seccomp)"
)


def everything(world, attached):
    """All collectives on long arrays, some of them registered; whether memory was attached."""
    control = world._channel.shared.control
    assert (control.processes is not None) == attached
    assert len({tuple(said) for said in world.all_gather_object([*control.constants])}) == 1
    n, rank = world.size, world.rank
    x = np.arange(COUNT, dtype=np.float32) % 97 + rank
    total = n * (np.arange(COUNT, dtype=np.float32) % 97) + n * (n - 1) / 2
    registered = world.empty(COUNT)
    for array in (x.copy(), registered if rank else np.empty_like(x)):
        array[...] = x
        assert (world.all_reduce(array) == total).all()
    assert (world.all_reduce(x.copy(), async_op=True).wait() == total).all()
    rows = np.repeat(np.arange(n * 2, dtype=np.float32), COUNT // 2)
    mine = rows.reshape(n, -1)[rank]
    assert (world.reduce_scatter(rows) == n * mine).all()
    assert (world.all_to_all(rows + 100 * rank).reshape(n, -1)[:, 0]
            == mine[0] + 100 * np.arange(n)).all()  # fmt: skip
    assert (world.all_gather(mine) == rows.reshape(n, -1)).all()
    assert (world.broadcast(x.copy(), n - 1) == np.arange(COUNT) % 97 + n - 1).all()
    y = world.reduce(x.copy(), n - 1)
    assert y is None or (y == total).all()
    z = world.gather(mine, n - 1)
    assert z is None or (z == rows.reshape(n, -1)).all()
    assert (world.scatter(rows.reshape(n, -1) if rank == 0 else None) == mine).all()
    group = world.split([n - 1, 0])
    if group is not None:
        assert (group._channel.shared.control.processes is not None) == attached
        assert group._channel.shared.control.constants == control.constants
        assert (group.all_reduce(np.ones(COUNT, np.float32)) == 2).all()
    return world.all_reduce(np.random.default_rng(rank).standard_normal(COUNT)).tobytes()[:4096]


@needs_attach
@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_long_arrays_go_through_the_kernel_and_sums_have_the_bits_of_staged_ones(ranks, size):
    found = {*ranks(size).run(everything, attached=True)}
    for wish in "01":  # not at all, and also where it is slower
        with ranks(size, RINGLET_ATTACH=wish) as pool:
            found |= {*pool.run(everything, attached=wish == "1")}
    assert len(found) == 1


def one_refuses(world):
    return world._channel.shared.control.processes is None and float(
        world.all_reduce(np.ones(COUNT))[0]
    )


def test_where_one_rank_cannot_nobody_does(ranks):
    with ranks(2, RINGLET_ATTACH="0") as pool:
        assert pool.run(one_refuses) == [2.0, 2.0]


def lives(pid):
    """Whether the process is neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends while this is read
        return False


def dies_while_it_is_read(world, seen):
    """Rank 1 ends after it has said where its array is; rank 0 reads it before, or after."""
    read = ProcessMemory.copy

    def copy(self, *where):
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while not seen and lives(self.pids[1]):
            os.sched_yield()
        read(self, *where)

    ProcessMemory.copy = copy
    try:
        world.all_reduce(np.ones(COUNT, np.float32))
    except comm.PeerLost as error:
        return [error.rank, len(KEPT)]
    finally:
        ProcessMemory.copy = read


@needs_attach
@pytest.mark.parametrize("seen", [True, False])
def test_a_rank_that_dies_while_it_is_read_is_named(ranks, seen):
    with ranks(2, RINGLET_ATTACH="1") as pool, pytest.raises(RanksFailed) as failed:
        pool.run(dies_while_it_is_read, seen=seen)
    assert failed.value.results[0] == [1, 0]


def wait_for(path, seconds):
    """Until another rank has made the file, or for so long."""
    until = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < until:
        os.sched_yield()


def interrupted(world, folder, held):
    """Rank 0 is interrupted while rank 1 is writing into its array, which rank 1 goes on with when
    rank 0 has its array back, or after `held` seconds; what rank 0 sees then."""
    put, writes, free = ProcessMemory.put, folder / "writes", folder / "free"

    def slow(self, *where):
        if world.rank == 1:
            writes.touch()
            wait_for(free, held)
        else:
            wait_for(writes, 30)
            raise KeyboardInterrupt
        put(self, *where)

    ProcessMemory.put = slow
    x = np.ones(COUNT, np.float32)
    try:
        world.all_reduce(x, timeout=1)
    except KeyboardInterrupt:
        kept = id(x) in KEPT
        x[...] = 7
        free.touch()
        wait_for(folder / "ended", 30)
        return [kept, bool((x == 7).all())]
    except comm.CommTimeout:
        return (folder / "ended").touch()
    finally:
        ProcessMemory.put = put


@needs_attach
def test_nobody_writes_into_an_array_that_an_error_has_given_back(ranks, tmp_path):
    with ranks(2, RINGLET_ATTACH="1") as pool:
        found = pool.run(interrupted, folder=tmp_path, held=0.4 * WRITER_TIMEOUT_S)
    assert found == [[False, True], None]


@needs_attach
def test_an_array_into_which_a_stopped_rank_may_still_write_is_kept(ranks, tmp_path):
    with ranks(2, RINGLET_ATTACH="1") as pool:
        assert pool.run(interrupted, folder=tmp_path, held=30)[0] == [True, False]


def interrupted_at_a_fence(world):
    """Whether rank 0 has its array back after an interrupt while it waits for the others."""
    if world.rank:
        return None
    control = world._channel.shared.control

    def interrupt():
        raise KeyboardInterrupt

    control.soon = interrupt
    with pytest.raises(KeyboardInterrupt):
        world.all_reduce(np.ones(COUNT, np.float32))
    return control._mine[48] == 0  # exposed in no call


@needs_attach
def test_an_interrupt_while_others_are_awaited_ends_the_exposure(ranks):
    with ranks(2, RINGLET_ATTACH="1") as pool:
        assert pool.run(interrupted_at_a_fence) == [True, None]


@needs_attach
def test_what_is_not_there_is_told_from_what_is():
    with pytest.raises(Vanished):
        ProcessMemory([os.getpid()]).read(0, 4096, np.empty(100))
