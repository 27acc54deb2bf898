"""What goes wrong ends with a named error on every rank: lost peers, hangs, mismatches."""

import os
import re
import signal
import sys
import time

import numpy as np
import pytest
from waiting import until

from ringlet import comm
from ringlet.launcher.testing.pool import RanksFailed


def caught(call):
    """The error that the call raised, as what a test can send home."""
    try:
        call()
    except comm.CommError as error:
        return {
            "type": type(error).__name__,
            "text": str(error),
            "rank": getattr(error, "rank", None),
            "waiting_for": list(getattr(error, "waiting_for", ())),
        }
    return {"type": "none", "text": ""}


def killed_once_others_are_here(world):
    """This rank ends when the others are about to wait for it: each has sent it something."""
    for rank in range(world.size):
        if rank != world.rank:
            world.recv(rank, tag=99)
    os.kill(os.getpid(), signal.SIGKILL)


def about_to_wait(world, victim):
    world.isend(np.ones(1), victim, tag=99)


# -- lost peers -----------------------------------------------------------------------------------

WAITS = {
    "all_reduce": lambda w: w.all_reduce(np.ones(1000, np.float32), label="gradients 3/7"),
    "big all_reduce": lambda w: w.all_reduce(np.ones(1 << 21, np.float32)),
    "asynchronous": lambda w: w.all_reduce(np.ones(10), async_op=True).wait(),
    "barrier": lambda w: w.barrier(),
    "recv": lambda w: w.recv(0, tag=4),
    "irecv": lambda w: w.irecv(0).wait(),
    "all_gather_object": lambda w: w.all_gather_object({"a": 1}),
    "split": lambda w: w.split([0, 1]),
}


def killed(world, wait):
    if world.rank == 0:
        killed_once_others_are_here(world)
    about_to_wait(world, 0)
    return caught(lambda: WAITS[wait](world))


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_killed_rank_is_named_on_every_other_rank(ranks, size, wait):
    with pytest.raises(RanksFailed) as failed:
        ranks(size).run(killed, wait=wait)
    assert list(failed.value.failures) == [0]
    assert "killed by signal 9 (SIGKILL)" in failed.value.failures[0]
    for rank in range(1, size):
        error = failed.value.results[rank]
        assert error["type"] == "PeerLost", error
        assert error["rank"] == 0  # and no timeout, which would be a CommTimeout
        assert "killed by signal 9" in error["text"]
        assert f"rank {rank}: " in error["text"]


def waits_for_a_survivor(world):
    """Rank 0 waits for rank 2, which would send only after it has heard from rank 1."""
    if world.rank == 1:
        killed_once_others_are_here(world)
    about_to_wait(world, 1)
    return caught(lambda: world.recv(2 if world.rank == 0 else 1))


def test_a_loss_is_told_to_who_waits_for_a_survivor(ranks):
    with pytest.raises(RanksFailed) as failed:
        ranks(3).run(waits_for_a_survivor)
    for rank in (0, 2):
        error = failed.value.results[rank]
        assert (error["type"], error["rank"]) == ("PeerLost", 1)


def test_the_error_names_the_operation_its_label_and_size(ranks):
    with pytest.raises(RanksFailed) as failed:
        ranks(2).run(killed, wait="all_reduce")
    text = failed.value.results[1]["text"]
    assert re.search(r"all_reduce #\d+ \(gradients 3/7, 3\.9 KiB\) lost rank 0: process ", text)


def leaves(world):
    if world.rank == 0:
        comm.shutdown()
        return None
    return [caught(world.barrier), caught(world.barrier)]


def test_a_rank_that_left_is_named_even_where_others_stand_between(ranks):
    results = ranks(4).run(leaves)
    for first, again in results[1:]:
        assert first["type"] == again["type"] == "PeerLost"
        assert first["rank"] == 0
        assert "has shut down" in first["text"]
        assert again["text"] == first["text"]  # the group stays broken
    ranks(4).close()


def last_words(world):
    """What a rank sent before it left can still be received."""
    big = np.full(1 << 21, 7.0)
    if world.rank == 0:
        for number in range(100):
            world.send(np.array([number]), 1)
        world.send(big, 1)
        comm.shutdown()
        return True
    with pytest.raises(comm.PeerLost):  # it has gone
        world.recv(0, tag=1)
    for number in range(100):
        assert world.recv(0)[0] == number
    assert (world.recv(0) == big).all()
    return caught(lambda: world.recv(0))["type"] == "PeerLost"


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_what_was_sent_before_leaving_arrives(ranks, transport):
    pool = ranks(2, transport=transport)
    assert pool.run(last_words) == [True, True]
    pool.close()


