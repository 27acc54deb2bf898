"""Lesson 4: patterns of communication."""

from functools import partial

import pytest
from edits import edited

SOLUTION = """
from ringlet.comm.schedules.schedule import Copy, Receive, Send, Step

def scatter(rank, size):
    if rank == 0:
        return [Send(peer, peer) for peer in range(1, size)]
    return [Receive(0, rank)]

def all_gather(rank, size):
    steps = []
    for k in range(1, size):
        steps.append(Send((rank + k) % size, rank))
        steps.append(Receive((rank - k) % size, (rank - k) % size))
    return steps

def broadcast(rank, size):
    return scatter(rank, size) + all_gather(rank, size)

def all_to_all(rank, size):
    steps = [Copy(rank, size + rank)]
    for k in range(1, size):
        to, source = (rank + k) % size, (rank - k) % size
        steps += [Send(to, to), Receive(source, size + source)]
    return steps
"""


changed = partial(edited, SOLUTION)


WRONG = {
    "sent before it has come": (
        changed("        steps.append(Send((rank + k) % size, rank))\n",
                "        steps.insert(0, Send((rank + 1) % size, (rank - size + 1 + k) % size))\n")
        .replace("Receive((rank - k) % size,", "Receive((rank - 1) % size,", 1),
        "your all_gather of 3: rank 0 at Send(peer=1, slot=2) has nothing in slot 2 yet",
    ),
    "a copy of what is not there": (
        changed("Copy(rank, size + rank)", "Copy(size + rank, rank)"),
        "your all_to_all of 1: rank 0 at Copy(source=1, slot=0) has nothing in slot 1 yet",
    ),
    "everything to everyone": (
        changed("[Send(peer, peer) for peer in range(1, size)]\n    return [Receive(0, rank)]",
                "[Send(peer, slot) for slot in range(size) for peer in range(1, size)]\n"
                "    return [Receive(0, slot) for slot in range(size)]"),
        "your scatter of 2: the result is right, but it takes 2 rounds; 1 is enough",
    ),
    "one slot for all": (
        changed("Send(peer, peer) for", "Send(peer, 0) for"),
        "your scatter of 2: rank 1 ends without rank 0's contribution to slot 1",
    ),
    "the last rank is forgotten": (
        changed("range(1, size)]\n    return [Rec", "range(1, size - 1)]\n    return [Rec"),
        "your scatter of 2 deadlocks: rank 1 waits at Receive(peer=0, slot=1) for rank 0",
    ),
    "the root sends to itself": (
        changed("for peer in range(1, size)]", "for peer in range(size)]"),
        "scatter(0, 1) has Send(peer=0, slot=0): a rank sends nothing to itself",
    ),
    "received into the first slot": (
        changed("[Receive(0, rank)]", "[Receive(0, 0)]"),
        "your scatter of 2: rank 1 ends with nothing in slot 1",
    ),
    "everybody waits first": (
        changed(
            "        steps.append(Send((rank + k) % size, rank))\n"
            "        steps.append(Receive((rank - k) % size, (rank - k) % size))\n",
            "        steps.append(Receive((rank - k) % size, (rank - k) % size))\n"
            "        steps.append(Send((rank + k) % size, rank))\n",
        ),
        "your all_gather of 2 deadlocks: rank 0 waits at Receive(peer=1, slot=1) for rank 1; rank "
        "1 waits at Receive(peer=0, slot=0) for rank 0",
    ),
    "all to the same one": (
        changed(
            "    for k in range(1, size):\n        steps.append(Send((rank + k) % size, rank))\n"
            "        steps.append(Receive((rank - k) % size, (rank - k) % size))\n",
            "    others = [peer for peer in range(size) if peer != rank]\n"
            "    steps += [Send(peer, rank) for peer in others]\n"
            "    steps += [Receive(peer, peer) for peer in others]\n",
        ),
        "your all_gather of 3: the result is right, but it takes 3 rounds; 2 are enough",
    ),
    "into the slot of the wrong rank": (
        changed("Receive((rank - k) % size, (rank - k) % size)",
                "Receive((rank - k) % size, (rank + k) % size)"),
        "your all_gather of 3: rank 0 ends without rank 1's contribution to slot 1",
    ),
    "the neighbours alone": (
        changed("for k in range(1, size):\n        steps.a", "for k in [1]:\n        steps.a"),
        "all_gather(0, 1) has Send(peer=0, slot=0): a rank sends nothing to itself",
    ),
    "the root does it all": (
        changed("return scatter(rank, size) + all_gather(rank, size)",
                "return [(Send(peer, slot) if rank == 0 else Receive(0, slot)) for slot in "
                "range(size) for peer in range(1, size) if rank in (0, peer)]"),
        "your broadcast of 3: the result is right, but it takes 6 rounds; 4 are enough",
    ),
    "no all-gather": (
        changed(" + all_gather(rank, size)", ""),
        "your broadcast of 2: rank 1 ends with nothing in slot 0",
    ),
    "nothing for itself": (
        changed("[Copy(rank, size + rank)]", "[]"),
        "your all_to_all of 1: rank 0 ends with nothing in slot 1",
    ),
    "the slot of the sender": (
        changed("Send(to, to), Rec", "Send(to, rank), Rec"),
        "your all_to_all of 2: rank 0 ends without rank 1's contribution to slot 0",
    ),
    "into the first half": (
        changed("Receive(source, size + source)", "Receive(source, source)"),
        "your all_to_all of 2: rank 0 ends with nothing in slot 3",
    ),
    "no list": (
        changed("return [Receive(0, rank)]", "return Receive(0, rank)"),
        "scatter(1, 2) returned a Receive; it must return a list of steps",
    ),
    "nothing": (changed("    return steps\n\ndef b", "\ndef b"), "all_gather(0, 1) returned None"),
}  # fmt: skip


def test_the_solution_is_right(said):
    assert said("patterns_of_communication", SOLUTION) == []


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_told_in_words(case, said):
    source, words = WRONG[case]
    found = said("patterns_of_communication", source)
    assert 1 <= len(found) <= 3
    assert not any("broadcast" in each for each in found[1:])  # what it is made of is said alone
    assert words in found[0]
