"""`ringlet report`: what runs did, beside what was predicted, as one HTML file."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click

import ringlet
from ringlet.launcher.commands.options import Argument, with_options
from ringlet.launcher.commands.progress import progress
from ringlet.launcher.commands.report.curves import curves, together
from ringlet.launcher.commands.report.outcome import failure, plan, result
from ringlet.launcher.commands.report.outcome import options as given
from ringlet.launcher.commands.report.page import page, paragraph, section
from ringlet.launcher.commands.report.pipeline import pipeline
from ringlet.launcher.commands.report.ranks import bytes_sent, memory, times
from ringlet.launcher.commands.report.runs import Run, read_run
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.launcher.supervisor.output import Screen

REPORT = "report.html"

MOST = 16
"""Runs in a report: more cannot be told apart."""


@dataclass(frozen=True)
class ReportOptions:
    """Where the report goes."""

    out: Path | None = option(
        None, "HTML file to write.", metavar="FILE", shown=f"{REPORT} in the first run's folder"
    )


@with_options(options=ReportOptions)
def report(
    runs: Annotated[
        list[Path],
        Argument("RUN [RUN]...", "Folders of training runs."),
    ],
    *,
    options: ReportOptions,
) -> None:
    """Write a report of training runs, as one HTML file.

    It needs nothing from elsewhere. It shows curves, each rank's time, traffic and memory beside
    what was predicted, the plan, and after a failure what each rank was in. Several runs are drawn
    over each other.
    """
    if len(runs) > MOST:
        raise UserError(f"{len(runs)} runs; the most that a report shows are {MOST}")
    names = _names(runs)
    found = []
    with progress("reading") as at:
        for number, (folder, name) in enumerate(zip(runs, names, strict=True)):
            at(number, len(runs), "runs")
            found.append(read_run(folder, name))
    out = options.out or runs[0] / REPORT
    text = page(f"Report: {', '.join(names)}", _facts(), sections(found))
    with user_errors(os_error=f"cannot write {out}"):
        out.write_text(text, encoding="utf-8", errors="replace")
    for run in found:
        for note in run.notes:
            Screen().say(note)
    click.echo(f"wrote {out}")


def _facts() -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return f"ringlet {ringlet.__version__}, {now}"


def _names(runs: list[Path]) -> list[str]:
    """The folders' names; where several have one name, their paths; numbers, if all else fails."""
    for names in ([each.resolve().name for each in runs], [str(each) for each in runs]):
        if len({*names}) == len(names):
            return [name.encode(errors="replace").decode() for name in names]
    return [f"{number}: {each}" for number, each in enumerate(runs, 1)]


def sections(found: list[Run]) -> list[str]:
    """The page's content."""
    named = [(run.name, run) for run in found]
    parts = []
    if len(named) > 1:
        parts.append(section("The runs together", result(named), together(named), level=2))
    for name, run in named:
        notes = [paragraph(note, "note") for note in run.notes]
        own = [failure(run), *([result([(name, run)])] if len(named) == 1 else []), curves(run)]
        own += [times(run), pipeline(run), bytes_sent(run), memory(run), plan(run), given(run)]
        parts.append(section(name, *notes, *own, level=2))
    return parts
