"""Prove a direct schedule: nobody reads what another may be writing, and the result is right.

Between two fences ranks run in any order. So in each such stretch no slot may be both written by
its owner and read by a peer; then what is read is what the slot held at the last fence, and the
schedule can be executed stretch by stretch, with sets of contributions as in `prove`.
"""

from typing import TypeAlias

from ringlet.comm.direct import Combine, DirectStep, Fence, Read, direct_steps
from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedule import Copy, Schedule
from ringlet.comm.symbols import Contributions, contributions_after, contributions_before

Value: TypeAlias = Contributions | None
Memory: TypeAlias = list[list[Value]]

STAGED_ONLY = ("all_reduce_whole",)
"""Schedules whose reads are of staged copies, which stay as they were at the fence."""


def prove_direct(name: str, size: int, root: int = 0) -> int:
    """Raise ScheduleError unless the direct schedule is right; returns its number of fences."""
    stretches = [_stretches(direct_steps(name, rank, size, root)) for rank in range(size)]
    fences = {len(stretch) - 1 for stretch in stretches}
    if len(fences) != 1:
        raise ScheduleError(f"{name} of {size}: ranks have {sorted(fences)} fences")
    plan = _plan(name, size, root)
    memory = contributions_before(plan)
    for number in range(fences.pop() + 1):
        steps = [stretch[number] for stretch in stretches]
        if name not in STAGED_ONLY:
            _check_conflicts(name, steps)
        memory = _run(name, steps, memory)
    for rank, expected in enumerate(contributions_after(plan)):
        for slot, value in expected.items():
            if memory[rank][slot] != value:
                raise ScheduleError(f"{name} of {size}: rank {rank} ends wrong in slot {slot}")
    return len(stretches[0]) - 1


def _plan(name: str, size: int, root: int) -> Schedule:
    """The operation's promise, in the form in which `prove` has it."""
    if name in STAGED_ONLY:  # one slot, reduced on every rank
        return Schedule("barrier", name, size, 1, root, ())
    slots = {"all_to_all": 2 * size, "broadcast": 1, "reduce": 1, "barrier": 0}.get(name, size)
    return Schedule(name, "direct", size, slots, root, ())


def _stretches(steps: tuple[DirectStep, ...]) -> list[list[DirectStep]]:
    """The steps between fences."""
    stretches: list[list[DirectStep]] = [[]]
    for step in steps:
        if isinstance(step, Fence):
            stretches.append([])
        else:
            stretches[-1].append(step)
    return stretches


def _check_conflicts(name: str, steps: list[list[DirectStep]]) -> None:
    """No slot is written by its owner and read by a peer in the same stretch."""
    size = len(steps)
    written = {
        (rank, step.slot)
        for rank, own in enumerate(steps)
        for step in own
        if not isinstance(step, Fence)
    }
    read: set[tuple[int, int]] = set()
    for rank, own in enumerate(steps):
        for step in own:
            if isinstance(step, Read):
                read.add((step.peer, step.source))
            elif isinstance(step, Combine):
                read |= {(peer, step.slot) for peer in range(size) if peer != rank}
    if written & read:
        raise ScheduleError(f"{name}: {sorted(written & read)} are written while others read them")


def _run(name: str, steps: list[list[DirectStep]], memory: Memory) -> Memory:
    """Every rank's memory after a stretch; reads are of the memory before it."""
    after = [list(slots) for slots in memory]
    for rank, own in enumerate(steps):
        for step in own:
            if isinstance(step, Copy):
                after[rank][step.slot] = after[rank][step.source]
            elif isinstance(step, Read):
                after[rank][step.slot] = memory[step.peer][step.source]
            elif isinstance(step, Combine):
                after[rank][step.slot] = _union(name, [slots[step.slot] for slots in memory])
    return after


def _union(name: str, values: list[Value]) -> Value:
    if any(value is None for value in values):
        raise ScheduleError(f"{name} combines a slot that holds nothing")
    sets = [value for value in values if value is not None]
    union = frozenset().union(*sets)
    if len(union) != sum(map(len, sets)):
        raise ScheduleError(f"{name} counts a contribution twice")
    return union
