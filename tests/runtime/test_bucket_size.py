"""Buckets sized by measurement: the same on every rank, and only where no bit depends on it."""

import numpy as np
import pytest

from ringlet import nn
from ringlet.nn.models import GPT, GPTConfig
from ringlet.runtime import Mesh, MeshError, MicroBatch, Parallelism, Step, parallelize
from ringlet.runtime.data.bucket_size import (
    BUCKET_BYTES,
    LARGEST,
    SMALLEST,
    best_bucket_bytes,
    bucket_bytes_for,
    measure_link,
)


@pytest.mark.parametrize(
    ("gradient_bytes", "seconds", "rate", "lost", "expected"),
    [
        (20e6, 400e-6, 12.5e6, 1, 1 << 18),  # 100 Mbit/s
        (20e6, 250e-6, 125e6, 1, 1 << 20),  # 1 Gbit/s
        (40e6, 250e-6, 1.25e9, 1, 1 << 22),  # 10 Gbit/s
        (40e6, 80e-6, 5e9, 1 / 4, 1 << 23),  # shared memory
        (2e6, 50e-6, 1e6, 1, SMALLEST),
        (4e9, 20e-3, 1e9, 1, LARGEST),
        (40e6, 0.0, 1e9, 1, SMALLEST),
    ],
)
def test_the_size_is_the_nearest_power_of_two(gradient_bytes, seconds, rate, lost, expected):
    assert best_bucket_bytes(int(gradient_bytes), seconds, rate, lost) == expected


def chosen(world):
    """Sizes for gradients of 1 and 64 MiB, and for bits that depend on it; what is measured."""
    sizes = [bucket_bytes_for(world, size << 20) for size in (1, 64)]
    return [*sizes, bucket_bytes_for(world, 64 << 20, same_bits=False), list(measure_link(world))]


@pytest.mark.parametrize("transport", ["auto", "ipc"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_ranks_agree_and_a_ring_of_more_than_two_measures_nothing(ranks, size, transport):
    found = ranks(size, transport).run(chosen)
    assert all(row == found[0] for row in found)
    small, large, dependent, (seconds, rate) = found[0]
    assert small == dependent == BUCKET_BYTES
    assert SMALLEST <= large <= LARGEST
    if size == 1 or (size, transport) == (3, "ipc"):
        assert large == BUCKET_BYTES
    assert 0 < seconds < 1
    assert rate > 1e6


def test_a_slow_link_is_measured_as_slow(two_hosts):
    (seconds, rate), _ = two_hosts((0, 1), 100).run(measure_link)
    assert seconds < 0.1
    assert 0.5 * 12.5e6 < rate < 2 * 12.5e6


def sums(world, size):
    """A sum at once, and in pieces that end anywhere."""
    x = np.random.default_rng(world.rank).standard_normal(200_003).astype(np.float32)
    whole, parts = world.empty(x.shape), world.empty(x.shape)
    whole[...] = parts[...] = x
    world.all_reduce(whole)
    for start in range(0, x.size, size):
        world.all_reduce(parts[start : start + size], async_op=True).wait()
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize(("ranks_", "transport"), [(2, "ipc"), (2, "auto"), (3, "auto")])
@pytest.mark.parametrize("size", [1_000, 65_537])
def test_where_it_is_measured_no_bit_depends_on_it(ranks, ranks_, transport, size):
    ranks(ranks_, transport).run(sums, size=size)


def trained(world, bucket_bytes):
    """[number of buckets, the weights after three steps]"""
    with nn.uninitialized():
        model = GPT(GPTConfig(vocab_size=13, block_size=8, n_layer=2, n_head=2, n_embd=16))
    options = Parallelism(bucket_bytes=bucket_bytes)
    parallel = parallelize(model, Mesh(world, dp=world.size), options, seed=7)
    parallel.use(lambda flat: nn.optim.SGD(flat, 0.5))
    for step in range(3):
        ids = np.random.default_rng([step, world.rank]).integers(0, 13, (2, 9))
        parallel.gradients([MicroBatch(ids[:, :-1], ids[:, 1:], 0)], Step(1, step, 1 / 32))
        parallel.update(0.5)
    (shard,) = parallel.shards
    return [len(parallel.gradient_groups[0].reducer.buckets), shard.data.copy()]


def test_a_size_can_be_pinned(ranks):
    found = {size: ranks(2).run(trained, bucket_bytes=size)[0] for size in (0, 4096, 1 << 20)}
    assert found[4096][0] > found[1 << 20][0] == found[0][0] == 1
    np.testing.assert_array_equal(found[4096][1], found[0][1])


def test_what_is_no_size_is_refused():
    with pytest.raises(MeshError, match=r"bucket_bytes is -1; it must be 0 \(measured\) or more"):
        Parallelism(bucket_bytes=-1)
