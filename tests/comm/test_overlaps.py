"""Arrays and their `out` in the same memory: wherever both lie, results are the right ones."""

import numpy as np
import pytest

CALLS = {
    # operation: lengths of x and out in blocks, for a group of n ranks
    "reduce_scatter": lambda n: (n, 1),
    "all_gather": lambda n: (1, n),
    "all_to_all": lambda n: (n, n),
}


def expected(world, operation, block, mine):
    """What rank `mine` gets where every rank has `given`."""
    n = world.size
    everybodys = [given(rank, CALLS[operation](n)[0] * block) for rank in range(n)]
    if operation == "all_gather":
        return np.concatenate(everybodys)
    own = slice(mine * block, (mine + 1) * block)
    if operation == "reduce_scatter":
        return sum(x[own] for x in everybodys)
    return np.concatenate([x[own] for x in everybodys])


def given(rank, count):
    return np.arange(count, dtype=np.float32) % 251 + 10 * rank


def in_one_buffer(world, operation, block, step, registered=False, strides=(1, 1), async_op=False):
    """The call with `out` at every distance from `x`, both with these strides."""
    widths = [blocks * block for blocks in CALLS[operation](world.size)]
    spans = [(width - 1) * stride + 1 for width, stride in zip(widths, strides, strict=True)]
    wrong, right = [], expected(world, operation, block, world.rank)
    length = 2 * max(spans) + min(spans) + 2
    buffer = world.empty(length) if registered else np.empty(length, np.float32)
    at = max(spans)
    for shift in range(-spans[1], spans[0] + 1, step):
        x = buffer[at : at + spans[0] : strides[0]]
        out = buffer[at + shift : at + shift + spans[1] : strides[1]]
        x[...] = given(world.rank, len(x))
        world.barrier()  # a peer that is late would read what is right by chance
        result = out.view()
        if operation == "all_gather":
            result.shape = world.size, block  # never a copy
        got = getattr(world, operation)(x, out=result, async_op=async_op)
        got = got.wait() if async_op else got
        if not (np.array_equal(out, right) and got is result):
            wrong.append(shift)
        world.barrier()
    return wrong


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("transport", ["auto", "ipc"])
@pytest.mark.parametrize(
    "options",
    [{"step": 1}, {"step": 1, "strides": (1, 2)}, {"step": 1, "strides": (2, 1)},
     {"step": 3, "async_op": True}],
    ids=["contiguous", "out spread", "x spread", "asynchronous"],
)  # fmt: skip
def test_results_are_right_wherever_out_lies(ranks, operation, transport, options):
    pool = ranks(3, transport)
    assert pool.run(in_one_buffer, operation=operation, block=4, **options) == [[]] * 3


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize(
    ("transport", "block", "registered"),
    [("auto", 30_000, True), ("auto", 30_000, False), ("auto", 1_700_000, False),
     ("ipc", 300_000, False)],
)  # fmt: skip
def test_results_of_long_arrays_are_right_wherever_out_lies(
    ranks, operation, transport, block, registered
):
    pool = ranks(2, transport)
    options = {"operation": operation, "block": block, "step": block // 2, "registered": registered}
    assert pool.run(in_one_buffer, **options) == [[]] * 2


def rows_of_everybody(world):
    """all_gather of rows of `out`: a rank's own, and all others."""
    found = []
    for row in range(world.size):
        for count in (5, 40_000, 1_700_000):
            out = np.zeros((world.size, count), np.float32)
            mine = out[(world.rank + row) % world.size]
            mine[:] = given(world.rank, count)
            world.all_gather(mine, out=out)
            found.append(all((out[r] == given(r, count)).all() for r in range(world.size)))
    return all(found)


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_a_row_of_out_may_be_gathered(ranks, transport):
    assert all(ranks(2, transport).run(rows_of_everybody))
