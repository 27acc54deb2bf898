"""Compares meshes, memory, seconds and the choice with the planner's."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ringlet.comm.schedules.svg import counted
from ringlet.launcher.lessons.automatic_parallelism.job import Job, expected, states_of
from ringlet.launcher.lessons.automatic_parallelism.planner import (
    AXES,
    FIXED,
    Mesh,
    Planner,
    every_mesh,
    planner,
)
from ringlet.launcher.lessons.words import whole
from ringlet.launcher.units import seconds_text
from ringlet.runtime.planning.models import gpt
from ringlet.runtime.planning.plan import make_request

NUMBER = int | float | np.integer | np.floating

HINTS = (
    "meshes: dp * tp * pp is the number of ranks. For every dp that divides it, and every tp that "
    "divides the rest, pp is what is left. Then ask which of them the job allows.",
    "memory: a rank has 1 / (tp pp) of the model. Each of its parameters has 4 bytes, its gradient "
    "4, Adam's state 8. Then divide by dp what ZeRO divides.",
    "seconds: begin with dp alone, then pp alone: with m micro-batches there are m + pp - 1 turns, "
    "each as long as one micro-batch takes in one stage: compute / (dp tp pp m).",
    "seconds: with tp ranks a turn is longer, by 4 all-reduces for each of the stage's blocks / pp "
    "blocks. A micro-batch has batch / (dp m) samples. The gradients of a rank have 4 parameters / "
    "(tp pp) bytes.",
    "choose: take the meshes in the order of their bounds. When the next bound is above the best "
    "seconds so far, no mesh after it can be better.",
    "choose: a mesh that does not fit must not count as the best so far, however fast it is.",
)

JOBS = (
    Job(12_000_000, 4, 4, 32, 4, 0.8, 131_072, 50e-6, 1e9),
    Job(7_000_000_000, 32, 32, 24, 2, 20.0, 16 << 20, 10e-6, 50e9),
)

MESHES = (
    (1, 1, 1), (2, 1, 1), (4, 1, 1), (1, 1, 2), (1, 1, 4), (2, 1, 2), (1, 2, 1), (1, 4, 1),
    (1, 2, 2), (2, 2, 2), (4, 2, 4),
)  # fmt: skip
"""From those that have one thing to get wrong to those that have all."""

RANKS = ((1, 4, 4, 8), (2, 4, 4, 8), (4, 2, 4, 8), (8, 4, 6, 8), (12, 6, 12, 9), (16, 24, 24, 16))
"""Ranks, and the blocks, heads and batch of a job."""

PLANS = (
    ("gpt-7.5b", "selene", 8, 8, (80e9, 40e9, 30e9, 20e9)),
    ("gpt-1.7b", "h100-roce", 16, 16, (20e9, 6e9)),
)
"""Model, cluster, ranks, batch, and the limits of memory."""


def check(answer: Any) -> Iterator[str]:
    """What is wrong with the four functions."""
    cases = [(job, dict(zip(AXES, axes, strict=True))) for job in JOBS for axes in MESHES]
    parts = (
        (_meshes(answer.meshes, *case) for case in RANKS),
        (_memory(answer.memory, *case, zero) for case in cases for zero in range(4)),
        (_seconds(answer.seconds, *case) for case in cases),
        (_choose(answer.choose, *case) for case in _plans()),
    )
    for problems in parts:
        if problem := next(filter(None, problems), ""):
            yield problem


def text_of(mesh: Mapping[str, int]) -> str:
    """dp=2,tp=1,pp=4"""
    return ",".join(f"{axis}={mesh[axis]}" for axis in AXES)


def _meshes(function: Any, ranks: int, blocks: int, heads: int, batch: int) -> str:
    job = Job(1000, blocks, heads, batch, 1, 1.0, 1, 1e-6, 1e9)
    call = f"meshes for {ranks} ranks, {blocks} blocks, {heads} heads and a batch of {batch}"
    found = function(job, ranks)
    if not isinstance(found, list | tuple):
        return f"{call}: it returned {found!r:.60}, not a list of meshes"
    model = gpt("gpt", blocks, 64 * heads, heads)
    request = make_request(model, "selene", batch, ranks=ranks, fixed=FIXED)
    allowed = {text_of(mesh): problem for mesh, problem in every_mesh(request)}
    seen: set[str] = set()
    for mesh in found:
        if not _is_mesh(mesh):
            return f'{call}: it has {mesh!r:.60}; a mesh is {{"dp": 1, "tp": 1, "pp": {ranks}}}'
        text = text_of(mesh)
        if text not in allowed:
            return f"{call}: it has {text}, which is a mesh of {math.prod(mesh.values())} ranks"
        if allowed[text]:
            return f"{call}: it has {text}, but {allowed[text]}"
        if text in seen:
            return f"{call}: it has {text} twice"
        seen.add(text)
    missing = [text for text, problem in allowed.items() if not problem and text not in seen]
    return f"{call}: {missing[0]} is missing" if missing else ""


def _is_mesh(mesh: Any) -> bool:
    lengths = mesh.values() if isinstance(mesh, dict) and set(mesh) == set(AXES) else [None]
    return all((whole(length) or 0) >= 1 for length in lengths)


def _memory(function: Any, job: Job, mesh: Mesh, zero: int) -> str:
    found, parts = function(job, dict(mesh), zero), states_of(job, mesh, zero)
    if _near(found, sum(parts)):
        return ""
    names = ("parameters", "gradients", "optimizer state")
    words = ", ".join(f"{each:,.0f} of {name}" for name, each in zip(names, parts, strict=True))
    return (
        f"memory of {job.parameters:,} parameters on {text_of(mesh)} with ZeRO {zero}: "
        f"{_shown(found)} bytes; they are {sum(parts):,.0f}: {words}"
    )


def _seconds(function: Any, job: Job, mesh: Mesh) -> str:
    found, right = function(job, dict(mesh)), expected(job, mesh)
    if _near(found, right.seconds):
        return ""
    turns, m = job.micro_batches + mesh["pp"] - 1, counted(job.micro_batches, "micro-batch", "es")
    words = f"{turns} turns of {seconds_text(right.turn)} for {m} and {mesh['pp']} stages"
    if mesh["pp"] == 1:
        words = f"{m} of {seconds_text(right.turn)}"
    if mesh["tp"] > 1:
        sums = counted(round(4 * job.blocks / mesh["pp"]), "all-reduce")
        words += f", of which {sums} of {seconds_text(right.all_reduce)}"
    if right.sums:
        words += f", and {seconds_text(right.sums)} for the sum of the gradients"
    takes = f"it takes {right.seconds:.6g}: {words}"
    return f"seconds on {text_of(mesh)} of {job}: {_shown(found)}; {takes}"


def _plans() -> Iterator[tuple[Planner, float]]:
    """Each with a limit of bytes; in the end one that the best mesh just meets."""
    for *facts, limits in PLANS:
        plan = planner(*facts)
        yield from ((plan, limit) for limit in limits)
    if best := plan.best(limits[0]):
        yield plan, plan.simulate(best)[1]


def _choose(function: Any, plan: Planner, limit: float) -> str:
    simulated: list[Mesh] = []

    def simulate(mesh: Mesh) -> tuple[float, float]:
        simulated.append(mesh)
        return plan.simulate(mesh)

    candidates = [dict(mesh) for mesh in plan.candidates]
    found, best = function(candidates, plan.least, simulate, limit), plan.best(limit)
    where = f"choose for {plan} and a limit of {limit / 1e9:g} GB"
    if found is not None and found not in plan.candidates:
        return f"{where}: it returned {found!r:.60}, which is none of the candidates"
    if found is not None and (nbytes := plan.simulate(found)[1]) > limit:
        return f"{where}: {text_of(found)} needs {nbytes / 1e9:.1f} GB"
    if best is None:
        return ""
    seconds = plan.simulate(best)[0]
    rest = f"{text_of(best)} fits and takes {seconds:.4g} s"
    if found is None:
        return f"{where}: it says that none fits, but {rest}"
    if found != best:
        return f"{where}: {text_of(found)} takes {plan.simulate(found)[0]:.4g} s, and {rest}"
    for mesh in simulated:
        if (bound := plan.least(mesh)) > seconds:
            return (
                f"{where}: {text_of(found)} is right, but {text_of(mesh)} was simulated, which "
                f"takes at least {bound:.4g} s, and the best {seconds:.4g} s"
            )
    for number, mesh in enumerate(simulated):
        if mesh in simulated[:number]:
            return f"{where}: {text_of(mesh)} was simulated twice: keep what it gave, it is slow"
    return ""


def _near(found: Any, right: float) -> bool:
    return isinstance(found, NUMBER) and math.isclose(found, right, rel_tol=1e-6)


def _shown(found: Any) -> str:
    if isinstance(found, NUMBER):
        return f"it says {found:,.0f}" if found > 1000 else f"it says {found:.6g}"
    return f"it says {found!r:.40}"
