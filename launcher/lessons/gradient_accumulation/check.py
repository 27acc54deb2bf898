"""Compares accumulated gradients with the whole batch's, and prices the size of buckets."""

from collections.abc import Iterator
from typing import Any

from ringlet.launcher.lessons.gradient_accumulation import buckets, gradients

HINTS = (
    "accumulate: the mean of a micro-batch divides by its own number of targets. What would you "
    "have to divide by to get the mean of the whole batch?",
    "accumulate: count the targets that are not -100 in all micro-batches before the first "
    'forward. Then let each loss be the "sum" of its micro-batch, divided by that count.',
    "accumulate: gradients of the step before are still in `grad`. model.zero_grad() once, before "
    "the first micro-batch, not in the loop.",
    "bucket_bytes: let there be n buckets. Two things can decide when the last sum ends: either "
    "sums follow one another without a pause from the first bucket on, or each waits for its "
    "gradients.",
    "bucket_bytes: without a pause it ends at backward / n + n latency + gradient_bytes / "
    "bandwidth. With waiting, only the last bucket is left when backward ends: backward + latency "
    "+ gradient_bytes / (n bandwidth). The later of the two is the end.",
    "bucket_bytes: the first of these is least at n = sqrt(backward / latency); the second falls "
    "with n, and is the later one up to n = (backward - gradient_bytes / bandwidth) / latency. So "
    "the best n is the larger of these two numbers. Mind n < 1.",
)


def check(answer: Any) -> Iterator[str]:
    """What is wrong with `accumulate` and `bucket_bytes`."""
    if problem := gradients.problem(answer.accumulate):
        yield f"accumulate: {problem}"
    if problem := buckets.problem(answer.bucket_bytes):
        yield problem
