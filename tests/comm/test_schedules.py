"""Schedules: proven for world sizes 1 to 33, with the textbook's counts; and what proof refuses."""

import math
from dataclasses import replace

import pytest

from ringlet.comm import ScheduleError
from ringlet.comm.schedules.algorithms import ALGORITHMS, schedule, slots_of, steps_of
from ringlet.comm.schedules.prove import prove
from ringlet.comm.schedules.schedule import Copy, Receive, Reduce, Schedule, Send

SIZES = range(1, 34)
SOME_SIZES = (*range(1, 10), 12, 15, 16, 17)
"""With all that is special of a power of two and its neighbours; `pytest -m slow` takes all."""

both_sizes = pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(SOME_SIZES, id="some sizes"),
        pytest.param(SIZES, id="every size", marks=pytest.mark.slow),
    ],
)


def log2(n):
    return math.ceil(math.log2(n))


def some(n):
    """1 where there is anybody to send to."""
    return min(n - 1, 1)


def power(n):
    """The largest power of two that is not above n."""
    return 1 << (n.bit_length() - 1)


def folds(n):
    """1 where a first and a last round bring the ranks beyond a power of two in and out."""
    return int(n > power(n))


def bits(n):
    """The ones in 0, 1, ..., n - 1: how often the slots of a binomial tree travel."""
    return sum(r.bit_count() for r in range(n))


def ways(n):
    """Rounds of a bidirectional ring, in rings; with one neighbour both ways are one."""
    return 2 if n > 2 else 1


