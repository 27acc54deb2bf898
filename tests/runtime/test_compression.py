"""Compression: bounded errors, the same bits on every rank, nothing forgotten, bytes as stated."""

import math
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from ringlet.nn.random import generator
from ringlet.runtime.compression import (
    CODECS,
    SCHEMES,
    bytes_sent,
    collectives,
    make_codec,
    make_compressor,
    redistribute,
)
from ringlet.runtime.compression.automatic import choose, reason
from ringlet.runtime.compression.codecs import BLOCK, CHUNK

SIZES = [0, 1, 2, 5, 255, 256, 257, 1000, CHUNK, 2 * CHUNK + 300]
SPECS = ["float16", "bfloat16", "int8", "topk", "topk:0.2", "powersgd", "powersgd:1"]
LOSSY = ["int8", "topk:0.1", "powersgd:4"]


def noise(size, *labels, scale=1.0):
    drawn = generator(0, "test", *labels).standard_normal(size, dtype=np.float32)
    return np.asarray(scale * drawn, np.float32)


# -- codecs -----------------------------------------------------------------------------------


def bound(name, x):
    """The largest error that each element may have."""
    if name == "float16":
        return np.maximum(np.abs(x) * 2.0**-11, 2.0**-25)
    if name == "bfloat16":
        return np.abs(x) * 2.0**-8
    blocks = -(-x.size // BLOCK)
    largest = [np.abs(x[i * BLOCK : (i + 1) * BLOCK]).max() for i in range(blocks)]
    return np.repeat(largest, BLOCK)[: x.size] / 254 * (1 + 1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CODECS)
def test_each_element_is_within_its_bound(name, size, scale):
    x, codec = noise(size, scale=scale), make_codec(name)
    data = codec.encode(x)
    assert data.dtype == np.uint8
    assert data.nbytes == codec.nbytes(size)
    decoded = codec.decode(data, np.empty_like(x))
    assert decoded.dtype == np.float32
    assert (np.abs(decoded - x) <= bound(name, x)).all()


@pytest.mark.parametrize(
    ("name", "nbytes"),
    [("float16", 2 * 1000), ("bfloat16", 2 * 1000), ("int8", 1000 + 4 * 4)],
)
def test_encoded_sizes(name, nbytes):
    assert make_codec(name).nbytes(1000) == nbytes


@pytest.mark.parametrize("name", CODECS)
def test_encoding_what_was_decoded_loses_nothing_more(name):
    codec, x = make_codec(name), noise(1000)
    once = codec.decode(codec.encode(x), np.empty_like(x))
    twice = codec.decode(codec.encode(once), np.empty_like(x))
    np.testing.assert_allclose(twice, once, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 255, 256, CHUNK + 7, 2 * CHUNK + 299])
@pytest.mark.parametrize("name", CODECS)
def test_what_is_not_finite_stays_so(name, place, value):
    x = noise(2 * CHUNK + 300)
    x[place] = value
    decoded = CODECS[name].decode(CODECS[name].encode(x), np.empty_like(x))
    assert not np.isfinite(decoded[place])
    if name != "int8":
        np.testing.assert_equal(decoded[place], x[place])
        assert np.isfinite(np.delete(decoded, place)).all()


def test_a_nan_of_any_bits_stays_one_in_bfloat16():
    bits = np.array([0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], np.uint32)
    codec = CODECS["bfloat16"]
    assert np.isnan(codec.decode(codec.encode(bits.view(np.float32)), np.empty(4, "f4"))).all()


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 1e-30, 1e30, np.finfo("f4").max])
def test_all_magnitudes_stay_finite(name, value):
    x = np.array([value, -value, value / 2, 0], np.float32)
    decoded = CODECS[name].decode(CODECS[name].encode(x), np.empty_like(x))
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded.astype(float)) <= float(value) * 1.01 + 1e-45).all()
    if name == "float16":
        assert (np.abs(decoded) <= 65504).all()
        assert decoded[0] == (65504 if value > 65504 else np.float16(value))