# -- hangs ----------------------------------------------------------------------------------------


def hangs(world, folder):
    """Rank 0 makes no call until the others have given up."""
    world.barrier()
    if world.rank == 0:
        until(lambda: len(list(folder.iterdir())) == world.size - 1)
        return None
    error = caught(lambda: world.all_reduce(np.ones(5), timeout=0.5))
    (folder / f"{world.rank}").touch()
    return error


def test_a_hanging_rank_is_named_by_all_with_what_it_last_did(ranks, tmp_path):
    ranks(3).close()  # calls of earlier tests have numbers too
    results = ranks(3).run(hangs, folder=tmp_path)
    for error in results[1:]:
        assert error["type"] == "CommTimeout"
        assert error["waiting_for"] == [0]
        assert "barrier #0" in error["text"]
    ranks(3).close()


def stopped(world):
    if world.rank == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    return caught(lambda: world.all_reduce(np.ones(5), timeout=0.3))


def test_a_stopped_process_is_a_hang_not_a_loss(ranks):
    with pytest.raises(RanksFailed) as failed:
        ranks(2).run(stopped, deadline=1.5)
    assert failed.value.results[1]["type"] == "CommTimeout"
    assert failed.value.results[1]["waiting_for"] == [0]
    assert "is stopped (SIGSTOP)" in failed.value.failures[0]


def crossed(world):
    """Each waits for the other in another call: both say what the other waits in."""
    if world.rank == 0:
        return caught(lambda: world.recv(1, tag=3, timeout=1.0))
    return caught(lambda: world.all_reduce(np.ones(5), timeout=1.0))


def test_a_timeout_says_what_the_awaited_rank_waits_in(ranks):
    ranks(2).close()  # calls of earlier tests have numbers too
    first, second = ranks(2).run(crossed)
    assert first["type"] == second["type"] == "CommTimeout"
    assert "recv #0 (tag 3)" in first["text"]
    assert "in all_reduce #0" in first["text"]
    assert "in recv #0 (tag 3)" in second["text"]
    ranks(2).close()


# -- mismatches -----------------------------------------------------------------------------------

ones = np.ones
MISMATCHES = {
    "operation": (lambda w: w.all_reduce(ones(8)), lambda w: w.broadcast(ones(7), root=1)),
    "operation, root 0": (lambda w: w.all_reduce(ones(8)), lambda w: w.broadcast(ones(7), root=0)),
    "barrier": (lambda w: w.barrier(), lambda w: w.all_gather(ones(3))),
    "longer": (lambda w: w.all_reduce(ones(8)), lambda w: w.all_reduce(ones(9))),
    "shorter": (lambda w: w.all_reduce(ones(8)), lambda w: w.all_reduce(ones(7))),
    "shape": (lambda w: w.all_reduce(ones((2, 3))), lambda w: w.all_reduce(ones((3, 2)))),
    "empty": (lambda w: w.all_reduce(ones(8)), lambda w: w.all_reduce(ones(0))),
    "dtype": (lambda w: w.all_gather(ones(4)), lambda w: w.all_gather(ones(4, np.float32))),
    "reduction": (lambda w: w.all_reduce(ones(4)), lambda w: w.all_reduce(ones(4), "max")),
    "root of gather": (lambda w: w.gather(ones(4), root=0), lambda w: w.gather(ones(4), root=1)),
    "root of reduce": (lambda w: w.reduce(ones(4), root=0), lambda w: w.reduce(ones(4), root=1)),
    "root of scatter": (
        lambda w: w.scatter(ones((w.size, 2)) if w.rank == 0 else None, root=0),
        lambda w: w.scatter(ones((w.size, 2)) if w.rank == 1 else None, root=1),
    ),
    "root of broadcast": (
        lambda w: w.broadcast(ones(4), root=0),
        lambda w: w.broadcast(ones(4), root=1),
    ),
    "order": (
        lambda w: [w.all_reduce(ones(4)), w.all_gather(ones(4))],
        lambda w: [w.all_gather(ones(4)), w.all_reduce(ones(4))],
    ),
    "shorter all_to_all": (
        lambda w: w.all_to_all(ones(2 * w.size)),
        lambda w: w.all_to_all(ones(w.size)),
    ),
    "shorter broadcast": (lambda w: w.broadcast(ones(40)), lambda w: w.broadcast(ones(39))),
    "many segments": (
        lambda w: w.all_reduce(ones(1 << 19)),
        lambda w: w.all_reduce(ones((1 << 19) - 1)),
    ),
    "asynchronous": (
        lambda w: w.all_reduce(ones(8), async_op=True).wait(),
        lambda w: w.all_reduce(ones(9), async_op=True).wait(),
    ),
}


