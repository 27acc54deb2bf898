"""Which algorithm runs: by price, by pin, by argument; the same on every rank, and again."""

import numpy as np
import pytest

from ringlet import comm
from ringlet.comm.errors import CommError
from ringlet.comm.schedules.algorithms import ALGORITHMS
from ringlet.comm.schedules.choice import COMBINING, Choice, Policy
from ringlet.comm.schedules.links import Links
from ringlet.comm.schedules.price import LinkCost
from ringlet.launcher.testing.pool import RanksFailed

ETHERNET = Links(network=LinkCost(110e-6, 117e6, 20e-6))
FAST = Links(network=LinkCost(30e-6, 1.17e9, 20e-6))
HOSTS = {
    "2 on one": (0, 0),
    "4 on one": (0, 0, 0, 0),
    "4 hosts": (0, 1, 2, 3),
    "2 by 2": (0, 0, 1, 1),
    "2 by 2, mixed": (0, 1, 0, 1),
    "3 and 1": (0, 0, 0, 1),
    "8 by 8": tuple(rank // 8 for rank in range(64)),
}


def chosen(hosts, links, operation, nbytes, policy=None, shares=True):
    return Choice(HOSTS[hosts], policy or Policy(), links, shares).choose(operation, nbytes)


MB = 1 << 20
PRICED = [
    ("4 on one", "all_reduce", 4, "recursive_doubling"),
    ("4 on one", "all_reduce", 64 * MB, "ring"),
    ("2 on one", "all_reduce", 4 * MB, "recursive_doubling"),
    ("2 on one", "all_reduce", 64 * MB, "ring"),
    # On one host two directions at once, or a root that sends less, save nothing.
    ("4 on one", "all_reduce", 4 * MB, "ring"),
    ("4 on one", "reduce_scatter", 4 * MB, "ring"),
    ("4 on one", "broadcast", 4 * MB, "tree"),
    ("4 hosts", "all_reduce", 4, "recursive_doubling"),
    ("4 hosts", "all_reduce", 64 * MB, "ring"),
    ("2 by 2", "all_reduce", MB, "hierarchical"),
    ("2 by 2, mixed", "all_reduce", MB, "hierarchical"),
    ("8 by 8", "all_reduce", 64 * MB, "hierarchical"),
    ("4 hosts", "reduce_scatter", 64, "circulant"),
    ("4 hosts", "all_gather", 64, "bruck"),
    ("4 hosts", "all_gather", 64 * MB, "ring"),
    ("4 hosts", "broadcast", 4, "tree"),
    ("4 hosts", "broadcast", 256 * MB, "chain"),
    # Bruck's parts are messages of their own here, so that its few rounds do not pay.
    ("8 by 8", "all_to_all", 64, "pairwise"),
    ("4 hosts", "all_to_all", 64 * MB, "pairwise"),
    ("4 hosts", "barrier", 0, "dissemination"),
]


@pytest.mark.parametrize(("hosts", "operation", "nbytes", "name"), PRICED)
def test_few_rounds_for_short_arrays_few_bytes_for_long_ones(hosts, operation, nbytes, name):
    assert chosen(hosts, FAST, operation, nbytes) == name


def test_the_network_moves_the_border():
    """Where the bandwidth is less, fewer bytes matter earlier."""

    def border(links):
        sizes = (1 << n for n in range(30))
        return next(size for size in sizes if chosen("4 hosts", links, "all_reduce", size) != short)

    short = "recursive_doubling"
    assert border(ETHERNET) < border(FAST)


@pytest.mark.parametrize("hosts", HOSTS)
def test_what_is_chosen_can_run(hosts):
    for shares in (True, False):
        choice = Choice(HOSTS[hosts], Policy(), ETHERNET, shares)
        for operation in ALGORITHMS:
            for exponent in (0, 24):
                name = choice.choose(operation, 1 << exponent)
                assert name in choice.candidates(operation)
    hierarchies = {"2 by 2", "8 by 8", "2 by 2, mixed"}
    can = "hierarchical" in Choice(HOSTS[hosts], Policy(), FAST, True).candidates("all_reduce")
    assert can == (hosts in hierarchies)
    # As a schedule of messages it needs ranks that count host by host.
    flat = "hierarchical" in Choice(HOSTS[hosts], Policy(), FAST).candidates("all_reduce")
    assert flat == (hosts in hierarchies - {"2 by 2, mixed"})


def test_what_combines_does_not_depend_on_the_moment():
    """Figures twice as good or as bad, as a busy machine gives them, change no sum's bits."""
    for links in (ETHERNET, FAST):
        for factor in (0.5, 2.0):
            figures = (links.network.latency, links.network.bandwidth, links.network.overhead)
            moment = Links(
                LinkCost(*(figure / factor for figure in (50e-6, 1e9, 1e-5))),
                LinkCost(*(figure * factor for figure in figures)),
            )
            for hosts in ("4 on one", "4 hosts", "2 by 2"):
                for operation in COMBINING:
                    for exponent in range(2, 28, 5):
                        arguments = (operation, 1 << exponent)
                        usual = chosen(hosts, links, *arguments)
                        assert chosen(hosts, moment, *arguments) == usual


def test_pins():
    policy = Policy.parse("all_reduce=halving-doubling, first, broadcast=shared_memory")
    assert chosen("4 hosts", FAST, "all_reduce", 4, policy) == "halving_doubling"
    assert chosen("4 hosts", FAST, "all_gather", 4, policy) == "ring"
    # What a group cannot do there, it does as usual.
    assert chosen("4 hosts", FAST, "broadcast", 256 * MB, policy) == "tree"
    pinned = Policy.parse("all_reduce=hierarchical")
    assert chosen("4 hosts", FAST, "all_reduce", 4, pinned) == "recursive_doubling"
    assert Policy.parse("") == Policy.parse("auto") == Policy()


@pytest.mark.parametrize("text", ["ring", "all_reduce=bush", "gossip=ring", "all_reduce="])
def test_wrong_pins_are_named(text):
    with pytest.raises(CommError, match="RINGLET_ALGORITHM has"):
        Policy.parse(text)


def test_links_as_text():
    assert Links.parse(str(ETHERNET)) == ETHERNET
    for text in ("host", "host=1,2", "host=1,0,0", "cable=1,1,1", "host=a,b,c"):
        with pytest.raises(CommError, match="RINGLET_LINKS is"):
            Links.parse(text)


# -- on ranks -------------------------------------------------------------------------------------


def each_algorithm(world, shared):
    """Every operation by every algorithm's name, whatever the transport; and the figures."""
    n, rank = world.size, world.rank
    names = {
        op: [*found, *(["shared_memory"] if shared else [])] for op, found in ALGORITHMS.items()
    }
    names["all_reduce"].remove("hierarchical")
    data = np.arange(6.0 * n)
    total = data * n + sum(range(n))
    for name in names["all_reduce"]:
        assert (world.all_reduce(data + rank, algorithm=name) == total).all()
        work = world.all_reduce(data + rank, "max", algorithm=name, async_op=True)
        assert (work.wait() == data + n - 1).all()
    for name in names["reduce_scatter"]:
        mine = world.reduce_scatter(data + rank, algorithm=name)
        assert (mine == total[6 * rank : 6 * rank + 6]).all()
    for name in names["all_gather"]:
        rows = world.all_gather(np.full((2, 3), rank), algorithm=name)
        assert (rows == np.arange(n)[:, None, None]).all()
    for name in names["all_to_all"]:
        parts = world.all_to_all(np.arange(n) * 10 + rank, algorithm=name)
        assert (parts == rank * 10 + np.arange(n)).all()
    for root in range(n):
        for name in names["broadcast"]:
            assert (world.broadcast(data + rank, root, algorithm=name) == data + root).all()
        for name in names["reduce"]:
            result = world.reduce(data + rank, root, algorithm=name)
            assert (result == total).all() if rank == root else result is None
        for name in names["gather"]:
            rows = world.gather(np.full(3, rank), root, algorithm=name)
            assert (rows == np.arange(n)[:, None]).all() if rank == root else rows is None
        for name in names["scatter"]:
            rows = np.arange(5.0 * n).reshape(n, 5)
            row = world.scatter(rows if rank == root else None, root, algorithm=name)
            assert (row == rows[rank]).all()
            assert row.dtype == rows.dtype
    for name in names["barrier"]:
        world.barrier(algorithm=name)
    return world.links


@pytest.mark.parametrize(("size", "transport"), [(2, "auto"), (3, "auto"), (4, "tcp"), (5, "ipc")])
def test_every_algorithm_can_be_asked_for_by_name(ranks, size, transport):
    measured = {"RINGLET_LINKS": ""} if transport == "tcp" else {}
    found = ranks(size, transport, **measured).run(each_algorithm, shared=transport == "auto")
    assert len(set(found)) == 1
    if transport == "tcp":
        links = Links.parse(found[0])
        assert links.host != Links().host  # measured
        assert links.network == Links().network  # there is none


def wrong_wishes(world):
    for name, text in [
        ("bush", "all_reduce has no algorithm 'bush', but ring, bidirectional_ring"),
        ("hierarchical", "needs at least two ranks on each of at least two hosts"),
        ("shared-memory", "share no memory"),
    ]:
        with pytest.raises(ValueError, match=text):
            world.all_reduce(np.ones(3), algorithm=name)
    assert world.all_reduce(np.ones(1))[0] == world.size


def test_what_there_is_not_is_refused_before_anything_is_sent(ranks):
    ranks(2, "tcp").run(wrong_wishes)


def different_wishes(world):
    with pytest.raises(comm.CollectiveMismatch, match=r"sum, ring; .*sum, circulant|circ.*ring"):
        world.all_reduce(np.ones(9), algorithm="ring" if world.rank else "circulant")


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_ranks_that_ask_for_different_ones_are_told(ranks, transport):
    pool = ranks(2, transport)
    pool.run(different_wishes)
    pool.close()


def messages(world):
    world.all_reduce(np.zeros(100))
    sent = world.stats()["operations"]["all_reduce"]["messages_sent"]
    return [sent, world.links]


def test_the_environment_pins_them_for_a_whole_run(ranks):
    """Messages that a rank sends tell the algorithm: 1 of a doubling, 2 of a ring."""
    links = "host=1e-05,1e+09,1e-06;network=0.0001,1e+08,2e-05"
    variables = {"RINGLET_LINKS": links, "RINGLET_ALGORITHM": "all_reduce=ring"}
    for transport, pinned in (("tcp", [2, links]), ("auto", [2, str(Links())])):
        with ranks(2, transport, **variables) as pool:
            assert pool.run(messages) == [pinned] * 2
    del variables["RINGLET_ALGORITHM"]
    with ranks(2, "tcp", **variables) as pool:
        assert pool.run(messages) == [[1, links]] * 2


def test_a_wrong_environment_is_told(ranks):
    with (
        ranks(1, RINGLET_ALGORITHM="ring") as pool,
        pytest.raises(RanksFailed, match="RINGLET_ALGORITHM has 'ring'"),
    ):
        pool.run(messages)