def test_float16_has_the_bits_of_the_plain_conversion():
    # A sample of all float32 numbers in its range, both signs, and all halfway points.
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    sample = np.arange(0, np.float32(65504).view(np.uint32) + 1, 1021, dtype=np.uint32)
    x = np.concatenate([halves, (halves[1:] + halves[:-1]) / 2, sample.view(np.float32)])
    x = np.concatenate([x, -x])
    data = CODECS["float16"].encode(x)
    expected = x.astype(np.float16)
    np.testing.assert_array_equal(data.view(np.uint16), expected.view(np.uint16))
    decoded = CODECS["float16"].decode(data, np.empty_like(x))
    np.testing.assert_array_equal(decoded.view(np.uint32), expected.astype("f4").view(np.uint32))


def test_bfloat16_rounds_to_nearest_even():
    exact, step = np.float32(1), np.float32(2.0**-7)
    x = np.array([1 + step / 2, 1 + 3 * step / 2, 1 + 0.51 * step, 1 + 0.49 * step], np.float32)
    codec = CODECS["bfloat16"]
    decoded = codec.decode(codec.encode(x), np.empty_like(x))
    assert decoded.tolist() == [exact, 1 + 2 * step, 1 + step, exact]


@pytest.mark.parametrize("name", CODECS)
def test_codecs_add_take_any_shape_and_any_address(name):
    codec, x = CODECS[name], noise((7, 2 * CHUNK // 6))
    data = codec.encode(x)
    plain = codec.decode(data, np.empty_like(x))
    np.testing.assert_array_equal(codec.encode(np.asfortranarray(x)), data)
    shifted = np.zeros(data.size + 1, np.uint8)[1:]
    np.testing.assert_array_equal(codec.encode(x, shifted), data)
    base = noise(x.shape, 1)
    added = codec.decode(shifted, base.copy(), add=True)
    np.testing.assert_array_equal(added, base + plain)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e30])
@pytest.mark.parametrize("size", [0, 1, 257, CHUNK + 300])
@pytest.mark.parametrize("name", CODECS)
def test_what_is_sent_and_what_is_fed_back_are_all_there_was(name, size, scale):
    codec, x, before = CODECS[name], noise(size, scale=scale), noise(size, 1, scale=scale / 8)
    sent, residual = x.copy(), before.copy()
    data = codec.feed_back(sent, residual, np.empty(codec.nbytes(size), np.uint8))
    np.testing.assert_array_equal(codec.decode(data, np.empty_like(x)), sent)
    np.testing.assert_allclose(sent + residual, x + before, rtol=1e-6)
    assert np.isfinite(sent).all()
    if scale == 1.0:  # a number that is cut off loses at most the last bit that stays
        assert (np.abs(residual) <= 2.0001 * bound(name, x + before)).all()


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", CODECS)
def test_what_is_not_finite_is_fed_back_as_such(name, value):
    x = noise(1000)
    x[300] = value
    data = CODECS[name].feed_back(x, np.zeros_like(x), np.empty(CODECS[name].nbytes(1000), "u1"))
    assert not np.isfinite(CODECS[name].decode(data, np.empty_like(x))[300])


@pytest.mark.parametrize("name", CODECS)
def test_codecs_refuse_what_does_not_fit(name):
    codec, x = CODECS[name], noise(10)
    with pytest.raises(TypeError, match="float32, not float64"):
        codec.encode(x.astype(float))
    with pytest.raises(ValueError, match=f"10 elements are {codec.nbytes(10)} bytes of {name}"):
        codec.encode(x, np.empty(5, np.uint8))
    with pytest.raises(ValueError, match="11 elements are"):
        codec.decode(codec.encode(x), np.empty(11, np.float32))
    with pytest.raises(ValueError, match="contiguous float32"):
        codec.decode(codec.encode(x), np.empty(20, np.float32)[::2])


def test_an_unknown_codec_is_told_what_there_is():
    with pytest.raises(ValueError, match="no codec 'int4'; there are float16, bfloat16, int8"):
        make_codec("int4")


# -- the choice of a codec ----------------------------------------------------------------------


class Linked(NamedTuple):
    """What a choice looks at of a group."""

    bits_per_s: float
    size: int = 2
    shares_memory: bool = False

    @property
    def links(self):
        return f"network=1e-4,{self.bits_per_s / 8:.6g},6e-05"


