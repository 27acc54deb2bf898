"""A student's schedule, put together from the steps of its ranks."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.schedule import Copy, Receive, Reduce, Schedule, Send, Step
from ringlet.comm.schedules.symbols import contributions_before
from ringlet.launcher.lessons.words import asked


def schedule_of(
    answer: Any, function: str, operation: str, size: int, slots: int, *more: Any
) -> Schedule:
    """What `answer`'s function gives for every rank: `function(rank, size, *more)`.

    Raises ScheduleError for what is no list of steps among so many ranks and slots.
    """
    steps = []
    for rank in range(size):
        call = asked(function, rank, size, *more)
        own = getattr(answer, function)(rank, size, *more)
        if not isinstance(own, list | tuple):
            what = "None" if own is None else f"a {type(own).__name__}"
            raise ScheduleError(f"{call} returned {what}; it must return a list of steps")
        for step in own:
            if problem := _problem(step, rank, size, slots):
                raise ScheduleError(f"{call} has {problem}")
        steps.append(tuple(own))
    made = Schedule(operation, "your", size, slots, root=0, steps=tuple(steps))
    for rank, own in enumerate(contributions_before(made)):
        full = {slot for slot, contributions in enumerate(own) if contributions is not None}
        if problem := _empty(made.steps[rank], full):
            raise ScheduleError(f"{made}: rank {rank} {problem}")
    return made


def _empty(steps: Iterable[Step], full: set[int]) -> str:
    """Which step takes a slot that holds nothing; "" if none does. `full` are those that do not at
    the start."""
    for step in steps:
        if isinstance(step, Send) and step.slot not in full:
            return f"at {step} has nothing in slot {step.slot} yet"
        if isinstance(step, Copy) and step.source not in full:
            return f"at {step} has nothing in slot {step.source} yet"
        if not isinstance(step, Send):
            full.add(step.slot)
    return ""


def _problem(step: Any, rank: int, size: int, slots: int) -> str:
    """Why it is no step of this rank; "" if it is one."""
    if not isinstance(step, Send | Receive | Reduce | Copy):
        return f"{step!r:.40}, which is not a Send, Receive, Reduce or Copy"
    numbers: list[tuple[str, Any, int]]
    if isinstance(step, Copy):
        numbers = [("slot", step.source, slots), ("slot", step.slot, slots)]
    else:
        numbers = [("rank", step.peer, size), ("slot", step.slot, slots)]
    for what, number, count in numbers:
        if not isinstance(number, int | np.integer):
            return f"{step}: {what} {number!r:.40} is not a whole number"
        if not 0 <= number < count:
            return f"{step}: there is no {what} {number}, the {what}s are 0 to {count - 1}"
    if not isinstance(step, Copy) and step.peer == rank:
        return f"{step}: a rank sends nothing to itself"
    return ""
