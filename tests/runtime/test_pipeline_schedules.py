"""Pipeline schedules: proven, priced and drawn, for every number of ranks and micro-batches."""

import random
import re
from dataclasses import replace
from itertools import pairwise, product
from operator import mul

import pytest

from ringlet.comm.errors import ScheduleError
from ringlet.runtime.pipeline.actions import Action, PipelineSchedule
from ringlet.runtime.pipeline.activations import moments, peak_activations
from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.formulas import bubble, peaks
from ringlet.runtime.pipeline.price import price
from ringlet.runtime.pipeline.prove import prove
from ringlet.runtime.pipeline.schedules import make_schedule

EVERY = [
    ("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("interleaved", 3), ("zero-bubble", 1),
    ("zb-h2", 1), ("zb-v", 2),
]  # fmt: skip
SEARCHED = [("zb-1p", 1), ("zb-2p", 1)]
MICRO_BATCHES = range(1, 17)
every_schedule = pytest.mark.parametrize(("name", "chunks"), EVERY + SEARCHED)
every_number_of_ranks = pytest.mark.parametrize("ranks", range(1, 9))


def actions(text):
    """F0.1 B2.3 -> the actions."""
    parts = (re.fullmatch(r"([A-Z_]+)(\d+)\.(\d+)", word).groups() for word in text.split())
    return tuple(Action(kind, int(stage), int(number)) for kind, stage, number in parts)


def written(*texts, chunks=1, micro_batches=2):
    """A schedule from what each rank computes."""
    return PipelineSchedule(
        "written", len(texts), chunks, micro_batches, tuple(map(actions, texts))
    )


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param((*range(1, 10), 16), id="some"),
        pytest.param(range(10, 16), id="others", marks=pytest.mark.slow),
    ],
)
@every_number_of_ranks
@every_schedule
def test_every_schedule_is_proven_and_holds_no_more_than_its_bound(name, chunks, ranks, numbers):
    for micro_batches in numbers:
        schedule = make_schedule(name, ranks, micro_batches, chunks)
        proof, bounds = prove(schedule), peaks(schedule)
        assert peak_activations(schedule) == proof.peaks
        assert all(held <= bound for held, bound in zip(proof.peaks, bounds, strict=True))
        whole = micro_batches % ranks == 0 if name == "interleaved" else (name, 1) not in SEARCHED
        if whole and (name != "zb-v" or micro_batches >= 2 * ranks - 1):
            assert proof.peaks == bounds
        assert sum(proof.sent) == 2 * micro_batches * borders(schedule)


def borders(schedule):
    """Over which messages go: between stages that are on different ranks."""
    ranks = [schedule.rank_of(stage) for stage in range(schedule.stages)]
    return sum(one != other for one, other in pairwise(ranks))


@every_schedule
def test_what_is_held_is_known_without_the_schedule(name, chunks):
    """In any unit: a rank holds most at one of its moments."""
    draw = random.Random(name)
    for ranks, micro_batches in product(range(1, 6), range(1, 12)):
        schedule = make_schedule(name, ranks, micro_batches, chunks)
        sizes = [draw.randint(1, 9) for _ in range(schedule.stages)]
        for rank, held in enumerate(moments(name, ranks, micro_batches, chunks)):
            own = [sizes[stage] for stage in schedule.stages_of(rank)]
            most = max(sum(map(mul, moment, own)) for moment in held)
            assert most == peak_activations(schedule, sizes)[rank]


COSTS = [(1, 1, 1), (3, 4, 2), (1, 2, 3), (5, 1, 2)]


@every_number_of_ranks
@pytest.mark.parametrize(("name", "chunks"), EVERY)
def test_the_bubble_is_the_formulas(name, chunks, ranks):
    for micro_batches in MICRO_BATCHES:
        schedule = make_schedule(name, ranks, micro_batches, chunks)
        for times in COSTS if micro_batches % 4 == 3 else COSTS[:1]:
            formula = bubble(schedule, *times)
            if formula is None:
                forward, inputs, weights = times
                few = micro_batches < (ranks if name == "zero-bubble" else 2 * ranks - 1)
                longer = weights > min(times) or (name == "zb-v" and forward > inputs)
                assert (longer and few) if name == "zero-bubble" else (longer or few)
                continue
            priced = price(schedule, Costs(*times))
            assert priced.idle == (formula.idle,) * ranks
            assert priced.bubbles == pytest.approx((formula.part,) * ranks)
            assert priced.busy == (micro_batches * chunks * sum(times),) * ranks
            assert value(formula.text, schedule, times) == pytest.approx(formula.part)


