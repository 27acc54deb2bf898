"""Lesson 5: a ring is right, and what is said of others."""

import pytest
from edits import edited

SOLUTION = """
from ringlet.comm.schedules.schedule import Receive, Reduce, Send

def reduce_scatter(rank, size):
    steps = []
    for k in range(size - 1):
        steps.append(Send((rank + 1) % size, (rank - k - 1) % size))
        steps.append(Reduce((rank - 1) % size, (rank - k - 2) % size))
    return steps

def all_reduce(rank, size):
    steps = reduce_scatter(rank, size)
    for k in range(size - 1):
        steps.append(Send((rank + 1) % size, (rank - k) % size))
        steps.append(Receive((rank - 1) % size, (rank - k - 1) % size))
    return steps
"""

OTHER_WAY = SOLUTION.replace("rank + 1)", "rank + -1)").replace("rank - 1)", "rank + 1)")
for before, after in (("- k - 1", "+ k + 1"), ("- k - 2", "+ k + 2"), ("rank - k)", "rank + k)")):
    OTHER_WAY = OTHER_WAY.replace(before, after)


def changed(before, after, count=1):
    return edited(SOLUTION, before, after, count=count)


SEND = "        steps.append(Send((rank + 1) % size, (rank - k - 1) % size))\n"
REDUCE = "        steps.append(Reduce((rank - 1) % size, (rank - k - 2) % size))\n"

DIRECT = """
    steps = [Send(peer, peer) for peer in range(size) if peer != rank]
    return steps + [Reduce(peer, rank) for peer in range(size) if peer != rank]

"""

WRONG = {
    "the sum is overwritten": (
        changed("Reduce((rank", "Receive((rank"),
        ["of 2: rank 0 ends without rank 0's contribution to slot 0"],
    ),
    "a round too few": (
        changed("range(size - 1)", "range(size - 2)"),
        ["of 2: rank 0 ends without rank 1's contribution to slot 0"],
    ),
    "a round too few from three ranks on": (
        changed("range(size - 1)", "range(size - 1 if size < 3 else size - 2)"),
        ["reduce_scatter of 3: rank 0 ends without the contributions of ranks 1, 2 to slot 0"],
    ),
    "slot r + 1 at rank r": (
        changed("- k - 1)", "- k)").replace("- k - 2)", "- k - 1)", 1),
        ["of 2: rank 0 ends without rank 1's contribution to slot 0"],
    ),
    "all wait first": (
        changed(SEND + REDUCE, REDUCE + SEND),
        ["of 2 deadlocks: rank 0 waits at Reduce(peer=1, slot=0"],
    ),
    "added again on the way back": (
        changed("Receive((rank", "Reduce((rank"),
        ["all_reduce of 2: rank 0 at Reduce(peer=1, slot=1", "to slot 1 twice"],
    ),
    "no all-gather": (
        changed("steps.append(Send((rank + 1) % size, (rank - k) % size))", "continue"),
        ["all_reduce of 2: rank 0 ends without rank 1's contribution to slot 1"],
    ),
    "no ring": (
        changed(
            SOLUTION[SOLUTION.index("    steps = []") : SOLUTION.index("def all_reduce")], DIRECT
        ),
        ["of 3: the result is right, but rank 0 sends to ranks 1, 2; in a ring"],
    ),
    "beyond the last rank": (
        changed("(rank + 1) % size", "rank + 1"),
        ["reduce_scatter(1, 2) has Send(peer=2, slot=0): there is no rank 2, the ranks are 0 to 1"],
    ),
    "for four ranks alone": (
        changed("% size", "% 4", 4),
        ["there is no"],
    ),
    "numbers in place of steps": (
        changed("Send((rank", "((rank"),
        ["reduce_scatter(0, 2) has (1, 1), which is not a Send, Receive, Reduce or Copy"],
    ),
    "nothing returned": (
        changed("    return steps\n", ""),
        ["reduce_scatter(0, 1) returned None; it must return a list of steps"],
    ),
    "twice the slots": (
        changed(
            REDUCE,
            "        steps.append(Send((rank + 1) % size, rank))\n"
            + REDUCE
            + "        steps.append(Receive((rank - 1) % size, (rank - 1) % size))\n",
        ),
        ["of 2: the result is right, but rank 0 sends 2 slots; a ring's sends 1"],
    ),
}


@pytest.mark.parametrize("solution", [SOLUTION, OTHER_WAY], ids=["up", "down"])
def test_a_ring_is_right_either_way_round(said, solution):
    assert not said("ring_all_reduce", solution)


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_said_of_a_wrong_answer(said, wrong):
    source, words = WRONG[wrong]
    text = "\n".join(said("ring_all_reduce", source))
    assert all(word in text for word in words), text
