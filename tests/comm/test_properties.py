"""Any operation on any array in any group by any algorithm is its NumPy meaning, to the bit."""

import contextlib
import functools

import numpy as np
import pytest

from ringlet.comm.schedules.algorithms import ALGORITHMS

given = pytest.importorskip("hypothesis").given
from hypothesis import HealthCheck, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

DTYPES = ["int8", "uint16", "int64", "float16", "float32", "float64", "complex64", ">f4", "bool"]
UFUNCS = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}
SEGMENTS = [64, 1000, 2 << 20]
ATTACH_FROM = [1, 4096, 6 << 20]  # bytes from which ranks of one host read each other's memory
LAYOUTS = ["C", "F", "strided", "reversed", "read-only"]
IN_PLACE = ("all_reduce", "broadcast", "reduce")
CUT = ("reduce_scatter", "all_to_all")
ROOTED = ("broadcast", "reduce", "gather", "scatter")

_groups = {}  # in a worker: the groups that it has made


@st.composite
def cases(draw):
    """One call, as a dictionary that can be sent to the ranks."""
    size = draw(st.sampled_from([1, 2, 3, 4]))
    members = draw(
        st.permutations(range(size)).flatmap(lambda p: st.sampled_from([p, p[:-1] or p]))
    )
    n = len(members)
    transport = draw(st.sampled_from(["auto", "tcp"]))
    operation = draw(st.sampled_from([name for name in ALGORITHMS if name != "barrier"]))
    names = [name for name in ALGORITHMS[operation] if name != "hierarchical"]
    shape = draw(st.lists(st.integers(0, 7), max_size=3))
    if operation in CUT:
        shape = [n * draw(st.integers(0, 3000)), *shape[:1]]
    elif draw(st.integers(0, 3)) == 0:
        shape = [draw(st.integers(0, 20_000))]
    layouts = LAYOUTS[:-1] if operation in IN_PLACE else LAYOUTS
    return {
        "size": size,
        "transport": transport,
        "members": list(members),
        "operation": operation,
        "algorithm": draw(st.sampled_from(["", *names])),
        "dtype": draw(st.sampled_from(DTYPES)),
        "shape": shape,
        "op": draw(st.sampled_from(sorted(UFUNCS))),
        "root": draw(st.integers(0, n - 1)),
        "layout": draw(st.sampled_from(layouts)),
        "segment": draw(st.sampled_from(SEGMENTS)),
        "attach": draw(st.sampled_from(ATTACH_FROM)),
        "async_op": draw(st.booleans()),
        "salt": draw(st.integers(0, 5)),
    }


def values(rank, case):
    """Small whole numbers, so that every reduction of them is exact in every dtype and order."""
    count = int(np.prod(case["shape"]))
    numbers = (np.arange(count) * 7 + rank * 3 + case["salt"]) % 3
    return numbers.reshape(case["shape"]).astype(case["dtype"])


def laid_out(x, layout):
    """The same values in another memory order."""
    if layout == "F" and x.ndim:
        return np.asfortranarray(x)
    if layout == "strided" and x.ndim:
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "reversed" and x.ndim:
        return np.flip(np.flip(x, 0).copy(), 0)
    x = x.copy()
    x.flags.writeable = layout != "read-only"
    return x


def expected(case, me):
    """What the call returns on rank `me` of the group."""
    n, operation, root = len(case["members"]), case["operation"], case["root"]
    rows = [values(rank, case) for rank in range(n)]
    total = functools.reduce(UFUNCS[case["op"]], rows).astype(case["dtype"])
    share = len(total) // n if operation in CUT else 0
    mine = slice(me * share, (me + 1) * share)
    meanings = {
        "all_reduce": lambda: total,
        "reduce_scatter": lambda: total[mine],
        "all_gather": lambda: np.stack(rows),
        "all_to_all": lambda: np.concatenate([row[mine] for row in rows]),
        "broadcast": lambda: rows[root],
        "reduce": lambda: total if me == root else None,
        "gather": lambda: np.stack(rows) if me == root else None,
        "scatter": lambda: rows[me],
    }
    right = meanings[operation]()
    # What was stacked, and a scalar, is in native order.
    return None if right is None else np.asarray(right).astype(case["dtype"])


