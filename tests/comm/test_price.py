"""Prices: equal to the closed forms, and in the order in which people choose algorithms."""

import math
from dataclasses import replace

import pytest

from ringlet.comm import ScheduleError
from ringlet.comm.schedules.algorithms import ALGORITHMS, schedule
from ringlet.comm.schedules.price import LinkCost, Network, price
from ringlet.comm.schedules.schedule import Schedule, Send

A, B, C = 20e-6, 1e9, 0.1e-9  # seconds, bytes per second, seconds for each byte combined
MIB = 1 << 20
NET = Network.uniform(LinkCost(A, B))


def log2(n):
    return math.ceil(math.log2(n))


CLOSED_FORMS = {
    ("all_reduce", "ring"): lambda n, s: 2 * (n - 1) * (A + s / (n * B)),
    ("all_reduce", "bidirectional_ring"): lambda n, s: 4 * (n - 1) * s / (2 * n * B),
    ("all_reduce", "recursive_doubling"): lambda n, s: log2(n) * (A + s / B),
    ("all_reduce", "halving_doubling"): lambda n, s: 2 * log2(n) * A + 2 * (n - 1) / n * s / B,
    ("all_reduce", "circulant"): lambda n, s: 2 * log2(n) * A + 2 * (n - 1) / n * s / B,
    ("reduce_scatter", "ring"): lambda n, s: (n - 1) * (A + s / (n * B)),
    ("reduce_scatter", "circulant"): lambda n, s: log2(n) * A + (n - 1) / n * s / B,
    ("all_gather", "ring"): lambda n, s: (n - 1) * (A + s / (n * B)),
    ("all_gather", "bruck"): lambda n, s: log2(n) * A + (n - 1) / n * s / B,
    ("broadcast", "tree"): lambda n, s: log2(n) * (A + s / B),
    ("broadcast", "chain"): lambda n, s: (n - 1) * (A + s / B),
    ("reduce", "tree"): lambda n, s: log2(n) * (A + s / B),
    ("gather", "direct"): lambda n, s: A + (n - 1) / n * s / B,
    ("scatter", "direct"): lambda n, s: A + (n - 1) / n * s / B,
    ("scatter", "tree"): lambda n, s: log2(n) * A + (n - 1) / n * s / B,
    ("all_to_all", "pairwise"): lambda n, s: (n - 1) * (A + s / (n * B)),
    ("all_to_all", "bruck"): lambda n, s: log2(n) * (A + s / (2 * B)),
    ("barrier", "dissemination"): lambda n, s: log2(n) * A,
}


@pytest.mark.parametrize(("operation", "algorithm"), CLOSED_FORMS)
def test_the_price_is_the_closed_form(operation, algorithm):
    for size in (2, 4, 8, 16, 32):
        for nbytes in (0, 4096, 64 * MIB):
            collective = schedule(operation, algorithm, size)
            if operation == "barrier":
                nbytes = 0
            seconds = CLOSED_FORMS[operation, algorithm](size, nbytes)
            if algorithm == "bidirectional_ring":  # one way's latency hides behind the other way
                assert seconds <= price(collective, NET, nbytes).seconds <= seconds + 2 * size * A
            else:
                assert price(collective, NET, nbytes).seconds == pytest.approx(seconds)


@pytest.mark.parametrize("size", [2, 3, 7, 12])
def test_the_ring_with_reductions_and_overheads(size):
    overhead, nbytes = 5e-6, 6 * MIB
    net = Network.uniform(LinkCost(A, B, overhead), reduction=C)
    part = nbytes / size
    message = overhead + A + part / B
    expected = 2 * (size - 1) * message + (size - 1) * part * C
    assert price(schedule("all_reduce", "ring", size), net, nbytes).seconds == pytest.approx(
        expected
    )


@pytest.mark.parametrize("segments", [1, 4, 64])
def test_a_chain_is_a_pipeline(segments):
    size, nbytes = 9, 64 * MIB
    expected = (size - 2 + segments) * nbytes / segments / B + (size - 1) * A
    collective = schedule("broadcast", "chain", size)
    assert price(collective, NET, nbytes, segments).seconds == pytest.approx(expected)


def test_more_bytes_never_take_less_time():
    for operation, names in ALGORITHMS.items():
        for algorithm in names:
            for size in (2, 5, 8):
                collective = schedule(operation, algorithm, size)
                seconds = [price(collective, NET, 4**power).seconds for power in range(15)]
                assert seconds == sorted(seconds)
                assert seconds[0] < seconds[-1]


def cheapest(schedules, network, nbytes, segments=1):
    """The schedule that takes least time, the first one of several that do; and its price."""
    priced = [
        (collective, price(collective, network, nbytes, segments)) for collective in schedules
    ]
    return min(priced, key=lambda pair: pair[1].seconds)


def everything(operation, size):
    return [schedule(operation, algorithm, size) for algorithm in ALGORITHMS[operation]]


# All of these move 2 (n - 1) / n of the array; they differ in how much latency they hide.
OPTIMAL = {"bidirectional_ring", "halving_doubling", "circulant"}

