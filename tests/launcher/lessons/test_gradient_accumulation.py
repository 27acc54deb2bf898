"""Lesson 7: a whole batch's gradient and the best bucket, and what is said of others."""

from itertools import chain

import pytest
from edits import edited

SOLUTION = """
import math

import numpy as np

from ringlet import nn

def accumulate(model, micro_batches):
    total = sum(int((targets != -100).sum()) for _, targets in micro_batches)
    model.zero_grad()
    mean = 0.0
    for ids, targets in micro_batches:
        loss = nn.functional.token_cross_entropy(model(ids), targets, reduction="sum") / total
        loss.backward()
        mean += loss.item()
    return mean

def bucket_bytes(gradient_bytes, backward, latency, bandwidth):
    n = max(math.sqrt(backward / latency), (backward - gradient_bytes / bandwidth) / latency)
    return math.ceil(gradient_bytes / max(1, round(n)))
"""


def changed(*pairs):
    return edited(SOLUTION, *chain.from_iterable(pairs), count=1)


MEANS = ('reduction="sum") / total', 'reduction="mean")')

WRONG = {
    "the mean of means": (
        changed(('reduction="sum") / total', 'reduction="mean") / len(micro_batches)')),
        ["with micro-batches of 2 and 8 targets: it is the mean of the micro-batches' means: a "
         "target among 2 weighs 4 times as much as one among 8; all 10 must weigh the same"],
    ),
    "the sum of means": (
        changed(MEANS),
        ["two micro-batches that are equally large: it is the sum of the micro-batches' means"],
    ),
    "no mean": (
        changed((" / total", "")),
        ["with one micro-batch: it is the gradient of the sum, 10 times as large"],
    ),
    "zeros before each micro-batch": (
        changed(("    model.zero_grad()\n", ""),
                ("        loss = ", "        model.zero_grad()\n        loss = ")),
        ["with two micro-batches that are equally large: only the last micro-batch's gradient is "
         "left"],
    ),
    "no zeros": (
        changed(("    model.zero_grad()\n", "")),
        ["with one micro-batch: the gradient of the step before is still in it"],
    ),
    "no zeros and no mean": (
        changed(("    model.zero_grad()\n", ""), (" / total", "")),
        ["with one micro-batch: it is the gradient of the sum, 10 times as large as that of the "
         "mean, and the gradient of the step before is in it"],
    ),
    "all positions": (
        changed(("int((targets != -100).sum())", "targets.size")),
        ["with micro-batches of 2, 9 and 5 targets, with others that do not count: it is divided "
         "by all 37 positions; only 16 of their targets count"],
    ),
    "means weighted by positions": (
        changed(("int((targets != -100).sum())", "targets.size"),
                ('reduction="sum") / total', 'reduction="mean") * (targets.size / total)')),
        ["means are weighted by positions; weigh them by the targets that count"],
    ),
    "all forwards first": (
        changed(("    for ids, targets in micro_batches:\n        loss =",
                 "    losses = []\n    for ids, targets in micro_batches:\n        loss ="),
                ("        loss.backward()\n        mean += loss.item()\n",
                 "        losses.append(loss)\n    for loss in losses:\n        loss.backward()\n"
                 "        mean += loss.item()\n")),
        ["the forward of micro-batch 2 came before the backward of micro-batch 1, so both are in "
         "memory"],
    ),
    "no backward": (
        changed(("        loss.backward()\n", "")),
        ["with one micro-batch: the model ran backward 0 times for 1 micro-batch"],
    ),
    "the first micro-batch alone": (
        changed(("in micro_batches:\n        loss", "in micro_batches[:1]:\n        loss")),
        ["with two micro-batches that are equally large: the model ran forward 1 time for 2 "
         "micro-batches"],
    ),
    "the parameters are changed": (
        changed(("    return mean",
                 "    for p in model.parameters():\n        p.data -= p.grad\n    return mean")),
        ["the parameters have changed"],
    ),
    "the last loss": (
        changed(("mean += loss.item()", "mean = loss.item()")),
        ["with two micro-batches that are equally large: the gradient is right, but the loss that "
         "it"],
    ),
    "targets are changed": (
        changed(("    return mean",
                 "    for _, targets in micro_batches:\n        targets[:] = 0\n    return mean")),
        ["it has changed the micro-batches that it was given"],
    ),
    "no loss": (
        changed(("    return mean", "")),
        ["it returned NoneType, not the mean loss as a float"],
    ),
    "one bucket": (
        changed(("max(1, round(n))", "1")),
        ["bucket_bytes(40000000, 0.2, 0.004, 1000000000.0): with 1 bucket of 38.1 MiB the last sum "
         "ends 44.0 ms after backward, with 40 of 976.6 KiB 5.00 ms after it"],
    ),
    "a constant": (
        changed(("max(1, round(n))", "25")),
        ["bucket_bytes(40000000, 0.2, 0.001, 125000000.0): with 25 buckets of 1.5 MiB the last sum "
         "ends 153 ms after backward, with 14 of 2.7 MiB 148 ms after it"],
    ),
    "what latency and bandwidth weigh equally": (
        changed(("return math.ceil(gradient_bytes / max(1, round(n)))",
                 "return min(gradient_bytes, math.ceil(latency * bandwidth))")),
        ["the last sum ends "],
    ),
    "backward is forgotten": (
        changed(("math.ceil(gradient_bytes / max(1, round(n)))",
                 "min(gradient_bytes, int(math.sqrt(gradient_bytes * latency * bandwidth)))")),
        ["the last sum ends "],
    ),
    "no bucket": (
        changed(("max(1, round(n))", "round(n)")),
        ["in bucket_bytes: ZeroDivisionError"],
    ),
    "more than there is": (
        changed(("max(1, round(n))", "n")),
        ["0.2, 1.0, 1250000000.0): it returned 89442720; a bucket has 1 to 40000000 bytes"],
    ),
    "a fraction": (
        changed(("math.ceil(gradient_bytes / max(1, round(n)))", "gradient_bytes / 8")),
        ["not a whole number of bytes"],
    ),
    "the number of buckets": (
        changed(("math.ceil(gradient_bytes / max(1, round(n)))", "max(1, round(n))")),
        ["the last sum ends "],
    ),
}  # fmt: skip


def test_the_solution_is_right(said):
    assert not said("gradient_accumulation", SOLUTION)
    skips = "in micro_batches:\n        if not (targets != -100).any():\n            continue"
    assert not said("gradient_accumulation", changed(("in micro_batches:", skips)))


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_said_of_a_wrong_answer(said, wrong):
    source, words = WRONG[wrong]
    text = "\n".join(said("gradient_accumulation", source))
    assert all(word in text for word in words), text
