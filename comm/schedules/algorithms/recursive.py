"""Recursive doubling and halving: partners at distances 1, 2, 4, ...: few rounds.

Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH"
(2005). Ranks beyond a power of two fold their data into a neighbour's and get the result back.
"""

from collections.abc import Callable

from ringlet.comm.schedules.schedule import Receive, Reduce, Send, Step, backwards, embed


def power_of_two(size: int) -> int:
    """The largest power of two up to `size`."""
    return 1 << (size.bit_length() - 1)


def recursive_doubling_all_reduce(rank: int, size: int, root: int = 0) -> list[Step]:
    """One slot: in every round all partners exchange everything. For small arrays.

    log2(size) rounds, two more if size is not a power of two. Every rank adds for itself; the
    lower rank's value is always the first operand, so all ranks compute the same expression.
    """
    return _folded(_doubling, rank, size, slots=1)


def halving_doubling_all_reduce(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: p, the largest power of two up to `size`.

    Rabenseifner's algorithm: a reduce-scatter that exchanges halves, quarters, ..., then the same
    way back as an all-gather. 2 log2(p) rounds and 2 (p - 1) / p of the array; ranks that fold
    move one whole array more each way.
    """
    return _folded(_halving_doubling, rank, size, slots=power_of_two(size))


def _doubling(rank: int, size: int) -> list[Step]:
    steps: list[Step] = []
    distance = 1
    while distance < size:
        partner = rank ^ distance
        steps += [Send(partner, 0), Reduce(partner, 0, peer_first=partner < rank)]
        distance *= 2
    return steps


def _halving_doubling(rank: int, size: int) -> list[Step]:
    halving: list[Step] = []
    mine = range(size)
    distance = 1
    while distance < size:
        partner, half = rank ^ distance, len(mine) // 2
        kept, given = mine[:half], mine[half:]
        if rank > partner:
            kept, given = given, kept
        halving += [Send(partner, slot) for slot in given]
        halving += [Reduce(partner, slot) for slot in kept]
        mine = kept
        distance *= 2
    return [*halving, *backwards(halving)]


def _folded(core: Callable[[int, int], list[Step]], rank: int, size: int, slots: int) -> list[Step]:
    """The core on p ranks: of the first 2 (size - p) ranks the even ones only give and get."""
    power = power_of_two(size)
    folding = 2 * (size - power)
    if rank < folding and rank % 2 == 0:
        given: list[Step] = [Send(rank + 1, slot) for slot in range(slots)]
        return given + [Receive(rank + 1, slot) for slot in range(slots)]
    before: list[Step] = []
    after: list[Step] = []
    if rank < folding:
        before = [Reduce(rank - 1, slot, peer_first=True) for slot in range(slots)]
        after = [Send(rank - 1, slot) for slot in range(slots)]
    place = rank // 2 if rank < folding else rank - folding // 2

    def world(peer: int) -> int:
        return 2 * peer + 1 if peer < folding // 2 else peer + folding // 2

    return before + embed(core(place, power), peer=world) + after