CHOICES = [
    ("all_reduce", 4, 8, {"recursive_doubling"}),
    ("all_reduce", 64 * MIB, 8, OPTIMAL),
    ("all_reduce", 64 * MIB, 7, OPTIMAL - {"halving_doubling"}),
    ("all_to_all", 64, 16, {"bruck"}),
    ("all_to_all", 64 * MIB, 16, {"pairwise"}),
    ("broadcast", 4, 16, {"tree"}),
    ("broadcast", 64 * MIB, 16, {"scatter_all_gather"}),
]


@pytest.mark.parametrize(("operation", "nbytes", "size", "choice"), CHOICES)
def test_the_cheapest_is_what_people_choose(operation, nbytes, size, choice):
    collective, cost = cheapest(everything(operation, size), NET, nbytes)
    assert collective.algorithm in choice
    assert cost == price(collective, NET, nbytes)


def test_with_segments_the_chain_is_the_best_long_broadcast():
    collective, _ = cheapest(everything("broadcast", 16), NET, 64 * MIB, segments=64)
    assert collective.algorithm == "chain"


def test_ties_go_to_the_first():
    names = ("ring", "halving_doubling", "circulant")  # one and the same for two ranks
    collectives = [schedule("all_reduce", name, 2) for name in names]
    assert cheapest(collectives, NET, 64 * MIB)[0] is collectives[0]


def test_two_ports_help_a_bidirectional_ring_only():
    nbytes = 64 * MIB
    both = replace(NET, ports=2)
    for algorithm, gain in [("ring", 1), ("bidirectional_ring", 2)]:
        collective = schedule("all_reduce", algorithm, 8)
        ratio = price(collective, NET, nbytes).seconds / price(collective, both, nbytes).seconds
        assert ratio == pytest.approx(gain, rel=0.01)


def test_between_slow_hosts_the_hierarchical_form_has_fewer_slow_rounds():
    net = Network.of_hosts(4, inside=LinkCost(1e-6, 10e9), between=LinkCost(100e-6, 1e9))
    seconds = {
        per_host: price(
            schedule("all_reduce", "hierarchical", 16, per_host=per_host), net, 16384
        ).seconds
        for per_host in (1, 4, 16)
    }
    assert seconds[4] < 0.75 * seconds[1]
    assert seconds[4] < 0.75 * seconds[16]


def test_a_slow_link_is_waited_for():
    def link(sender, receiver):
        return LinkCost(A, B / 10 if sender == 2 else B)

    cost = price(schedule("broadcast", "chain", 5), Network(link), MIB)
    assert cost.waits == pytest.approx(
        {
            (1, 0): A + MIB / B,
            (2, 1): 2 * (A + MIB / B),
            (3, 2): 3 * A + 12 * MIB / B,
            (4, 3): 4 * A + 13 * MIB / B,
        }
    )
    assert cost.finished[4] == cost.seconds
    assert cost.nbytes == (MIB, MIB, MIB, MIB, 0)


def test_where_processors_copy_messages_they_do_one_thing_after_the_other():
    """Both ways and computing take as long as one after the other; the latency is hidden."""
    for size, sums in ((2, 0.0), (2, 1 / B), (5, 0.5 / B)):
        net = Network.uniform(LinkCost(A, B, duplex=False), reduction=sums)
        steps, part = size - 1, MIB / size
        exchange = price(schedule("all_gather", "ring", size), net, MIB).seconds
        assert exchange == pytest.approx(steps * 2 * part / B)
        ring = price(schedule("reduce_scatter", "ring", size), net, MIB).seconds
        assert ring == pytest.approx(steps * part * (2 / B + sums))
        one_way = price(schedule("broadcast", "tree", 2), net, MIB).seconds
        assert one_way == pytest.approx(A + MIB / B)


def test_a_wrong_schedule_has_no_price():
    collective = schedule("all_reduce", "ring", 3)
    steps = (*collective.steps[:2], (*collective.steps[2], Send(0, 0)))
    with pytest.raises(ScheduleError, match="unread"):
        price(replace(collective, steps=steps), NET, 8)
    assert price(Schedule("broadcast", "none", 1, 1, 0, ((),)), NET, 8).seconds == 0


def test_thousands_of_ranks_are_priced():
    tree = price(schedule("broadcast", "tree", 4096), NET, MIB)
    assert tree.seconds == pytest.approx(12 * (A + MIB / B))
    doubling = price(schedule("all_reduce", "recursive_doubling", 1024), NET, MIB)
    assert doubling.seconds == pytest.approx(10 * (A + MIB / B))
    ring = price(schedule("all_gather", "ring", 256), NET, MIB)
    assert ring.seconds == pytest.approx(255 * (A + MIB / 256 / B))


@pytest.mark.slow
def test_so_do_a_million_messages():
    ring = price(schedule("all_gather", "ring", 1024), NET, MIB)
    assert ring.seconds == pytest.approx(1023 * (A + MIB / 1024 / B))