@pytest.mark.parametrize(
    ("group", "chosen", "why"),
    [
        (Linked(1e8), "int8", "as int8: the link has 100 Mbit/s"),
        (Linked(9.3e8), "int8", "as int8: the link has 930 Mbit/s"),
        (Linked(1.1e9, size=16), "int8", "as int8: the link has 1,100 Mbit/s"),
        (Linked(9e9), "", "plainly: the link has 9,000 Mbit/s"),
        (Linked(1e8, shares_memory=True), "", "plainly: the 2 ranks share memory"),
        (Linked(1e8, size=1), "", "plainly: there is nobody to send them to"),
    ],
)
def test_auto_chooses_by_the_link_and_says_so(group, chosen, why):
    assert choose(group) == chosen
    assert reason(group) == f"compress auto sums gradients {why}"


def test_auto_does_not_depend_on_the_noise_of_a_measurement():
    assert len({choose(Linked(1e9 * noise)) for noise in np.linspace(0.4, 2, 50)}) == 1


# -- collectives ------------------------------------------------------------------------------

SHAPES = [(1,), (5,), (3, 7), (0,), (2, 0), (), (1031,), (4, 600)]


def summed(world):
    """All-reduce of every shape with every codec, against the exact sum."""
    for name, codec in CODECS.items():
        for shape in SHAPES:
            inputs = [noise(shape, rank) for rank in range(world.size)]
            x = np.array(inputs[world.rank])
            assert collectives.all_reduce(world, x, codec) is x
            exact = np.sum(inputs, axis=0, dtype=np.float32)
            check(world, name, x, exact, inputs)


def check(world, name, x, exact, inputs):
    assert x.dtype == np.float32
    if world.size == 1:
        np.testing.assert_array_equal(x, exact)
        return
    np.testing.assert_array_equal(np.ptp(world.all_gather(x), axis=0), 0)  # the same bits
    largest = max([float(np.abs(i).max()) for i in inputs if i.size], default=0.0)
    precision = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "int8": 1 / 254}[name]
    # Each other rank's contribution is encoded, then the sum of them.
    assert np.abs(x - exact).max(initial=0) <= 2.2 * world.size * precision * largest


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_encoded_all_reduce_sums_with_the_same_bits(ranks, size):
    ranks(size).run(summed)


def gathered(world):
    for codec in CODECS.values():
        for shape in SHAPES:
            inputs = [noise(shape, rank) for rank in range(world.size)]
            rows = collectives.all_gather(world, inputs[world.rank], codec)
            assert rows.shape == (world.size, *shape)
            if world.size == 1:
                np.testing.assert_array_equal(rows[0], inputs[0])
                continue
            for row, x in zip(rows, inputs, strict=True):
                decoded = codec.decode(codec.encode(x), np.empty(shape, np.float32))
                np.testing.assert_array_equal(row, decoded)


def scattered(world):
    """Also from arrays that are not contiguous, while other work goes on."""
    for codec in CODECS.values():
        for shape in [(1,), (3, 5), (2, 0), (300,), (7, 100)]:
            whole = (world.size * shape[0], *shape[1:])
            inputs = [noise(whole, rank) for rank in range(world.size)]
            x = np.asfortranarray(inputs[world.rank])
            pending = collectives.reduce_scatter(world, x, codec, async_op=True)
            mine = pending.wait()
            assert mine.shape == shape
            exact = np.sum(inputs, axis=0).reshape(world.size, *shape)[world.rank]
            largest = max(np.abs(i).max(initial=0) for i in inputs)
            error = 0 if world.size == 1 else world.size * largest / 200
            np.testing.assert_allclose(mine, exact, atol=error)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_encoded_all_gather_and_reduce_scatter(ranks, size):
    ranks(size).run(gathered)
    ranks(size).run(scattered)


def several_in_flight(world):
    codec, inputs = CODECS["int8"], [noise(500, 1, world.rank), noise(900, 2, world.rank)]
    alone = [collectives.all_reduce(world, x.copy(), codec) for x in inputs]
    strided = [np.zeros((x.size, 2), np.float32)[:, 0] for x in inputs]
    for place, x in zip(strided, inputs, strict=True):
        place[...] = x
    pending = [collectives.all_reduce(world, x, codec, async_op=True) for x in strided]
    for work, x, expected in zip(pending, strided, alone, strict=True):
        assert work.wait() is x
        np.testing.assert_array_equal(x, expected)


def test_encoded_collectives_can_be_waited_for_later(ranks):
    ranks(3).run(several_in_flight)


