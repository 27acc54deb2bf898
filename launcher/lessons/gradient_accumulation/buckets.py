"""What a size of buckets costs, by the price of a ring's sums on a link."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ringlet.comm.schedules.algorithms import schedule
from ringlet.comm.schedules.price import LinkCost, Network, price
from ringlet.comm.schedules.svg import counted
from ringlet.comm.signature import size_text
from ringlet.launcher.lessons.words import asked, whole
from ringlet.launcher.units import seconds_text

MOST = 200
"""Buckets that are tried to find the best number."""

TOLERANCE = 0.005
"""By which part of backward and sums together they may end late: numbers of buckets are whole."""


class Case(NamedTuple):
    """The arguments of `bucket_bytes`."""

    gradient_bytes: int
    backward: float
    latency: float
    bandwidth: float

    def late(self, count: int) -> float:
        """Seconds after backward until the last of so many equal buckets is summed.

        Either sums follow one another from the first bucket on, or the last one waits for backward.
        """
        link = LinkCost(self.latency / 2, self.bandwidth)  # the ring of two has two rounds
        made, nbytes = schedule("all_reduce", "ring", 2), self.gradient_bytes / count
        seconds = price(made, Network.uniform(link), nbytes).seconds
        return max(self.backward / count + count * seconds, self.backward + seconds) - self.backward


CASES = (
    Case(40_000_000, 0.2, 0.004, 1e9),
    Case(40_000_000, 0.2, 0.001, 1.25e8),
    Case(400_000_000, 0.5, 0.01, 1.25e9),
    Case(40_000_000, 0.2, 0.05, 1e9),
    Case(40_000_000, 0.2, 1.0, 1.25e9),
)


def problem(bucket_bytes: Callable[..., Any]) -> str:
    """What is wrong with the function; "" if nothing is."""
    for case in CASES:
        call, returned = asked("bucket_bytes", *case), bucket_bytes(*case)
        bucket, every = whole(returned), case.gradient_bytes
        if bucket is None:
            return f"{call}: it returned {returned!r:.40}, not a whole number of bytes"
        if not 1 <= bucket <= every:
            return f"{call}: it returned {bucket}; a bucket has 1 to {every} bytes"
        count, best = round(every / bucket), min(range(1, MOST), key=case.late)
        late, least = case.late(count), case.late(best)
        if late - least > TOLERANCE * (case.backward + least):
            many = f"{counted(count, 'bucket')} of {size_text(bucket)}"
            few = f"{best} of {size_text(every // best)} {seconds_text(least)}"
            return (
                f"{call}: with {many} the last sum ends {seconds_text(late)} after backward, "
                f"with {few} after it"
            )
    return ""
