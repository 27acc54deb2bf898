"""Much at once: operations in flight on many groups, several groups, several jobs."""

import threading
import time

import numpy as np
import pytest

from ringlet.launcher.testing.pool import WorkerPool


def storm(world, seed, rounds):
    """Random calls in flight on random groups, issued by each rank in its own order of groups."""
    common, own = np.random.default_rng(seed), np.random.default_rng([seed, world.rank])
    groups = [world]
    for _ in range(6):
        size = int(common.integers(1, world.size + 1))
        members = common.permutation(world.size)[:size].tolist()
        group = world.split(members)
        if group is not None:
            groups.append(group)
    plans = [np.random.default_rng([seed, sum(1 << rank for rank in g.ranks)]) for g in groups]
    for _ in range(rounds):
        issued, counts = [], [int(plan.integers(1, 6)) for plan in plans]
        turns = own.permutation(np.repeat(np.arange(len(groups)), counts))
        for turn in turns:
            issued.append(issue(groups[turn], plans[turn]))
        for number in own.permutation(len(issued)):
            work, right = issued[number]
            np.testing.assert_array_equal(work.wait(), right)
            assert work.done()
    world.barrier()


def issue(group, plan):
    """One asynchronous call, and what it returns: the same plan on all ranks of the group."""
    count, root = int(plan.integers(0, 40_000)), int(plan.integers(group.size))
    operation = plan.choice(["all_reduce", "all_gather", "broadcast", "reduce_scatter"])
    x, n = np.full(count * group.size, group.rank + 1.0), group.size
    total = np.full(x.shape, n * (n + 1) / 2)
    if operation == "all_reduce":
        return group.all_reduce(x, async_op=True), total
    if operation == "all_gather":
        rows = np.repeat(np.arange(1.0, n + 1)[:, None], x.size, 1)
        return group.all_gather(x, async_op=True), rows
    if operation == "broadcast":
        return group.broadcast(x, root, async_op=True), np.full(x.shape, root + 1.0)
    return group.reduce_scatter(x, async_op=True), total[:count]


@pytest.mark.parametrize("transport", ["auto", "tcp"])
@pytest.mark.parametrize("seed", range(3))
def test_any_number_of_operations_on_any_groups(ranks, transport, seed):
    ranks(4, transport).run(storm, seed=seed, rounds=3)


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_any_number_of_operations_on_any_groups_long(ranks, transport):
    for seed in range(100, 130):
        ranks(4, transport).run(storm, seed=seed, rounds=10, deadline=120)


def computes(world):
    """The collective ends while the caller computes and makes no call."""
    work = world.all_reduce(np.ones(1 << 18), async_op=True)
    end, x = time.monotonic() + 10, np.ones((64, 64))
    while not work.done() and time.monotonic() < end:
        x = x @ x / 64
    return work.done()


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_operations_progress_while_the_caller_computes(ranks, transport):
    assert ranks(2, transport).run(computes) == [True, True]


def works_alone(world, salt, rounds):
    """A job's own sums, in the world and in a group that other jobs have as well."""
    group = world.split([1, 0])
    registered = world.empty(5000)
    for number in range(rounds):
        for each in (world, group):
            x = np.full(3000 + number, salt + world.rank, np.float64)
            assert (each.all_reduce(x) == 2 * salt + 1).all()
        registered[...] = salt
        assert (world.all_reduce(registered) == 2 * salt).all()
        peer = 1 - world.rank
        work = world.isend(x[:2], peer)
        assert (world.recv(peer) == 2 * salt + 1).all()
        work.wait()
    return True


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_two_jobs_on_one_host_do_not_meet(transport):
    failures = []

    def job(salt):
        try:
            with WorkerPool(2, transport) as pool:
                pool.run(works_alone, salt=salt, rounds=100)
        except BaseException as error:
            failures.append(error)

    jobs = [threading.Thread(target=job, args=(salt,)) for salt in (100, 7000)]
    for thread in jobs:
        thread.start()
    for thread in jobs:
        thread.join()
    assert not failures