def refused(world):
    codec = CODECS["int8"]
    for call in (collectives.all_reduce, collectives.all_gather, collectives.reduce_scatter):
        with pytest.raises(TypeError, match="only float32"):
            call(world, np.zeros(4), codec)
    with pytest.raises(ValueError, match="cannot be cut into 2"):
        collectives.reduce_scatter(world, np.zeros(3, np.float32), codec)
    frozen = np.zeros(3, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        collectives.all_reduce(world, frozen, codec)


def test_encoded_collectives_refuse_before_anything_is_sent(ranks):
    ranks(2).run(refused)


# -- compressors ------------------------------------------------------------------------------

LAYOUT = [(0, 1200, (30, 40)), (1200, 1240, (40,)), (1240, 1840, (20, 5, 6)), (1850, 1853, (3, 1))]
LENGTH = 1857
"""Two matrices that PowerSGD compresses, a bias, a matrix too small, and gaps."""


def step(compressor, gradient, residual, **options):
    """One stretch, summed: a new array."""
    grad = gradient.copy()
    assert compressor.start(grad, residual, LAYOUT, **options).wait() is grad
    return grad


def conserved(world, spec):
    """Sum and residuals together are the exact sum; every rank has the sum's bits."""
    compressor = make_compressor(spec, world)
    residual, forgotten = np.zeros(LENGTH, np.float32), np.zeros(LENGTH, np.float32)
    for number in range(3):
        total = step(compressor, noise(LENGTH, number, world.rank), residual)
        np.testing.assert_array_equal(np.ptp(world.all_gather(total), axis=0), 0)
        forgotten += sum(noise(LENGTH, number, rank) for rank in range(world.size)) - total
        np.testing.assert_allclose(world.all_reduce(residual.copy()), forgotten, atol=2e-4)
    return float(np.abs(residual).max())


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("spec", SPECS)
def test_nothing_is_lost_but_put_off(ranks, spec, size):
    lost = ranks(size).run(conserved, spec=spec)
    assert all(value > 0 for value in lost) == (size > 1)


def odd_lengths(world):
    for spec in SPECS:
        compressor = make_compressor(spec, world)
        for place, length in enumerate([0, 1, 2, 3, 4, 7, 257, 1031]):
            grad, residual = noise(length, world.rank), np.zeros(length, np.float32)
            compressor.start(grad, residual, place=2000 * place).wait()
            exact = np.sum([noise(length, r) for r in range(world.size)], axis=0)
            total = grad + world.all_reduce(residual)
            np.testing.assert_allclose(total, exact, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_any_length(ranks, size):
    ranks(size).run(odd_lengths)


def constant(world, spec, feedback):
    """How far the mean of 50 sums of a constant gradient is from the exact sum, and one sum."""
    compressor = make_compressor(spec, world)
    gradient = noise(LENGTH, world.rank)
    residual, applied = np.zeros(LENGTH, np.float32), np.zeros(LENGTH, np.float32)
    exact = sum(noise(LENGTH, rank) for rank in range(world.size))
    errors = []
    for number in range(50):
        applied += step(compressor, gradient, residual)
        errors.append(float(np.linalg.norm(applied / (number + 1) - exact)))
        if not feedback:
            residual.fill(0)
    return [errors[0], errors[-1]]


@pytest.mark.parametrize("spec", [*LOSSY, "float16", "bfloat16"])
def test_the_mean_update_converges_with_error_feedback(ranks, spec):
    first, last = ranks(2).run(constant, spec=spec, feedback=True)[0]
    assert last < first / 5


@pytest.mark.parametrize("spec", ["int8", "topk:0.1"])
def test_without_error_feedback_it_does_not(ranks, spec):
    first, last = ranks(2).run(constant, spec=spec, feedback=False)[0]
    assert last > 0.99 * first


def descended(world, spec):
    """Gradient descent to the mean of the ranks' targets; how far from it all ends."""
    compressor = make_compressor(spec, world)
    target = noise(LENGTH, world.rank)
    mean = sum(noise(LENGTH, rank) for rank in range(world.size)) / world.size
    x, residual = np.zeros(LENGTH, np.float32), np.zeros(LENGTH, np.float32)
    for number in range(150):
        rate = np.float32(0.05 if number < 75 else 0.02)
        x -= rate / world.size * step(compressor, x - target, residual)
    return float(np.linalg.norm(x - mean) / np.linalg.norm(mean))


@pytest.mark.parametrize("spec", ["int8", "topk:0.1", "powersgd:4"])
def test_a_quadratic_problem_is_solved(ranks, spec):
    assert max(ranks(3).run(descended, spec=spec)) < 0.05


def low_rank(world):
    """PowerSGD gets a matrix of its own rank right, once it has seen it."""
    compressor = make_compressor("powersgd:2", world)
    u, v = noise((30, 2), "u"), noise((2, 40), "v")
    gradient = np.zeros(LENGTH, np.float32)
    gradient[:1200] = (u @ v).ravel()
    total = step(compressor, gradient, np.zeros(LENGTH, np.float32))
    np.testing.assert_allclose(total, world.size * gradient, atol=1e-4)


def test_a_matrix_of_low_rank_arrives_whole(ranks):
    ranks(2).run(low_rank)


def vectors(world):
    compressor = make_compressor("powersgd", world)
    residual = np.zeros(LENGTH, np.float32)
    total = step(compressor, noise(LENGTH, world.rank), residual)
    exact = sum(noise(LENGTH, rank) for rank in range(world.size))
    for part in (slice(1200, 1240), slice(1840, LENGTH)):
        np.testing.assert_allclose(total[part], exact[part], atol=1e-6)
        assert (residual[part] == 0).all()


def test_powersgd_sums_vectors_and_small_matrices_exactly(ranks):
    ranks(2).run(vectors)


def largest_elements(world):
    compressor = make_compressor("topk:0.1", world)
    grad = np.arange(20, dtype=np.float32) * (-1) ** world.rank
    residual = np.zeros(20, np.float32)
    residual[3] = 100 if world.rank == 0 else 0
    compressor.start(grad, residual).wait()
    # Rank 0 sends 103 and 19, rank 1 -18 and -19.
    assert {int(place): grad[place] for place in np.flatnonzero(grad)} == {3: 103, 18: -18}
    sent = [3, 19] if world.rank == 0 else [18, 19]
    kept = np.delete(np.arange(20), sent) * (-1.0) ** world.rank
    np.testing.assert_array_equal(np.delete(residual, sent), kept)
    assert (residual[sent] == 0).all()


def test_topk_sends_the_largest_with_what_was_put_off(ranks):
    ranks(2).run(largest_elements)


def spoiled(world, spec, value):
    compressor = make_compressor(spec, world)
    gradient = noise(LENGTH, world.rank)
    if world.rank == world.size - 1:
        gradient[[7, 1210]] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is the trainer's to say so, once
        total = step(compressor, gradient, np.zeros(LENGTH, np.float32))
    assert not np.isfinite(total[7])
    assert not np.isfinite(total[1210])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("spec", SPECS)
def test_what_is_not_finite_on_one_rank_is_not_on_any(ranks, spec, value):
    ranks(3).run(spoiled, spec=spec, value=value)


def run_on(compressor, world, residual, steps):
    """Two stretches in each step, both in flight."""
    results = []
    for number in steps:
        grads = [noise(LENGTH, number, which, world.rank) for which in range(2)]
        works = [
            compressor.start(grad, residual[which], LAYOUT, place=which * LENGTH)
            for which, grad in enumerate(grads)
        ]
        results += [work.wait().copy() for work in works]
    return results


def resumed(world, spec):
    whole_memory = np.zeros((2, LENGTH), np.float32)
    whole = run_on(make_compressor(spec, world), world, whole_memory, range(6))
    first, memory = make_compressor(spec, world), np.zeros((2, LENGTH), np.float32)
    results = run_on(first, world, memory, range(3))
    second = make_compressor(spec, world)
    second.load(first.state())
    results += run_on(second, world, memory.copy(), range(3, 6))
    np.testing.assert_array_equal(results, whole)
    for name, q in second.state().items():
        np.testing.assert_array_equal(np.ptp(world.all_gather(q), axis=0), 0, err_msg=name)
    names = {str(which * LENGTH + start) for which in range(2) for start in (0, 1240)}
    assert set(second.state()) == (names if spec.startswith("powersgd") else set())


@pytest.mark.parametrize("spec", ["int8", "topk:0.1", "powersgd:2"])
def test_a_checkpoint_continues_bit_for_bit(ranks, spec):
    ranks(2).run(resumed, spec=spec)


def many_in_flight(world, spec):
    """Eight stretches at once are the same bits as one after the other."""
    alone, together = make_compressor(spec, world), make_compressor(spec, world)
    memory = np.zeros((2, 8, LENGTH), np.float32)
    for number in range(2):
        grads = [noise(LENGTH, number, which, world.rank) for which in range(8)]
        expected = [
            step(alone, grad, memory[0, which], place=which * LENGTH)
            for which, grad in enumerate(grads)
        ]
        works = [
            together.start(grad, memory[1, which], LAYOUT, place=which * LENGTH, label=f"{which}")
            for which, grad in enumerate(grads)
        ]
        for work in works:
            work.wait()
        np.testing.assert_array_equal(grads, expected)
    np.testing.assert_array_equal(memory[0], memory[1])


@pytest.mark.parametrize("spec", ["int8", "topk:0.1", "powersgd:2"])
def test_many_stretches_can_be_on_their_way(ranks, spec):
    ranks(3).run(many_in_flight, spec=spec)


def second_phases(world, spec):
    """How many stretches have begun their second collective before anybody waits."""
    compressor, number = make_compressor(spec, world), 6
    grads = [noise(LENGTH, which, world.rank) for which in range(number)]
    memory = np.zeros((number, LENGTH), np.float32)
    operation = "all_gather" if spec == "int8" else "all_reduce"
    before = calls(world, operation)
    works = [
        compressor.start(grad, memory[which], LAYOUT, place=which * LENGTH)
        for which, grad in enumerate(grads)
    ]
    world.barrier()  # everything issued before has ended now
    started = calls(world, operation) - before
    for work in works:
        work.wait()
    return started if spec == "int8" else started - number


def calls(world, operation):
    return world.stats()["operations"].get(operation, {"calls": 0})["calls"]


@pytest.mark.parametrize("spec", ["int8", "powersgd"])
def test_second_collectives_start_while_backward_still_runs(ranks, spec):
    assert ranks(3).run(second_phases, spec=spec) == [4, 4, 4]


def wrong_stretches(world):
    compressor = make_compressor("powersgd", world)
    good, residual = np.zeros(LENGTH, np.float32), np.zeros(LENGTH, np.float32)
    for grad, memory, matrices, words in [
        (good.astype(float), residual, (), "gradient must be a contiguous float32"),
        (good, residual.reshape(1, -1), (), "residual must be a contiguous float32"),
        (good, residual[1:], (), "1857 elements has a residual of 1856"),
        (good, residual, [(0, 10, (3, 3))], r"shape \(3, 3\) fits at 0:10"),
        (good, residual, [(0, 9, (3, 3)), (8, 12, (4,))], "of which 9 are taken"),
        (good, residual, [(1850, 1860, (10,))], "a stretch of 1857"),
    ]:
        with pytest.raises(ValueError, match=words):
            compressor.start(grad, memory, matrices)
    work = compressor.start(good, residual, LAYOUT)
    with pytest.raises(ValueError, match=r"at \['0', '1240'\] .* already on their way"):
        compressor.start(good.copy(), residual.copy(), LAYOUT)
    work.wait()
    other = make_compressor("powersgd:2", world)
    other.load(compressor.state())
    with pytest.raises(ValueError, match=r"a Q of \(40, 4\) .* which needs \(40, 2\)"):
        other.start(good, residual, LAYOUT)
    with pytest.raises(ValueError, match="int8 has no state of its own, but is given"):
        make_compressor("int8", world).load(compressor.state())
    with pytest.raises(ValueError, match="places as names, not"):
        other.load({"momentum": good})


def test_stretches_and_states_that_do_not_fit_are_refused(ranks):
    ranks(2).run(wrong_stretches)


# -- names, bytes, other numbers of ranks -----------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("int4", r"no compressor 'int4'; there are float16, .*topk\[:ratio\], powersgd\[:rank\]"),
        ("", "no compressor ''"),
        ("int8:3", "'int8:3': it takes no parameter; write int8"),
        ("topk:0", r"above 0 and at most 1; write topk\[:ratio\]"),
        ("topk:1.5", "above 0 and at most 1"),
        ("topk:nan", "above 0 and at most 1"),
        ("topk:few", "'topk:few': .*'few'"),
        ("topk:", "a parameter is missing"),
        ("powersgd:0", "at least 1"),
        ("powersgd:2.5", r"'powersgd:2.5': .*write powersgd\[:rank\]"),
    ],
)
def test_a_bad_name_or_parameter_is_told_what_there_is(spec, words):
    with pytest.raises(ValueError, match=words):
        bytes_sent(spec, 10, (), 2)


