"""`ringlet explain compression`: what the compressors make of a real gradient."""

from typing import Any, NamedTuple

import numpy as np

from ringlet.comm import Group
from ringlet.launcher.commands.explain.chart import Box, Chart, Row, Section, ShowOptions, cells
from ringlet.launcher.commands.explain.subject import (
    Subject,
    facts_of,
    options_for,
    rehearse,
    rehearsed,
)
from ringlet.launcher.commands.options import with_options
from ringlet.launcher.commands.plan.tables import gigabytes
from ringlet.launcher.errors import user_errors
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.compression import Matrices, bytes_sent, make_compressor
from ringlet.runtime.compression.schemes import parse
from ringlet.runtime.training.config import TrainConfig
from ringlet.runtime.training.rehearsal import together

USUAL = ("float16", "bfloat16", "int8", "topk:0.01", "powersgd:4")
SHOWN = 20
"""Numbers of a matrix that are shown."""

Given = options_for("compress", "bucket_bytes", "data", "seed")
Plain = options_for("bucket_bytes", "data", "seed")
ABOVE, BELOW, SENT = "above 0", "below 0", "sent"


class Gradient(NamedTuple):
    """A rank's flat gradient, its buckets (start, stop, matrices), and a matrix of it: its name and
    its place."""

    flat: Array
    buckets: list[tuple[int, int, Matrices]]
    matrix: tuple[str, slice]


@with_options(subject=Subject, show=ShowOptions, given=Given)
def compression(*, subject: Subject, show: ShowOptions, given: dict[str, Any]) -> None:
    """Show what compressing gradients saves and loses.

    The gradients of a first step on real data are summed over the ranks with every compressor, or
    with --compress: bytes, error, and a few of the numbers.
    """
    spec = given.pop("compress")
    specs = [spec] if spec else USUAL
    with user_errors(ValueError):
        for each in specs:
            parse(each)
    config, workers = rehearsed(subject, Plain, given, "dp")
    own = [_gradient(config, workers, rank) for rank in range(workers)]
    exact = np.sum([each.flat for each in own], axis=0)
    (name, inside), norm = own[0].matrix, float(np.linalg.norm(exact))
    largest = inside.start + int(np.abs(exact[inside]).argmax())
    start = max(inside.start, min(largest - SHOWN // 2, inside.stop - SHOWN))
    some = slice(start, start + SHOWN)
    scale = float(np.abs(exact[some]).max()) or 1.0
    plain = sum(2 * (workers - 1) * 4 * -(-(b - a) // workers) for a, b, _ in own[0].buckets)
    sizes = [Row("none", [Box(0, plain, SENT, gigabytes(plain))], "exact")]
    numbers = [Row("none", _tenths(exact[some] / scale))]
    for each in specs:
        found = _summed(each, own)
        sent = sum(bytes_sent(each, b - a, parts, workers) for a, b, parts in own[0].buckets)
        lost = float(np.linalg.norm(found - exact)) / norm
        note = f"{100 * sent / plain:.3g} % of the bytes, error {100 * lost:.3g} %"
        sizes.append(Row(each, [Box(0, sent, SENT, gigabytes(sent))], note))
        numbers.append(Row(each, _tenths(found[some] / scale)))
    sections = [
        Section("what each rank sends", sizes, gigabytes),
        Section(f"some sums of {name}, in tenths of {scale:.2g}", numbers),
    ]
    facts = [*facts_of(config, workers), f"{exact.size:,} numbers"]
    note = (
        "Error: the norm of what one step loses, of that of the exact sum. It is not lost for "
        "good: a rank adds it to its gradient of the next step."
    )
    title = "compression of gradients"
    show.show(Chart(title, facts, [ABOVE, BELOW, SENT], sections, [note]))


def _gradient(config: TrainConfig, workers: int, rank: int) -> Gradient:
    """The gradient of a rank's own samples."""
    made = rehearse(config, workers, rank)
    made.run(update=False)
    group = made.parallel.gradient_groups[0]
    shard, buckets = group.reducer.shard, group.reducer.buckets
    grad = shard.views(0, shard.size)[1] / group.group.size  # copies of this rank were summed
    matrix = next(s for s in shard.slots if s.name.startswith(made.blocks[0]) and len(s.shape) == 2)
    ranges: list[tuple[int, int, Matrices]] = [
        (b.start, b.stop, [(s.start - b.start, s.stop - b.start, s.shape) for s in b.slots])
        for b in buckets
    ]
    return Gradient(grad, ranges, (matrix.name, slice(matrix.start, matrix.stop)))


def _summed(spec: str, own: list[Gradient]) -> Array:
    """The sum over the ranks, as a compressor makes it."""
    grads = [each.flat.copy() for each in own]

    def run(group: Group) -> None:
        grad, compressor, works = grads[group.rank], make_compressor(spec, group), []
        for start, stop, matrices in own[group.rank].buckets:
            residual = np.zeros(stop - start, np.float32)
            part = grad[start:stop]
            works.append(compressor.start(part, residual, matrices, place=start))
        for work in works:
            work.wait()

    together(len(own), run)
    return grads[0]


def _tenths(values: Array) -> list[Box]:
    """Numbers from -10 to 10."""
    tenths = [round(10 * float(value)) for value in values]
    return cells(*((ABOVE if n > 0 else BELOW if n < 0 else "", str(n)) for n in tenths))
