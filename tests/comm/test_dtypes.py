"""Dtypes count by value: byte orders, and the types that other packages register with NumPy."""

import functools

import numpy as np
import pytest

from ringlet import comm
from ringlet.comm.arrays import dtype_named, name_of

try:
    from numpy._core._rational_tests import rational  # NumPy's own example of a registered type
except ImportError:
    from numpy.core._rational_tests import rational


def registered(name):
    """The dtype; a rank has to import its package."""
    if name == "rational":
        return np.dtype(rational)
    return np.dtype(getattr(pytest.importorskip("ml_dtypes"), name))


SMALL_FLOATS = ["<f2", ">f2", "bfloat16"]


def in_a_wider_type(world, name):
    dtype = np.dtype(name) if name[0] in "<>" else registered(name)
    ends = 2048 if dtype.itemsize == 2 and name != "bfloat16" else 256
    for count in (2, 5000, 300_000):
        x = np.zeros(count, dtype)
        x[0] = ends if world.rank == 0 else 0.5  # adding 0.5 to this changes nothing in the type
        x[1] = 3e38 * (-1) ** world.rank if name == "bfloat16" else 40000 * (-1) ** world.rank
        total = ends + (world.size - 1) / 2
        for algorithm in ("", "ring", "recursive_doubling"):
            options = {"algorithm": algorithm} if algorithm else {}
            y = world.all_reduce(x.copy(), **options)
            assert y.dtype == dtype
            assert float(y[0]) == float(np.float32(total).astype(dtype))
            assert float(y[1]) == 0
            mean = world.all_reduce(x.copy(), "mean", **options)
            assert float(mean[0]) == float(np.float32(total / world.size).astype(dtype))
            y = world.reduce(x.copy())
            assert y is None or float(y[0]) == float(np.float32(total).astype(dtype))
        parts = np.repeat(x[:1], world.size)
        assert float(world.reduce_scatter(parts)[0]) == float(np.float32(total).astype(dtype))


@pytest.mark.parametrize("transport", ["auto", "ipc"])
@pytest.mark.parametrize("name", SMALL_FLOATS)
def test_small_floats_are_summed_in_float32_whatever_their_byte_order(ranks, name, transport):
    if name == "bfloat16":
        registered(name)
    ranks(4, transport).run(in_a_wider_type, name=name)


def travels(world, name):
    """All that moves arrays, and what can be done with sums."""
    dtype, n, rank = registered(name), world.size, world.rank
    ours = [np.arange(6).astype(dtype) + np.full(6, r).astype(dtype) for r in range(n)]
    mine, total = ours[rank], functools.reduce(np.add, ours)
    if name != "rational":  # which has no floats
        total = sum(row.astype(np.float32) for row in ours).astype(dtype)

    def same(a, b):
        assert a.dtype == dtype
        assert a.tobytes() == np.asarray(b).tobytes()
        return True

    world.send(mine, (rank + 1) % n)
    same(world.recv((rank - 1) % n), ours[(rank - 1) % n])
    world.send(mine, (rank + 1) % n)
    same(world.recv((rank - 1) % n, out=np.empty(6, dtype)), ours[(rank - 1) % n])
    same(world.all_gather(mine), ours)
    same(world.broadcast(mine.copy(), n - 1), ours[n - 1])
    gathered = world.gather(mine, 1)
    assert gathered is None or same(gathered, ours)
    same(world.scatter(np.stack(ours) if rank == 0 else None), mine)
    same(world.all_to_all(np.repeat(mine[:n], 1)), [row[rank] for row in ours])
    for array in (mine.copy(), world.empty(6, dtype)):
        array[...] = mine
        same(world.all_reduce(array), total)
        array[...] = mine
        same(world.all_reduce(array, "max"), functools.reduce(np.maximum, ours))
    same(world.all_reduce(np.repeat(mine, 20_000)), np.repeat(total, 20_000))
    same(world.reduce_scatter(np.tile(mine, n)), total)
    same(world.all_gather_object({"x": mine})[n - 1]["x"], ours[n - 1])
    with pytest.raises(TypeError, match="holds no plain numbers"):
        world.send(np.zeros(6, f"V{dtype.itemsize}"), 0)


@pytest.mark.parametrize("transport", ["auto", "ipc"])
@pytest.mark.parametrize("name", ["rational", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_registered_types_travel_and_are_combined(ranks, name, transport):
    registered(name)
    ranks(3, transport).run(travels, name=name)


def lacks(world, name, op):
    dtype = registered(name)
    with pytest.raises(TypeError, match=f"{dtype}"):
        world.all_reduce(np.zeros(3, dtype), op)
    assert world.all_reduce(np.ones(1)) == world.size


@pytest.mark.parametrize(("name", "op"), [("rational", "mean"), ("int4", "max"), ("int4", "mean")])
def test_what_a_registered_type_lacks_is_refused_by_its_name(ranks, name, op):
    registered(name)
    ranks(2).run(lacks, name=name, op=op)


def unknown_here(world):
    """Rank 1 has not met the type, which has a name in NumPy only once it is sent or received."""
    if world.rank == 0:
        world.send(np.ones(3).astype(int).astype(rational), 1)
        return
    from ringlet.comm import arrays

    known = dict(arrays._registered)
    arrays._registered.clear()
    try:
        with pytest.raises(ValueError, match=r"'rational' is not a dtype known here.*import"):
            world.recv(0)
    finally:
        arrays._registered.update(known)
    out = np.zeros(3, rational)
    assert (world.recv(0, out=out) == out).all()


def test_a_type_that_the_receiver_does_not_know_is_named(ranks):
    ranks(2).run(unknown_here)


ORDERS = {
    "all_reduce": lambda w, x: w.all_reduce(x),
    "long all_reduce": lambda w, x: w.all_reduce(np.repeat(x, 100_000)),
    "all_to_all": lambda w, x: w.all_to_all(x),
    "asynchronous": lambda w, x: w.all_gather(x, async_op=True).wait(),
}


def byte_orders(world, case):
    group = world.split(range(world.size))
    with pytest.raises(comm.CollectiveMismatch, match=r"float32.*>f4|>f4.*float32"):
        ORDERS[case](group, np.ones(4, (">f4", "<f4")[world.rank]))


@pytest.mark.parametrize("case", ORDERS)
@pytest.mark.parametrize("transport", ["auto", "ipc"])
def test_a_mismatch_of_byte_orders_shows_both(ranks, case, transport):
    ranks(2, transport).run(byte_orders, case=case)


@pytest.mark.parametrize(
    "dtype", ["?", "<i2", ">i4", "f2", ">f8", "g", "c8", "M8[3D]", "m8[ns]", "<U5", ">U2", "S3"]
)
def test_names_of_dtypes_say_their_value(dtype):
    assert dtype_named(name_of(np.dtype(dtype))) == np.dtype(dtype)


@pytest.mark.parametrize("text", ["", "O", "V8", "i4,f4", "U0", "f1", "no", "(2,)f4", "<f4\0", "T"])
def test_no_other_name_means_a_dtype(text):
    with pytest.raises(TypeError, match="is not a dtype known here"):
        dtype_named(text)
