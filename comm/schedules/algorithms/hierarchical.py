"""Several ranks on each of several hosts: as little as possible between the hosts."""

from functools import partial

from ringlet.comm.schedules.algorithms.rings import (
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
)
from ringlet.comm.schedules.schedule import Step, embed

INSIDE, ACROSS = "inside", "across"

PHASES = (("reduce_scatter", INSIDE), ("all_reduce", ACROSS), ("all_gather", INSIDE))
"""What is done among the ranks of a host, and then among those of the same place on all hosts."""

RINGS = {
    "reduce_scatter": ring_reduce_scatter,
    "all_reduce": ring_all_reduce,
    "all_gather": ring_all_gather,
}


def hierarchical_all_reduce(rank: int, size: int, root: int = 0, per_host: int = 1) -> list[Step]:
    """Slots: `size`, a shard of size / per_host slots for each rank of a host.

    Reduce-scatter on the host, all-reduce of the own shard with the ranks of the same place on
    the other hosts, all-gather on the host; all are rings. Between the hosts each rank sends
    2 (hosts - 1) / size of the array. Ranks count host by host: host h has the ranks from
    h * per_host on; it must divide size (else ValueError). Cho et al., "BlueConnect" (2019).
    """
    if per_host < 1 or size % per_host:
        raise ValueError(f"{size} ranks are not {per_host} on every host")
    hosts, (host, place) = size // per_host, divmod(rank, per_host)

    inside = partial(
        embed,
        peer=lambda peer: host * per_host + peer,
        slots=lambda shard: range(shard * hosts, (shard + 1) * hosts),
    )
    across = partial(
        embed,
        peer=lambda peer: peer * per_host + place,
        slots=lambda slot: [place * hosts + slot],
    )
    levels = {INSIDE: (inside, place, per_host), ACROSS: (across, host, hosts)}
    steps = list[Step]()
    for operation, level in PHASES:
        part_of, member, members = levels[level]
        steps += part_of(RINGS[operation](member, members))
    return steps