def mismatched(world, case):
    """The last rank calls something else. A call that only sends ends well; the next must not."""
    usual, other = MISMATCHES[case]

    def both():
        (other if world.rank == world.size - 1 else usual)(world)
        world.barrier()

    return caught(both)


def mismatches(world, cases, groups):
    """One case after another, each in a group of its own: a mismatch ends only its group."""
    found = []
    for case in cases:
        group = world.split(groups or range(world.size))
        found.append(None if group is None else mismatched(group, case))
        world.barrier()
    return found


@pytest.mark.parametrize("transport", ["auto", "tcp"])
@pytest.mark.parametrize("size", [2, 3])
def test_different_calls_are_a_mismatch_on_every_rank(ranks, size, transport):
    pool = ranks(size, transport)
    for errors in pool.run(mismatches, cases=list(MISMATCHES), groups=[]):
        for case, error in zip(MISMATCHES, errors, strict=True):
            check_mismatch(case, error)
    pool.close()


def check_mismatch(case, error):
    assert error["type"] == "CollectiveMismatch", (case, error)
    assert "call #" in error["text"]
    assert error["text"].count("called") == 2  # both sides


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_a_mismatch_in_a_group_is_the_groups_own(ranks, transport):
    """Its ranks are told, in the world's numbers; the others go on, and so does the world."""
    cases = ["operation", "shorter"]
    pool = ranks(3, transport)
    results = pool.run(mismatches, cases=cases, groups=[2, 0])
    pool.close()
    assert results[1] == [None, None]
    for rank in (0, 2):
        for case, error in zip(cases, results[rank], strict=True):
            check_mismatch(case, error)
            assert "of group [2, 0]: rank" in error["text"]


def lists_differ(world):
    return caught(lambda: world.split([0, 1] if world.rank == 0 else [0, 1, 2]))


def test_groups_that_ranks_describe_differently_are_a_mismatch(ranks):
    errors = ranks(3).run(lists_differ)
    assert [error["type"] for error in errors] == ["CollectiveMismatch"] * 3
    assert "[0, 1]" in errors[0]["text"]
    assert "[0, 1, 2]" in errors[0]["text"]


# -- the helper itself ----------------------------------------------------------------------------


def fails_on_two(world):
    if world.rank in (1, 2):
        raise ValueError(f"bad luck on rank {world.rank}")
    world.barrier()


def test_every_ranks_failure_is_shown_causes_first(ranks):
    with pytest.raises(RanksFailed) as failed:
        ranks(3).run(fails_on_two)
    text = str(failed.value)
    assert "bad luck on rank 1" in text
    assert "bad luck on rank 2" in text
    assert text.index("bad luck on rank 2") < text.index("PeerLost")


def sleeps(world):
    if world.rank == 1:
        time.sleep(60)


def test_the_deadline_is_hard_and_shows_where_a_rank_is(ranks):
    ranks(2).run(barriers)
    with pytest.raises(RanksFailed, match=r"(?s)has not returned within 0.5 s.*in sleeps"):
        ranks(2).run(sleeps, deadline=0.5)
    assert ranks(2).run(barriers) == [None, None]  # a fresh pool


def barriers(world):
    world.barrier()


def test_only_functions_that_workers_can_find_are_run(ranks):
    with pytest.raises(TypeError, match="module-level"):
        ranks(1).run(lambda world: None)


def prints(world):
    print("these words are kept", file=sys.stderr, flush=True)
    os._exit(3)


def test_what_a_dead_rank_had_written_is_shown(ranks):
    with pytest.raises(RanksFailed, match=r"(?s)exited with code 3.*these words are kept"):
        ranks(1).run(prints)
