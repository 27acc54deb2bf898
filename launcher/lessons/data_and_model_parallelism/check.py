"""Checks lesson 2: cuts of a batch, gradients token by token, and the planner's counts."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from ringlet.comm.schedules.svg import counted
from ringlet.launcher.lessons.words import array_problem, asked, number_problem, whole
from ringlet.nn import uninitialized
from ringlet.nn.models import GPT, GPTConfig
from ringlet.runtime import Setting, model_of
from ringlet.runtime.planning.footprint import shards, states
from ringlet.runtime.planning.models import dense_parameters
from ringlet.runtime.planning.setting import FLOAT32
from ringlet.runtime.planning.traffic import traffic

CUTS = ((1, 1), (4, 2), (5, 2), (2, 3), (7, 3), (12, 5), (3, 8))
"""(samples, ranks)"""

BATCHES = (
    # By rank, which of its tokens count.
    ((True,),),
    ((True, True),),
    ((True,), (True,)),
    ((True,), (True, True, True)),
    ((True, False), (True, True)),
    ((False, False), (True, False, True)),
    ((True, True, True), (True,), (False, True)),
)

WIDTHS = (4, 12, 64)

MODELS = ((8, 4, 1, 1), (8, 4, 2, 1), (8, 4, 1, 2), (12, 5, 1, 2), (16, 7, 3, 4), (16, 12, 2, 6))
"""(width, blocks, copies, stages)"""

HINTS = (
    "my_samples: rank r may begin at samples * r // ranks, and end where rank r + 1 begins.",
    "my_gradient: write the loss of the whole batch as one sum over all tokens that count, divided "
    "by all_count. Which terms of this sum are your rank's? Nothing else divides them.",
    "my_gradient: the gradient of (x @ w - y)**2 is 2 * (x @ w - y) * x. Multiply the distances by "
    "`counts` (True is 1) before the product with inputs.T. A rank without tokens that count has a "
    "gradient of zeros, and no division by zero.",
    "block_parameters: a linear layer from a to b has a * b + b parameters. All together it is 12 "
    "width**2 + 13 width.",
    "state_bytes: four numbers of 4 bytes for each parameter. A copy has all of them again, so "
    "copies do not make it less; of the blocks, a rank has blocks / stages, rounded up.",
    "gradient_bytes is the ring of lesson 1, over 4 bytes for each parameter. activation_bytes "
    "counts every token once: the gradients go the other way, from stage 1.",
)


def check(answer: Any) -> Iterator[str]:
    """What is wrong with an exercise."""
    for problems in (_samples(answer), _gradient(answer), _memory(answer), _traffic(answer)):
        if problem := next(problems, None):
            yield problem


def _samples(answer: Any) -> Iterator[str]:
    for samples, ranks in CUTS:
        parts: list[list[int]] = []
        for rank in range(ranks):
            call = asked("my_samples", samples=samples, rank=rank, ranks=ranks)
            part = answer.my_samples(samples=samples, rank=rank, ranks=ranks)
            listed = part.tolist() if isinstance(part, np.ndarray) else part
            several = listed if isinstance(listed, range | list | tuple) else ["none"]
            numbers = [number for each in several if (number := whole(each)) is not None]
            if len(numbers) < len(several):
                yield f"{call} returned {part!r:.60}; it must return a range, or a list of numbers"
                return
            parts.append(numbers)
        told = f"{counted(samples, 'sample')} on {counted(ranks, 'rank')}"
        there = list(chain(*parts))
        for sample in range(samples):
            owners = [rank for rank, part in enumerate(parts) if sample in part]
            if not owners:
                yield f"{told}: nobody has sample {sample}"
            if len(owners) > 1:
                yield f"{told}: sample {sample} is on rank {owners[0]} and on rank {owners[1]}"
        if strange := set(there) - set(range(samples)):
            yield f"{told}: there is no sample {min(strange)}"
        if there != list(range(samples)):
            yield f"{told}: the samples are not in order: {there}"
        if max(map(len, parts)) - min(map(len, parts)) > 1:
            yield f"{told}: a rank has {max(map(len, parts))}, another {min(map(len, parts))}"


def _gradient(answer: Any) -> Iterator[str]:
    """The tokens' inputs are independent, so that a gradient says how much each of them weighs."""
    for batch in BATCHES:
        counts = np.array([*chain(*batch)])
        tokens, all_count = len(counts), int(counts.sum())
        random = np.random.default_rng(tokens)
        features = tokens + 1
        inputs = np.eye(tokens, features) + random.uniform(-0.2, 0.2, (tokens, features))
        weights, targets = random.normal(size=features), random.normal(size=tokens) + 5
        ranks = counted(len(batch), "rank")
        told = f"on {ranks} with {counted(all_count, 'token')} to count"
        total, first, owners = np.zeros(features), 0, list[int]()
        for rank, own in enumerate(batch):
            rows = slice(first, first := first + len(own))
            owners += [rank] * len(own)
            given = [weights.copy(), inputs[rows].copy(), targets[rows].copy(), counts[rows].copy()]
            before = [array.copy() for array in given]
            got = answer.my_gradient(*given, all_count)
            call = f"my_gradient on rank {rank} of {len(batch)}"
            if problem := array_problem(call, got, (features,), np.float64):
                yield problem
                return
            for name, now, then in zip(NAMES, given, before, strict=True):
                if not np.array_equal(now, then):
                    yield f"{call} has changed its argument {name}"
            if not np.isfinite(got).all():
                yield f"{told}: {call}, where {sum(own)} tokens count, has {got}"
                return
            total += got
        slopes = 2 * (inputs @ weights - targets)
        found = np.linalg.lstsq(inputs.T * slopes, total, rcond=None)[0]
        for token, (weight, owner) in enumerate(zip(found, owners, strict=True)):
            right = 1 / all_count if counts[token] else 0.0
            if abs(weight - right) > 1e-6:
                what = "which counts" if counts[token] else "which does not count"
                yield (
                    f"{told}: token {token}, {what}, on rank {owner}, has a part of {weight:.4g} "
                    f"in the sum; {right:.4g} is right"
                )
        if not np.allclose((inputs.T * slopes) @ found, total):
            yield f"{told}: the sum is no combination of the tokens' gradients"


