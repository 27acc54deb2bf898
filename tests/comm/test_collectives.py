"""Every collective against its NumPy meaning: world sizes, dtypes, shapes, layouts, groups.

Inputs are small whole numbers, so that sums are exact in every dtype and order.
"""

import functools
import os

import msgpack
import numpy as np
import pytest

SIZES = [1, 2, 3, 4, 5]
DTYPES = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64", "longdouble", "complex64", "complex128", "m8[s]", ">f4", ">i2",
]  # fmt: skip
SHAPES = [(), (1,), (7,), (0,), (3, 0, 2), (5, 3), (2, 3, 4), (1000,)]
UFUNCS = {
    "sum": np.add,
    "mean": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def reduced(rows, op):
    """The reduction over the first axis, in the rows' dtype."""
    result = functools.reduce(UFUNCS[op], rows)
    return np.asarray(result / len(rows) if op == "mean" else result).astype(rows.dtype)


def values(rank, shape, dtype, salt=0):
    """What a rank holds; any rank can compute any other's."""
    count = int(np.prod(shape))
    numbers = (np.arange(count) * 7 + rank * 3 + salt) % 4
    return numbers.reshape(shape).astype(dtype)


def rows(world, shape, dtype, salt=0):
    return np.stack([values(rank, shape, dtype, salt) for rank in range(world.size)]).astype(dtype)


def row(everything, rank):
    """One rank's row; of a 1-D array too, where indexing would make a scalar of it."""
    return everything[rank : rank + 1].reshape(everything.shape[1:])


def same(actual, expected):
    expected = np.asarray(expected)
    assert actual.dtype == expected.dtype, (actual.dtype, expected.dtype)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    np.testing.assert_array_equal(actual, expected)


def layouts(x):
    """The same values in other memory orders."""
    yield x.copy()
    if x.ndim >= 2:
        yield np.asfortranarray(x)
    if x.ndim >= 1:
        spread = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        spread[..., ::2] = x
        yield spread[..., ::2]
        yield np.flip(np.flip(x, 0).copy(), 0)


def reductions(dtype):
    kind = np.dtype(dtype).kind
    if kind == "m":
        return ["sum", "max", "min"]
    if kind in "fc":
        return ["sum", "mean", "prod", "max", "min"]
    return ["sum", "prod", "max", "min"]


def all_reduce(world, dtype):
    for shape in SHAPES:
        for op in reductions(dtype):
            expected = reduced(rows(world, shape, dtype), op)
            for x in layouts(values(world.rank, shape, dtype)):
                result = world.all_reduce(x, op)
                assert result is x
                if op == "mean" and np.dtype(dtype).kind in "fc":
                    np.testing.assert_allclose(
                        x, expected, rtol=1e-3 if dtype == "float16" else 1e-6
                    )
                else:
                    same(x, expected)


def reduce_scatter(world, dtype):
    for shape in [(2,), (1, 3), (0,), (4, 2, 1)]:
        whole = (shape[0] * world.size, *shape[1:])
        for op in reductions(dtype):
            if op == "mean":
                continue
            expected = reduced(rows(world, whole, dtype), op)
            mine = expected[world.rank * shape[0] : (world.rank + 1) * shape[0]]
            for x in layouts(values(world.rank, whole, dtype)):
                before = x.copy()
                same(world.reduce_scatter(x, op), mine)
                same(x, before)
                out = np.empty(shape, dtype)
                assert world.reduce_scatter(x, op, out=out) is out
                inside = x.copy()
                own = inside[world.rank * (len(x) // world.size) :][: len(x) // world.size]
                same(world.reduce_scatter(inside, op, out=own), mine)
                same(out, mine)


def all_gather(world, dtype):
    for shape in SHAPES:
        expected = rows(world, shape, dtype)
        for x in layouts(values(world.rank, shape, dtype)):
            same(world.all_gather(x), expected)
            out = np.empty((*shape, world.size), dtype).transpose(-1, *range(len(shape)))
            assert world.all_gather(x, out=out) is out
            same(out, expected)


def all_to_all(world, dtype):
    for shape in [(2,), (1, 3), (0,), (3, 2, 2)]:
        whole = (shape[0] * world.size, *shape[1:])
        everything = rows(world, whole, dtype).reshape(world.size, world.size, *shape)
        expected = everything[:, world.rank].reshape(whole)
        for x in layouts(values(world.rank, whole, dtype)):
            same(world.all_to_all(x), expected)
            same(x, values(world.rank, whole, dtype))
        x = values(world.rank, whole, dtype)
        same(world.all_to_all(x, out=x), expected)


def rooted(world, dtype):
    for root in range(world.size):
        for shape in SHAPES:
            everything = rows(world, shape, dtype, salt=root)
            mine = row(everything, world.rank)
            for x in layouts(mine):
                assert world.broadcast(x, root) is x
                same(x, row(everything, root))
            for x in layouts(mine):
                gathered = world.gather(x, root)
                assert (gathered is None) == (world.rank != root)
                if world.rank == root:
                    same(gathered, everything)
                    assert world.reduce(x, root) is x
                    same(x, reduced(everything, "sum"))
                else:
                    assert world.reduce(x, root) is None
                    same(x, mine)
            for x in layouts(everything):
                same(world.scatter(x if world.rank == root else None, root), mine)


def barriers(world, dtype):
    for _ in range(5):
        assert world.barrier() is None


COLLECTIVES = [all_reduce, reduce_scatter, all_gather, all_to_all, rooted]


def cases():
    """All that there are; of each dtype, one size or two are in the ordinary tests."""
    for row, collective in enumerate(COLLECTIVES):
        for column, dtype in enumerate(DTYPES):
            ordinary = 3, (1, None, 2, None, 4, None, 5, None)[(row + column) % 8]
            for size in SIZES:
                marks = () if size in ordinary else pytest.mark.slow
                yield pytest.param(
                    collective, dtype, size, marks=marks, id=f"{collective.__name__}-{dtype}-{size}"
                )


@pytest.mark.parametrize(("collective", "dtype", "size"), [*cases()])
def test_collective_equals_its_numpy_meaning(ranks, collective, dtype, size):
    ranks(size).run(collective, dtype=dtype)


@pytest.mark.parametrize("size", SIZES)
def test_barrier(ranks, size):
    ranks(size).run(barriers, dtype="")


@pytest.mark.parametrize("collective", COLLECTIVES, ids=lambda function: function.__name__)
@pytest.mark.parametrize("transport", [pytest.param("ipc", marks=pytest.mark.slow), "tcp"])
def test_collective_without_shared_memory(ranks, collective, transport):
    for dtype in ("float32", "float16", "bool", "complex64", "int64"):
        ranks(3, transport=transport).run(collective, dtype=dtype)


def in_groups(world):
    """All subsets of the world, in both orders, while other ranks' groups work side by side."""
    for bits in range(1, 2**world.size):
        members = [rank for rank in range(world.size) if bits >> rank & 1]
        for order in (members, members[::-1]):
            group = world.split(order)
            assert (group is None) == (world.rank not in members)
            if group is None:
                continue
            assert group.size == len(order)
            assert order[group.rank] == world.rank
            assert list(group.ranks) == order
            for collective in (*COLLECTIVES, barriers):
                collective(group, "float32")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_collectives_in_all_groups(ranks, size):
    ranks(size).run(in_groups)


def nested_groups(world):
    rows_ = world.split([0, 1] if world.rank < 2 else [2, 3])
    columns = world.split([world.rank % 2, world.rank % 2 + 2])
    inner = columns.split([1, 0])
    total = np.array([1.0 * world.rank])
    rows_.all_reduce(total)
    inner.all_reduce(total)
    assert total == 6.0
    assert inner.ranks == (world.rank % 2 + 2, world.rank % 2)


def test_each_rank_may_ask_for_its_own_row_of_a_mesh(ranks):
    ranks(4).run(nested_groups)


def big_arrays(world):
    """One segment, and several, for each part, and parts of unequal length."""
    for count in (world.size << 17, world.size * 800_000 + 1):
        x = np.arange(count, dtype=np.float32) % 1000 + world.rank
        expected = (np.arange(count) % 1000) * world.size + sum(range(world.size))
        same(world.all_reduce(x), expected.astype(np.float32))
        gathered = world.all_gather(x)
        assert all(np.array_equal(row, x) for row in gathered)
        world.broadcast(x, root=world.size - 1)
        same(
            world.all_to_all(x[: world.size * 100_000]),
            x[: world.size * 100_000]
            .reshape(world.size, -1)[[world.rank] * world.size]
            .reshape(-1),
        )


@pytest.mark.parametrize(
    ("size", "transport"),
    [(2, "ipc"), (3, "auto"), pytest.param(4, "auto", marks=pytest.mark.slow)],
)
def test_arrays_of_many_segments(ranks, size, transport):
    ranks(size, transport=transport).run(big_arrays)


def half_precision(world):
    x = np.full(100, 0.1, np.float16)
    x[1:] = 1.0
    for _ in range(1):
        world.all_reduce(x)
    # 2048 + 1 is 2048 in float16: partial sums held in it would stop growing.
    y = np.array([2048.0 if world.rank == 0 else 1.0], np.float16)
    world.all_reduce(y)
    assert y[0] == np.float16(2048 + world.size - 1)
    z = np.array([60000.0], np.float16)
    assert np.isinf(world.all_reduce(z)[0])


def test_float16_is_summed_in_float32(ranks):
    ranks(5).run(half_precision)


def same_bits(world):
    """Random numbers: rounding depends on the order, which must be the same everywhere."""
    x = np.random.default_rng(world.rank).standard_normal(10_007).astype(np.float32)
    results = [world.all_reduce(x.copy()) for _ in range(3)]
    for result in results:
        for row in world.all_gather(result):
            np.testing.assert_array_equal(row, results[0])
    return results[0]


@pytest.mark.parametrize("transport", ["auto", "ipc"])
@pytest.mark.parametrize("size", [3, 5])
def test_sums_have_the_same_bits_on_every_rank_and_every_time(ranks, size, transport):
    first = ranks(size, transport=transport).run(same_bits)
    second = ranks(size, transport=transport).run(same_bits)
    for result in (*first, *second):
        np.testing.assert_array_equal(result, first[0])


def objects(world):
    nested = {"rank": world.rank, "list": [1, "two", None, 3.5, b"\x00"], "array": np.eye(3)}
    received = world.all_gather_object(nested)
    assert [part["rank"] for part in received] == list(range(world.size))
    np.testing.assert_array_equal(received[-1]["array"], np.eye(3))
    for root in range(world.size):
        text = world.broadcast_object({"from": root, "x" * root: root}, root)
        assert text == {"from": root, "x" * root: root}
    assert world.broadcast_object(None) is None
    for name in (os.fsdecode(b"caf\xe9"), "\ud800"):  # not UTF-8
        assert world.broadcast_object([name, {name: 1}]) == [name, {name: 1}]
    for keys in ({1: "one", b"two": 2, None: 3, 2.5: 4, False: 5}, {np.float64(0.5): [[]]}):
        assert world.broadcast_object(keys) == keys


@pytest.mark.parametrize("size", [1, 3])
def test_objects(ranks, size):
    ranks(size).run(objects)


class WithUnit(np.ndarray):
    """Somebody's array with a unit."""


CYCLE = []
CYCLE.append([CYCLE])
DEEP = functools.reduce(lambda inner, _: [inner], range(3000), 0)
NOT_SENT = [
    ({1, 2}, "set"), (WithUnit(2), "WithUnit"), (np.ma.ones(2), "MaskedArray"), (1j, "complex"),
    ({(0, 1): 2}, "[Kk]eys of dicts"), ({np.int64(1): 2}, "[Kk]eys"), ([{"x": {(): 1}}], "[Kk]eys"),
    (2**64, "int"), (-(2**63) - 1, "int"), (CYCLE, "recursion"), (DEEP, "recursion"),
    (np.array([None]), "object"), (np.zeros(2, "i4,f4"), "dtype"), (WithUnit, "type"),
    (lambda: 0, "function"), (ValueError("no"), "ValueError"),
    (msgpack.ExtType(1, b"no"), "read"), (msgpack.ExtType(9, b""), "read"), (range(3), "range"),
]  # fmt: skip


def unsent_objects(world):
    for value, text in NOT_SENT:
        with pytest.raises(TypeError, match=f"cannot send.*{text}"):
            world.all_gather_object([value])
        if world.rank == 0:
            with pytest.raises(TypeError, match=f"cannot send.*{text}"):
                world.broadcast_object({"inside": value})
        assert world.broadcast_object({"inside": world.rank}) == {"inside": 0}


def test_an_object_that_could_not_arrive_is_refused_before_anything_is_sent(ranks):
    ranks(2).run(unsent_objects)


def mapped_files(world, path):
    file = np.memmap(path / str(world.rank), np.float32, "w+", shape=(3, 4))
    file[:] = world.rank + 1
    assert world.all_reduce(file) is file
    same(world.all_gather(file)[0], np.full((3, 4), 3, np.float32))
    same(np.asarray(world.broadcast(file[1:], 1)), np.full((2, 4), 3, np.float32))
    same(world.all_gather_object(file)[1], np.full((3, 4), 3, np.float32))


def test_a_mapped_file_is_an_array(ranks, tmp_path):
    ranks(2).run(mapped_files, path=tmp_path)


def long_texts(world):
    """One element is longer than what travels at once."""
    n, rank = world.size, world.rank
    everybodys = np.array([["x" * 600_000 + str(r), "y" * r] for r in range(n)])
    mine = everybodys[rank]
    world.send(mine, (rank + 1) % n)
    same(world.recv((rank - 1) % n), everybodys[rank - 1])
    same(world.all_gather(mine), everybodys)
    same(world.broadcast(mine.copy(), 1), everybodys[1])
    same(world.all_to_all(everybodys[:, 0]), np.repeat(everybodys[rank : rank + 1, 0], n))
    same(world.scatter(everybodys if rank == 1 else None, 1), mine)
    gathered = world.gather(mine)
    assert gathered is None or (gathered == everybodys).all()
    same(world.all_gather_object(mine)[1], everybodys[1])


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_elements_longer_than_a_segment(ranks, transport):
    ranks(2, transport).run(long_texts)


def scribble(world, attach_from=None):
    """Overwrite every array right after the call; the peers must not see it."""
    n = 1 << 19
    if attach_from is not None:
        world._channel.shared.attach_from = attach_from
    for turn in range(10):
        x = np.full(n, 1.0, np.float32)
        world.all_reduce(x)
        assert (x == world.size).all()
        x[:] = np.nan
        x = np.full(n, float(world.rank), np.float32)
        gathered = world.all_gather(x)
        x[:] = np.nan
        assert (gathered == np.arange(world.size)[:, None]).all()
        gathered[:] = np.nan
        root = turn % world.size
        x = np.full(n, float(world.rank), np.float32)
        world.broadcast(x, root)
        assert (x == root).all()
        x[:] = np.nan
        x = np.full(n, 1.0, np.float32)
        world.reduce(x, root)
        x[:] = np.nan
        x = np.repeat(np.arange(world.size, dtype=np.float32), n // 4)
        exchanged = world.all_to_all(x)
        x[:] = np.nan
        assert (exchanged == world.rank).all()
        x = np.repeat(np.arange(world.size, dtype=np.float32)[:, None], n // 4, 1)
        row = world.scatter(x if world.rank == root else None, root)
        x[:] = np.nan
        assert (row == world.rank).all()
        x = np.full(n, 1.0, np.float32)
        work = world.all_reduce(x, async_op=True)
        work.wait()
        x[:] = np.nan
        peer = (world.rank + 1) % world.size
        x = np.full(n, float(world.rank), np.float32)
        work = world.isend(x, peer)
        received = world.recv((world.rank - 1) % world.size)
        work.wait()
        x[:] = np.nan
        assert (received == (world.rank - 1) % world.size).all()


def start_many(world):
    works = [world.all_reduce(np.ones(1), async_op=True) for _ in range(2_000)]
    assert all(work.wait() == world.size for work in works)


@pytest.mark.parametrize("size", [1, 2])
def test_thousands_of_calls_may_be_in_flight(ranks, size):
    ranks(size).run(start_many)


@pytest.mark.parametrize("transport", ["auto", "ipc", "tcp"])
@pytest.mark.parametrize("size", [2, 3])
def test_arrays_may_be_overwritten_right_after_a_call(ranks, size, transport):
    ranks(size, transport=transport).run(scribble)


def test_arrays_read_through_the_kernel_may_be_overwritten_right_after_a_call(ranks):
    ranks(3).run(scribble, attach_from=1)
    ranks(3).run(scribble, attach_from=6 << 20)


def meet_out_of_step(world):
    """A barrier or a sum behind what only some ranks have in flight; then what the ranks tell each
    other has to be theirs."""
    x = world.empty(1 << 20)
    arrays = [np.empty(n, np.float32) for n in (10, 1 << 14, 1 << 18, 1 << 21)] + [world.empty(99)]
    for number, array in enumerate([None, *arrays] * world.size):
        x[:] = 1
        work = world.all_reduce(x, async_op=True)
        if world.rank != number % world.size:  # nothing is in flight any more
            work.wait()
        if array is None:
            world.barrier()
        else:
            array[:] = world.rank
            assert (world.all_reduce(array) == sum(range(world.size))).all()
        work.wait()
        told = world.all_gather(np.array([number, world.rank]))
        assert told.tolist() == [[number, rank] for rank in range(world.size)]
        words = ["word" * (1 + rank) for rank in range(world.size)]
        assert world.all_gather_object(words[world.rank]) == words
    return True


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_meet_with_and_without_something_in_flight(ranks, size):
    assert all(ranks(size).run(meet_out_of_step))


REFUSED = [
    ("object dtype", TypeError, lambda w: w.all_reduce(np.array([object()])), "cannot be sent"),
    ("list", TypeError, lambda w: w.all_reduce([1.0]), "expected a NumPy array"),
    ("structured", TypeError, lambda w: w.send(np.zeros(2, "i4,f4"), 0), "cannot be sent"),
    ("text sum", TypeError, lambda w: w.all_reduce(np.array(["a"])), "no sum"),
    ("date sum", TypeError, lambda w: w.all_reduce(np.array(["2020"], "M8[s]")), "no sum"),
    ("int mean", TypeError, lambda w: w.all_reduce(np.arange(3), "mean"), "mean"),
    ("unknown op", ValueError, lambda w: w.all_reduce(np.ones(3), "median"), "median"),
    ("read-only", ValueError, lambda w: w.all_reduce(np.broadcast_to(1.0, (3,))), "read-only"),
    ("wrong out shape", ValueError, lambda w: w.all_gather(np.ones(3), out=np.ones(3)), "shape"),
    ("wrong out dtype", ValueError,
     lambda w: w.all_gather(np.ones(3), out=np.ones((w.size, 3), "f4")), "float32"),
    ("uneven", ValueError, lambda w: w.reduce_scatter(np.ones(w.size + 1)), "cannot be cut"),
    ("uneven all_to_all", ValueError, lambda w: w.all_to_all(np.ones(())), "cannot be cut"),
    ("no such root", ValueError, lambda w: w.broadcast(np.ones(3), root=w.size), "no rank"),
    ("no such peer", ValueError, lambda w: w.send(np.ones(3), -1), "no rank"),
    ("negative tag", ValueError, lambda w: w.recv(0, -1), "tag"),
    ("scatter rows", ValueError,
     lambda w: w.scatter(np.ones((w.size + 1, 2)), root=w.rank), "one row"),
    ("group twice", ValueError, lambda w: w.split([0, 0]), "different ranks"),
    ("no such rank", ValueError, lambda w: w.split([0, w.size]), "no rank"),
    ("no op", ValueError, lambda w: w.all_reduce(np.ones(3), None), "unknown reduction None"),
    ("empty op", ValueError, lambda w: w.reduce(np.ones(3), 0, ""), "unknown reduction ''"),
    ("ufunc as op", ValueError, lambda w: w.reduce_scatter(np.ones(w.size), np.add), "choose one"),
    ("unknown option", TypeError, lambda w: w.barrier(asynchronous=True), "no arg.*asynchronous"),
    ("no such algorithm", ValueError, lambda w: w.barrier(algorithm=5), "no algorithm '5'"),
    ("matrix", TypeError, lambda w: w.all_reduce(np.matrix([[1.0]])), "a matrix.*np.asarray"),
    ("long matrix", TypeError,
     lambda w: w.all_reduce(np.matrix(np.ones((300_000, 3)))), "a matrix.*np.asarray"),
    ("masked", TypeError, lambda w: w.all_gather(np.ma.ones(3)), "a MaskedArray.*np.asarray"),
    ("masked send", TypeError, lambda w: w.send(np.ma.ones(3), 0), "a MaskedArray.*mask"),
    ("masked out", TypeError, lambda w: w.recv(0, out=np.ma.ones(3)), "a MaskedArray"),
    ("matrix as out", TypeError,
     lambda w: w.all_gather(np.ones(2), out=np.matrix(np.ones((w.size, 2)))), "a matrix"),
    ("records", TypeError, lambda w: w.broadcast(np.rec.array([(1, 2.0)])), "a recarray"),
    ("unit", TypeError, lambda w: w.gather(np.ones(3).view(WithUnit)), "a WithUnit.*unit"),
    ("scalar", TypeError, lambda w: w.all_reduce(np.float32(1)), "expected a NumPy array"),
]  # fmt: skip


def refused(world, number):
    _, error, call, text = REFUSED[number]
    with pytest.raises(error, match=text):
        call(world)
    assert world.all_reduce(np.ones(2))[0] == world.size  # nothing was sent: the group still works


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[case[0] for case in REFUSED])
def test_what_cannot_be_sent_is_refused_before_anything_is_sent(ranks, number):
    ranks(2).run(refused, number=number)


def aligned_memory(world):
    for shape, dtype in [((3, 5), np.float32), (7, np.float64), ((0,), np.int8), ((), np.float16)]:
        x = world.empty(shape, dtype)
        assert x.shape == np.empty(shape).shape
        assert x.dtype == dtype
        assert x.size == 0 or x.ctypes.data % 64 == 0
        x[...] = 1
        assert (world.all_reduce(x) == world.size).all()


def test_registered_memory(ranks):
    ranks(2).run(aligned_memory)
