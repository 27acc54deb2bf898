"""Prove a direct schedule: nobody touches what another may be writing, and the result is right.

Between two fences ranks run in any order. So in each such stretch no place that a rank writes may
be read or written by another; then every order gives the same, the schedule can be executed rank
by rank, and what a place holds is a set of contributions as in `prove`.

What runs on shared memory is the same kind of list with elements in place of slots (`shared.lower`
cuts them), so `execute_direct` proves that, too.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.direct import (
    AREAS,
    STAGED,
    DirectStep,
    Fence,
    Move,
    Place,
    crossings,
    direct_steps,
    staged_steps,
)
from ringlet.comm.schedules.prove import Transfer
from ringlet.comm.schedules.schedule import Schedule
from ringlet.comm.schedules.symbols import Contributions, contributions_after, contributions_before

Contents: TypeAlias = dict[Any, Contributions]
"""What the places hold. Undefined ones have no entry."""


T = TypeVar("T")


class DirectProof(NamedTuple):
    """What the proof has counted. `states`: what was held at the start and after each round (a
    stretch with a move); `transfers`: what a rank read or stored in another's memory."""

    promise: Schedule
    fences: int
    states: list[Contents]
    transfers: list[Transfer]


def prove_direct(name: str, size: int, root: int = 0) -> DirectProof:
    """Raise ScheduleError unless the schedule on arrays that all can reach is right."""
    steps = [direct_steps(name, rank, size, root) for rank in range(size)]
    return _prove(f"{name} of {size}", promise_of(name, size, root), steps, 1)


def prove_staged(name: str, size: int, root: int = 0, chunks: int = 1) -> DirectProof:
    """The same of the schedule through the staging areas, in so many chunks."""
    steps = [
        list(map(_in_areas, staged_steps(name, rank, size, root, chunks))) for rank in range(size)
    ]
    return _prove(f"staged {name} of {size}", promise_of(name, size, root), steps, chunks)


def promise_of(name: str, size: int, root: int) -> Schedule:
    """What the operation promises, in the form in which `prove` has it."""
    if name == "all_reduce_whole":  # one slot, reduced on every rank
        return Schedule("barrier", name, size, 1, root, ())
    slots = {"all_to_all": 2 * size, "broadcast": 1, "reduce": 1, "barrier": 0}.get(name, size)
    operation = "all_gather" if name == "all_gather_shards" else name
    return Schedule(operation, "shared_memory", size, slots, root, ())


def _prove(
    name: str, promise: Schedule, steps: Sequence[Sequence[DirectStep]], chunks: int
) -> DirectProof:
    memory = {
        Place(rank, slot, chunk): value
        for rank, slots in enumerate(contributions_before(promise))
        for slot, value in enumerate(slots)
        if value is not None
        for chunk in range(chunks)
    }
    proof = DirectProof(promise, 0, [memory], [])
    for number, (after, moves) in enumerate(execute_direct(name, steps, memory)):
        proof = proof._replace(fences=number)
        if not any(moves):
            continue
        round_ = len(proof.states)
        proof.states.append(after)
        for rank, own in enumerate(moves):
            for move in own:
                for to, source in crossings(move, rank):
                    combined = len(move.sources) > 1 and to.rank == rank
                    proof.transfers.append(
                        Transfer(round_, source.rank, source.slot, to.rank, to.slot, combined)
                    )
    for rank, expected in enumerate(contributions_after(promise)):
        for slot, value in expected.items():
            if any(proof.states[-1].get(Place(rank, slot, k)) != value for k in range(chunks)):
                raise ScheduleError(f"{name}: rank {rank} ends wrong in slot {slot}")
    return proof


def execute_direct(
    name: str, steps: Sequence[Iterable[Move[Any] | Fence]], memory: Contents
) -> Iterator[tuple[Contents, list[list[Move[Any]]]]]:
    """Execute all ranks' steps; yields what is held after each stretch, and its moves by rank.

    Raises ScheduleError where two ranks may touch the same place at once, sources are not in the
    order of ranks, a place is read that holds nothing, or a contribution counts twice.
    """
    by_fence = [list(stretches(own)) for own in steps]
    fences = {len(own) - 1 for own in by_fence}
    if len(fences) != 1:
        raise ScheduleError(f"{name}: ranks have {sorted(fences)} fences")
    for moves in map(list, zip(*by_fence, strict=True)):
        _check_conflicts(name, moves)
        memory = dict(memory)
        for move in (move for own in moves for move in own):
            if [place.rank for place in move.sources] != sorted(p.rank for p in move.sources):
                raise ScheduleError(f"{name}: {move} does not combine in the order of ranks")
            sets = [memory[source] for source in move.sources if source in memory]
            if len(sets) < len(move.sources):
                raise ScheduleError(f"{name} uses a slot that holds nothing")
            union = frozenset().union(*sets)
            if len(union) != sum(map(len, sets)):
                raise ScheduleError(f"{name} counts a contribution twice")
            memory |= dict.fromkeys(move.targets, union)
        yield memory, moves


def stretches(steps: Iterable[T | Fence]) -> Iterator[list[T]]:
    """The steps between fences."""
    stretch: list[T] = []
    for step in steps:
        if isinstance(step, Fence):
            yield stretch
            stretch = []
        else:
            stretch.append(step)
    yield stretch


def _in_areas(step: DirectStep) -> DirectStep:
    """Staged places as what they are: chunks that use the same area share its memory."""
    if isinstance(step, Fence):
        return step

    def area(place: Place) -> Place:
        return place._replace(chunk=place.chunk % AREAS) if place.memory == STAGED else place

    return Move(tuple(map(area, step.targets)), tuple(map(area, step.sources)))


def _check_conflicts(name: str, by_rank: list[list[Move[Any]]]) -> None:
    """No place is written by one rank and read or written by another in the same stretch."""
    writers: dict[Any, set[int]] = {}
    users: dict[Any, set[int]] = {}
    for rank, moves in enumerate(by_rank):
        for move in moves:
            for place in move.targets:
                writers.setdefault(place, set()).add(rank)
            for place in (*move.targets, *move.sources):
                users.setdefault(place, set()).add(rank)
    clashes = sorted(place for place in writers if len(users[place]) > 1)
    if clashes:
        raise ScheduleError(f"{name}: {clashes} are written while others use them")
