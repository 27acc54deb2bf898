"""Ranks as threads: their group means what comm's group means, and names what goes wrong."""

import numpy as np
import pytest

from ringlet.launcher.lessons.ranks import on_ranks
from ringlet.launcher.lessons.wrong import Wrong


def everything(world):
    """What every collective and message gives this rank, as lists."""
    rank, size = world.rank, world.size
    x = np.arange(2.0 * size) + 10 * rank
    before, after = (rank - 1) % size, (rank + 1) % size
    found = [
        world.all_reduce(x.copy()), world.all_reduce(x.copy(), "mean"),
        world.all_reduce(x.reshape(2, size).T, "max"), world.reduce_scatter(x),
        world.reduce_scatter(x, "mean", out=np.empty(2)), world.all_gather(x),
        world.all_to_all(x), world.broadcast(x.copy(), root=size - 1),
        world.reduce(x.copy(), root=1), world.gather(x, root=1),
        world.scatter(np.eye(size) if rank == 1 else None, root=1),
        world.all_reduce(x.copy(), async_op=True).wait(), world.barrier(),
    ]  # fmt: skip
    world.send(x, after)
    world.isend(x + 1, after, tag=7).wait()
    arriving = world.irecv(before, tag=7, out=np.empty(2 * size))
    found += [world.recv(before), arriving.wait(), np.array(world.broadcast_object([rank], 1))]
    return [None if each is None else each.tolist() for each in found]


def test_they_get_what_real_ranks_get(ranks):
    assert [found for found, _ in on_ranks(3, everything)] == ranks(3).run(everything)


def first_alone(group):
    if group.rank == 0:
        group.all_reduce(np.ones(2))


def each_other(group):
    group.recv((group.rank + 1) % group.size)


def different_shapes(group):
    group.all_reduce(np.ones(2 + group.rank))


def different_calls(group):
    group.barrier() if group.rank else group.all_gather(np.ones(2))


def nobody(group):
    group.send(np.ones(2), group.size)


def errors(group):
    if group.rank:
        raise ValueError("no such thing")
    group.barrier()


@pytest.mark.parametrize(
    "program, error, words",
    [
        (first_alone, Wrong, "2 ranks: nobody can go on: rank 0 waits for the others in its "
         r"collective 1, all_reduce of \(2,\) float64, sum; rank 1 has ended"),
        (each_other, Wrong, "rank 0 waits for a message of rank 1; rank 1 waits for a message of"),
        (different_shapes, Wrong, r"collective 1 differs: rank 0 calls all_reduce of \(2,\) "
         r"float64, sum; rank 1 calls all_reduce of \(3,\) float64, sum"),
        (different_calls, Wrong, r"rank 0 calls all_gather of \(2,\) float64; rank 1 calls barr"),
        (nobody, Wrong, "2 ranks: rank 0 talks to a rank 2"),
        (errors, ValueError, "no such thing"),
    ],
)  # fmt: skip
def test_what_goes_wrong_among_them_is_named(program, error, words):
    with pytest.raises(error, match=words):
        on_ranks(2, program)
