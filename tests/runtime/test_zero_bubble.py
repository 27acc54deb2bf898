"""Zero-bubble schedules: the bubbles of the paper's tables, and memory that is kept to."""

import pytest

from ringlet.runtime.pipeline.actions import Action
from ringlet.runtime.pipeline.activations import moments, peak_activations
from ringlet.runtime.pipeline.automatic import automatic
from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.price import price
from ringlet.runtime.pipeline.prove import prove
from ringlet.runtime.pipeline.schedules import make_schedule

PUBLISHED = """
1.5B   8  24 18.522 18.086  9.337 0.601 0.2431 0.1585 0.1083 0.1585 0.0433
1.5B   8  32 18.513 18.086  9.331 0.626 0.1985 0.1242 0.0837 0.1242 0.0039
1.5B   8  64 18.546 18.097  9.321 0.762 0.1240 0.0674 0.0444 0.0674 0.0026
6.2B   8  24 29.718 29.444 19.927 0.527 0.2347 0.1323 0.0698 0.1323 0.0029
6.2B   8  32 29.802 29.428 19.530 0.577 0.1898 0.1045 0.0559 0.1045 0.0022
6.2B   8  64 29.935 29.621 19.388 0.535 0.1091 0.0554 0.0294 0.0554 0.0010
14.6B 16  48 11.347 11.248  8.132 0.377 0.2552 0.1397 0.0672 0.1397 0.0066
14.6B 16  64 11.307 11.254  8.101 0.379 0.2082 0.1088 0.0516 0.1088 0.0054
14.6B 16 128 11.325 11.308  8.109 0.378 0.1251 0.0576 0.0266 0.0576 0.0028
28.3B 32  96 10.419 10.207  7.715 0.408 0.2646 0.1421 0.0641 0.1421 0.0038
28.3B 32 128 10.408 10.204  7.703 0.408 0.2168 0.1106 0.0490 0.1106 0.0029
28.3B 32 256 10.402 10.248  7.698 0.460 0.1352 0.0594 0.0257 0.0594 0.0018
""".strip().splitlines()
"""Qi et al., "Zero bubble pipeline parallelism" (arXiv 2401.10241): model, stages, micro-batches;
T_F, T_B (to the inputs), T_W and T_comm in ms (table 9); and the bubble rates of 1F1B, ZB-H1,
ZB-H2, ZB-1p and ZB-2p (table 5)."""

WIDTHS = {"1.5B": (2304, 24), "6.2B": (4096, 32), "14.6B": (5120, 40), "28.3B": (6144, 48)}
"""Width and heads (table 3); contexts have 1024 tokens."""

SLOW = {"14.6B 16 128", "28.3B 32 96", "28.3B 32 128", "28.3B 32 256"}


def kept(model):
    """Which part of a layer's activations stays for the weights: 32 h of 34 h + 5 a s (table 1)."""
    width, heads = WIDTHS[model]
    return 32 * width / (34 * width + 5 * heads * 1024)


def rate(schedule, costs):
    """Section 5.3: the part of the longest rank's time without arithmetic."""
    priced = price(schedule, costs)
    longest = max(priced.spans)
    return (longest - priced.busy[0]) / longest


def rows(searched):
    """The table's; searches of the largest take a second each."""
    found = []
    for line in PUBLISHED:
        name = " ".join(line.split()[:3])
        marks = [pytest.mark.slow] if searched and name in SLOW else []
        found.append(pytest.param(line, marks=marks, id=name))
    return found


@pytest.mark.parametrize("line", rows(searched=False))
def test_the_published_bubbles_of_schedules_by_hand(line):
    _, stages, micro_batches, *numbers = line.split()
    forward, inputs, weights, latency, *published = map(float, numbers)
    costs = Costs(forward, inputs, weights, latency=latency)
    for name, bubble in zip(("1f1b", "zero-bubble", "zb-h2"), published, strict=False):
        schedule = make_schedule(name, int(stages), int(micro_batches))
        assert f"{rate(schedule, costs):.4f}" == f"{bubble:.4f}", name


