"""What each rank did: where a step's time went, what it sent, how much memory it had."""

import math
from collections.abc import Sequence

from ringlet.launcher.commands.explain.chart import Box, Chart, Row, Section, draw_svg
from ringlet.launcher.commands.plan.tables import gigabytes
from ringlet.launcher.commands.report.page import paragraph, section, table, wide
from ringlet.launcher.commands.report.runs import Run, most, sent, weighted
from ringlet.launcher.units import seconds_text

PICTURED = 16
"""The most ranks in a picture; tables have more."""

LISTED = 64

TIMES = {
    "compute_s": "computes",
    "comm_s": "waits for others",
    "update_s": "updates",
    "": "norm, batches, the rest",
}
MEMORY = ("parameters", "gradients", "optimizer", "activations", "buffers")


def times(run: Run) -> str:
    """A step's time by part, for each rank."""
    rows, cells = [], []
    for rank, found in run.ranks.items():
        parts = {name: weighted(found, name) for name in TIMES if name}
        step = weighted(found, "step_s")
        if not all(math.isfinite(each) and each >= 0 for each in (step, *parts.values())):
            continue
        parts[""] = max(0.0, step - sum(parts.values()))
        rows.append((parts["compute_s"], rank, parts, step))
        share = [f"{seconds_text(parts[n])}" for n in TIMES]
        cells.append([f"rank {rank}", seconds_text(step), *share])
    if not rows:
        return ""
    shown = sorted(sorted(rows, key=lambda row: -row[0])[:PICTURED], key=lambda row: row[1])
    drawn = [
        Row(f"rank {rank}", _side_by_side([(TIMES[n], v) for n, v in parts.items()]),
            seconds_text(step))
        for _, rank, parts, step in shown
    ]  # fmt: skip
    chart = Chart(
        "Where the time goes", [_shown(rows, "those that compute longest"), "means over all steps"],
        list(TIMES.values()), [Section("a step", drawn, seconds_text)],
    )  # fmt: skip
    head = ["", "step", *TIMES.values()]
    return section(
        "A step's time on each rank",
        wide(draw_svg(chart), "A step's time on each rank, drawn"),
        _table("Seconds of a step, means over all steps", head, cells),
        paragraph("Evaluations and checkpoints lie between steps and are not counted.", "note"),
    )


def bytes_sent(run: Run) -> str:
    """What each rank sent in a step, beside the textbook's count."""
    cells = []
    for rank, rows in run.ranks.items():
        measured = sent(rows)
        wanted = run.of_stage(run.traffic, rank) or {}
        for operation in dict.fromkeys((*measured, *wanted)):
            there, book = measured.get(operation, 0.0), wanted.get(operation, 0.0)
            ratio = f"{there / book:.3f}" if book else ""
            name = operation.replace("_", "-")
            expected = f"{book:,.0f}" if book else ""
            cells.append([f"rank {rank}", name, f"{there:,.0f}", expected, ratio])
    head = ["", "operation", "bytes sent", "textbook", "ratio"]
    why = (
        "The textbook: of an array of n ranks an all-reduce sends 2 (n-1)/n from each, a "
        "reduce-scatter and an all-gather (n-1)/n, a pipeline its activations and their gradients. "
        "The load of experts counts as even; a causal mask spares the ring of context parallelism "
        "a part. Compressed sums have no count, nor have the small sums of loss, norm and figures."
    )
    links: list[list[str]] = []
    if run.measures is not None:
        found = run.measures.links
        links = [[f"rank {a} to rank {b}", f"{nbytes:,.0f}"] for (a, b), nbytes in found.items()]
    return section(
        "What travels",
        _table("Bytes that each rank sent in a step", head, cells),
        paragraph(why, "note") if cells and run.traffic else "",
        _table("Bytes on each link in a step, from the trace", ["link", "bytes"], links),
    )


def memory(run: Run) -> str:
    """Each rank's peak beside the formula."""
    drawn, cells, wanted = [], [], bool(run.footprints)
    for rank, found in run.ranks.items():
        peak, base = most(found, "peak_bytes"), most(found, "base_bytes")
        if not (math.isfinite(peak) and math.isfinite(base)):
            continue
        own = max(0.0, peak - base)
        words = [f"rank {rank}", gigabytes(peak), gigabytes(base), gigabytes(own)]
        if (one := run.of_stage(run.footprints, rank)) is not None:
            words += [gigabytes(one.total), f"{own / one.total:.2f}"]
            parts = [(name, getattr(one, name)) for name in MEMORY]
            drawn.append(Row(f"rank {rank}, formula", _side_by_side(parts), gigabytes(one.total)))
        elif wanted:
            words += ["", ""]
        measured = _side_by_side([("measured", own)])
        drawn.append(Row(f"rank {rank}, measured", measured, gigabytes(own)))
        cells.append(words)
    if not cells:
        return ""
    kinds = [*(MEMORY if wanted else ()), "measured"]
    chart = Chart(
        "What training needs", [_shown(cells, "the first")], kinds,
        [Section("each rank", drawn[: PICTURED * (2 if wanted else 1)], gigabytes)],
    )  # fmt: skip
    head = ["", "peak", "before the model", "training", *(["formula", "ratio"] if wanted else [])]
    return section(
        "Memory",
        wide(draw_svg(chart), "Memory of each rank, drawn"),
        _table("Memory of each rank", head, cells),
        paragraph(
            "Training: the peak of the process (VmHWM) less what it had before the model. The "
            "formula is that of runtime/planning/footprint.py (docs/explanation/simulation.md).",
            "note",
        ),
    )


def _side_by_side(parts: Sequence[tuple[str, float]]) -> list[Box]:
    boxes, start = [], 0.0
    for kind, length in parts:
        boxes.append(Box(start, start + length, kind))
        start += length
    return boxes


def _shown(rows: Sequence[object], which: str) -> str:
    """How many ranks there are, and which are in the picture."""
    if len(rows) <= PICTURED:
        return f"{len(rows)} rank{'s' if len(rows) > 1 else ''}"
    return f"{PICTURED} of {len(rows)} ranks, {which}"


def _table(words: str, head: Sequence[str], cells: list[list[str]]) -> str:
    left = f" (the first {LISTED} rows of {len(cells)})" if len(cells) > LISTED else ""
    return table(words + left, head, cells[:LISTED])
