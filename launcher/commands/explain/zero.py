"""`ringlet explain zero` and `accumulation`: a step of data parallelism, moment by moment."""

from dataclasses import replace
from typing import Any

from ringlet.comm.schedules.svg import counted
from ringlet.comm.signature import size_text
from ringlet.launcher.commands.explain.chart import Box, Chart, Row, Section, ShowOptions, cells
from ringlet.launcher.commands.explain.memory import PARTS, bars
from ringlet.launcher.commands.explain.subject import (
    Subject,
    facts_of,
    options_for,
    rehearse,
    rehearsed,
    setting_of,
)
from ringlet.launcher.commands.options import with_options
from ringlet.launcher.commands.plan.tables import gigabytes
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.data.reducer import Bucket
from ringlet.runtime.data.zero_blocks import Unit
from ringlet.runtime.planning.footprint import footprints
from ringlet.runtime.training.rehearsal import Event, Rehearsal

ZeroGiven = options_for("accumulate", "bucket_bytes", "optimizer", zero=3)
AccumulationGiven = options_for("zero", "bucket_bytes", accumulate=4)

WHOLE, COMING, LEAVING, SHARD = "whole", "being gathered", "being summed", "this rank's part"
COMPUTES, SUMS = "computes", "sums gradients"


class Held:
    """What a rank has of each bucket, by moment: a forward or a backward of a block, or the update.

    Parameters are seen when a forward has begun, or else when the moment ends; gradients on their
    way when one more leaves. `sent` are the bytes of the collectives that begin in each moment.
    """

    def __init__(self, made: Rehearsal) -> None:
        self.moments = list[str]()
        self.parameters: list[list[str]] = []
        self.gradients: list[list[str]] = []
        self.sent = [0]
        self._blocks, self._zero = made.blocks, made.config.zero
        self.buckets = [b for group in made.parallel.gradient_groups for b in group.reducer.buckets]
        made.watch(*made.blocks)
        made.observers.append(self._see)
        made.run()
        self._end()

    def _see(self, event: Event, x: Array | None) -> None:
        if event.nbytes:
            self.sent[-1] += event.nbytes
            for number, bucket in enumerate(self.buckets):
                if event.what == "reduce_scatter" and self._grad(bucket) == LEAVING:
                    self.gradients[-1][number] = LEAVING
        elif event.what != "result":
            self._end(event.what)
            block = self._blocks.index(event.name) if event.name else ""
            self.sent += [0] if self.moments else []
            self.moments.append(f"{event.what[0].upper()}{block}" if event.name else event.what)
            self.parameters.append([self._data(bucket) for bucket in self.buckets])
            grads = (self._grad(bucket) for bucket in self.buckets)
            self.gradients.append([SHARD if each == LEAVING else each for each in grads])

    def _end(self, following: str = "") -> None:
        """The moment ends, and what follows has begun if it is a forward."""
        if following != "forward" and self.moments and self.moments[-1][0] != "F":
            self.parameters[-1] = [self._data(bucket) for bucket in self.buckets]

    def _data(self, bucket: Bucket) -> str:
        """Where the bucket's parameters are."""
        if not isinstance(bucket, Unit) or self._zero < 3:
            return WHOLE
        if bucket.data.owner is not bucket:
            return SHARD
        return WHOLE if bucket.data.pending is None else COMING

    def _grad(self, bucket: Bucket) -> str:
        """Where its gradients are."""
        if not isinstance(bucket, Unit):
            return WHOLE
        if bucket.grad.owner is bucket:
            return LEAVING
        return WHOLE if bucket.waiting < len(bucket.slots) else SHARD

    def rows(self, states: list[list[str]], ranks: int) -> list[Row]:
        """By bucket, its state in every moment."""
        words = {WHOLE: "all", COMING: "gather", LEAVING: "sum", SHARD: f"1/{ranks}"}
        found = [Row("", cells(*(("", moment) for moment in self.moments)))]
        for number, bucket in enumerate(self.buckets):
            name = f"bucket {number + 1}"
            if isinstance(bucket, Unit):
                name = "outside the blocks" if bucket.block is None else bucket.block.path
            boxes = cells(*((state[number], words[state[number]]) for state in states))
            found.append(Row(name, boxes, size_text(4 * bucket.size)))
        return found


