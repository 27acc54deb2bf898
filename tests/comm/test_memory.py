"""Groups and registered memory hold no descriptors, and give their memory back when they go."""

import gc
import os
import time
from pathlib import Path

import numpy as np
import pytest

from ringlet import comm


def held():
    """(descriptors, mappings of shared memory) of this process."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return descriptors(), sum("/dev/shm/" in line for line in maps)


def descriptors():
    """How many this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def used(world, make):
    """Something of the kind `make` was used, and has gone."""
    made = make(world)
    if isinstance(made, comm.Group):
        assert made.all_reduce(np.ones(9))[0] == made.size
        assert made.all_reduce(np.ones(300_000), async_op=True).wait()[0] == made.size
        made.barrier()
    else:
        for part in (made, made[3:-2], made.reshape(2, -1)):
            part[...] = 1
            assert (world.all_reduce(part) == world.size).all()
        assert (world.all_reduce(made, async_op=True).wait() == world.size**2).any()


MAKE = {
    "a group": lambda world: world.split(range(world.size)),
    "a group's group": lambda world: world.split([1, 0]).split([0, 1]),
    "short memory": lambda world: world.empty(100),
    "long memory": lambda world: world.empty(1 << 21),
    "memory of a group": lambda world: world.split([1, 0]).empty(4000),
}


def many(world, make):
    used(world, MAKE[make])  # what is made once stays
    before = held()
    for _ in range(10):
        kept = [MAKE[make](world) for _ in range(3)]
        assert held()[0] == before[0]
        del kept
        used(world, MAKE[make])
        world.barrier()
        until = time.monotonic() + 10
        while held() != before and time.monotonic() < until:
            os.sched_yield()  # the progress thread lets go of its last call
        assert held() == before
    return True


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("transport", ["auto", "ipc"])
def test_what_goes_leaves_no_descriptor_and_no_mapping(ranks, make, transport):
    pool = ranks(2, transport)

    assert all(pool.run(without_collector, make=make))


def without_collector(world, make):
    """Nothing waits for Python's collector of circles."""
    gc.collect()
    gc.disable()
    try:
        return many(world, make)
    finally:
        gc.enable()


def more_than_there_are_descriptors(world):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 12, hard))
    try:
        kept = [make(world) for make in list(MAKE.values())[:3] for _ in range(20)]
        return [bool((world.all_reduce(x) == x).all()) for x in kept if isinstance(x, np.ndarray)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_any_number_of_groups_and_buffers_needs_no_descriptors(ranks):
    ranks(2).run(more_than_there_are_descriptors)


def kept_by_one(world):
    """A view keeps the memory; and one rank may keep what the others have let go."""
    whole = world.empty(1 << 16)
    whole[:] = world.rank + 1
    part = whole[100:].reshape(4, -1)
    del whole
    assert (world.all_reduce(part, "max") == world.size).all()
    if world.rank:
        part = np.full((4, part.size // 4), 3.0, np.float32)
    for _ in range(3):  # other memory, perhaps at the same addresses
        other = world.empty(1 << 16)
        other[:] = 1
        assert (world.all_reduce(other) == world.size).all()
        plain = np.ones(1 << 16, np.float32)
        assert (world.all_reduce(plain) == world.size).all()
        assert (world.all_reduce(other if world.rank else plain) == world.size**2).all()
        del other
    part[...] = 2 - world.rank
    assert (world.all_reduce(part) == 2 * world.size - sum(range(world.size))).all()


@pytest.mark.parametrize("size", [2, 3])
def test_memory_stays_while_an_array_lies_in_it(ranks, size):
    ranks(size).run(kept_by_one)
