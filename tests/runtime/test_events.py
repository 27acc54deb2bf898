"""Collectives as discrete events: against LogGP's price, with what is shared, and never faster on
slower links."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.algorithms import ALGORITHMS, schedule
from ringlet.comm.schedules.price import Network, price
from ringlet.comm.schedules.schedule import Receive, Schedule
from ringlet.runtime.planning.cluster import Cluster, Tier
from ringlet.runtime.planning.device import Device
from ringlet.runtime.planning.events import simulate_collective
from ringlet.runtime.planning.fabric import Fabric, Ranks

DEVICE = Device(1e9, 1e9, {"float32": 1e9})
EVERY = [(operation, name) for operation, found in ALGORITHMS.items() for name in found]


def cluster(per_host, hosts, **outer):
    """Hosts with a fast link inside and a slow one between them."""
    ranks = per_host * hosts
    figures = {"latency": 1e-5, "bandwidth": 1e9, "overhead": 2e-6, "combine": 1e-10, **outer}
    tiers = [Tier(ranks, name="between", **figures)]
    if per_host > 1:
        tiers.insert(0, Tier(per_host, 1e-6, 1e10, combine=1e-10, name="inside"))
    return Cluster(DEVICE, per_host, hosts, tuple(tiers))


def made(operation, name, ranks, per_host=1):
    knows = ALGORITHMS[operation][name].knows_hosts
    return schedule(operation, name, ranks, per_host=per_host if knows else None)


def seconds(operation, name, where, nbytes, starts=None):
    collective = made(operation, name, where.ranks, where.devices)
    return simulate_collective(collective, where, [range(where.ranks)], nbytes, starts).seconds


@pytest.mark.parametrize(("operation", "name"), EVERY)
def test_without_sharing_it_is_loggp(operation, name):
    for ranks in range(2, 13):
        where, collective = cluster(1, ranks), made(operation, name, ranks)
        network = Network.uniform(where.links[0].cost, reduction=1e-10)
        for nbytes in (0, 1e3, 1e6):
            expected = price(collective, network, nbytes).seconds
            found = simulate_collective(collective, where, [range(ranks)], nbytes).seconds
            if name in ("halving_doubling", "tree"):
                # Where messages of several ranks meet at a port, price takes them in the order in
                # which the rank waits for them.
                assert 0.85 * expected < found < 1.35 * expected
            else:
                assert found == pytest.approx(expected)


FIGURES = ("latency", "bandwidth", "overhead", "oversubscription", "combine")


@settings(max_examples=60, deadline=None)
@given(
    collective=st.sampled_from(EVERY),
    per_host=st.integers(1, 4),
    hosts=st.integers(2, 5),
    nbytes=st.sampled_from([0.0, 1e3, 1e5, 1e7]),
    shared=st.booleans(),
    duplex=st.booleans(),
    late=st.lists(st.floats(0, 1e-3), max_size=20),
    tier=st.integers(0, 1),
    figure=st.sampled_from(FIGURES),
    factor=st.sampled_from([1.01, 1.5, 3.0, 40.0]),
)
def test_a_slower_link_is_never_faster(
    collective, per_host, hosts, nbytes, shared, duplex, late, tier, figure, factor
):
    where = cluster(per_host, hosts, sharing=per_host if shared else 1, duplex=duplex)
    tiers = list(where.links)
    number = tier % len(tiers)
    value = getattr(tiers[number], figure)
    worse = value / factor if figure == "bandwidth" else (value or 1e-7) * factor
    tiers[number] = replace(tiers[number], **{figure: worse})
    starts = dict(enumerate(late))
    before, after = (
        seconds(*collective, each, nbytes, starts)
        for each in (where, replace(where, links=tuple(tiers)))
    )
    assert after >= before


@settings(max_examples=30, deadline=None)
@given(
    collective=st.sampled_from(EVERY),
    late=st.integers(0, 5),
    delays=st.tuples(st.floats(0, 1e-3), st.floats(0, 1e-3)),
)
def test_who_starts_later_ends_no_sooner(collective, late, delays):
    where = cluster(2, 3, sharing=2)
    first, second = (seconds(*collective, where, 1e5, {late: delay}) for delay in sorted(delays))
    assert first <= second


def test_ranks_that_share_a_card_share_its_bandwidth():
    ring = made("all_gather", "ring", 2)
    pairs = [(0, 4), (1, 5), (2, 6), (3, 7)]
    alone, own, shared = (
        simulate_collective(ring, cluster(4, 2, sharing=n), pairs[:count], 8e6).seconds
        for n, count in ((4, 1), (1, 4), (4, 4))
    )
    assert own == pytest.approx(alone)
    assert shared == pytest.approx(4 * alone, rel=0.01)


def test_an_oversubscribed_switch_slows_those_who_pass_it_together():
    ring = made("all_gather", "ring", 2)
    pairs = [(0, 4), (1, 5), (2, 6), (3, 7)]
    full, half = (
        simulate_collective(ring, cluster(4, 2, oversubscription=n), pairs, 8e6) for n in (1, 2)
    )
    assert half.seconds == pytest.approx(2 * full.seconds, rel=0.01)
    assert half.busy["up", 1, 0] == pytest.approx(half.seconds, rel=0.01)
    assert full.busy["send", 1, 0] == pytest.approx(full.seconds, rel=0.01)


def test_a_straggler_keeps_everybody_waiting():
    where = cluster(2, 2)
    on_time = seconds("all_reduce", "ring", where, 1e6)
    assert seconds("all_reduce", "ring", where, 1e6, {3: 1.0}) == pytest.approx(1 + on_time)


def test_a_schedule_that_waits_for_ever_is_refused():
    stuck = Schedule("barrier", "none", 2, 1, 0, ((Receive(1, 0),), ()))
    with pytest.raises(ScheduleError, match=r"rank 0 waits at Receive\(peer=1, slot=0\)"):
        simulate_collective(stuck, cluster(1, 2), [(0, 1)], 1.0)


GROUPS = [Ranks(8, 1), Ranks(4, 1), Ranks(2, 4), Ranks(4, 4), Ranks(8, 2), Ranks(16, 1)]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("sharing", [1, 2, 4])
@pytest.mark.parametrize("operation", ["all_reduce", "reduce_scatter", "all_gather"])
def test_closed_forms_are_near_the_simulation(operation, sharing, group):
    where = replace(cluster(4, 4, sharing=sharing), algorithms=f"{operation}=ring")
    events, closed = Fabric(where), Fabric(where, simulated_ranks=0)
    for nbytes in (1e5, 1e8):
        found = events.collective(operation, group, nbytes)
        assert closed.collective(operation, group, nbytes) == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize("simulated", [0, 16])
def test_the_fastest_algorithm_crosses_the_slow_tier_least(simulated):
    fabric = Fabric(cluster(4, 4), simulated)
    assert fabric.cost("all_reduce", Ranks(4, 4), 1e8).algorithm != "hierarchical"
    assert fabric.cost("all_reduce", Ranks(16, 1), 8.0).algorithm != "ring"
    hosts = Fabric(cluster(4, 32), simulated)
    assert hosts.cost("all_reduce", Ranks(128, 1), 1e8).algorithm == "hierarchical"
    assert hosts.cost("all_gather", Ranks(128, 1), 1e8).algorithm == "rails"
