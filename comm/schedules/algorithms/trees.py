"""From or to one rank: binomial trees, the pipelined chain, scatter and all-gather, direct.

Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH"
(2005), compares them.
"""

from ringlet.comm.schedules.algorithms.rings import ring_all_gather
from ringlet.comm.schedules.schedule import Receive, Reduce, Send, Step, backwards


def tree_broadcast(rank: int, size: int, root: int = 0) -> list[Step]:
    """One slot; binomial tree from the root, in ceil(log2(size)) rounds."""
    parent, children = _family(rank, size, root)
    steps: list[Step] = [] if rank == root else [Receive(parent, 0)]
    return steps + [Send(child, 0) for child, _ in children]


def tree_reduce(rank: int, size: int, root: int = 0) -> list[Step]:
    """One slot; the binomial tree upside down: the root ends with the reduction."""
    return backwards(tree_broadcast(rank, size, root), Reduce)


def tree_scatter(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: one for each rank; a parent sends each child the slots of the child's whole branch.

    ceil(log2(size)) rounds instead of size - 1, but slots travel several times.
    """
    parent, children = _family(rank, size, root)
    steps: list[Step] = []
    if rank != root:
        steps += [Receive(parent, slot) for slot in _branch(rank, size, root)]
    for child, branch in children:
        steps += [Send(child, slot) for slot in branch]
    return steps


def tree_gather(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: one for each rank; the scatter upside down."""
    return backwards(tree_scatter(rank, size, root))


def chain_broadcast(rank: int, size: int, root: int = 0) -> list[Step]:
    """One slot, from each rank to the next. A pipeline, since segments follow one another.

    size - 2 + segments rounds of a segment each: for large arrays the time of one copy.
    """
    relative = (rank - root) % size
    steps: list[Step] = [Receive((rank - 1) % size, 0)] if relative else []
    return [*steps, Send((rank + 1) % size, 0)] if relative < size - 1 else steps


def scatter_all_gather_broadcast(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: the array cut into `size` parts: scattered down a tree, gathered round a ring.

    The long broadcast of van de Geijn: Barnett et al., "Building a high-performance collective
    communication library" (1994). About twice the time of one copy, whatever the world's size.
    """
    return tree_scatter(rank, size, root) + ring_all_gather(rank, size)


def direct_gather(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: one for each rank; rank r starts with slot r, the root ends with all."""
    return backwards(direct_scatter(rank, size, root))


def direct_scatter(rank: int, size: int, root: int = 0) -> list[Step]:
    """Slots: one for each rank; the root starts with all, rank r ends with slot r."""
    if rank != root:
        return [Receive(root, rank)]
    return [Send(peer, peer) for peer in range(size) if peer != root]


def _family(rank: int, size: int, root: int) -> tuple[int, list[tuple[int, list[int]]]]:
    """The rank's parent, and its children with their branches, the largest branch first."""
    relative = (rank - root) % size
    reach = _reach(relative, size)
    distances = [1 << bit for bit in reversed(range(reach.bit_length() - 1))]
    children = [(rank + d) % size for d in distances if relative + d < size]
    return (rank - reach) % size, [(child, _branch(child, size, root)) for child in children]


def _branch(rank: int, size: int, root: int) -> list[int]:
    """The ranks of the branch that begins at this one."""
    relative = (rank - root) % size
    end = min(relative + _reach(relative, size), size)
    return [(root + r) % size for r in range(relative, end)]


def _reach(relative: int, size: int) -> int:
    """How many ranks the branch holds if the tree is full; also the distance to its parent."""
    return relative & -relative or 1 << (size - 1).bit_length()
