"""`ringlet explain tensor` and `sequence`: a block on several tensor-parallel ranks, rehearsed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ringlet.comm.signature import size_text
from ringlet.launcher.commands.explain.chart import Chart, Row, Section, ShowOptions, cells
from ringlet.launcher.commands.explain.subject import (
    Subject,
    facts_of,
    options_for,
    rehearse,
    rehearsed,
    setting_of,
)
from ringlet.launcher.commands.options import with_options
from ringlet.nn import Dropout
from ringlet.nn.layers.experts import ExpertLinear
from ringlet.runtime.planning.footprint import block_activations
from ringlet.runtime.sharding.shard_spec import ShardSpec
from ringlet.runtime.tensor.tensor_parallel import ShardedLinear
from ringlet.runtime.training.config import TrainConfig
from ringlet.runtime.training.fit import mesh_shape

FEATURES, POSITIONS, ALL, SENDS = (
    "a part of the features or heads", "a part of the sequence", "all", "collective",
)  # fmt: skip
KINDS = (FEATURES, POSITIONS, ALL, SENDS)
Given = options_for()


class Moment(NamedTuple):
    """What a rank does in a block: a module by its name, with the shape of its result; or a
    collective, with the size of the whole array."""

    kind: str
    label: str
    gives: str


@with_options(subject=Subject, show=ShowOptions, given=Given)
def tensor(*, subject: Subject, show: ShowOptions, given: dict[str, Any]) -> None:
    """Show how a block is cut for tensor parallelism.

    Which part of each parameter is on which rank, what a rank computes, and the collectives of the
    block, from a rehearsed step.
    """
    config, workers = rehearsed(subject, Given, given, "tp")
    passes = _passes(config, workers)
    facts = [*facts_of(config, workers), *_sent(passes)]
    sections = [_cuts(config, workers), *_sections("", passes)]
    note = "Shapes are those of one rank; sizes of collectives those of the whole array."
    show.show(Chart("tensor parallelism: a block", facts, KINDS, sections, [note]))


@with_options(subject=Subject, show=ShowOptions, given=Given)
def sequence(*, subject: Subject, show: ShowOptions, given: dict[str, Any]) -> None:
    """Show what sequence parallelism changes in a block.

    What a rank computes and sends without it and with it, and what a block keeps for backward.
    """
    config, workers = rehearsed(subject, Given, given, "tp")
    sections, notes = list[Section](), []
    for when, sharded in (("without", False), ("with sequence parallelism", True)):
        way = replace(config, sequence=sharded)
        passes = _passes(way, workers)
        sections += _sections(when, passes)
        model, setting = setting_of(way, workers)
        kept = size_text(round(block_activations(model.blocks[0], model, setting)[0]))
        notes.append(
            f"{when.capitalize()}: {', '.join(_sent(passes))}; a block keeps {kept} of a "
            "micro-batch for backward on each rank."
        )
    facts = facts_of(config, workers)
    show.show(Chart("sequence parallelism: a block", facts, KINDS, sections, notes))


def _cuts(config: TrainConfig, workers: int) -> Section:
    """The elements of each parameter of a block, on each of the tensor-parallel ranks."""
    specs: list[dict[str, ShardSpec]] = []
    ranks = range(mesh_shape(config, workers)["tp"])  # neighbours, as on the fastest axis
    for rank in ranks:
        made = rehearse(replace(config, n_layer=1), workers, rank)
        block = f"{made.blocks[0]}."
        found = {n: s for group in made.parallel.gradient_groups for n, s in group.specs.items()}
        inside = [name for name in made.parallel.names if name.startswith(block)]
        specs.append({name.removeprefix(block): found[name] for name in inside})
    rows = [Row("parameter", cells(*(("", f"rank {rank}") for rank in ranks)), "cut by")]
    for name, spec in specs[0].items():
        shape = "x".join(map(str, spec.shape))
        parts = [each[name].slices[-1:] for each in specs]
        own = [(FEATURES, f"{p[0].start}-{p[0].stop - 1}") if p else (ALL, "all") for p in parts]
        rows.append(Row(f"{name} {shape}", cells(*own), _axis(spec)))
    return Section("parameters", rows)


def _axis(spec: ShardSpec) -> str:
    if not spec.slices:
        return ""
    parts = f" of each of {spec.view[0]} parts" if len(spec.view) > len(spec.shape) else ""
    row = len(spec.shape) > 1 and spec.slices[-1].axis == len(spec.view) - 1
    return f"{'input' if row else 'output'} features{parts}"


def _passes(config: TrainConfig, workers: int) -> dict[str, list[Moment]]:
    """What a rank does in forward and in backward of the first block."""
    made = rehearse(replace(config, recompute=""), workers)
    block = f"{made.blocks[0]}."
    inside = [(p, m) for p, m in made.parallel.model.named_modules() if p.startswith(block)]
    leaves = {path: module for path, module in inside if not list(module.named_children())}
    made.watch(*leaves)
    events = made.run(update=False)
    shapes = {event.name: event.shape for event in events if event.what == "result"}
    found: dict[str, list[Moment]] = {}
    for name, end in (("forward", "result"), ("backward", "backward")):
        whats = [event.what for event in events]
        last = len(whats) - 1 - whats[::-1].index(end)
        moments = found.setdefault(name, [])
        for event in events[whats.index(name) : last + 1]:
            if event.nbytes:
                label = event.what.replace("_", "-")
                # What a module gathers it computes with; what it sums it has computed.
                place = len(moments) - (event.what == "all_gather")
                moments.insert(place, Moment(SENDS, label, size_text(event.nbytes)))
            elif event.what == name:
                shape = "x".join(map(str, shapes[event.name]))
                kind = _kind(leaves[event.name], config.sequence)
                moments.append(Moment(kind, event.name.rpartition(".")[2], shape))
    return found


def _kind(module: Any, sequence: bool) -> str:
    """What of a module's work a rank does."""
    sharded = isinstance(module, ShardedLinear | ExpertLinear)
    if sharded or not (isinstance(module, Dropout) or list(module.parameters())):
        return FEATURES
    return POSITIONS if sequence else ALL


def _sections(when: str, passes: dict[str, list[Moment]]) -> Iterator[Section]:
    for name, moments in passes.items():
        does = cells(*((kind, label) for kind, label, _ in moments))
        gives = cells(*(("", size) for _, _, size in moments))
        yield Section(f"{name} {when}".strip(), [Row("rank 0", does), Row("shape", gives)])


def _sent(passes: dict[str, list[Moment]]) -> Sequence[str]:
    """2 all-reduce forward"""
    counts = [Counter(m.label for m in own if m.kind == SENDS) for own in passes.values()]
    words = (" + ".join(f"{n} {label}" for label, n in each.items()) for each in counts)
    return [f"{each or 'nothing'} {name}" for name, each in zip(passes, words, strict=True)]
