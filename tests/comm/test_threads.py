"""Several threads of a rank: groups of their own, transfers on any tag, and one group for all."""

import sys
import threading
import time

import numpy as np
import pytest

from ringlet import comm

THREADS = 4


def at_once(work, count=THREADS):
    """work(number) in so many threads; their errors, by number."""
    errors, start = {}, threading.Barrier(count)

    def run(number):
        try:
            start.wait(10)
            work(number)
        except Exception as error:
            errors[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(25)
        assert not any(thread.is_alive() for thread in threads)
    finally:
        sys.setswitchinterval(interval)
    return errors


def groups_of_their_own(world):
    groups = [world.split(range(world.size)) for _ in range(THREADS)]

    def work(number):
        group = groups[number]
        for count in (3, 5000, 200_000) * 3:
            x = group.all_reduce(np.full(count, float(number + world.rank)))
            assert (x == number * world.size + sum(range(world.size))).all()
            rows = group.all_gather(np.full(count, number * 10 + world.rank))
            assert (rows[:, 0] == number * 10 + np.arange(world.size)).all()
            assert group.broadcast_object(number if world.rank == 0 else None) == number
        x = group.all_reduce(np.ones(1000), async_op=True)
        assert (x.wait() == world.size).all()

    assert at_once(work) == {}


def tags_of_their_own(world):
    right, left = (world.rank + 1) % world.size, (world.rank - 1) % world.size

    def work(number):
        for turn, count in enumerate((1, 1000, 300_000) * 5):
            sent = world.isend(np.full(count, number * 1000 + turn), right, number)
            received = world.recv(left, number)
            sent.wait()
            assert received.size == count
            assert (received == number * 1000 + turn).all()

    assert at_once(work) == {}


def one_tag_for_all(world):
    """Which thread gets which array is open, but each arrives once, and whole."""
    right, left, got = (world.rank + 1) % world.size, (world.rank - 1) % world.size, []

    def work(number):
        for turn in range(20):
            x = np.full((10, 400_000)[turn % 5 == 0], number * 100.0 + turn)
            sent = world.isend(x, right, 3)
            received = world.recv(left, 3)
            assert (received == received[0]).all()
            got.append(received[0])
            sent.wait()

    assert at_once(work) == {}
    assert sorted(got) == [n * 100.0 + turn for n in range(THREADS) for turn in range(20)]


def turns_in_one_order(world):
    lock = threading.Lock()

    def work(number):
        for _ in range(30):
            with lock:
                x = world.all_reduce(np.ones(8))
            assert (x == world.size).all()

    assert at_once(work) == {}


@pytest.mark.parametrize(
    "program", [groups_of_their_own, tags_of_their_own, one_tag_for_all, turns_in_one_order]
)
@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_threads_do_not_disturb_each_other(ranks, program, transport):
    ranks(2, transport).run(program)


IN_ONE_GROUP = {
    "all_reduce": lambda w: w.all_reduce(np.ones(3)),
    "barrier": lambda w: w.barrier(),
    "asynchronous": lambda w: w.all_reduce(np.ones(3), async_op=True),
    "split": lambda w: w.split([0]),
    "object": lambda w: w.broadcast_object(1),
    "stays open": lambda w: w.all_gather(np.ones(2)),
}


def a_group_in_use(world):
    """Rank 0's second thread calls what it may not while the first waits; the group goes on."""
    waiting = {}

    def first():
        waiting["result"] = world.all_reduce(np.ones(3))[0]

    if world.rank == 0:
        thread = threading.Thread(target=first)
        thread.start()
        while not comm.last_operation().startswith("all_reduce"):
            time.sleep(0)
        for call in IN_ONE_GROUP.values():
            with pytest.raises(comm.CommError, match="another thread is in a collective of group"):
                call(world)
        world.send(np.ones(1), 1)
        thread.join(20)
        assert waiting["result"] == world.size
    else:
        world.recv(0)
        first()
    for call in IN_ONE_GROUP.values():
        call(world)
    return True


@pytest.mark.parametrize("transport", ["auto", "ipc"])
def test_a_collective_in_a_group_that_another_thread_uses_is_an_error(ranks, transport):
    pool = ranks(2, transport)
    pool.run(no_operation_yet)
    assert all(pool.run(a_group_in_use))


def no_operation_yet(world):
    """The last operation is no all_reduce."""
    world.barrier()


def behind_another_thread(world, what):
    """Waits end in time although another thread waits for an earlier receive, without a limit."""
    if world.rank:
        world.recv(0)
        world.send(np.ones(1), 0, 5)
        world.send(np.full(1, 2.0), 0, 5)
        return True
    first, second = world.irecv(1, 5), world.irecv(1, 5, timeout=0.2 if what == "own" else None)
    results, begins = [], threading.Event()

    def wait():
        begins.set()
        results.append(first.wait()[0])

    thread = threading.Thread(target=wait)
    thread.start()
    assert begins.wait(10)
    if what == "done":
        assert not second.done()
    else:
        with pytest.raises(comm.CommTimeout, match=r"recv #1? ?.*waited 0\.\d s for rank 1"):
            second.wait(None if what == "own" else 0.1)
    assert thread.is_alive()
    world.send(np.ones(1), 1)
    thread.join(20)
    assert results == [1.0]
    if what != "own":
        assert second.wait() == 2.0
    return True


@pytest.mark.parametrize("what", ["wait", "own", "done"])
def test_a_wait_ends_in_time_also_behind_another_threads(ranks, what):
    pool = ranks(2)
    assert all(pool.run(behind_another_thread, what=what))
    pool.close()


def ended_by_another_thread(world):
    """A wait ends as soon as another thread, which waits for a later receive, has driven it."""
    if world.rank:
        for number in range(3):
            world.recv(0)
            world.send(np.full(1, number), 0, 5)
        return True
    works, results = [world.irecv(1, 5) for _ in range(3)], {}

    def wait(number):
        results[number] = works[number].wait()[0]

    threads = [threading.Thread(target=wait, args=(number,)) for number in (2, 1, 0)]
    for thread in threads:
        thread.start()
    for number, thread in zip((0, 1, 2), reversed(threads), strict=True):
        world.send(np.ones(1), 1)
        thread.join(20)
        assert results == {n: n for n in range(number + 1)}
    return True


def test_a_receive_that_another_thread_has_driven_is_over(ranks):
    assert all(ranks(2).run(ended_by_another_thread))


def polled_for_ever(world):
    """done() sees a deadline, too."""
    if world.rank == 0:
        work = world.irecv(1, 9, timeout=0.1)
        until = time.monotonic() + 20
        while not work.done() and time.monotonic() < until:
            time.sleep(0)
        with pytest.raises(comm.CommTimeout, match="for rank 1"):
            work.wait()
    return True


def test_done_sees_the_deadline(ranks):
    assert all(ranks(2).run(polled_for_ever))


def behind_a_queue(world):
    """What waits for its turn says behind what."""
    group = world.split(range(world.size))
    if world.rank == 0:
        first = group.all_reduce(np.ones(3), async_op=True, label="the first")
        second = group.barrier(async_op=True)
        with pytest.raises(comm.CommTimeout, match=r"barrier #1 .*behind all_reduce #0 \(the fi"):
            second.wait(0.1)
        world.barrier()
        assert (first.wait() == world.size).all()
        assert second.wait() is None
    else:
        world.barrier()
        group.all_reduce(np.ones(3))
        group.barrier()
    return True


def test_who_waits_for_its_turn_says_behind_what(ranks):
    assert all(ranks(2).run(behind_a_queue))
