"""Prove a direct schedule: nobody touches what another may be writing, and the result is right.

Between two fences ranks run in any order. So in each such stretch no place that a rank writes may
be read or written by another; then any order gives the same, the schedule can be executed rank by
rank, and what a place holds is a set of contributions as in `prove`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeAlias

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.direct import (
    Combine,
    DirectStep,
    Fence,
    Read,
    Share,
    Stage,
    Unstage,
    all_reduce_staged,
    direct_steps,
)
from ringlet.comm.schedules.schedule import Copy, Schedule
from ringlet.comm.schedules.symbols import Contributions, contributions_after, contributions_before

Place: TypeAlias = tuple[int, str, int, int]
"""Rank, kind of memory, chunk (or staging area), slot."""

Memory: TypeAlias = dict[Place, Contributions]

OWN, STAGED = "own", "staged"

STAGED_ONLY = ("all_reduce_whole",)
"""Schedules whose reads are of staged copies, which stay as they were at the fence."""

AREAS = 2


class Move(NamedTuple):
    """The targets get what all the sources hold together."""

    targets: list[Place]
    sources: list[Place]


Moves: TypeAlias = Callable[[DirectStep, int, int], list[Move]]


def prove_direct(name: str, size: int, root: int = 0) -> int:
    """Raise ScheduleError unless the direct schedule is right; returns its number of fences."""
    staged = name in STAGED_ONLY
    plan = plan_of(name, size, root)
    steps = [direct_steps(name, rank, size, root) for rank in range(size)]
    before = start_of(plan, 1, OWN)
    if staged:  # one slot, which every rank has copied to its staging area
        before |= start_of(plan, 1, STAGED)
    moves = partial(moves_in_place, shown=STAGED if staged else OWN)
    fences, after = _execute(f"{name} of {size}", steps, moves, before)
    _check_result(f"{name} of {size}", plan, 1, after)
    return fences


def prove_staged(size: int, chunks: int) -> int:
    """The same of the all-reduce through the staging areas, in so many chunks."""
    name, plan = f"staged all_reduce of {size}", plan_of("all_reduce", size, 0)
    steps = [tuple(all_reduce_staged(rank, size, chunks)) for rank in range(size)]
    fences, after = _execute(name, steps, _moves_staged, start_of(plan, chunks, OWN))
    _check_result(name, plan, chunks, after)
    return fences


def plan_of(name: str, size: int, root: int, algorithm: str = "direct") -> Schedule:
    """The operation's promise, in the form in which `prove` has it."""
    if name in STAGED_ONLY:  # one slot, reduced on every rank
        return Schedule("barrier", name, size, 1, root, ())
    slots = {"all_to_all": 2 * size, "broadcast": 1, "reduce": 1, "barrier": 0}.get(name, size)
    return Schedule(name, algorithm, size, slots, root, ())


def start_of(plan: Schedule, chunks: int, kind: str) -> Memory:
    """What is there at the start; what is undefined has no entry."""
    return {
        (rank, kind, chunk, slot): value
        for rank, slots in enumerate(contributions_before(plan))
        for chunk in range(chunks)
        for slot, value in enumerate(slots)
        if value is not None
    }


def _check_result(name: str, plan: Schedule, chunks: int, memory: Memory) -> None:
    for rank, expected in enumerate(contributions_after(plan)):
        for slot, value in expected.items():
            for chunk in range(chunks):
                if memory.get((rank, OWN, chunk, slot)) != value:
                    raise ScheduleError(f"{name}: rank {rank} ends wrong in slot {slot}")


# -- what steps do to memory ----------------------------------------------------------------------


def moves_in_place(step: DirectStep, rank: int, size: int, shown: str) -> list[Move]:
    """Steps on arrays that all can reach; peers are read where they are `shown`."""

    def own(slot: int) -> Place:
        return rank, OWN, 0, slot

    if isinstance(step, Copy):
        return [Move([own(step.slot)], [own(step.source)])]
    if isinstance(step, Read):
        return [Move([own(step.slot)], [(step.peer, shown, 0, step.source)])]
    if isinstance(step, Combine | Share):
        everybody = [(peer, shown, 0, step.slot) for peer in range(size)]
        return [Move(everybody if isinstance(step, Share) else [own(step.slot)], everybody)]
    raise ScheduleError(f"{step} is no step in place")


def _moves_staged(step: DirectStep, rank: int, size: int) -> list[Move]:
    """Steps of the staged all-reduce."""
    others = [peer for peer in range(size) if peer != rank]
    if isinstance(step, Share):
        area = step.chunk % AREAS
        everybody = [(rank, OWN, step.chunk, step.slot)]
        everybody += [(peer, STAGED, area, step.slot) for peer in others]
        return [Move(everybody, everybody)]
    if isinstance(step, Stage | Unstage):
        pairs = [
            [(rank, STAGED, step.chunk % AREAS, part), (rank, OWN, step.chunk, part)]
            for part in others
        ]
        if isinstance(step, Unstage):
            return [Move([own], [staged]) for staged, own in pairs]
        return [Move([staged], [own]) for staged, own in pairs]
    raise ScheduleError(f"{step} is no step of a staged all-reduce")


# -- executing them -------------------------------------------------------------------------------


def _execute(
    name: str, steps: list[tuple[DirectStep, ...]], moves: Moves, memory: Memory
) -> tuple[int, Memory]:
    """Take all steps, stretch by stretch; returns the number of fences and what is then there."""
    by_fence = [list(stretches(own)) for own in steps]
    fences = {len(own) - 1 for own in by_fence}
    if len(fences) != 1:
        raise ScheduleError(f"{name}: ranks have {sorted(fences)} fences")
    for number in range(len(by_fence[0])):
        by_rank = [
            [move for step in stretch[number] for move in moves(step, rank, len(steps))]
            for rank, stretch in enumerate(by_fence)
        ]
        _check_conflicts(name, by_rank)
        for own in by_rank:
            for move in own:
                value = _union(name, [memory.get(source) for source in move.sources])
                memory |= dict.fromkeys(move.targets, value)
    return fences.pop(), memory


def stretches(steps: tuple[DirectStep, ...]) -> Iterator[list[DirectStep]]:
    """The steps between fences."""
    stretch: list[DirectStep] = []
    for step in steps:
        if isinstance(step, Fence):
            yield stretch
            stretch = []
        else:
            stretch.append(step)
    yield stretch


def _check_conflicts(name: str, by_rank: list[list[Move]]) -> None:
    """No place is written by one rank and read or written by another in the same stretch."""
    writers: dict[Place, set[int]] = {}
    users: dict[Place, set[int]] = {}
    for rank, moves in enumerate(by_rank):
        for move in moves:
            for place in move.targets:
                writers.setdefault(place, set()).add(rank)
            for place in (*move.targets, *move.sources):
                users.setdefault(place, set()).add(rank)
    clashes = sorted(place for place in writers if len(users[place]) > 1)
    if clashes:
        raise ScheduleError(f"{name}: {clashes} are written while others use them")


def _union(name: str, values: list[Contributions | None]) -> Contributions:
    sets = [value for value in values if value is not None]
    if len(sets) < len(values):
        raise ScheduleError(f"{name} uses a slot that holds nothing")
    union = frozenset().union(*sets)
    if len(union) != sum(map(len, sets)):
        raise ScheduleError(f"{name} counts a contribution twice")
    return union
