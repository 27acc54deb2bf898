"""Lesson 1: count the bytes and the seconds of a sum over ranks.

Every rank has an array of `nbytes` bytes, its gradient. At the end every rank has the sum of all
arrays. There are two ways to get there:

- *collect*: all other ranks send their array to rank 0, which adds them up and sends the sum to
  each of them;
- *ring*: the arrays are cut into as many parts as there are ranks. In each of 2 (ranks - 1) rounds
  every rank sends one part to the next rank and receives one from the rank before. After half of
  the rounds every rank has one part of the sum; in the other half these parts go round.

A message of s bytes takes `latency` + s / `bandwidth` seconds (bytes per second) to arrive. A rank
sends one message at a time, and receives one at a time; it may send and receive at once. While a
message is on its way, for `latency` seconds, its sender can send the next one. Adding up takes no
time.
"""


def collect_bytes(ranks: int, nbytes: float) -> list[float]:
    """By rank, the bytes that it sends in *collect*."""
    raise NotImplementedError


def ring_bytes(ranks: int, nbytes: float) -> float:
    """The bytes that each rank sends in the *ring*."""
    raise NotImplementedError


def collect_seconds(ranks: int, nbytes: float, latency: float, bandwidth: float) -> float:
    """How long *collect* takes, from the first message to the last arrival."""
    raise NotImplementedError


def ring_seconds(ranks: int, nbytes: float, latency: float, bandwidth: float) -> float:
    """How long the *ring* takes."""
    raise NotImplementedError


def best_ranks(most: int, alone: float, nbytes: float, latency: float, bandwidth: float) -> int:
    """How many ranks, 1 to `most`, make a training step fastest.

    One rank alone computes for `alone` seconds. With more, each computes an equal part of that, and
    then a ring sums the gradients.
    """
    raise NotImplementedError
