"""Sums of two arrays that are stored in both, in one pass or block by block."""

import time

import numpy as np
import pytest

from ringlet.comm.machine import level_2_bytes
from ringlet.comm.shared import fused
from ringlet.comm.shared.combine import Combiner
from ringlet.comm.shared.steps import TRIALS, BoundInBoth


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_one_pass_has_the_bits_of_numpy(dtype):
    into_both = fused.sum_into_both(np.dtype(dtype))
    if into_both is None:
        pytest.skip("NumPy's BLAS has no rotm, or one that rounds otherwise")
    for count in (0, 1, 7, 100_003):
        x, y = np.random.default_rng(count).standard_normal((2, count)).astype(dtype)
        right = x + y
        into_both(x, y)
        assert x.tobytes() == y.tobytes() == right.tobytes()


@pytest.mark.parametrize("dtype", ["f2", "i4", ">f4"])
def test_there_is_none_for_other_dtypes(dtype):
    assert fused.sum_into_both(np.dtype(dtype)) is None


def test_one_that_loses_a_bit_is_refused():
    def adding(more):
        def into_both(x, y):
            x[...] = y[...] = x + y + np.float32(more)

        return into_both

    with np.errstate(all="ignore"):
        assert fused._is_exact(adding(-0.0), np.dtype("f4"))
        assert not fused._is_exact(adding(0.0), np.dtype("f4"))  # -0 has become 0


@pytest.mark.parametrize("slow", ["one pass", "blocks"])
def test_the_faster_way_does_what_follows_the_trials(slow):
    done = []

    def slowly(way, run):
        done.append(way)
        time.sleep(0.02 * (way == slow))
        run()

    def into_both(x, y):
        slowly("one pass", lambda: np.copyto(y, np.add(x, y, out=x)))

    class Watched(Combiner):
        def __call__(self, out, sources):
            slowly("blocks", lambda: super(Watched, self).__call__(out, sources))

    mine, theirs = np.ones(100, np.float32), np.ones(100, np.float32)
    part = (0, slice(0, 100))
    step = BoundInBoth(Watched("sum", mine.dtype, 2), part, [part, theirs], [theirs], into_both)
    for call in range(TRIALS + 4):
        step((mine, mine), None)
        assert (mine == 2.0 ** (call + 1)).all()
        assert (theirs == mine).all()
    assert {*done[:TRIALS]} == {"one pass", "blocks"}
    assert {*done[TRIALS:]} == {"one pass", "blocks"} - {slow}


def long_sums(world):
    """Sums of registered arrays that are longer than the cache: all have the bits of NumPy's."""
    wrong = []
    for dtype, op in (("f4", "sum"), ("f8", "sum"), ("f4", "max"), ("f4", "mean")):
        count = level_2_bytes() // 4 + 1001
        given = np.random.default_rng(3).standard_normal((2, count)).astype(dtype)
        combine = {"max": np.maximum}.get(op, np.add)
        right = combine(*given) / np.array(2 if op == "mean" else 1, dtype)
        x = world.empty(count, np.dtype(dtype))
        for call in range(TRIALS + 2):
            x[...] = given[world.rank]
            if world.all_reduce(x, op).tobytes() != right.tobytes():
                wrong.append((dtype, op, call))
    return wrong


def test_long_sums_in_place_have_the_bits_of_numpy_in_every_call(ranks):
    assert ranks(2).run(long_sums) == [[], []]
