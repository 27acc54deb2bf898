"""What calls that are alike have in common is found out once; all else is looked at each time."""

import numpy as np
import pytest

from ringlet.comm.calls import kinds
from ringlet.comm.shared import transport


def read_only(x):
    x.flags.writeable = False
    return x


X = np.ones(4)

AFTER = [
    ("read-only", ValueError, "read-only", lambda w: w.all_reduce(X.copy()),
     lambda w: w.all_reduce(read_only(X.copy()))),
    ("masked", TypeError, "MaskedArray", lambda w: w.all_reduce(X.copy()),
     lambda w: w.all_reduce(np.ma.ones(4))),
    ("another dtype", TypeError, "mean", lambda w: w.all_reduce(X.copy(), "mean"),
     lambda w: w.all_reduce(np.ones(4, np.int64), "mean")),
    ("bool as root", TypeError, "whole number", lambda w: w.broadcast(X.copy(), 1),
     lambda w: w.broadcast(X.copy(), True)),
    ("float as root", TypeError, "whole number", lambda w: w.gather(X, 0),
     lambda w: w.gather(X, 0.0)),
    ("wrong out", ValueError, "shape", lambda w: w.all_gather(X),
     lambda w: w.all_gather(X, out=np.ones(4))),
    ("uneven", ValueError, "cannot be cut", lambda w: w.all_to_all(X),
     lambda w: w.all_to_all(X[:3])),
    ("list", TypeError, "expected a NumPy array", lambda w: w.scatter(X[:2], 0),
     lambda w: w.scatter([1.0, 2.0], w.rank)),
    ("unknown algorithm", ValueError, "no algorithm",
     lambda w: w.barrier(algorithm="dissemination"),
     lambda w: w.barrier(algorithm="wood")),
    ("unknown option", TypeError, "no argument", lambda w: w.barrier(label="first"),
     lambda w: w.barrier(labels="first")),
]  # fmt: skip


def refused_after(world, number):
    _, error, text, good, bad = AFTER[number]
    for _ in range(2):
        good(world)
        with pytest.raises(error, match=text):
            bad(world)
    assert world.all_reduce(np.ones(2))[0] == world.size  # nothing was sent


@pytest.mark.parametrize("number", range(len(AFTER)), ids=[case[0] for case in AFTER])
def test_what_differs_within_a_kind_is_refused_each_time(ranks, number):
    ranks(2).run(refused_after, number=number)


def more_than_are_kept(world):
    group, limits = world.split([0, 1]), (kinds.MOST_KINDS, transport.MOST_PREPARED)
    kinds.MOST_KINDS, transport.MOST_PREPARED = 5, 3
    try:
        memory = group.empty(1 << 17, np.float32)
        for count in [*range(1, 9), *range(1, 9), 1 << 15, 1 << 16, 1 << 17, 1 << 15]:
            for x in (memory[:count], memory[-count:], np.empty(count, np.float32)):
                x[...] = group.rank + 1
                assert (group.all_reduce(x) == 3).all(), count
                assert (group.all_reduce(x, "max", async_op=True).wait() == 3).all(), count
                x[...] = group.rank
                assert (group.scatter(x.reshape(1, -1).repeat(2, 0), 1) == 1).all(), count
    finally:
        kinds.MOST_KINDS, transport.MOST_PREPARED = limits
    return {name: done["calls"] for name, done in group.stats()["operations"].items()}


@pytest.mark.parametrize("how", ["auto", "tcp"])
def test_more_kinds_than_are_kept(ranks, how):
    done = {"all_reduce": 120, "scatter": 60}
    assert ranks(2, how).run(more_than_are_kept) == [done, done]
