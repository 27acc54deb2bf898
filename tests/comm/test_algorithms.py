"""Every algorithm on numbers: in memory for many world sizes, and run by real ranks."""

import numpy as np
import pytest

from ringlet.comm.arrays import parts
from ringlet.comm.schedules.algorithms import ALGORITHMS, schedule
from ringlet.comm.schedules.kernel import execute
from ringlet.comm.schedules.schedule import Reduce, cut
from ringlet.comm.signature import Signature
from ringlet.comm.sockets.messages import Messages
from ringlet.comm.sockets.transport import make_steps, take_steps

EVERY = [(operation, name) for operation, names in ALGORITHMS.items() for name in names]
LENGTHS = [0, 1, 2, 7, 61]


def content(rank, length):
    """What a rank starts with; whole numbers, so that sums are exact."""
    return np.arange(length, dtype=np.float64) * 7 + rank * 1000


def memory(operation, rank, size, root, length, data=content):
    """The rank's array at the start; NaN where an operation defines nothing."""
    mine = data(rank, length)
    if operation == "all_to_all":
        return np.concatenate([mine, np.full(length, np.nan)])
    own = rank == root
    if operation in ("all_gather", "gather"):
        own = np.zeros(length, bool)
        own[length * rank // size : length * (rank + 1) // size] = True
    elif operation not in ("broadcast", "scatter"):
        own = True
    return np.where(own, mine, np.nan)


def expected(operation, rank, size, root, length):
    """What the rank ends with; NaN where the operation promises nothing."""
    everyone = [content(r, length) for r in range(size)]
    total = np.sum(everyone, axis=0)
    cuts = [length * r // size for r in range(size + 1)]
    shares = [slice(*cuts[r : r + 2]) for r in range(size)]
    nothing = np.full(length, np.nan)
    mine = nothing.copy()
    if operation == "all_to_all":
        received = [everyone[peer][shares[rank]] for peer in range(size)]
        return np.concatenate([nothing, *received])
    if operation == "reduce_scatter":
        mine[shares[rank]] = total[shares[rank]]
    elif operation == "scatter":
        mine[shares[rank]] = everyone[root][shares[rank]]
    elif operation == "broadcast":
        mine = everyone[root]
    elif operation in ("all_gather", "gather") and (operation == "all_gather" or rank == root):
        mine = np.concatenate([everyone[r][shares[r]] for r in range(size)])
    elif operation == "all_reduce" or (operation == "reduce" and rank == root):
        mine = total
    return mine


def check(operation, rank, size, root, length, found):
    right = expected(operation, rank, size, root, length)
    promised = ~np.isnan(right)
    assert np.array_equal(found[promised], right[promised]), (size, root, length, rank)


class Numbers:
    """A reader of schedules that computes with arrays."""

    def __init__(self, arrays, slots, combine=np.add):
        self.slots = [parts(array, slots) for array in arrays]
        self.combine = combine

    def compute(self, rank, step):
        self.slots[rank][step.slot][...] = self.slots[rank][step.source]

    def send(self, rank, step):
        return self.slots[rank][step.slot].copy()

    def receive(self, rank, step, payload):
        piece = self.slots[rank][step.slot]
        assert payload.shape == piece.shape
        if isinstance(step, Reduce):
            operands = (payload, piece) if step.peer_first else (piece, payload)
            self.combine(*operands, out=piece)
        else:
            piece[...] = payload


@pytest.mark.parametrize(("operation", "algorithm"), EVERY)
def test_in_memory_with_uneven_and_empty_slots(operation, algorithm):
    for size in range(1, 14):
        for length in [size * n for n in LENGTHS] if operation == "all_to_all" else LENGTHS:
            root = size // 2 if operation in ("broadcast", "reduce", "gather", "scatter") else 0
            plan = schedule(operation, algorithm, size, root)
            arrays = [memory(operation, r, size, root, length) for r in range(size)]
            execute(plan, plan.steps, Numbers(arrays, plan.slots))
            for rank in range(size):
                if operation != "barrier":
                    check(operation, rank, size, root, length, arrays[rank])


def awkward(rank, length):
    """Zeros of both signs, and NaNs that say whose they are."""
    x = np.zeros(length)
    x[rank % 2 :: 2] *= -1
    x[::3] = (np.array([0x7FF8000000000000 + rank], np.uint64)).view(np.float64)
    return x


@pytest.mark.parametrize("combine", [np.maximum, np.minimum, np.add], ids=lambda f: f.__name__)
@pytest.mark.parametrize("algorithm", ALGORITHMS["all_reduce"])
def test_all_ranks_get_the_same_bits(algorithm, combine):
    for size, per_host in [(2, 1), (3, 3), (4, 2), (5, 1), (6, 3), (8, 2), (9, 3), (12, 4)]:
        for length in (7, 100):
            plan = cut(schedule("all_reduce", algorithm, size, per_host=per_host), 2)
            arrays = [awkward(rank, length) for rank in range(size)]
            execute(plan, plan.steps, Numbers(arrays, plan.slots, combine))
            assert len({array.tobytes() for array in arrays}) == 1, (size, per_host)


def messages_of(call, kind, steps, array):
    """The program of a call: the steps on this rank's array."""
    channel = call.channel
    messages = Messages(channel.endpoint, channel.id, channel.ranks, call)
    yield from take_steps(messages, steps, [array], np.add)


def on_ranks(world, operation, algorithm, lengths, per_host=None):
    """Run the algorithm's steps on this rank's transport, in segments of a few bytes."""
    for length in lengths:
        for root in {0, world.size - 1}:
            array = memory(operation, world.rank, world.size, root, length)
            places = (world.rank, world.size, root, per_host)
            steps = make_steps(operation, algorithm, *places, (array.size,), 8)
            signature = Signature(operation, "<f8", (length,), "test")
            world._call(world._channel.kinds.of(signature), messages_of, (steps, array), {})
            if operation != "barrier":
                check(operation, world.rank, world.size, root, length, array)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(("operation", "algorithm"), EVERY)
def test_on_ranks(ranks, operation, algorithm, size):
    lengths = [0, size, 120 * size] if operation == "all_to_all" else [0, 1, 7, 61, 500]
    arguments = {"operation": operation, "algorithm": algorithm, "lengths": lengths}
    ranks(size).run(on_ranks, **arguments)


@pytest.mark.parametrize("per_host", [1, 2, 4])
def test_hierarchical_on_ranks(ranks, per_host):
    ranks(4, "tcp").run(
        on_ranks,
        operation="all_reduce",
        algorithm="hierarchical",
        lengths=[0, 1, 61, 500],
        per_host=per_host,
    )