def counted(world, spec, sizes):
    """Bytes that this rank sends for some stretches, and what the compressor says."""
    compressor = make_compressor(spec, world)
    before = total_sent(world)
    for size in sizes:
        matrices = LAYOUT if size == LENGTH else ()
        grad, residual = noise(size, world.rank), np.zeros(size, np.float32)
        compressor.start(grad, residual, matrices, place=10_000 * size).wait()
    said = [bytes_sent(spec, n, LAYOUT if n == LENGTH else (), world.size) for n in sizes]
    return [total_sent(world) - before, sum(said)]


def total_sent(world):
    return sum(part["bytes_sent"] for part in world.stats()["operations"].values())


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("spec", SPECS)
def test_bytes_are_as_stated(ranks, spec, size):
    sizes = [0, 1, 257, LENGTH, 4096]
    stated = sum(bytes_sent(spec, n, LAYOUT if n == LENGTH else (), size) for n in sizes)
    for sent, said in ranks(size, transport="ipc").run(counted, spec=spec, sizes=sizes):
        assert sent == said == stated


def counted_activations(world, name):
    codec, sent = CODECS[name], [total_sent(world)]
    for call in (collectives.all_reduce, collectives.reduce_scatter, collectives.all_gather):
        call(world, noise((world.size, 333), world.rank), codec)
        sent.append(total_sent(world))
    return np.diff(sent).tolist()


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", CODECS)
def test_bytes_of_activations_are_as_stated(ranks, name, size):
    codec, elements = CODECS[name], size * 333
    stated = [
        collectives.all_reduce_bytes(elements, codec, size),
        collectives.reduce_scatter_bytes(elements, codec, size),
        (size - 1) * codec.nbytes(elements),
    ]
    results = ranks(size, transport="ipc").run(counted_activations, name=name)
    assert all(result == stated for result in results)


