"""Checks lesson 3: the schedule is proven and priced, the formulas are compared with 1F1B's."""

from collections.abc import Iterator
from typing import Any

from ringlet.comm.errors import ScheduleError
from ringlet.launcher.lessons.words import asked, number_problem
from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.formulas import peaks
from ringlet.runtime.pipeline.price import price
from ringlet.runtime.pipeline.prove import prove
from ringlet.runtime.pipeline.schedules import make_schedule

SIZES = [
    (1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (2, 5), (3, 5), (4, 4), (4, 8), (5, 3), (6, 11),
]  # fmt: skip
"""(ranks, micro-batches), from the smallest."""

HINTS = (
    "The last rank can take the backward of a micro-batch right after its forward. So its list is "
    "F0 B0 F1 B1 F2 B2 ... What does the rank before it have to do before its first B?",
    "Until the first gradient comes back to rank r, a micro-batch must have gone through the "
    "ranks after it. Meanwhile rank r takes one forward for each of these ranks: "
    "ranks - 1 - rank of them.",
    "The list has three parts: forwards alone (the warm-up), then one forward and one backward in "
    "turn, then the backwards that are left. With few micro-batches the first part may hold all "
    "forwards.",
    "In GPipe's picture, a rank idles while the first micro-batch comes to it and while the last "
    "one goes back: together as long as ranks - 1 micro-batches take. The whole step is as long as "
    "micro_batches + ranks - 1 of them take. The bubble is the one divided by the other.",
    "warm_up = min(ranks - 1 - rank, micro_batches); then for every backward number b: append the "
    "forward warm_up + b, if there is one, and then the backward b.",
)


def check(answer: Any) -> Iterator[str]:
    """What is wrong with an exercise."""
    yield from _first(_bubble(answer.bubble, *size) for size in SIZES)
    yield from _first(_held(answer.held, rank, *size) for size in SIZES for rank in range(size[0]))
    yield from _first(_schedule(answer.one_forward_one_backward, *size) for size in SIZES)


def _first(problems: Iterator[str | None]) -> Iterator[str]:
    problem = next((each for each in problems if each is not None), None)
    if problem is not None:
        yield problem


def _bubble(function: Any, ranks: int, micro_batches: int) -> str | None:
    call = asked("bubble", ranks=ranks, micro_batches=micro_batches)
    got = function(ranks=ranks, micro_batches=micro_batches)
    expected = price(make_schedule("1f1b", ranks, micro_batches)).bubble
    problem = number_problem(call, got, expected, "of the step")
    shown = f"ringlet explain pipeline --stages {ranks} --micro-batches {micro_batches}"
    return f"{problem} (count the dots in: {shown})" if problem else None


def _held(function: Any, rank: int, ranks: int, micro_batches: int) -> str | None:
    call = asked("held", rank=rank, ranks=ranks, micro_batches=micro_batches)
    got = function(rank=rank, ranks=ranks, micro_batches=micro_batches)
    expected = prove(make_schedule("1f1b", ranks, micro_batches)).peaks[rank]
    return number_problem(call, got, expected, "held")


def _schedule(function: Any, ranks: int, micro_batches: int) -> str | None:
    compute = []
    for rank in range(ranks):
        actions = function(rank=rank, ranks=ranks, micro_batches=micro_batches)
        call = asked(
            "one_forward_one_backward", rank=rank, ranks=ranks, micro_batches=micro_batches
        )
        if not isinstance(actions, list | tuple):
            return f"{call} returned {actions!r:.60}; it must return a list of actions"
        compute.append(tuple(actions))
        for action in compute[-1]:
            if not isinstance(action, Action):
                return f"{call} has {action!r:.60}, which is no Action"
            if action.kind not in ("F", "B"):
                return f"{call} has {action}; kinds are F and B"
    schedule = PipelineSchedule("your 1F1B", ranks, 1, micro_batches, tuple(compute))
    try:
        proof = prove(schedule)
    except ScheduleError as error:
        return str(error)
    bounds = peaks(make_schedule("1f1b", ranks, micro_batches))
    for rank, (most, bound) in enumerate(zip(proof.peaks, bounds, strict=True)):
        if most > bound:
            return f"{schedule}: stage {rank} holds {most} micro-batches, the bound is {bound}"
    seconds = price(schedule).makespan
    least = price(make_schedule("gpipe", ranks, micro_batches)).makespan
    if seconds > least:
        return (
            f"{schedule}: it takes {seconds:g} units of time (a forward 1, a backward 2); "
            f"GPipe takes {least:g}"
        )
    return None
