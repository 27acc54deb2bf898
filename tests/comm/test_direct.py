"""Schedules of shared memory: proven as schedules, and as the very lists that are run."""

import itertools

import numpy as np
import pytest

from ringlet.comm import ScheduleError
from ringlet.comm.schedules import prove_direct as proof
from ringlet.comm.schedules.direct import MOVES, STAGED, Fence, Move, Place
from ringlet.comm.schedules.prove_direct import execute_direct, prove_direct, prove_staged
from ringlet.comm.shared import lower
from ringlet.comm.shared.lower import RESULT, ROWS, SOURCE, Shape, Span, lower_direct, lower_staged

IN_PLACE = [name for name in MOVES if name != "all_reduce_whole"]  # that one is for staged arrays


@pytest.mark.parametrize("name", IN_PLACE)
def test_nobody_reads_what_is_being_written_and_the_result_is_right(name):
    for size in (*range(1, 17), 33):
        for root in {0, size - 1}:
            assert prove_direct(name, size, root).fences == 2


@pytest.mark.parametrize("name", MOVES)
def test_staged_schedules_are_right_in_any_number_of_chunks(name):
    for size, chunks in itertools.product((1, 2, 3, 4, 7), range(1, 7)):
        for root in {0, size - 1}:
            fences = chunks + 1 if name == "all_reduce" else chunks
            assert prove_staged(name, size, root, chunks).fences == fences


def everywhere(slot):
    return tuple(Place(rank, slot) for rank in range(3))


def read(rank, peer, slot, into=None):
    return Move((Place(rank, slot if into is None else into),), (Place(peer, slot),))


def combine(rank, slot):
    return Move((Place(rank, slot),), everywhere(slot))