@with_options(subject=Subject, show=ShowOptions, given=ZeroGiven)
def zero(*, subject: Subject, show: ShowOptions, given: dict[str, Any]) -> None:
    """Show who holds what under ZeRO, and when.

    When a rank gathers, sums and frees parameters and gradients, from the rehearsal of a step.
    """
    config, workers = rehearsed(subject, ZeroGiven, given, "dp")
    made = rehearse(config, workers)
    held, parallel = Held(made), made.parallel
    ranks = parallel.gradient_groups[0].group.size
    whole, part = sum(bucket.size for bucket in held.buckets), sum(s.size for s in parallel.shards)
    state = sum(a.nbytes for each in parallel.optimizers for a in each.state.values())
    rows = []
    for name, stage in (("parameters", 3), ("gradients", 2), ("optimizer", 1)):
        sharded = config.zero >= stage
        size = state if name == "optimizer" else 4 * (part if sharded else whole)
        rows.append(Row(name, [Box(0, size, SHARD if sharded else WHOLE, gigabytes(size))]))
    sent = cells(*(("", f"{each / 1024:,.0f}" if each else "-") for each in held.sent))
    sections = [
        Section("kept between steps", rows, gigabytes),
        Section("parameters", held.rows(held.parameters, ranks)),
        Section("gradients", [*held.rows(held.gradients, ranks), Row("collectives, KiB", sent)]),
    ]
    facts = [*facts_of(config, workers), f"{size_text(sum(held.sent))} in collectives"]
    note = "F2: forward of block 2, B2: its backward. Sizes are those of whole arrays."
    kinds = WHOLE, COMING, LEAVING, SHARD
    show.show(Chart(f"ZeRO stage {config.zero}: a step of rank 0", facts, kinds, sections, [note]))


@with_options(subject=Subject, show=ShowOptions, given=AccumulationGiven)
def accumulation(*, subject: Subject, show: ShowOptions, given: dict[str, Any]) -> None:
    """Show a step of several micro-batches.

    What a rank computes and when gradients are summed, from a rehearsed step; and its memory, with
    as many micro-batches and with one.
    """
    config, workers = rehearsed(subject, AccumulationGiven, given, "dp")
    made = rehearse(config, workers)
    made.watch(*made.blocks)
    passes: list[tuple[str, list[int]]] = []
    for event in made.run(update=False):
        kind = event.what[0].upper()
        if event.what in ("forward", "backward") and not (passes and passes[-1][0][0] == kind):
            passes.append((f"{kind}{len(passes) // 2}", []))
        elif event.nbytes and passes:
            passes[-1][1].append(event.nbytes)
    does = cells(*((COMPUTES, name) for name, _ in passes))
    samples = cells(*(("", _range(own)) for own in made.samples for _ in "FB"))
    texts = [f"{len(sizes)}: {size_text(sum(sizes))}" if sizes else "" for _, sizes in passes]
    sums = cells(*((SUMS if text else "", text or "-") for text in texts))
    rows = [Row("pass", does), Row("samples", samples), Row("collectives", sums)]
    memory = []
    for count in (config.accumulate, 1):
        each = footprints(*setting_of(replace(config, accumulate=count), workers))[0]
        name = counted(count, "micro-batch", "es")
        memory.append(Row(name, bars(each), gigabytes(each.total)))
    sections = [Section("passes", rows), Section("memory of each rank", memory, gigabytes)]
    facts = [*facts_of(config, workers), counted(config.accumulate, "micro-batch", "es")]
    note = (
        "F1: forward of micro-batch 1, B1: its backward. Gradients of all micro-batches add up in "
        "one buffer. Collectives are counted with the bytes of whole arrays."
    )
    kinds = [COMPUTES, SUMS, *PARTS]
    title = "gradient accumulation: a step of rank 0"
    show.show(Chart(title, facts, kinds, sections, [note]))


def _range(own: range) -> str:
    return f"{own[0]}-{own[-1]}" if len(own) > 1 else f"{own[0]}"
