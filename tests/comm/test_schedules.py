"""Schedules: proven for world sizes 1 to 33, with the textbook's counts; and what proof refuses."""

import math
from dataclasses import replace

import pytest

from ringlet.comm import ScheduleError, direct
from ringlet.comm.algorithms import ALGORITHMS, schedule
from ringlet.comm.direct import DIRECT, Fence, Read
from ringlet.comm.prove import prove
from ringlet.comm.prove_direct import prove_direct
from ringlet.comm.schedule import Copy, Receive, Reduce, Schedule, Send

SIZES = range(1, 34)


def log2(n):
    return math.ceil(math.log2(n))


# (operation, algorithm) -> rounds, most slots sent by one rank, slots sent in all
TEXTBOOK = {
    ("all_reduce", "ring"): lambda n: (2 * (n - 1), 2 * (n - 1), 2 * n * (n - 1)),
    ("reduce_scatter", "ring"): lambda n: (n - 1, n - 1, n * (n - 1)),
    ("all_gather", "ring"): lambda n: (n - 1, n - 1, n * (n - 1)),
    ("broadcast", "tree"): lambda n: (log2(n), log2(n), n - 1),
    ("reduce", "tree"): lambda n: (log2(n), 1 if n > 1 else 0, n - 1),
    ("gather", "direct"): lambda n: (n - 1, 1 if n > 1 else 0, n - 1),
    ("scatter", "direct"): lambda n: (n - 1, n - 1, n - 1),
    ("all_to_all", "pairwise"): lambda n: (n - 1, n - 1, n * (n - 1)),
    ("barrier", "dissemination"): lambda n: (log2(n), log2(n), n * log2(n)),
}


def test_the_table_names_every_algorithm():
    known = {(operation, name) for operation, names in ALGORITHMS.items() for name in names}
    assert known == set(TEXTBOOK)


@pytest.mark.parametrize(("operation", "algorithm"), TEXTBOOK)
def test_every_schedule_is_right_and_costs_what_the_textbook_says(operation, algorithm):
    rooted = operation in ("broadcast", "reduce", "gather", "scatter")
    for size in SIZES:
        rounds, most, total = TEXTBOOK[operation, algorithm](size)
        for root in range(size) if rooted and size <= 9 else {0, size // 2, size - 1}:
            proof = prove(schedule(operation, algorithm, size, root if rooted else 0))
            assert proof.rounds == rounds, (size, root)
            assert max(proof.sent) == most, (size, root)
            assert sum(proof.sent) == sum(proof.received) == total, (size, root)


@pytest.mark.parametrize(("operation", "algorithm"), TEXTBOOK)
def test_every_schedule_is_right_when_cut_into_segments(operation, algorithm):
    for size in (1, 2, 3, 4, 5, 8, 13):
        for segments in (2, 3, 7):
            whole = prove(schedule(operation, algorithm, size))
            cut = prove(schedule(operation, algorithm, size), segments)
            assert cut.sent == whole.sent
            # Segments overlap: cutting adds a message for each hop at most, never a whole slot.
            assert cut.rounds <= whole.rounds * segments


def test_segments_travel_on_before_the_whole_slot_has_come():
    steps = (
        (Send(1, 0),),
        (Receive(0, 0), Send(2, 0)),
        (Receive(1, 0), Send(3, 0)),
        (Receive(2, 0),),
    )
    chain = Schedule("broadcast", "chain", 4, slots=1, root=0, steps=steps)
    assert prove(chain).rounds == 3
    assert prove(chain, segments=16).rounds == 16 + 2  # not 3 * 16


def ring(size=3):
    return schedule("all_reduce", "ring", size)


def with_steps(plan, rank, steps):
    return replace(plan, steps=(*plan.steps[:rank], tuple(steps), *plan.steps[rank + 1 :]))


BROKEN = {
    "a step left out": ("deadlocks", lambda p: with_steps(p, 1, p.steps[1][1:])),
    "a receive too many": (
        "deadlocks",
        lambda p: with_steps(p, 0, (*p.steps[0], Receive(1, 0))),
    ),
    "a send too many": ("unread", lambda p: with_steps(p, 0, (*p.steps[0], Send(1, 0)))),
    "all receive first": (
        "deadlocks",
        lambda p: replace(p, steps=tuple((s[1], s[0], *s[2:]) for s in p.steps)),
    ),
    "counted twice": (
        "twice",
        lambda p: with_steps(
            p, 0, [Reduce(s.peer, s.slot) if isinstance(s, Receive) else s for s in p.steps[0]]
        ),
    ),
    "not added": (
        "in place of|twice",
        lambda p: with_steps(
            p, 0, [Receive(s.peer, s.slot) if isinstance(s, Reduce) else s for s in p.steps[0]]
        ),
    ),
    "a wrong slot": (
        "in place of|twice",
        lambda p: with_steps(p, 0, [Send(p.steps[0][0].peer, 0), *p.steps[0][1:]]),
    ),
    "overwritten at the end": (
        "in place of",
        lambda p: with_steps(p, 0, (*p.steps[0], Copy(0, 1))),
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_wrong_schedule_is_refused(fault):
    text, damage = BROKEN[fault]
    prove(ring())
    with pytest.raises(ScheduleError, match=text):
        prove(damage(ring()))


def test_an_undefined_slot_is_not_combined():
    plan = schedule("all_gather", "ring", 2)
    with pytest.raises(ScheduleError, match="empty slot"):
        prove(with_steps(plan, 0, [plan.steps[0][0], Reduce(1, 1)]))


# -- schedules of shared memory -------------------------------------------------------------------

FENCES = {
    "all_reduce": 3, "all_reduce_whole": 1, "reduce_scatter": 2, "all_gather": 2, "all_to_all": 2,
    "broadcast": 2, "reduce": 2, "gather": 2, "scatter": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", FENCES)
def test_direct_schedules_are_right_and_nobody_reads_what_is_being_written(name):
    for size in SIZES:
        for root in {0, size - 1}:
            assert prove_direct(name, size, root) == FENCES[name]
    assert set(FENCES) == set(DIRECT) - {"barrier"}


DIRECT_FAULTS = {
    "a fence left out": ("written while others read", lambda s: [s[0], s[1], *s[3:]]),
    "no last fence, then more": ("fences", lambda s: s[:-1]),
    "a part not read": ("ends wrong", lambda s: [x for x in s if not isinstance(x, Read)]),
    "combined twice": ("twice", lambda s: [*s[:3], s[1], Fence(), *s[3:]]),
}


@pytest.mark.parametrize("fault", DIRECT_FAULTS)
def test_a_wrong_direct_schedule_is_refused(fault, monkeypatch):
    text, damage = DIRECT_FAULTS[fault]
    right = direct.all_reduce

    def wrong(rank, size, root=0):
        steps = right(rank, size, root)
        return damage(steps) if fault != "no last fence, then more" or rank == 1 else steps

    monkeypatch.setitem(DIRECT, "all_reduce", wrong)
    direct.direct_steps.cache_clear()
    try:
        with pytest.raises(ScheduleError, match=text):
            prove_direct("all_reduce", 3)
    finally:
        direct.direct_steps.cache_clear()
