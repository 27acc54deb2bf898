"""Several ranks on each of several hosts: shared memory on each, little between them."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from ringlet import comm
from ringlet.comm.schedules.algorithms import schedule
from ringlet.comm.schedules.schedule import Send
from ringlet.launcher.testing.pool import RanksFailed

FOUR = (0, 0, 1, 1)


def between_hosts(size, per_host, nbytes):
    """Bytes that the hierarchical schedule sends from each host to others, over all its ranks."""
    plan = schedule("all_reduce", "hierarchical", size, per_host=per_host)
    crossing = sum(
        isinstance(step, Send) and step.peer // per_host != 0
        for steps in plan.steps[:per_host]
        for step in steps
    )
    return crossing * nbytes // plan.slots


def on_the_link():
    """Bytes that have left this host, as its network device counts them."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "link0":
            return int(figures.split()[8])
    raise AssertionError("no link0 here")


def counted(world, nbytes, calls):
    """[bytes sent to the other host in payloads, bytes on its link, a result]"""
    x = np.ones(nbytes // 4, np.float32)
    others = [str(rank) for rank in range(4) if rank // 2 != world.rank // 2]

    def payloads():
        peers = world.stats()["peers"]
        return sum(peers.get(int(rank), {}).get("bytes_sent", 0) for rank in others)

    world.barrier()
    time.sleep(0.05)
    before, link = payloads(), on_the_link()
    for _ in range(calls):
        world.all_reduce(x, "max", algorithm="hierarchical")
    after = payloads()
    world.split([world.rank // 2 * 2, world.rank // 2 * 2 + 1]).barrier()
    time.sleep(0.05)
    return [after - before, on_the_link() - link, x[0]]


@pytest.mark.parametrize("nbytes", [1 << 20, 8 << 20])
def test_between_hosts_travels_what_the_schedule_counts(two_hosts, nbytes):
    calls = 3
    results = two_hosts(FOUR).run(counted, nbytes=nbytes, calls=calls)
    expected = between_hosts(4, 2, nbytes) * calls
    assert expected == nbytes * calls  # 2 (hosts - 1) / hosts of the array
    for host in (results[:2], results[2:]):
        assert sum(sent for sent, _, _ in host) == expected
        for _, link, _ in host:
            # Frames, headers, acknowledgements, and the few words of the groups' making.
            assert expected <= link < 1.06 * expected + 50_000


def results(world):
    """In all ways: sizes that do not divide, dtypes, layouts, reductions, orders of ranks."""
    groups = [
        world,
        world.split([2, 1, 3, 0]),
        world.split([0, 2] if world.rank % 2 == 0 else [1, 3]),
    ]
    for group in groups:
        n = group.size
        ranks_ = range(n)
        name = "hierarchical" if n == 4 else "ring"
        for shape in [(), (1,), (3,), (0,), (5, 7), (100_003,)]:
            for dtype in ("float32", "float16", "int64", "complex64"):
                base = (np.arange(np.prod(shape, dtype=int)) % 5).reshape(shape)
                x = np.array(base + group.rank, dtype)
                expected = np.array(base * n + sum(ranks_), dtype)
                assert (group.all_reduce(x.copy(), algorithm=name) == expected).all()
                assert (group.all_reduce(x.copy(), async_op=True).wait() == expected).all()
                if dtype.startswith("float"):
                    mean = group.all_reduce(x.copy(), "mean")
                    assert (mean == (expected.astype("f8") / n).astype(dtype)).all()
        x = np.asfortranarray(np.full((40, 50), group.rank + 1.0))
        assert (group.all_reduce(x, "prod") == np.prod([r + 1.0 for r in ranks_])).all()
        for number in range(n):
            assert (group.broadcast(np.full(9, group.rank), number) == number).all()
        assert (group.all_gather(np.array(group.rank)) == np.arange(n)).all()
        group.barrier()


def test_results(two_hosts):
    two_hosts(FOUR).run(results)


def bits(world):
    x = np.random.default_rng(world.rank).standard_normal(10_007).astype(np.float32)
    found = [world.all_reduce(x.copy(), algorithm="hierarchical") for _ in range(3)]
    registered = world.empty(x.shape)
    registered[...] = x
    found.append(world.all_reduce(registered, algorithm="hierarchical"))
    for result in found:
        assert all(np.array_equal(row, found[0]) for row in world.all_gather(result))
    inside = world.split([0, 1] if world.rank < 2 else [2, 3])
    regions = world._channel.context.regions
    return [inside.shares_memory, regions.place(registered) != (0, 0)]


def test_bits_are_the_same_everywhere_registered_or_not(two_hosts):
    assert two_hosts(FOUR).run(bits) == [[True, True]] * 4


def uneven(world):
    """Three ranks here and one there: no hierarchy, and everything else as usual."""
    x = np.full(50_000, world.rank + 1.0)
    assert (world.all_reduce(x) == 10).all()
    with pytest.raises(ValueError, match="at least two ranks on each of at least two hosts"):
        world.all_reduce(x, algorithm="hierarchical")
    pair = world.split([0, 2])
    if pair is not None:
        assert pair.shares_memory
        assert (pair.all_reduce(np.ones(4)) == 2).all()


def test_hosts_with_unequal_numbers_of_ranks(two_hosts):
    two_hosts((0, 0, 0, 1)).run(uneven)


def killed(world):
    world.all_reduce(np.ones(1 << 16), algorithm="hierarchical")
    if world.rank == 3:
        for rank in range(3):  # they are about to wait
            world.recv(rank, tag=99)
        os.kill(os.getpid(), signal.SIGKILL)
    world.isend(np.ones(1), 3, tag=99)
    with pytest.raises(comm.PeerLost, match="killed by signal 9") as caught:
        world.all_reduce(np.ones(1 << 16), algorithm="hierarchical")
    return caught.value.rank


def test_a_rank_that_is_killed_is_named_on_both_hosts(two_hosts):
    with pytest.raises(RanksFailed) as failed:
        two_hosts(FOUR).run(killed)
    assert failed.value.results == {0: 3, 1: 3, 2: 3}


def mismatched(world):
    with pytest.raises(comm.CollectiveMismatch, match=r"\(65536,\).*\(65535,\)|\(65535,\).*65536"):
        x = np.ones(1 << 16 if world.rank != 1 else (1 << 16) - 1)
        world.all_reduce(x, algorithm="hierarchical")


def test_a_mismatch_on_one_host_is_told_on_both(two_hosts):
    pool = two_hosts(FOUR)
    pool.run(mismatched)
    pool.close()
