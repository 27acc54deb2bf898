"""The pipeline as it was measured, under the pipeline that its schedule should give."""

from collections.abc import Iterable, Iterator

from ringlet.launcher.commands.explain.chart import Box, Chart, Row, Section, draw_svg
from ringlet.launcher.commands.plan.tables import percent
from ringlet.launcher.commands.report.page import paragraph, section, table, wide
from ringlet.launcher.commands.report.runs import Run
from ringlet.launcher.units import seconds_text
from ringlet.runtime.tracing.bubbles import Bubble, expected
from ringlet.runtime.tracing.trace import Action, Trace

KINDS = {"F": "forward", "B": "backward", "I": "backward to inputs", "W": "to weights"}

MOST = 2000
"""Boxes of a picture that can still be read."""


def pipeline(run: Run) -> str:
    """The first of the pipelines, and the bubbles of all; nothing without a trace of one."""
    found = () if run.measures is None else run.measures.bubbles
    if run.trace is None or not found:
        return ""
    rows = [
        [", ".join(f"rank {rank}" for rank in each.pipeline.ranks),
         *("" if part is None else percent(part)
           for part in (each.measured, each.predicted, each.textbook))]
        for each in found
    ]  # fmt: skip
    words = (
        "Measured: of the time from a step's first action to its last, means over the steps of the "
        "trace. Predicted: the same order with the measured means of each stage, if messages took "
        "no time. Textbook: the closed form, for equal stages."
    )
    return section(
        "The pipeline",
        *_drawn(run.trace, found[0]),
        table("Bubbles", ["pipeline", "measured", "predicted", "textbook"], rows),
        paragraph(words, "note"),
    )


def _drawn(trace: Trace, found: Bubble) -> Iterator[str]:
    ranks, step = found.pipeline.ranks, _typical(trace)
    actions = [trace.actions(rank, step) for rank in ranks]
    if sum(map(len, actions)) > MOST:
        yield paragraph(f"The picture is left out: more than {MOST} actions.", "note")
        return
    start = min(each.start for row in actions for each in row)
    rows = {f"measured, step {step}": [list(_boxes(row, start)) for row in actions]}
    if (priced := expected(trace, found.pipeline)) is not None:
        predicted = [
            [Action(begin, end, rank, *action[:3]) for action, begin, end in priced.computed(place)]
            for place, rank in enumerate(ranks)
        ]
        rows = {"predicted": [list(_boxes(row, 0.0)) for row in predicted], **rows}
    sections = [
        Section(
            heading,
            [Row(f"rank {rank}", row) for rank, row in zip(ranks, drawn, strict=True)],
            seconds_text,
        )
        for heading, drawn in rows.items()
    ]
    used = dict.fromkeys(box.kind for each in sections for row in each.rows for box in row.boxes)
    title = f"{_schedule(found)}, predicted and measured"
    chart = Chart(title, [], [kind for kind in KINDS.values() if kind in used], sections)
    yield wide(draw_svg(chart), "The pipeline, drawn: predicted above, measured below")


def _schedule(found: Bubble) -> str:
    """The schedule, as in 1f1b x 2."""
    name, chunks = found.pipeline.schedule, found.pipeline.chunks
    name = name if "," not in name else "from a file"
    return f"{name} x {chunks}" if chunks > 1 else name


def _typical(trace: Trace) -> int:
    """The step of median length."""

    def length(step: int) -> float:
        row = trace.steps[step].values()
        return max(each.end for each in row) - min(each.start for each in row)

    steps = sorted(trace.steps, key=length)
    return steps[len(steps) // 2]


def _boxes(actions: Iterable[Action], start: float) -> Iterator[Box]:
    for each in actions:
        yield Box(
            each.start - start, each.end - start, KINDS.get(each.kind, ""), str(each.micro_batch)
        )