def value(text, schedule, times):
    """Of a formula as it is written: a blank is a product, if nothing else stands there."""
    names = dict(zip("pmv", (schedule.ranks, schedule.micro_batches, schedule.chunks), strict=True))
    names.update(zip("FIW", times, strict=True))
    program = re.sub(r"(?<=[\w)]) (?=[\w(])", "*", text)
    return eval(program, {"__builtins__": {}, "min": min, "max": max}, names)


TEXTBOOK = [
    # Narayanan et al. 2021: (p-1) / m of the ideal time; with v chunks (p-1) / (v m)
    ("gpipe", 4, 8, 1, 33), ("1f1b", 4, 8, 1, 33), ("interleaved", 4, 8, 2, 57),
    # Qi et al. 2024: (p-1) (F+I-W) where 1F1B has (p-1) (F+I+W)
    ("zero-bubble", 4, 8, 1, 27), ("1f1b", 8, 8, 1, 45), ("zero-bubble", 8, 8, 1, 31),
    # one micro-batch goes through all stages and back
    ("gpipe", 5, 1, 1, 15), ("1f1b", 5, 1, 1, 15), ("interleaved", 5, 1, 2, 30),
    ("zero-bubble", 5, 1, 1, 11),
]  # fmt: skip


@pytest.mark.parametrize(("name", "ranks", "micro_batches", "chunks", "makespan"), TEXTBOOK)
def test_the_textbooks_times(name, ranks, micro_batches, chunks, makespan):
    assert price(make_schedule(name, ranks, micro_batches, chunks)).makespan == makespan


@every_schedule
def test_backwards_run_in_the_order_of_the_micro_batches(name, chunks):
    for ranks, micro_batches in ((1, 3), (3, 7), (4, 8), (5, 2)):
        for program in make_schedule(name, ranks, micro_batches, chunks).compute:
            for stage in {action.stage for action in program}:
                for kind in {action.kind for action in program}:
                    own = [a.micro_batch for a in program if a[:2] == (kind, stage)]
                    assert own == list(range(micro_batches))


def test_the_schedules_are_those_of_the_papers():
    shown = {
        name: [" ".join(map(str, map(repr, program))) for program in schedule.compute]
        for name, schedule in (
            ("1f1b", make_schedule("1f1b", 2, 3)),
            ("zero-bubble", make_schedule("zero-bubble", 2, 3)),
            ("interleaved", make_schedule("interleaved", 2, 2, 2)),
        )
    }
    assert shown["1f1b"] == ["F0.0 F0.1 B0.0 F0.2 B0.1 B0.2", "F1.0 B1.0 F1.1 B1.1 F1.2 B1.2"]
    assert shown["zero-bubble"] == [
        "F0.0 F0.1 I0.0 W0.0 F0.2 I0.1 W0.1 I0.2 W0.2",
        "F1.0 I1.0 F1.1 I1.1 W1.0 F1.2 I1.2 W1.1 W1.2",
    ]
    assert shown["interleaved"] == [
        "F0.0 F0.1 F2.0 F2.1 B2.0 B2.1 B0.0 B0.1",
        "F1.0 F1.1 F3.0 B3.0 F3.1 B3.1 B1.0 B1.1",
    ]


