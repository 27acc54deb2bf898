"""What a search found, as people read it and as JSON."""

import re
from collections.abc import Mapping
from typing import Any

from ringlet.launcher.units import seconds_text
from ringlet.runtime.mesh import mesh_text
from ringlet.runtime.planning.search import Candidate, Search
from ringlet.runtime.planning.setting import Setting

SHOWN = 10
"""Slower meshes that are shown one by one; and of those refused for the same reason, a few."""

FEW = 3
SMALL = 0.0005
"""A part below which nothing is shown."""


def gigabytes(nbytes: float) -> str:
    """12.3 GB, or 45.6 MB."""
    unit, scale = ("GB", 1e9) if nbytes >= 1e9 else ("MB", 1e6)
    return f"{nbytes / scale:.3g} {unit}" if nbytes < 999.5e9 else f"{nbytes / 1e9:,.0f} GB"


def percent(part: float) -> str:
    """3.1 %"""
    return f"{100 * part:.1f} %"


def search_text(found: Search, every: bool) -> str:
    """The best settings as a table, and why the other meshes lost."""
    request = found.request
    model, cluster = request.model, request.cluster
    ends = "all others take longer" if found.complete else "chosen by estimates"
    lines = [
        f"{model.name}: {model.parameters:,} parameters, batch {request.batch}, on "
        f"{request.workers} ranks of {cluster.name or 'the cluster'} with "
        f"{gigabytes(request.limit)} each",
        f"{found.listed:,} settings, {found.simulated:,} simulated; {ends}",
        "",
        *_table([_HEADER, *(_row(n, one) for n, one in enumerate(found.best, 1))]),
        "",
    ]
    reasons = _all(found.lost) if every else _grouped(found.lost)
    if reasons:
        lines += ["why the other meshes lost:", *(f"  {line}" for line in reasons)]
    return "\n".join(lines).rstrip()


_HEADER = (
    "", "mesh", "micro-batches", "schedule", "zero", "sequence", "recompute", "step", "tokens/s",
    "memory", "busiest link", "bubble",
)  # fmt: skip


def _row(number: int, one: Candidate) -> tuple[str, ...]:
    setting, options, found = one.setting, one.setting.options, one.simulation
    return (
        str(number),
        mesh_text(setting.mesh).replace(" ", ""),
        f"{setting.micro_batches} x {setting.micro_batch}",
        schedule_text(setting),
        str(options.zero or "-"),
        "yes" if options.sequence else "-",
        recompute_text(options.recompute),
        seconds_text(found.seconds),
        f"{found.tokens_per_second:,.0f}",
        gigabytes(one.memory),
        busiest(found.links),
        percent(found.bubble) if setting.mesh["pp"] > 1 else "-",
    )


def schedule_text(setting: Setting) -> str:
    """interleaved x 2 (3,5,4)"""
    options = setting.options
    if setting.mesh["pp"] == 1:
        return "-"
    name = options.schedule if "," not in options.schedule else "from a file"
    chunks = f" x {options.chunks}" if options.chunks > 1 else ""
    sizes = options.layers_per_stage
    cuts = f" ({_counts(sizes)})" if len(set(sizes)) > 1 else ""
    return f"{name}{chunks}{cuts}"


def _counts(sizes: tuple[int, ...]) -> str:
    """3,5,4, or for many stages 30 x 3,2 x 4."""
    if len(sizes) <= 8:
        return ",".join(map(str, sizes))
    runs: list[list[int]] = []
    for size in sizes:
        if runs and runs[-1][1] == size:
            runs[-1][0] += 1
        else:
            runs.append([1, size])
    return ",".join(f"{count}x{size}" for count, size in runs)


def recompute_text(patterns: tuple[str, ...]) -> str:
    """blocks, or how many of them and of attentions."""
    if len(patterns) < FEW:
        return ",".join(patterns) or "-"
    attentions = sum(pattern.endswith(".attend") for pattern in patterns)
    parts = {"blocks": len(patterns) - attentions, "attentions": attentions}
    return ", ".join(f"{count} {what}" for what, count in parts.items() if count)


def busiest(links: Mapping[str, float]) -> str:
    """NVLink 45.0 %"""
    if not links:
        return "-"
    name = max(links, key=links.__getitem__)
    return f"{name or 'link'} {percent(links[name])}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns that hold nothing are left out."""
    columns = [
        column
        for column in zip(*rows, strict=True)
        if not column[0] or any(cell != "-" for cell in column[1:])
    ]
    return aligned(list(zip(*columns, strict=True)))


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with columns of the same width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    ]


def _all(lost: Mapping[str, str]) -> list[str]:
    return [f"{mesh.replace(' ', '')}: {reason}" for mesh, reason in lost.items()]


def _grouped(lost: Mapping[str, str]) -> list[str]:
    """A line for each of the next best meshes, and one for all that lost in the same way."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for mesh, reason in lost.items():
        groups.setdefault(re.sub(r"[\d.,e+-]+", "N", reason.partition(" (")[0]), []).append(
            (mesh.replace(" ", ""), reason)
        )
    lines = []
    for kind, members in groups.items():
        most = SHOWN if kind.endswith("N s") else FEW if len(members) > FEW + 1 else len(members)
        lines += [f"{mesh}: {reason}" for mesh, reason in members[:most]]
        if len(members) > most:
            lines.append(f"and {len(members) - most:,} others for such a reason (--all)")
    return lines


def candidate_json(one: Candidate) -> dict[str, Any]:
    """A row of the table."""
    setting, options, found = one.setting, one.setting.options, one.simulation
    return {
        "mesh": {axis: length for axis, length in setting.mesh.items() if length > 1},
        "accumulate": setting.micro_batches,
        "micro_batch": setting.micro_batch,
        "schedule": options.schedule,
        "chunks": options.chunks,
        "layers_per_stage": list(options.layers_per_stage),
        "zero": options.zero,
        "sequence": options.sequence,
        "recompute": list(options.recompute),
        "seconds": found.seconds,
        "tokens_per_second": found.tokens_per_second,
        "mfu": found.mfu,
        "hfu": found.hfu,
        "memory": one.memory,
        "links": dict(found.links),
        "exposed": dict(found.exposed),
        "bubble": found.bubble,
    }


def search_json(found: Search) -> dict[str, Any]:
    """All that was found."""
    return {
        "best": [candidate_json(one) for one in found.best],
        "lost": found.lost,
        "listed": found.listed,
        "simulated": found.simulated,
        "complete": found.complete,
    }
