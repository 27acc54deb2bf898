"""Lesson 6: trees, chains and rings both ways are right, and what is said of others."""

from functools import partial

import pytest
from edits import edited

SOLUTION = """
import math

from ringlet.comm.schedules.schedule import Receive, Send

def tree(rank, size):
    steps = []
    low = rank & -rank
    if rank:
        steps.append(Receive(rank - low, 0))
    else:
        low = 1 << (size - 1).bit_length()
    distance = low // 2
    while distance:
        if rank + distance < size:
            steps.append(Send(rank + distance, 0))
        distance //= 2
    return steps

def chain(rank, size, segments):
    steps = []
    for segment in range(segments):
        if rank > 0:
            steps.append(Receive(rank - 1, segment))
        if rank < size - 1:
            steps.append(Send(rank + 1, segment))
    return steps

def both_ways(rank, size):
    up, down = (rank + 1) % size, (rank - 1) % size
    steps = []
    for k in range(size // 2):
        steps.append(Send(up, (rank - k) % size))
        last = size % 2 == 0 and k == size // 2 - 1
        if not last:
            steps.append(Send(down, (rank + k) % size))
        steps.append(Receive(down, (rank - k - 1) % size))
        if not last:
            steps.append(Receive(up, (rank + k + 1) % size))
    return steps

def best_segments(nbytes, size, overhead, bandwidth):
    return max(1, round(math.sqrt((size - 2) * nbytes / (overhead * bandwidth))))
"""


changed = partial(edited, SOLUTION, count=1)


def with_function(name, text):
    """The solution with another function in place of one."""
    start = SOLUTION.index(f"def {name}(")
    stop = SOLUTION.find("\ndef ", start)
    return SOLUTION[:start] + text + (SOLUTION[stop:] if stop > 0 else "")


WRONG = {
    "a star": (
        with_function("tree", """
def tree(rank, size):
    return [Receive(0, 0)] if rank else [Send(peer, 0) for peer in range(1, size)]
"""),
        ["tree: your broadcast of 4: the result is right, but it takes 3 rounds; a tree takes 2"],
    ),
    "the nearest child first": (
        changed("    return steps\n\ndef chain",
                "    return [s for s in steps if isinstance(s, Receive)] + [\n"
                "        s for s in reversed(steps) if isinstance(s, Send)]\n\ndef chain"),
        ["tree: your broadcast of 4: the result is right, but it takes 3 rounds; a tree takes 2"],
    ),
    "a tree of powers of two alone": (
        changed("(size - 1).bit_length()", "size.bit_length() - 1"),
        ["tree: your broadcast of 3 deadlocks: rank 2 waits at Receive(peer=0, slot=0)"],
    ),
    "children that are not there": (
        changed("if rank + distance < size:", "if True:"),
        ["tree: tree(2, 3) has Send(peer=3, slot=0): there is no rank 3, the ranks are 0 to 2"],
    ),
    "all segments received before the first is sent": (
        with_function("chain", """
def chain(rank, size, segments):
    steps = [Receive(rank - 1, s) for s in range(segments)] if rank else []
    return steps + ([Send(rank + 1, s) for s in range(segments)] if rank < size - 1 else [])
"""),
        ["chain: your broadcast of 3: the result is right, but it takes 4 rounds; "
         "a chain of 2 segments takes 3"],
    ),
    "one segment": (
        changed("for segment in range(segments)", "for segment in range(1)"),
        ["chain: your broadcast of 2: rank 1 ends with nothing in slot 1"],
    ),
    "the first segment again and again": (
        changed("Send(rank + 1, segment)", "Send(rank + 1, 0)"),
        ["chain: your broadcast of 2: rank 1 ends without rank 0's contribution to slot 1, "
         "but with rank 0's contribution to slot 0"],
    ),
    "a chain that skips": (
        with_function("chain", """
def chain(rank, size, segments):
    if rank == 0:
        return [Send(peer, s) for peer in range(1, size) for s in range(segments)]
    return [Receive(0, s) for s in range(segments)]
"""),
        ["chain: your broadcast of 3: rank 0 sends to rank 2, not to the next one"],
    ),
    "the chain closes to a ring": (
        changed("if rank < size - 1:", "if True:").replace(
            "Send(rank + 1, s", "Send((rank + 1) % size, s"),
        ["chain: your broadcast of 2 leaves messages unread: rank 0 never receives Send(peer=0, "],
    ),
    "one way alone": (
        with_function("both_ways", """
def both_ways(rank, size):
    steps = []
    for k in range(size - 1):
        steps.append(Send((rank + 1) % size, (rank - k) % size))
        steps.append(Receive((rank - 1) % size, (rank - k - 1) % size))
    return steps
"""),
        ["both_ways: your all_gather of 3: the result is right, but it takes 2 rounds; "
         "a ring both ways takes 1"],
    ),
    "the opposite part from both sides": (
        changed("last = size % 2 == 0 and k == size // 2 - 1", "last = False"),
        ["both_ways: your all_gather of 2: the result is right, but rank 0 sends 2 slots, and 1 "],
    ),
    "half of the way, rounded down": (
        changed("for k in range(size // 2)", "for k in range((size - 1) // 2)"),
        ["both_ways: your all_gather of 2: rank 0 ends with nothing in slot 1"],
    ),
    "everybody's slots moved by one": (
        changed("Send(down, (rank + k) % size)", "Send(down, (rank + k + 1) % size)"),
        ["both_ways: your all_gather of 3: rank 0 at Send(peer=2, slot=1) has nothing in slot 1"],
    ),
    "no clamp": (
        changed("max(1, round(", "(round("),
        ["best_segments(4194304, 2, 5e-05, 1000000000.0): it returned 0; there must be at least 1"],
    ),
    "one segment for each rank": (
        changed("max(1, round(math.sqrt((size - 2) * nbytes / (overhead * bandwidth))))", "size"),
        ["best_segments(67108864, 8, 5e-05, 1000000000.0): with 8 segments the chain takes ",
         "with 90 "],
    ),
    "a fraction": (
        changed("max(1, round(math.sqrt((size - 2) * nbytes / (overhead * bandwidth))))",
                "math.sqrt((size - 2) * nbytes / (overhead * bandwidth))"),
        ["not a whole number"],
    ),
    "the last rank forgotten in the formula": (
        changed("(size - 2) * nbytes", "nbytes"),
        ["with 37 segments the chain takes "],
    ),
}  # fmt: skip


def test_the_solution_is_right(said):
    assert not said("trees", SOLUTION)


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_said_of_a_wrong_answer(said, wrong):
    source, words = WRONG[wrong]
    text = "\n".join(said("trees", source))
    assert all(word in text for word in words), text
