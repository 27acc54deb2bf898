"""Send and receive: order, tags, handles, sizes, groups."""

import numpy as np
import pytest

from ringlet import comm


def ring_shift(world):
    """Everybody sends to the right, before anybody receives."""
    right, left = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    for shape, dtype in [
        ((3, 4), np.float32), ((), np.int64), ((0, 5), np.float16), ((1 << 19,), np.float64),
        ((2,), "U5"), ((3,), "M8[ms]"), ((4,), "S3"), ((7,), ">c8"),
    ]:  # fmt: skip
        x = np.zeros(shape, dtype)
        if x.dtype.kind in "fic":
            x[...] = world.rank
        world.send(x, right)
        y = world.recv(left)
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        assert y.flags.writeable
        if x.dtype.kind in "fic":
            assert (y == left).all()


@pytest.mark.parametrize("transport", ["auto", "tcp"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_arrays_of_all_kinds_arrive(ranks, size, transport):
    ranks(size, transport=transport).run(ring_shift)


def tags(world):
    if world.rank == 0:
        for tag in (5, 0, 7):
            for number in range(3):
                world.send(np.array([tag * 10 + number]), 1, tag)
    else:
        for tag in (0, 7, 5):
            for number in range(3):
                assert world.recv(0, tag)[0] == tag * 10 + number


def test_messages_of_one_tag_keep_their_order_and_tags_do_not_mix(ranks):
    ranks(2).run(tags)


def handles(world):
    peer = 1 - world.rank
    posted = [world.irecv(peer, tag=1) for _ in range(3)]
    assert not any(work.done() for work in posted)
    world.barrier()
    sent = [world.isend(np.full(n, n), peer, tag=1) for n in (4, 5, 6)]
    # Waited for in reverse: each gets what its place in the order of issue says.
    assert [len(work.wait()) for work in reversed(posted)] == [6, 5, 4]
    for work in sent:
        assert work.wait() is None
        assert work.done()
    late = world.irecv(peer, tag=2)
    with pytest.raises(comm.CommTimeout) as caught:
        late.wait(timeout=0.1)
    assert caught.value.waiting_for == (peer,)
    assert f"rank {peer}" in str(caught.value)
    world.barrier()
    world.send(np.array([9.0]), peer, tag=2)
    assert late.wait() == 9.0
    assert late.wait() == 9.0  # again


def test_handles_complete_in_order_of_issue_whoever_is_waited_for_first(ranks):
    ranks(2).run(handles)


def into_arrays(world):
    peer = 1 - world.rank
    world.send(np.arange(6.0).reshape(2, 3), peer)
    wrong = np.zeros((3, 2))
    with pytest.raises(comm.CollectiveMismatch, match=r"\(3, 2\).*\(2, 3\)"):
        world.recv(peer, out=wrong)
    with pytest.raises(comm.CollectiveMismatch, match="float32"):
        world.recv(peer, out=np.zeros((2, 3), np.float32))
    right = np.zeros((2, 6))[:, ::2]
    assert world.recv(peer, out=right) is right
    np.testing.assert_array_equal(right, np.arange(6.0).reshape(2, 3))
    with pytest.raises(ValueError, match="read-only"):
        world.recv(peer, out=np.broadcast_to(1.0, (2,)))


def test_out_takes_the_array_or_leaves_it_for_the_next_call(ranks):
    ranks(2).run(into_arrays)


def both_send_first(world):
    x = np.full(1 << 22, world.rank, np.float64)  # 32 MiB: far more than any queue holds
    world.send(x, 1 - world.rank)
    assert (world.recv(1 - world.rank) == 1 - world.rank).all()


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_two_ranks_may_both_send_first_however_much(ranks, transport):
    ranks(2, transport=transport).run(both_send_first)


def mixed(world):
    """Transfers in a group and in the world, and collectives between them, do not meet."""
    group = world.split([1, 0])
    peer = 1 - world.rank
    works = [
        world.isend(np.array([1.0]), peer),
        group.isend(np.array([2.0]), 1 - group.rank),
        world.all_reduce(np.ones(3), async_op=True),
        group.all_reduce(np.ones(5), async_op=True),
    ]
    assert group.recv(1 - group.rank) == 2.0
    assert world.all_gather(np.zeros(2)).shape == (2, 2)
    assert world.recv(peer) == 1.0
    results = [work.wait() for work in works]
    assert (results[2] == 2).all()
    assert results[3].shape == (5,)


def test_groups_tags_and_collectives_do_not_meet(ranks):
    ranks(2).run(mixed)


def many_in_flight(world):
    groups = [world] + [world.split(range(world.size)) for _ in range(3)]
    works = []
    for number in range(40):
        x = np.full(1000 + number, float(world.rank))
        # Ranks issue on the groups in different orders: only the order in one group counts.
        for turn in range(4):
            place = (turn + world.rank) % 4
            works.append((number, groups[place].all_reduce(x.copy(), async_op=True)))
    for number, work in works:
        result = work.wait()
        assert result.shape == (1000 + number,)
        assert (result == sum(range(world.size))).all()
        assert work.done()


@pytest.mark.parametrize("size", [2, 3])
def test_many_operations_in_flight_on_several_groups(ranks, size):
    ranks(size).run(many_in_flight)


def blocking_after_asynchronous(world):
    x, y = np.ones(1 << 20, np.float32), np.ones(10)
    work = world.all_reduce(x, async_op=True)
    world.all_reduce(y)  # the same group: it comes after
    assert work.done()
    assert (x == world.size).all()
    assert (y == world.size).all()


def test_a_blocking_collective_waits_for_earlier_asynchronous_ones(ranks):
    ranks(2).run(blocking_after_asynchronous)


def counted(world):
    before = world.stats()
    x = np.zeros(8 * world.size, np.float32)
    world.all_reduce(x)
    world.all_reduce(x)
    work = world.all_reduce(x, async_op=True)
    work.wait()
    world.send(np.zeros(3), (world.rank + 1) % world.size)
    world.recv((world.rank - 1) % world.size)
    after = world.stats()

    def grown(operation, field):
        old = before["operations"].get(operation, {}).get(field, 0)
        return after["operations"][operation][field] - old

    n = world.size
    assert grown("all_reduce", "calls") == 3
    assert grown("all_reduce", "bytes_sent") == 3 * 2 * (n - 1) * 32
    assert grown("all_reduce", "bytes_received") == 3 * 2 * (n - 1) * 32
    assert grown("all_reduce", "messages_sent") == 3 * 2 * (n - 1)
    assert grown("all_reduce", "seconds") > 0
    assert grown("send", "bytes_sent") == 24
    assert grown("recv", "bytes_received") == 24
    right = (world.rank + 1) % n
    sent = after["peers"][right]["bytes_sent"] - before["peers"].get(right, {}).get("bytes_sent", 0)
    assert sent == 3 * 2 * (n - 1) * 32 + 24


def test_traffic_is_counted_by_operation_and_peer_as_the_closed_form_says(ranks):
    ranks(3, transport="ipc").run(counted)