@pytest.mark.parametrize("line", rows(searched=True))
def test_the_published_bubbles_of_searched_schedules(line):
    model, stages, micro_batches, *numbers = line.split()
    forward, inputs, weights, latency, *_, once, twice = map(float, numbers)
    costs = Costs(forward, inputs, weights, latency=latency)
    for times, bubble in ((1, once), (2, twice)):
        schedule = automatic(
            int(stages),
            int(micro_batches),
            costs,
            times * int(stages),
            kept=kept(model),
            waits=False,
        )
        assert f"{rate(schedule, costs):.4f}" == f"{bubble:.4f}", times


def test_what_is_held_is_counted_in_any_unit():
    """Of rank 0 of a V with two micro-batches: F0.0 F0.1 F3.0 I3.0 W3.0 F3.1 ..."""
    schedule = make_schedule("zb-v", 2, 2)
    assert moments("zb-v", 2, 2, 2) == (((2, 1),), ((2, 2),))
    assert peak_activations(schedule)[0] == 3
    assert peak_activations(schedule, [100, 10, 10, 1])[0] == 201
    assert peak_activations(schedule, [1, 10, 10, 100])[0] == 102
    assert peak_activations(make_schedule("zb-h2", 2, 8), kept=0.25) == (3, 1 + 2 * 0.25)


UNEQUAL = Costs([3, 1, 2, 5], [2, 2, 4, 1], [1, 3, 2, 2], [0, 2, 1], [1, 0, 5])


@pytest.mark.parametrize("part", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("limit", [1, 2.5, [4, 3, 2, 1], [1, 2, 3, 4], 100])
def test_a_search_keeps_to_its_limit(limit, part):
    for micro_batches in (1, 2, 5, 12):
        for waits in (True, False):
            schedule = automatic(4, micro_batches, UNEQUAL, limit, kept=part, waits=waits)
            assert prove(schedule).sent == (micro_batches, *(2 * micro_batches,) * 2, micro_batches)
            limits = limit if isinstance(limit, list) else [limit] * 4
            held = peak_activations(schedule, kept=part)
            assert all(most <= bound + 1e-9 for most, bound in zip(held, limits, strict=True))


def test_more_memory_is_faster():
    times = [price(automatic(4, 12, UNEQUAL, limit), UNEQUAL).makespan for limit in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1]


def test_a_search_minds_whether_ranks_wait():
    """With the same times and memory."""
    costs = Costs(6, 6, 3, latency=1)
    together, apart = (
        price(automatic(3, 9, costs, 4, kept=0.3, waits=waits), costs) for waits in (True, False)
    )
    assert together.makespan < apart.makespan
    assert max(apart.spans) < max(together.spans)


@pytest.mark.parametrize(("limit", "part"), [(0.5, 1), ([4, 4, 0, 4], 1), (4, -0.1), (4, 1.1)])
def test_limits_that_cannot_be(limit, part):
    with pytest.raises(ValueError, match="they must be at least 1, and from 0 to 1"):
        automatic(4, 8, UNEQUAL, limit, kept=part)


def test_the_first_and_the_last_stage_of_a_v_are_on_one_rank():
    schedule = make_schedule("zb-v", 4, 8)
    assert schedule.placement == (0, 1, 2, 3, 3, 2, 1, 0)
    assert [schedule.chunk_of(stage) for stage in range(8)] == [0] * 4 + [1] * 4
    assert schedule.stages_of(1) == [1, 6]
    assert schedule.transfer(Action("F", 3, 0), "SEND") is None  # the next stage is here
    assert schedule.peer(Action("SEND_F", 5, 0)) == 1


def test_no_rank_of_a_v_waits_between_its_first_action_and_its_last():
    for ranks in range(1, 7):
        for name in ("zb-h2", "zb-v"):
            priced = price(make_schedule(name, ranks, 2 * ranks - 1))
            assert priced.spans == priced.busy
