"""Checks lesson 1: both ways are written as schedules, and what these cost is compared."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ringlet.comm.schedules.algorithms import schedule
from ringlet.comm.schedules.price import LinkCost, Network, Price, price
from ringlet.comm.schedules.schedule import Receive, Reduce, Schedule, Send, Step
from ringlet.launcher.lessons.words import asked, number_problem, whole

RANKS = (1, 2, 3, 4, 7)

NBYTES, UNEVEN = 8400.0, 1000.0
"""Numbers of bytes that ranks can, and cannot, share evenly."""

LINKS = ((0.0, 1000.0), (2.0, 1e12), (2.0, 1000.0), (0.5, 250.0))
"""(latency, bandwidth): what bytes cost alone, what messages cost alone, and both."""

STEPS = (
    # (alone, latency, bandwidth): slow and fast links
    (100.0, 0.0, 1e12),
    (100.0, 0.0, 1000.0),
    (1.0, 0.0, 100.0),
    (100.0, 3.0, 1000.0),
    (30.0, 1.0, 1200.0),
)

HINTS = (
    "Count messages first. In collect, how many arrive at rank 0, and how many leave it? What do "
    "the other ranks send? In the ring, how large is one message, and how many does a rank send?",
    "With one rank there is nothing to send, in no time.",
    "Rank 0 receives one message at a time: the last of ranks - 1 is there after ranks - 1 times "
    "nbytes / bandwidth. They are on their way at the same time, so the latency counts once. Then "
    "the sum goes out in the same way.",
    "In a ring, a rank can pass a part on only when it has arrived. Every round takes the latency "
    "and nbytes / ranks / bandwidth.",
    "best_ranks: try all numbers from 1 to most; min(range(1, most + 1), key=...) takes the first "
    "of those that are equal.",
)


def check(answer: Any) -> Iterator[str]:
    """What is wrong with an exercise."""
    if problem := next(_bytes(answer), None):
        yield problem
    # The third is made of the second.
    if problem := next(itertools.chain(_seconds(answer), _best(answer)), None):
        yield problem


def collect(ranks: int) -> Schedule:
    """Rank 0 adds up all arrays and sends the sum to everyone."""
    others = range(1, ranks)
    root: list[Step] = [Reduce(rank, 0) for rank in others]
    root += [Send(rank, 0) for rank in others]
    steps = [tuple(root)] + [(Send(0, 0), Receive(0, 0)) for _ in others]
    return Schedule("all_reduce", "collect", ranks, 1, 0, tuple(steps))


def ring(ranks: int) -> Schedule:
    """The project's own."""
    return schedule("all_reduce", "ring", ranks)


def cost(made: Schedule, nbytes: float, latency: float, bandwidth: float) -> Price:
    """What the schedule costs on such links."""
    return price(made, Network.uniform(LinkCost(latency, bandwidth)), nbytes)


def _bytes(answer: Any) -> Iterator[str]:
    for ranks in RANKS:
        call = asked("collect_bytes", ranks=ranks, nbytes=NBYTES)
        got = answer.collect_bytes(ranks=ranks, nbytes=NBYTES)
        got = got.tolist() if isinstance(got, np.ndarray) else got
        if not isinstance(got, list | tuple) or len(got) != ranks:
            yield f"{call} returned {got!r}; it must return a list with a number for each rank"
            return
        sent = cost(collect(ranks), NBYTES, 0.0, 1.0).nbytes
        for rank, (found, expected) in enumerate(zip(got, sent, strict=True)):
            if problem := number_problem(f"{call}: rank {rank}", found, expected, "bytes sent"):
                yield problem
    for nbytes, ranks in itertools.product((NBYTES, UNEVEN), RANKS):
        call = asked("ring_bytes", ranks=ranks, nbytes=nbytes)
        expected = max(cost(ring(ranks), nbytes, 0.0, 1.0).nbytes)
        got = answer.ring_bytes(ranks=ranks, nbytes=nbytes)
        usual = {
            "a message is one part, not the whole array": 2 * (ranks - 1) * nbytes,
            "then every rank has a part of the sum; these parts go round as well": expected / 2,
        }
        if problem := number_problem(call, got, expected, "bytes sent by each rank", usual):
            yield problem


def _seconds(answer: Any) -> Iterator[str]:
    ways: dict[str, Callable[[int], Schedule]] = {"collect_seconds": collect, "ring_seconds": ring}
    for name, way in ways.items():
        for latency, bandwidth in LINKS:
            for ranks in RANKS:
                link = {"latency": latency, "bandwidth": bandwidth}
                call = asked(name, ranks=ranks, nbytes=NBYTES, **link)
                got = getattr(answer, name)(ranks=ranks, nbytes=NBYTES, **link)
                expected = cost(way(ranks), NBYTES, **link).seconds
                if problem := number_problem(call, got, expected, "s", usual(name, ranks, **link)):
                    yield problem


def usual(name: str, ranks: int, latency: float, bandwidth: float) -> dict[str, float]:
    """Seconds that are found by usual mistakes."""
    whole, messages = NBYTES / bandwidth, ranks - 1
    if name == "ring_seconds":
        return {
            "a part can be passed on only when it has arrived, so each round takes a latency": (
                latency + 2 * messages * whole / ranks
            ),
            "that is half of the rounds": messages * (latency + whole / ranks),
        }
    return {
        "messages are on their way to rank 0 at the same time: the latency counts once each way": (
            2 * messages * (latency + whole)
        ),
        "that is the way to rank 0; the sum takes as long to get back": latency + messages * whole,
        "rank 0 receives, and sends, one message at a time": 2 * (latency + whole),
    }


def _best(answer: Any) -> Iterator[str]:
    for alone, latency, bandwidth in STEPS:
        for most in (1, 2, 6, 12):
            facts = {"alone": alone, "nbytes": NBYTES, "latency": latency, "bandwidth": bandwidth}
            call = asked("best_ranks", most=most, **facts)
            got = answer.best_ranks(most=most, **facts)
            takes = {
                ranks: alone / ranks + cost(ring(ranks), NBYTES, latency, bandwidth).seconds
                for ranks in range(1, most + 1)
            }
            best = min(takes, key=lambda ranks: takes[ranks])
            number = whole(got)
            if number is None:
                yield f"{call} returned {got!r}; it must return a number of ranks, a whole one"
            elif number not in takes:
                yield f"{call} returned {got!r}; it must return a number of ranks, 1 to {most}"
            elif takes[number] > takes[best] * (1 + 1e-9):
                yield (
                    f"{call} is {number}: a step of {takes[number]:.6g} s; with {best} it takes "
                    f"{takes[best]:.6g} s"
                )
