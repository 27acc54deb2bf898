"""What a simulated step takes, as people read it and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ringlet.launcher.commands.plan.tables import (
    SMALL,
    aligned,
    candidate_json,
    gigabytes,
    percent,
    recompute_text,
    schedule_text,
)
from ringlet.launcher.units import seconds_text
from ringlet.runtime.planning.failures import Goodput
from ringlet.runtime.planning.search import Candidate
from ringlet.runtime.planning.settings import Request

PARTS = ("parameters", "gradients", "optimizer", "activations", "buffers", "total")

RANKS = 16
"""The most ranks of a pipeline whose memory is shown one by one."""


def simulation_text(request: Request, one: Candidate, failing: Goodput | None) -> str:
    """The step, where its time goes, and what memory it needs."""
    setting, found, model = one.setting, one.simulation, request.model
    step = found.seconds
    lines = [
        f"{model.name}: {model.parameters:,} parameters, batch {setting.batch}, on "
        f"{setting.ranks} ranks of {request.cluster.name or 'the cluster'}",
        chosen_text(one),
        "",
        f"step           {seconds_text(step)}",
        f"tokens/s       {found.tokens_per_second:,.0f}",
        f"MFU            {percent(found.mfu)} of the peak ({percent(found.hfu)} HFU, with what is "
        "computed again)",
    ]
    if setting.mesh["pp"] > 1:
        lines.append(f"bubble         {percent(found.bubble)} of the pipeline's time")
    lines += [
        f"communicates   {_parts(found.exposed, step) or 'never alone'}",
        f"busy links     {_links(found.links) or 'none'}",
        f"critical path  {_parts(found.where, step)}",
    ]
    if failing is not None:
        lines += _failures(failing)
    return "\n".join([*lines, "", *_memory(request, one)])


def chosen_text(one: Candidate) -> str:
    """dp=2, pp=2, 8 x 1 samples, 1f1b, zero 1"""
    setting, options = one.setting, one.setting.options
    words = [str(setting)]
    words += [schedule_text(setting)] if setting.mesh["pp"] > 1 else []
    words += [f"zero {options.zero}"] if options.zero else []
    words += ["sequence parallelism"] if options.sequence else []
    words += [f"recompute {recompute_text(options.recompute)}"] if options.recompute else []
    return ", ".join(words)


def _parts(parts: Mapping[str, float], of: float) -> str:
    """Seconds by what they are for, the most first."""
    most = sorted(parts.items(), key=lambda one: -one[1])
    return ", ".join(
        f"{name} {seconds_text(seconds)} ({percent(seconds / of)})"
        for name, seconds in most
        if seconds > SMALL * of
    )


def _links(links: Mapping[str, float]) -> str:
    return ", ".join(f"{name or 'link'} {percent(part)}" for name, part in links.items())


def _failures(found: Goodput) -> list[str]:
    saved = f" of {seconds_text(found.checkpoint)}" if found.checkpoint else ""
    return [
        f"goodput        {100 * found.goodput:.2f} % of the time counts: a failure every "
        f"{_duration(found.between_failures)}, a checkpoint{saved} best every "
        f"{_duration(found.interval)} (Young {_duration(found.young)}, Daly "
        f"{_duration(found.daly)})"
    ]


def _duration(seconds: float) -> str:
    for unit, scale in (("h", 3600), ("min", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:,.{1 if seconds < 100 * scale else 0}f} {unit}"
    return seconds_text(seconds)


def _memory(request: Request, one: Candidate) -> list[str]:
    """By rank of the pipeline; of many, those that need most."""
    memory = list(enumerate(one.simulation.memory))
    if len(memory) > RANKS:
        memory = sorted(sorted(memory, key=lambda one: -one[1].total)[:RANKS])
    rows: list[tuple[str, ...]] = [("memory" if len(memory) == 1 else "stage's ranks", *PARTS)]
    for number, each in memory:
        name = "each rank" if len(memory) == 1 else str(number)
        rows.append((name, *(gigabytes(getattr(each, part)) for part in PARTS)))
    lines = aligned(rows)
    if one.memory > request.limit:
        lines.append(f"That does not fit into {gigabytes(request.limit)}.")
    return lines


def simulation_json(one: Candidate) -> dict[str, Any]:
    """All figures of a step."""
    found = one.simulation
    memory = [{**asdict(each), "total": each.total} for each in found.memory]
    return {**candidate_json(one), "path": dict(found.where), "memory_by_rank": memory}