FAULTS = {
    "a fence left out": (
        "all_reduce",
        "while others use them",
        lambda s, r: [s[0], combine(r, r), *(read(r, p, p) for p in range(3) if p != r), s[-1]],
    ),
    "no last fence": ("all_reduce", "fences", lambda s, r: s[:-1] if r == 1 else s),
    "a part not read": ("all_gather", "ends wrong", lambda s, r: [s[0], s[-1]]),
    "a part not shared": ("all_reduce", "ends wrong", lambda s, r: [s[0], s[-1]]),
    "another's part shared": (
        "all_reduce",
        "while others use",
        lambda s, r: [s[0], Move(everywhere(1), everywhere(1)), s[-1]],
    ),
    "shared twice": ("all_reduce", "twice", lambda s, r: [*s, s[1]]),
    "what is not there": (
        "scatter",
        "holds nothing",
        lambda s, r: [s[0], read(r, 1, 2, 0), s[-1]],
    ),
    "another order": (
        "reduce_scatter",
        "order of ranks",
        lambda s, r: [s[0], Move(s[1].targets, s[1].sources[::-1]), s[-1]],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_schedule_is_refused(fault, monkeypatch):
    name, text, damage = FAULTS[fault]
    right = proof.direct_steps

    def wrong(name, rank, size, root=0):
        return damage(right(name, rank, size, root), rank)

    monkeypatch.setattr(proof, "direct_steps", wrong)
    with pytest.raises(ScheduleError, match=text):
        prove_direct(name, 3)


def staged_too_early(steps):
    """The next chunk is staged before the results that lie there are fetched."""
    swapped = list(steps)
    for at, step in enumerate(steps[:-1]):
        fetches = isinstance(step, Move) and {p.memory for p in step.sources} == {STAGED}
        if fetches and isinstance(steps[at + 1], Move):
            swapped[at : at + 2] = steps[at + 1], step
    return swapped


STAGED_FAULTS = {
    "staged too early": ("twice|ends wrong", staged_too_early),
    "no fences": ("while others use them", lambda s: [x for x in s if not isinstance(x, Fence)]),
    "a chunk not fetched": ("ends wrong", lambda s: s[:-2]),
}


@pytest.mark.parametrize("fault", STAGED_FAULTS)
def test_a_wrong_staged_all_reduce_is_refused(fault, monkeypatch):
    text, damage = STAGED_FAULTS[fault]
    right = proof.staged_steps
    monkeypatch.setattr(proof, "staged_steps", lambda *call: damage(list(right(*call))))
    with pytest.raises(ScheduleError, match=text):
        prove_staged("all_reduce", 3, 0, 4)


# -- the lists that are run -----------------------------------------------------------------------


def by_element(stretches):
    """The lowered moves of one rank, each cut into moves of single elements."""
    for number, stretch in enumerate(stretches):
        if number:
            yield Fence()
        for targets, sources in stretch:
            (count,) = {span.stop - span.start for span in (*targets, *sources)}
            for k in range(count):
                part = [
                    tuple(s._replace(start=s.start + k, stop=s.start + k + 1) for s in spans)
                    for spans in (targets, sources)
                ]
                yield Move(*part)


def promised(operation, rank, size, root, n, slots):
    """{(memory, element): contributions} that the rank must hold at the end."""
    everybody = [{(r, e) for r in range(size)} for e in range(n)]
    begin, end = slots[rank % len(slots)]
    if operation in ("all_reduce", "all_reduce_whole"):
        return {(SOURCE, e): everybody[e] for e in range(n)}
    if operation == "reduce":
        return {(SOURCE, e): everybody[e] if rank == root else {(rank, e)} for e in range(n)}
    if operation == "broadcast":
        return {(SOURCE, e): {(root, e)} for e in range(n)}
    if operation == "reduce_scatter":
        return {(RESULT, e - begin): everybody[e] for e in range(begin, end)}
    if operation == "all_gather_shards":
        owners = [(p, e) for p, (first, last) in enumerate(slots) for e in range(first, last)]
        return {(SOURCE, e): {(p, e)} for p, e in owners}
    if operation in ROWS:  # its own row a rank has by itself
        peers = [p for p in range(size) if p != rank and root in (rank, None)]
        return {(RESULT, p * n + e): {(p, e)} for p in peers for e in range(n)}
    if operation == "all_to_all":
        k = n // size
        return {(RESULT, p * k + e): {(p, begin + e)} for p in range(size) for e in range(k)}
    if rank == root:  # of a scatter
        return {}
    return {(RESULT, e - begin): {(root, e)} for e in range(begin, end)}


def prove_lowered(operation, size, root, n, first):
    """Raise unless the lists of all ranks are right together; `first` is None in place."""
    shapes = [Shape(operation, rank, size, root or 0, n, 4) for rank in range(size)]
    lists = [
        lower_direct(shape) if first is None else lower_staged(shape, first) for shape in shapes
    ]
    slots, held = shapes[0].slots(), {}
    for rank in range(size):
        start, stop = (0, n)
        if operation == "all_gather_shards":
            start, stop = slots[rank]
        if operation not in ("scatter", "broadcast") or rank == root:
            places = [Span(rank, SOURCE, e, e + 1) for e in range(start, stop)]
            held |= {place: frozenset({(rank, place.start)}) for place in places}
    steps = [list(by_element(own)) for own in lists]
    for held, _ in execute_direct(operation, steps, held):  # noqa: B007, B020
        pass
    for rank in range(size):
        for (memory, e), value in promised(operation, rank, size, root, n, slots).items():
            assert held.get(Span(rank, memory, e, e + 1)) == value, (rank, memory, e)


@pytest.mark.parametrize("operation", MOVES)
def test_what_is_run_is_proven_in_worlds_of_1_to_8_wherever_arrays_lie(operation, monkeypatch):
    rooted = operation in ("broadcast", "reduce", "gather", "scatter")
    for size in range(1, 9):
        cut = operation in ("reduce_scatter", "all_to_all", "scatter")
        lengths = (0, 9 * size) if cut else (0, 5, 9 * size + 1)
        for n, root in itertools.product(lengths, {0, size - 1} if rooted else [None]):
            if operation != "all_reduce_whole":
                prove_lowered(operation, size, root, n, None)
            for first, area in enumerate((512 << 10, 4 * 3 * size)):
                monkeypatch.setattr(lower, "STAGE_BYTES", area)
                prove_lowered(operation, size, root, n, first)


def test_calls_may_follow_one_another_without_a_fence_between():
    """What a rank stages for the next call, a slow one does not read as that of the last."""
    sizes = {"all_gather": 1, "reduce_scatter": 2, "all_to_all": 2, "all_reduce": 2}
    for one, two in itertools.product(sizes, repeat=2):
        calls = [[], []]
        for rank in range(2):
            area = 0
            for operation in (one, two, one):
                shape = Shape(operation, rank, 2, 0, 4, 4)
                stretches = lower_staged(shape, area)
                steps = list(by_element(stretches))
                calls[rank] += steps
                area = 0 if operation == "all_reduce" else area ^ 1
        stretches = [list(proof.stretches(own)) for own in calls]
        for moves in zip(*stretches, strict=True):
            proof._check_conflicts(f"{one}, {two}", list(moves))


def test_a_staging_area_holds_what_is_staged_at_once():
    lengths, stages = (1000, 1 << 20), (64 << 10, lower.STAGE_BYTES)
    for operation, size, n, stage in itertools.product(MOVES, (2, 3, 8), lengths, stages):
        for rank in range(size):
            shape = Shape(operation, rank, size, 0, n, 4, stage)
            spans = [
                span
                for stretch in lower_staged(shape, 0)
                for move in stretch
                for span in (*move.targets, *move.sources)
            ]
            most = max(span.stop for span in spans if span.memory >= lower.AREA)
            pair = operation == "all_reduce" and size == 2
            assert most * 4 <= (stage if pair else lower.STAGE_BYTES)
            assert np.all([span.start <= span.stop for span in spans])
