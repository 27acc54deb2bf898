"""`ringlet trace`: what a run did, from the file of --trace."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import click

from ringlet.comm.join.meeting import numbered
from ringlet.comm.schedules.svg import counted
from ringlet.comm.signature import size_text
from ringlet.launcher.commands.options import Argument, with_options
from ringlet.launcher.commands.plan.tables import aligned, percent
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.launcher.supervisor.traces import records_of
from ringlet.launcher.units import seconds_text
from ringlet.runtime.tracing import Measures, Trace, TraceError, measure, read_trace, write_trace

MOST = 8
"""Causes, ranks and links that are shown one by one."""

LEAST = 0.005
"""The part of a step below which a cause is not shown."""


@dataclass(frozen=True)
class TraceOptions:
    """How the numbers are shown."""

    as_json: bool = option(False, "Print all numbers as JSON.", "--json")


@with_options(options=TraceOptions)
def trace(
    file: Annotated[Path, Argument("FILE", "What --trace has written.")], options: TraceOptions
) -> None:
    """Show where the time of a traced run's steps went.

    `ringlet train --trace FILE` and `ringlet run --trace FILE` write the file, which Perfetto
    (https://ui.perfetto.dev) and chrome://tracing draw. Seconds and bytes are means of a step.
    """
    folder = records_of(file)
    with user_errors(TraceError, os_error=f"cannot read {file}"):
        if not file.exists() and folder.is_dir():  # the launcher was killed
            write_trace(folder, file)
        found = read_trace(file)
    if not found.steps:
        raise UserError(
            f"{file} has no step that all ranks have taken; a script marks its own by `with "
            'timeline.span("step", number)` (docs/how-to/tracing.md)'
        )
    try:
        measures = measure(found)
    except TraceError as error:
        raise UserError(f"{file}: {error}") from error
    as_text = json.dumps(_as_json(measures), indent=2) if options.as_json else None
    click.echo(as_text or "\n".join(lines(found, measures)))


def lines(trace: Trace, found: Measures) -> Iterator[str]:
    """The numbers, for people."""
    hosts = counted(len(set(trace.hosts)), "host")
    yield f"{counted(len(trace.ranks), 'rank')} on {hosts}{_clocks(trace)}"
    yield (
        f"steps {found.steps[0]} to {found.steps[-1]}, {seconds_text(found.seconds)} each"
        f"{_absent(trace)}"
    )
    for bubble in found.bubbles:
        beside = [f"{percent(bubble.measured)} measured"]
        if bubble.predicted is not None:
            beside.append(f"{percent(bubble.predicted)} as predicted from its stages' times")
        if bubble.textbook is not None:
            beside.append(f"{percent(bubble.textbook)} by the textbook")
        ranks = numbered("rank", bubble.pipeline.ranks)
        yield f"bubble of {bubble.pipeline.schedule} on {ranks}: {', '.join(beside)}"
    yield ""
    yield from aligned(list(_parts(found)))
    yield ""
    yield from _idle(found)
    yield from _stragglers(found)
    path = [
        f"{part.what} on rank {part.rank} {percent(part.seconds / found.seconds)}"
        for part in found.critical[:MOST]
        if part.seconds >= LEAST * found.seconds
    ]
    yield f"critical path: {', '.join(path)}"
    busiest = sorted(found.links.items(), key=lambda each: -each[1])
    links = [f"{a} to {b} {size_text(round(nbytes))}" for (a, b), nbytes in busiest[:MOST]]
    more = f", and {len(busiest) - MOST} more" if len(busiest) > MOST else ""
    yield f"links: {', '.join(links) or 'none'}{more}"


def _clocks(trace: Trace) -> str:
    if trace.clock_error == 0:
        return ""
    if trace.clock_error is None:
        return "; the clocks of some hosts were not compared: do not trust times between hosts"
    drift = "" if trace.drift_known else " at the start, with an unknown drift"
    return f"; clocks agree within {seconds_text(trace.clock_error)}{drift}"


def _absent(trace: Trace) -> str:
    count, there = trace.size - len(trace.ranks), {*trace.ranks}
    if not count:
        return ""
    absent = [*islice((rank for rank in range(trace.size) if rank not in there), MOST)]
    names = numbered("rank", absent) if count <= MOST else f"{count} ranks"
    return f"; nothing is there of {names}"


def _parts(found: Measures) -> Iterator[tuple[str, ...]]:
    """A table: what a step is spent on, by rank; each column is the rank's whole step."""
    ranks = list(found.parts)[:MOST]
    yield ("", *(f"rank {rank}" for rank in ranks))
    names = dict.fromkeys(what for rank in ranks for what in found.parts[rank])
    total = {what: sum(found.parts[rank].get(what, 0.0) for rank in ranks) for what in names}
    for what in sorted(names, key=lambda each: -total[each]):
        yield (what, *(seconds_text(found.parts[rank].get(what, 0.0)) for rank in ranks))
    yield ("a step", *(seconds_text(sum(found.parts[rank].values())) for rank in ranks))
    yield (
        "overlap",
        *(percent(found.overlap[rank].part) if found.overlap[rank].seconds else "-"
          for rank in ranks),
    )  # fmt: skip


def _idle(found: Measures) -> Iterator[str]:
    shown = [each for each in found.idle if each.seconds >= LEAST * found.seconds][:MOST]
    for rank, call, late, seconds in shown:
        why = "bytes on their way" if late < 0 else f"rank {late} came late"
        part = percent(seconds / found.seconds)
        yield f"rank {rank} is idle for {part} in {call}: {why}"


def _stragglers(found: Measures) -> Iterator[str]:
    for rank, computing, factor, awaited in found.stragglers[:MOST]:
        if awaited >= LEAST * found.seconds:
            yield (
                f"rank {rank} computes for {seconds_text(computing)}, {factor:.2f} times the "
                f"median; others wait for it {seconds_text(awaited)}"
            )


def _as_json(found: Measures) -> dict[str, Any]:
    links = [{"from": a, "to": b, "bytes": nbytes} for (a, b), nbytes in found.links.items()]
    overlap = {rank: {**each._asdict(), "part": each.part} for rank, each in found.overlap.items()}
    lists = {name: [each._asdict() for each in getattr(found, name)]
             for name in ("idle", "stragglers", "critical")}  # fmt: skip
    bubbles = [{**b._asdict(), "pipeline": b.pipeline._asdict()} for b in found.bubbles]
    changed = {**lists, "bubbles": bubbles, "overlap": overlap, "links": links}
    return {"steps": found.steps, "seconds": found.seconds, "parts": found.parts, **changed}
