"""Lesson 1: why communication."""

from functools import partial

import pytest
from edits import edited

SOLUTION = """
def collect_bytes(ranks, nbytes):
    return [(ranks - 1) * nbytes] + [nbytes] * (ranks - 1)

def ring_bytes(ranks, nbytes):
    return 2 * (ranks - 1) * nbytes / ranks

def collect_seconds(ranks, nbytes, latency, bandwidth):
    if ranks == 1:
        return 0.0
    return 2 * (latency + (ranks - 1) * nbytes / bandwidth)

def ring_seconds(ranks, nbytes, latency, bandwidth):
    return 2 * (ranks - 1) * (latency + nbytes / ranks / bandwidth)

def best_ranks(most, alone, nbytes, latency, bandwidth):
    def seconds(ranks):
        return alone / ranks + ring_seconds(ranks, nbytes, latency, bandwidth)
    return min(range(1, most + 1), key=seconds)
"""


changed = partial(edited, SOLUTION)


WRONG = {
    "parts of whole bytes": (
        changed("2 * (ranks - 1) * nbytes / ranks", "2 * (ranks - 1) * (nbytes // ranks)"),
        "ring_bytes(ranks=3, nbytes=1000.0): this is 1332; 1333.33 bytes sent by each rank is",
    ),
    "a number of ranks that is none": (
        changed("return min(range(1, most + 1), key=seconds)", "return min(most, 2) / 1"),
        "returned 1.0; it must return a number of ranks, a whole one",
    ),
    "rank 0 sends to itself, too": (
        changed("[(ranks - 1) * nbytes]", "[ranks * nbytes]"),
        "collect_bytes(ranks=1, nbytes=8400.0): rank 0: this is 8400; 0 bytes sent is right",
    ),
    "the others send nothing": (
        changed("[nbytes] * (ranks - 1)", "[0] * (ranks - 1)"),
        "collect_bytes(ranks=2, nbytes=8400.0): rank 1: this is 0; 8400 bytes sent is right",
    ),
    "one number for all": (
        changed("return [(ranks - 1) * nbytes] + [nbytes] * (ranks - 1)", "return nbytes"),
        "it must return a list with a number for each rank",
    ),
    "half of the ring": (
        changed("2 * (ranks - 1) * nbytes / ranks", "(ranks - 1) * nbytes / ranks"),
        "ring_bytes(ranks=2, nbytes=8400.0): this is 4200; 8400 bytes sent by each rank is right: "
        "then every rank has a part of the sum; these parts go round as well",
    ),
    "whole arrays in the ring": (
        changed("2 * (ranks - 1) * nbytes / ranks", "2 * (ranks - 1) * nbytes"),
        "ring_bytes(ranks=2, nbytes=8400.0): this is 16800; 8400 bytes sent by each rank is right: "
        "a message is one part, not the whole array",
    ),
    "latency for each message of collect": (
        changed("2 * (latency + (ranks - 1) * nbytes / bandwidth)",
                "2 * (ranks - 1) * (latency + nbytes / bandwidth)"),
        "collect_seconds(ranks=3, nbytes=8400.0, latency=2.0, bandwidth=1000000000000.0): this is "
        "8; 4 s is right: messages are on their way to rank 0 at the same time: the latency counts "
        "once each way",
    ),
    "all arrive at the same time": (
        changed("2 * (latency + (ranks - 1) * nbytes / bandwidth)",
                "2 * (latency + nbytes / bandwidth)"),
        "collect_seconds(ranks=3, nbytes=8400.0, latency=0.0, bandwidth=1000.0): this is 16.8; "
        "33.6 s is right: that is the way to rank 0; the sum takes as long to get back; or rank 0 "
        "receives, and sends, one message at a time",
    ),
    "one rank waits for itself": (
        changed("    if ranks == 1:\n        return 0.0\n", ""),
        "collect_seconds(ranks=1, nbytes=8400.0, latency=2.0",
    ),
    "latency once in the ring": (
        changed("2 * (ranks - 1) * (latency + nbytes / ranks / bandwidth)",
                "2 * (latency + (ranks - 1) * nbytes / ranks / bandwidth)"),
        "ring_seconds(ranks=1, nbytes=8400.0, latency=2.0",
    ),
    "one way": (
        changed("2 * (latency + (ranks - 1) * nbytes / bandwidth)",
                "latency + (ranks - 1) * nbytes / bandwidth"),
        "this is 8.4; 16.8 s is right: that is the way to rank 0; the sum takes as long to get",
    ),
    "a latency for the whole ring": (
        changed("2 * (ranks - 1) * (latency + nbytes / ranks / bandwidth)",
                "bool(ranks - 1) * latency + 2 * (ranks - 1) * nbytes / ranks / bandwidth"),
        "4 s is right: a part can be passed on only when it has arrived, so each round takes a "
        "latency; or that is half of the rounds",
    ),
    "bits for bytes": (
        changed("nbytes / ranks / bandwidth", "8 * nbytes / ranks / bandwidth"),
        "ring_seconds(ranks=2, nbytes=8400.0, latency=0.0, bandwidth=1000.0): this is 67.2; 8.4 s",
    ),
    "the more the better": (
        changed("min(range(1, most + 1), key=seconds)", "most"),
        "bandwidth=100.0) is 2: a step of 84.5 s; with 1 it takes 1 s",
    ),
    "the most is never tried": (
        changed("range(1, most + 1)", "range(1, max(2, most))"),
        "is 1: a step of 100 s; with 2 it takes 50 s",
    ),
    "nothing": (
        changed("    return 2 * (ranks - 1) * nbytes / ranks", "    pass"),
        "ring_bytes(ranks=1, nbytes=8400.0): this is None; it must be a number, 0 bytes",
    ),
}  # fmt: skip


def test_the_solution_is_right(said):
    assert said("why_communication", SOLUTION) == []
    numpy = changed(
        "return min(range(1, most + 1), key=seconds)",
        "return np.argmin([seconds(n + 1) for n in range(most)]) + 1",
    )
    numpy = numpy.replace(
        "return [(ranks - 1) * nbytes] + [nbytes] * (ranks - 1)",
        "return np.array([ranks - 1] + [1] * (ranks - 1)) * nbytes",
    )
    assert said("why_communication", "import numpy as np\n" + numpy) == []


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_told_in_words(case, said):
    source, words = WRONG[case]
    found = said("why_communication", source)
    assert 1 <= len(found) <= 3
    assert words in found[0]