@pytest.mark.parametrize(
    ("spec", "nbytes"),
    [
        ("float16", 2 * 3 / 4 * 2 * 2**20),
        ("bfloat16", 2 * 3 / 4 * 2 * 2**20),
        ("int8", 2 * 3 / 4 * (1 + 4 / 256) * 2**20),
        ("topk", 3 * 8 * math.ceil(0.01 * 2**20)),
        ("powersgd", 2 * 3 / 4 * 4 * 4 * (1024 + 1024)),
        ("powersgd:2", 2 * 3 / 4 * 4 * 2 * (1024 + 1024)),
    ],
)
def test_bytes_for_a_mebi_of_floats_on_four_ranks(spec, nbytes):
    assert bytes_sent(spec, 2**20, [(0, 2**20, (1024, 1024))], 4) == nbytes


def test_the_table_of_bytes_in_the_documentation_is_right():
    text = (Path(__file__).parents[2] / "docs/explanation/compression.md").read_text()
    rows = re.findall(r"^\| `(\S+)` \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|", text, re.MULTILINE)
    assert {row[0].partition(":")[0] for row in rows} == set(SCHEMES)
    for spec, *written in rows:
        stated = [bytes_sent(spec, 2**20, [(0, 2**20, (1024, 1024))], n) for n in (2, 4, 8)]
        assert [int(number.replace(",", "")) for number in written] == stated


@pytest.mark.parametrize("spec", list(SCHEMES))
def test_one_rank_sends_nothing(spec):
    assert bytes_sent(spec, LENGTH, LAYOUT, 1) == 0


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (4, 1), (2, 2)])
def test_residuals_go_on_with_another_number_of_ranks(before, after):
    residuals = [noise(100, rank) for rank in range(before)]
    mine = redistribute(residuals, after)
    assert mine.dtype == np.float32
    np.testing.assert_allclose(mine * after, np.sum(residuals, axis=0), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="0 residuals cannot be spread over 2 ranks"):
        redistribute([], 2)