def call(group, case):
    """Make the call, blocking or not."""
    operation, x = case["operation"], laid_out(values(group.rank, case), case["layout"])
    options = {"async_op": case["async_op"]}
    if case["algorithm"]:
        options["algorithm"] = case["algorithm"]
    if operation in ("all_reduce", "reduce_scatter", "reduce"):
        options["op"] = case["op"]
    if operation in ROOTED:
        options["root"] = case["root"]
    if operation == "scatter":
        rows = [values(rank, case) for rank in range(group.size)]
        x = (
            laid_out(np.stack(rows).astype(case["dtype"]), case["layout"])
            if group.rank == case["root"]
            else None
        )
    result = getattr(group, operation)(x, **options)
    return result.wait() if case["async_op"] else result


@contextlib.contextmanager
def adjusted(group, case):
    """Cut messages, and reach for others' memory, where the case says; the ranks stay warm for
    other tests."""
    channel = group._channel
    shared = channel.shared
    before = channel.sockets.segment_bytes, shared and shared.attach_from
    channel.sockets.segment_bytes = case["segment"]
    if shared is not None:
        shared.attach_from = case["attach"]
    yield
    channel.sockets.segment_bytes = before[0]
    if shared is not None:
        shared.attach_from = before[1]


def meant(world, case):
    key = (id(world), tuple(case["members"]))
    if key not in _groups:
        _groups[key] = world.split(case["members"])
    group = _groups[key]
    if group is None:
        return
    with adjusted(group, case):
        right, found = expected(case, group.rank), call(group, case)
    if right is None:
        assert found is None
        return
    assert found.shape == right.shape
    assert found.dtype == right.dtype
    np.testing.assert_array_equal(found, right)


def check(ranks, case):
    ranks(case["size"], case["transport"]).run(meant, case=case)


RELAXED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
QUICK = settings(derandomize=True, database=None, deadline=None, suppress_health_check=RELAXED)


@settings(QUICK, max_examples=100)
@given(case=cases())
def test_any_call_is_its_numpy_meaning(ranks, case):
    check(ranks, case)


@pytest.mark.slow
@settings(QUICK, derandomize=False, max_examples=5000)
@given(case=cases())
def test_any_call_is_its_numpy_meaning_long(ranks, case):
    check(ranks, case)


def numbers(world, case):
    """Random numbers: [bytes of the result, twice], and float16 within its bound."""
    name, dtype = case["algorithm"], case["dtype"]
    data = [
        np.random.default_rng([case["salt"], rank]).standard_normal(case["count"]).astype(dtype)
        for rank in range(world.size)
    ]
    options = {"algorithm": name} if name else {}
    with adjusted(world, case):
        results = [world.all_reduce(data[world.rank].copy(), **options) for _ in range(2)]
    exact = np.sum([x.astype("f8") for x in data], axis=0)
    size = np.sum([abs(x.astype("f8")) for x in data], axis=0)
    # Sums are made in float32 at least, and rounded once.
    rounding = np.finfo(dtype).eps / 2 * abs(exact)
    bound = rounding + world.size * np.finfo("f4").eps * size
    assert (abs(results[0].astype("f8") - exact) <= bound).all()
    return [result.tobytes() for result in results]


@settings(QUICK, max_examples=20)
@given(
    size=st.sampled_from([2, 3, 4]),
    transport=st.sampled_from(["auto", "tcp"]),
    algorithm=st.sampled_from(["", *(n for n in ALGORITHMS["all_reduce"] if n != "hierarchical")]),
    dtype=st.sampled_from(["float16", "float32"]),
    count=st.integers(0, 5000),
    segment=st.sampled_from(SEGMENTS),
    attach=st.sampled_from(ATTACH_FROM),
    salt=st.integers(0, 1000),
)
def test_bits_are_the_same_on_every_rank_and_every_time(ranks, size, transport, **case):
    everybodys = ranks(size, transport).run(numbers, case=case)
    assert len({bits for twice in everybodys for bits in twice}) == 1
