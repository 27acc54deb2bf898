"""Arguments that are numbers: Python's and NumPy's, or refused before anything is sent."""

import math

import numpy as np
import pytest

from ringlet import comm

X = np.ones(2)

WHOLE = {
    "send to": lambda w, n: w.send(X, n, tag=9),
    "send's tag": lambda w, n: w.send(X, 0, n),
    "isend to": lambda w, n: w.isend(X, n),
    "isend's tag": lambda w, n: w.isend(X, 0, tag=n),
    "recv from": lambda w, n: w.recv(n),
    "recv's tag": lambda w, n: w.recv(0, n),
    "irecv from": lambda w, n: w.irecv(n),
    "irecv's tag": lambda w, n: w.irecv(0, tag=n),
    "broadcast": lambda w, n: w.broadcast(X, n),
    "reduce": lambda w, n: w.reduce(X, root=n),
    "gather": lambda w, n: w.gather(X, n),
    "scatter": lambda w, n: w.scatter(np.ones((w.size, 1)), n),
    "broadcast_object": lambda w, n: w.broadcast_object(1, n),
    "split": lambda w, n: w.split([n]),
    "async": lambda w, n: w.broadcast(X, n, async_op=True),
}

TIMEOUTS = {
    "send": lambda w, t: w.send(X, 0, timeout=t),
    "irecv": lambda w, t: w.irecv(0, timeout=t),
    "barrier": lambda w, t: w.barrier(timeout=t),
    "all_reduce": lambda w, t: w.all_reduce(X, timeout=t, async_op=True),
    "broadcast_object": lambda w, t: w.broadcast_object(1, timeout=t),
    "split": lambda w, t: w.split([0], timeout=t),
    "init": lambda w, t: comm.init(timeout=t),
}


def wrong_numbers(world):
    before = world.stats()
    for name, call in WHOLE.items():
        for value in (1.0, True, "0", None, [0], np.float64(0), np.True_, np.array([1]), 1j):
            with pytest.raises(TypeError, match="is a whole number, not"):
                call(world, value)
            assert world.stats() == before, (name, value)
        for value in (-1, np.int8(-1), 2**31, np.uint64(2**63), 10**30):
            with pytest.raises(ValueError, match=r"there is no rank|a tag is a number from 0"):
                call(world, value)
    for call in TIMEOUTS.values():
        for value in ("5", True, [1], 1j, np.array([1.0, 2.0])):
            with pytest.raises(TypeError, match="a timeout is a number of seconds, not"):
                call(world, value)
        for value in (-1, -0.1, math.nan, np.float32("nan"), -math.inf):
            with pytest.raises(ValueError, match="a timeout is a number of seconds from 0 up, not"):
                call(world, value)
    assert world.stats() == before
    for work in (world.irecv(0, 5), world.all_reduce(X.copy(), async_op=True)):
        for value in ("5", True, [1]):
            with pytest.raises(TypeError, match="a timeout is a number"):
                work.wait(value)
        with pytest.raises(ValueError, match="a timeout is a number"):
            work.wait(-1)
    assert world.all_reduce(np.ones(1)) == world.size


def test_what_is_no_such_number_is_refused_before_anything_is_sent(ranks):
    pool = ranks(2)
    pool.run(wrong_numbers)
    pool.close()  # a receive is still under way


KINDS = [int, np.int8, np.uint16, np.int64, np.uint64, np.array]


def numbers_of_all_kinds(world):
    peer = 1 - world.rank
    for tag, kind in enumerate(KINDS):
        work = world.isend(np.full(3, tag), kind(peer), kind(tag))
        assert (world.recv(kind(peer), tag) == tag).all()
        world.send(np.full(3, tag), peer, tag=kind(tag))
        assert (world.recv(peer, kind(tag)) == tag).all()
        work.wait(np.float32(9))
        assert world.broadcast(np.full(2, world.rank), kind(1))[0] == 1
        assert world.broadcast_object(world.rank, kind(1)) == 1
        assert world.split([kind(1), kind(0)]).ranks == (1, 0)
        assert world.empty(kind(4)).shape == world.empty((kind(2), 2)).reshape(-1).shape == (4,)
    assert world.split(np.arange(2)).size == 2
    assert world.split(iter([0, 1])).size == 2
    for timeout in (9, 9.0, np.float16(9), np.int32(9), math.inf, 1e300, 10**30):
        world.barrier(timeout=timeout)
        assert world.all_reduce(np.ones(1), async_op=True).wait(timeout) == 2
        work = world.isend(np.ones(1), peer)
        assert world.irecv(peer).wait(timeout) == 1
        work.wait(timeout)


@pytest.mark.parametrize("transport", ["auto", "ipc"])
def test_numbers_may_be_pythons_or_numpys(ranks, transport):
    ranks(2, transport).run(numbers_of_all_kinds)


EMPTY = {
    "negative": ((-1,), ValueError), "one negative": (((2, -3),), ValueError),
    "a float": ((4.0,), TypeError), "text": (("4",), TypeError),
    "huge": (((2**62, 8),), ValueError),
    "objects": ((3, object), TypeError), "records": ((3, "i4,f4"), TypeError),
    "no dtype": ((3, "no such"), TypeError), "many dimensions": (((1,) * 99,), ValueError),
    "more than there is": ((2**50,), MemoryError),
}  # fmt: skip


def no_memory(world, case):
    arguments, error = EMPTY[case]
    with pytest.raises(error):
        world.empty(*arguments)
    assert world.all_reduce(world.empty(2)).shape == (2,)


@pytest.mark.parametrize("case", EMPTY)
def test_memory_that_cannot_be_is_refused_by_all(ranks, case):
    ranks(2).run(no_memory, case=case)