def largest_branch(n):
    half = 1 << log2(n) >> 1
    return max(n - half, half // 2) if n > 1 else 0


# (operation, algorithm) -> rounds, the same when each slot takes one (see Proof), most slots
# sent by one rank, slots sent in all. Slots are not the same part of the array everywhere.
TEXTBOOK = {
    ("all_reduce", "ring"): lambda n: (2 * (n - 1), 2 * (n - 1), 2 * (n - 1), 2 * n * (n - 1)),
    ("all_reduce", "bidirectional_ring"): lambda n: (
        ways(n) * 2 * (n - 1), 4 * (n - 1), 4 * (n - 1), 4 * n * (n - 1),
    ),
    ("all_reduce", "recursive_doubling"): lambda n: (
        log2(power(n)) + 2 * folds(n),
        log2(power(n)) + 2 * folds(n),
        log2(power(n)) + folds(n),
        power(n) * log2(power(n)) + 2 * (n - power(n)),
    ),
    ("all_reduce", "halving_doubling"): lambda n: (
        2 * log2(power(n)) + 2 * folds(n),
        2 * (power(n) - 1) + 2 * power(n) * folds(n),
        2 * (power(n) - 1) + power(n) * folds(n),
        power(n) * 2 * (power(n) - 1) + 2 * power(n) * (n - power(n)),
    ),
    ("all_reduce", "circulant"): lambda n: (
        2 * log2(n), 2 * (n - 1), 2 * (n - 1), 2 * n * (n - 1),
    ),
    ("all_reduce", "hierarchical"): lambda n: (
        2 * (n - 1), 2 * (n - 1), 2 * (n - 1), 2 * n * (n - 1),  # on one host: a ring
    ),
    ("reduce_scatter", "ring"): lambda n: (n - 1, n - 1, n - 1, n * (n - 1)),
    ("reduce_scatter", "bidirectional_ring"): lambda n: (
        ways(n) * (n - 1), 2 * (n - 1), 2 * (n - 1), 2 * n * (n - 1),
    ),
    ("reduce_scatter", "circulant"): lambda n: (log2(n), n - 1, n - 1, n * (n - 1)),
    ("all_gather", "ring"): lambda n: (n - 1, n - 1, n - 1, n * (n - 1)),
    ("all_gather", "bidirectional_ring"): lambda n: (
        ways(n) * (n - 1), 2 * (n - 1), 2 * (n - 1), 2 * n * (n - 1),
    ),
    ("all_gather", "bruck"): lambda n: (log2(n), n - 1, n - 1, n * (n - 1)),
    ("broadcast", "tree"): lambda n: (log2(n), log2(n), log2(n), n - 1),
    ("broadcast", "chain"): lambda n: (n - 1, n - 1, some(n), n - 1),
    ("broadcast", "scatter_all_gather"): lambda n: (
        log2(n) + n - 1, 2 * (n - 1), 2 * (n - 1), bits(n) + n * (n - 1),
    ),
    ("reduce", "tree"): lambda n: (log2(n), log2(n), some(n), n - 1),
    ("gather", "direct"): lambda n: (n - 1, n - 1, some(n), n - 1),
    ("gather", "tree"): lambda n: (log2(n), n - 1, largest_branch(n), bits(n)),
    ("scatter", "direct"): lambda n: (n - 1, n - 1, n - 1, n - 1),
    ("scatter", "tree"): lambda n: (log2(n), n - 1, n - 1, bits(n)),
    ("all_to_all", "pairwise"): lambda n: (n - 1, n - 1, n - 1, n * (n - 1)),
    ("all_to_all", "bruck"): lambda n: (log2(n), bits(n), bits(n), n * bits(n)),
    ("barrier", "dissemination"): lambda n: (log2(n), log2(n), log2(n), n * log2(n)),
}  # fmt: skip


def test_the_table_names_every_algorithm():
    known = {(operation, name) for operation, names in ALGORITHMS.items() for name in names}
    assert known == set(TEXTBOOK)


def figures(proof):
    return proof.rounds, proof.slot_times, max(proof.sent), sum(proof.sent)


@both_sizes
@pytest.mark.parametrize(("operation", "algorithm"), TEXTBOOK)
def test_every_schedule_is_right_and_costs_what_the_textbook_says(operation, algorithm, sizes):
    rooted = operation in ("broadcast", "reduce", "gather", "scatter")
    for size in sizes:
        roots = range(size) if size <= 9 else {0, size // 2, size - 1}
        for root in roots if rooted else [0]:
            proof = prove(schedule(operation, algorithm, size, root))
            assert figures(proof) == TEXTBOOK[operation, algorithm](size), (size, root)


@both_sizes
@pytest.mark.parametrize(("operation", "algorithm"), TEXTBOOK)
def test_every_schedule_is_right_when_cut_into_segments(operation, algorithm, sizes):
    for size in sizes:
        whole = prove(schedule(operation, algorithm, size))
        for segments in (2, 3, 7) if size <= 9 else (3,):
            cut = prove(schedule(operation, algorithm, size), segments)
            assert cut.sent == whole.sent
            # Segments overlap: cutting adds a message for each hop at most, never a whole slot.
            assert cut.slot_times <= whole.slot_times * segments


@both_sizes
@pytest.mark.parametrize("operation", ["all_reduce", "reduce_scatter", "all_gather"])
def test_on_two_ports_a_bidirectional_ring_takes_half_the_time(operation, sizes):
    for size in (size for size in sizes if size > 2):
        ring = prove(schedule(operation, "ring", size), ports=2)
        both = prove(schedule(operation, "bidirectional_ring", size), ports=2)
        assert both.slot_times == ring.slot_times  # of slots of half the length


HOSTS = [(n, per_host) for n in range(1, 25) for per_host in range(1, n + 1) if n % per_host == 0]


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param((3,), id="some cuts"),
        pytest.param((2, 7), id="other cuts", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("size", "per_host"), HOSTS)
def test_hierarchical_all_reduce_sends_little_between_hosts(size, per_host, cuts):
    collective = schedule("all_reduce", "hierarchical", size, per_host=per_host)
    hosts = size // per_host
    rounds = 2 * (per_host - 1) + 2 * (hosts - 1)
    assert figures(prove(collective)) == (
        rounds,
        2 * (size - 1),
        2 * (size - 1),
        2 * size * (size - 1),
    )
    for segments in cuts:
        assert prove(collective, segments).sent == size * (2 * (size - 1),)
    for rank, steps in enumerate(collective.steps):
        sends = [step for step in steps if isinstance(step, Send)]
        between = [step for step in sends if step.peer // per_host != rank // per_host]
        assert len(between) == 2 * (hosts - 1)
        assert all(step.peer % per_host == rank % per_host for step in between)


@pytest.mark.parametrize("per_host", [3, 5, 0, -1])
def test_hosts_with_different_numbers_of_ranks_are_refused(per_host):
    with pytest.raises(ValueError, match=f"4 ranks are not {per_host} on every host"):
        schedule("all_reduce", "hierarchical", 4, per_host=per_host)


def test_the_first_algorithm_is_the_one_that_runs():
    assert steps_of("all_reduce", 1, 4) == schedule("all_reduce", "ring", 4).steps[1]
    assert slots_of("all_reduce", 5) == 5
    bruck = schedule("all_to_all", "bruck", 6)
    assert steps_of("all_to_all", 2, 6, algorithm="bruck") == bruck.steps[2]
    assert slots_of("all_to_all", 6, "bruck") == bruck.slots
    two = schedule("all_reduce", "hierarchical", 4, per_host=2)
    assert steps_of("all_reduce", 3, 4, algorithm="hierarchical", per_host=2) == two.steps[3]


def test_segments_travel_on_before_the_whole_slot_has_come():
    steps = (
        (Send(1, 0),),
        (Receive(0, 0), Send(2, 0)),
        (Receive(1, 0), Send(3, 0)),
        (Receive(2, 0),),
    )
    chain = Schedule("broadcast", "chain", 4, slots=1, root=0, steps=steps)
    assert prove(chain).slot_times == 3
    assert prove(chain, segments=16).slot_times == 16 + 2  # not 3 * 16


def ring(size=3):
    return schedule("all_reduce", "ring", size)


def with_steps(collective, rank, steps):
    return replace(
        collective, steps=(*collective.steps[:rank], tuple(steps), *collective.steps[rank + 1 :])
    )


BROKEN = {
    "another order": (
        "another order",
        lambda p: replace(
            doubling := schedule("all_reduce", "recursive_doubling", 4),
            steps=tuple(
                tuple(replace(s, peer_first=False) if isinstance(s, Reduce) else s for s in steps)
                for steps in doubling.steps
            ),
        ),
    ),
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
        "rank 0 at .* counts rank 0's contribution to slot 2 twice",
        lambda p: with_steps(
            p, 0, [Reduce(s.peer, s.slot) if isinstance(s, Receive) else s for s in p.steps[0]]
        ),
    ),
    "not added": (
        "all_reduce of 3: rank 0 ends without rank 0's contribution to slot 0",
        lambda p: with_steps(
            p, 0, [Receive(s.peer, s.slot) if isinstance(s, Reduce) else s for s in p.steps[0]]
        ),
    ),
    "a wrong slot": (
        "rank 0 ends without rank 0's contribution to slot 2, but with rank 0's contribution to s",
        lambda p: with_steps(p, 0, [Send(p.steps[0][0].peer, 0), *p.steps[0][1:]]),
    ),
    "overwritten at the end": (
        "without the contributions of ranks 0, 1, 2 to slot 1, but with the contributions of ",
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
    collective = schedule("all_gather", "ring", 2)
    with pytest.raises(ScheduleError, match="empty slot"):
        prove(with_steps(collective, 0, [collective.steps[0][0], Reduce(1, 1)]))