NAMES = ("weights", "inputs", "targets", "counts")


def _memory(answer: Any) -> Iterator[str]:
    for width in WIDTHS:
        with uninitialized():
            block = GPT(GPTConfig(8, 4, 1, 1, width)).blocks[0]
        right = sum(parameter.numel() for parameter in block.parameters())
        call = asked("block_parameters", width=width)
        if problem := number_problem(call, answer.block_parameters(width), right, "parameters"):
            yield problem
    for width, blocks, copies, stages in MODELS:
        model = model_of(GPTConfig(8, 4, blocks, 1, width))
        cut = Setting({"dp": copies, "pp": stages}, batch=copies)
        most = max(map(len, cut.blocks_of(blocks)))
        right = sum(states(most * dense_parameters(model.blocks[0]), 1, 0, FLOAT32))
        facts = {"width": width, "blocks": blocks, "copies": copies, "stages": stages}
        got, call = answer.state_bytes(**facts), asked("state_bytes", **facts)
        one = right / most
        usual = {
            "every copy has all of its stage's numbers": right / copies,
            "AdamW keeps two numbers for each parameter, besides it and its gradient": 0.75 * right,
            "that is a rank with the fewest blocks": one * (blocks // stages),
            "a block is not cut: some ranks have one more": one * blocks / stages,
        }
        if problem := number_problem(call, got, right, "bytes", usual):
            yield problem


def _traffic(answer: Any) -> Iterator[str]:
    for copies in (1, 2, 3, 8):
        model, setting = model_of(GPTConfig(8, 4, 3, 1, 8)), Setting({"dp": copies}, batch=copies)
        parameters = int(shards(model, setting)[0][0])
        right = traffic(model, setting)[0].get("all_reduce", 0.0)
        call = asked("gradient_bytes", parameters=parameters, copies=copies)
        got = answer.gradient_bytes(parameters=parameters, copies=copies)
        usual = {"a number has 4 bytes": right / 4, "that is half of the ring": right / 2}
        if problem := number_problem(call, got, right, "bytes", usual):
            yield problem
    for samples, context, width in ((1, 1, 4), (1, 8, 4), (6, 8, 4), (5, 16, 12)):
        model = model_of(GPTConfig(8, context, 2, 1, width))
        right = traffic(model, Setting({"pp": 2}, batch=samples))[0]["send"]
        facts = {"samples": samples, "context": context, "width": width}
        got, call = answer.activation_bytes(**facts), asked("activation_bytes", **facts)
        back = "their gradients go the other way, from stage 1"
        usual = {"a number has 4 bytes": right / 4, back: 2 * right}
        if problem := number_problem(call, got, right, "bytes", usual):
            yield problem