WRONG = [
    (("1f1B", 2, 2), "unknown schedule '1f1B'; there are gpipe, 1f1b, interleaved, zero-bubble, z"),
    (("1f1b", 0, 2), "ranks is 0; it must be at least 1"),
    (("1f1b", 2, 0), "micro_batches is 0; it must be at least 1"),
    (("1f1b", 2, 2, -1), "chunks is -1; it must be at least 1"),
    (("gpipe", 2, 2, 2), "gpipe has 1 chunk on each rank, not 2; for several: interleaved, zb-v"),
    (("zb-h2", 2, 2, 3), "zb-h2 has 1 chunk on each rank, not 3; for several: interleaved"),
    (("interleaved", 2, 2, 1), "interleaved needs at least 2 chunks on each rank, not 1"),
    (("zb-v", 2, 2, 3), "zb-v needs exactly 2 chunks on each rank, not 3"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG)
def test_what_does_not_suit_is_refused_with_what_would(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        make_schedule(*arguments)


def test_transfers_stand_where_they_are_needed():
    programs = make_schedule("1f1b", 2, 2).programs
    assert programs == (
        actions("F0.0 SEND_F0.0 F0.1 SEND_F0.1 RECV_B0.0 B0.0 RECV_B0.1 B0.1"),
        actions("RECV_F1.0 F1.0 B1.0 SEND_B1.0 RECV_F1.1 F1.1 B1.1 SEND_B1.1"),
    )


def test_one_rank_hands_over_without_transfers():
    schedule = make_schedule("interleaved", 1, 3, 2)
    assert schedule.programs == schedule.compute


def test_messages_are_received_in_the_order_of_sending():
    schedule = written("F0.1 F0.0 B0.0 B0.1", "F1.0 F1.1 B1.0 B1.1")
    assert schedule.programs[1][:4] == actions("RECV_F1.1 RECV_F1.0 F1.0 F1.1")
    assert prove(schedule).sent == (2, 2)


def test_where_everything_is():
    schedule = make_schedule("interleaved", 4, 8, 2)
    assert [schedule.rank_of(stage) for stage in range(8)] == [0, 1, 2, 3] * 2
    assert [schedule.chunk_of(stage) for stage in range(8)] == [0] * 4 + [1] * 4
    ends = {"SEND_F3.5": "RECV_F4.5", "RECV_B3.5": "SEND_B4.5"}
    for one, other in ends.items():
        (end,) = actions(one)
        assert repr(end.other_end) == other
        assert end.other_end.other_end == end
        assert schedule.peer(end) == 0


BROKEN = {
    "swapped": (("F0.0 F0.1 B0.0 B0.1", "B1.0 F1.0 F1.1 B1.1"), "rank 1, B1.0: F1.0 must come"),
    "twice": (("F0.0 F0.0 F0.1 B0.0 B0.1", "F1.0 B1.0 F1.1 B1.1"), "rank 0, F0.0: it is listed tw"),
    "missing forward": (("F0.0 B0.0 B0.1", "F1.0 B1.0 F1.1 B1.1"), "rank 0, F0.1: it is missing"),
    "missing backward": (("F0.0 F0.1 B0.0 B0.1", "F1.0 B1.0 F1.1"), "rank 1, B1.1: it is missing"),
    "missing weights": (("F0.0 F0.1 I0.0 W0.0 I0.1", "F1.0 B1.0 F1.1 B1.1"), "W0.1: it is missing"),
    "whole and parts": (
        ("F0.0 F0.1 B0.0 B0.1", "F1.0 I1.0 W1.0 F1.1 B1.1 W1.1"),
        "rank 1, B1.1: its backward is also listed in two parts",
    ),
    "weights first": (("F0.0 F0.1 B0.0 B0.1", "F1.0 W1.0 I1.0 F1.1 B1.1"), "rank 1, W1.0: I1.0 m"),
    "another order": (
        ("F0.0 F0.1 B0.1 B0.0", "F1.0 F1.1 B1.1 B1.0"),
        "rank 1, B1.0: micro-batch 1 was before it; gradients would add up in another order",
    ),
    "deadlock": (
        ("F0.0 B0.0 F0.1 B0.1", "F1.0 F1.1 B1.0 B1.1"),
        "deadlocks: rank 0 waits at RECV_B0.0 for rank 1; rank 1 waits at RECV_F1.1 for rank 0",
    ),
    "another's stage": (("F0.0 F0.1 F1.1 B0.0 B0.1", "F1.0 B1.0 B1.1"), "F1.1: stage 1 is on rank"),
    "no such stage": (("F2.0 F0.1 B0.0 B0.1", "F1.0 B1.0 F1.1 B1.1"), "F2.0: stages are 0 to 1"),
    "no such micro-batch": (("F0.2", ""), "rank 0, F0.2: micro-batches are 0 to 1"),
    "no such kind": (("X0.0", ""), "rank 0, X0.0: there is no such kind; there are F, B, I, W, "),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plan_is_refused(case):
    texts, reason = BROKEN[case]
    with pytest.raises(ScheduleError, match=re.escape(reason)):
        prove(written(*texts))


SOUND = (
    "F0.0 SEND_F0.0 F0.1 SEND_F0.1 RECV_B0.0 B0.0 RECV_B0.1 B0.1",
    "RECV_F1.0 F1.0 B1.0 SEND_B1.0 RECV_F1.1 F1.1 B1.1 SEND_B1.1",
)
BROKEN_TRANSFERS = {
    "missing receive": (1, "RECV_F1.1 ", "", "rank 1, F1.1: RECV_F1.1 must come before it"),
    "missing send": (1, " SEND_B1.1", "", "deadlocks: rank 0 waits at RECV_B0.1 for rank 1"),
    "early send": (0, "F0.1 SEND_F0.1", "SEND_F0.1 F0.1", "rank 0, SEND_F0.1: F0.1 must come"),
    "late receive": (1, "RECV_F1.0 F1.0", "F1.0 RECV_F1.0", "rank 1, F1.0: RECV_F1.0 must come"),
    "wrong message": (
        1, "RECV_F1.0 F1.0", "RECV_F1.1 RECV_F1.0 F1.0",
        "rank 1 cannot take RECV_F1.1: the next message from rank 0 is for RECV_F1.0",
    ),
    "sent twice": (0, "SEND_F0.1", "SEND_F0.1 SEND_F0.1", "rank 0, SEND_F0.1: it is listed twice"),
    "to nobody": (0, "F0.0 ", "F0.0 SEND_B0.0 ", "SEND_B0.0: there is no stage at the other end"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_TRANSFERS)
def test_broken_transfers_are_refused(case):
    rank, old, new, reason = BROKEN_TRANSFERS[case]
    texts = [SOUND[0], SOUND[1]]
    if case == "wrong message":
        texts[1] = texts[1].replace("B1.0 SEND_B1.0 RECV_F1.1", "B1.0 SEND_B1.0")
    schedule = make_schedule("1f1b", 2, 2)
    assert prove(schedule, list(map(actions, SOUND))) == prove(schedule)
    texts[rank] = texts[rank].replace(old, new)
    with pytest.raises(ScheduleError, match=re.escape(reason)):
        prove(schedule, list(map(actions, texts)))


def test_programs_are_of_all_ranks_and_without_transfers_on_one():
    with pytest.raises(ScheduleError, match="1f1b of 2 ranks, 2 micro-batches: there are programs"):
        prove(make_schedule("1f1b", 2, 2), [actions(SOUND[0])])
    with pytest.raises(ScheduleError, match="hand over without a transfer"):
        prove(make_schedule("interleaved", 1, 2, 2), [actions("F0.0 SEND_F0.0")])


def test_a_message_that_nobody_takes_is_an_error_in_a_price_too():
    with pytest.raises(ScheduleError, match=re.escape("rank 1 never receives SEND_F0.1 of rank 0")):
        price(written("F0.0 F0.1", "F1.0"))


def test_steps_are_the_longest_chain():
    whole = Costs(1, 0.5, 0.5)  # a backward is one step, as a forward
    assert price(make_schedule("gpipe", 4, 8), whole).makespan == 2 * (8 + 3)
    assert price(make_schedule("1f1b", 4, 8), whole).makespan == 2 * (8 + 3)
    assert price(make_schedule("zero-bubble", 4, 8)).makespan == 3 * 8 + 3


def test_messages_take_time_and_follow_one_another():
    one = make_schedule("1f1b", 2, 1)
    assert price(one, Costs(1, 1, 1, transfer=10, latency=100)).makespan == 1 + 110 + 3 + 110 + 2
    priced = price(make_schedule("gpipe", 2, 3), Costs(1, 1, 1, transfer=10))
    starts = [i.start for i in priced.intervals[1] if i.action.kind == "F"]
    assert starts == [11, 21, 31]
    sends = [(i.start, i.end) for i in priced.intervals[0] if i.action.kind == "SEND_F"]
    assert sends == [(1, 11), (11, 21), (21, 31)]
    waits = [(i.start, i.end) for i in priced.intervals[1] if i.action.kind == "RECV_F"]
    assert waits == [(0, 11), (12, 21), (22, 31)]


def test_stages_may_differ():
    priced = price(make_schedule("1f1b", 2, 4), Costs([1, 3], [1, 2], (1, 1)))
    assert priced.busy == (4 * 3, 4 * 6)
    assert priced.makespan == 1 + 4 * 6 + 2
    assert priced.bubbles == pytest.approx((15 / 27, 3 / 27))
    with pytest.raises(ValueError, match="forward has 2 numbers for 3 stages"):
        price(make_schedule("1f1b", 3, 4), Costs([1, 3]))


def test_formulas_are_for_known_schedules():
    unknown = replace(make_schedule("1f1b", 2, 2), name="mine")
    assert bubble(unknown) is None
    assert prove(unknown).peaks == (2, 1)
