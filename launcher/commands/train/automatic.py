"""`ringlet train --auto`: the best plan for a run on this machine."""

import contextlib
import os
from dataclasses import replace

from ringlet.launcher.commands.plan.asked import facts, fixed
from ringlet.launcher.commands.plan.machine import machine
from ringlet.launcher.commands.plan.nothing import why_nothing
from ringlet.launcher.commands.plan.progress import searching
from ringlet.launcher.commands.plan.shown import chosen_text
from ringlet.launcher.commands.plan.tables import gigabytes
from ringlet.launcher.commands.train.planned import Run, the_plan
from ringlet.launcher.commands.train.trials import TRIED, fastest
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.units import seconds_text
from ringlet.runtime.mesh import MeshError
from ringlet.runtime.planning.figures import ClusterError
from ringlet.runtime.planning.plan import Plan, PlanError, make_request
from ringlet.runtime.planning.search import Candidate
from ringlet.runtime.planning.setting import RINGLET, Setting
from ringlet.runtime.planning.settings import Request
from ringlet.runtime.planning.simulate import simulate
from ringlet.runtime.training.config import ConfigError
from ringlet.runtime.training.effects import check_effects
from ringlet.runtime.training.factories import optimizer_states
from ringlet.runtime.training.fit import mesh_shape, parallelism

_CHOOSE = "more of it is always faster, at some point for a worse model: choose it yourself"
_UNPRICED = "the planner knows what it saves on the way, but not what encoding takes"

ALLOWED = {
    "batch_size": "", "local_steps": _CHOOSE, "compress": _UNPRICED,
    "compress_activations": _UNPRICED, "priority": "the planner has no price for it",
}  # fmt: skip
"""What --allow may name, and why it may not."""

MARGIN = 0.05
"""Where the options as they are take so little longer, they stay: prices are off by as much."""

BATCHES = 8
"""With --allow batch_size: into so many steps the way to twice the batch is divided."""


def make(
    run: Run, workers: int, allowed: list[str], launch: WorkerOptions, measure: bool
) -> Plan | None:
    """The best plan, by its price or by trying a few; None if the planner cannot help. Says what
    was chosen. Raises UserError."""
    request, best = _search(run, workers, allowed, launch.transport)
    if not best:
        return None
    usual, one = _usual(run, request), best[0]
    equal = usual is not None and usual.setting.batch == request.batch
    if usual is not None and not equal:
        a_sample = one.simulation.seconds / one.setting.batch
        if usual.simulation.seconds / request.batch < a_sample:
            Screen().say("not planned, the options stay: unequal parts of the batch are faster")
            return None
    if measure:
        tried = best[:TRIED]
        if usual is not None and equal and all(usual.setting != each.setting for each in tried):
            tried.append(usual)
        one = fastest(run, request, tried, launch)
    elif usual is not None and equal and usual.memory <= request.limit:
        margin = (1 + MARGIN) * one.simulation.seconds
        one = usual if usual.simulation.seconds <= margin else one
    Screen().say(
        f"planned {chosen_text(one)}: {seconds_text(one.simulation.seconds)} a step and "
        f"{gigabytes(one.memory)} a worker are expected"
    )
    return the_plan(one, request, best)


def _usual(run: Run, request: Request) -> Candidate | None:
    """The run without a plan. Of unequal parts of the batch, all count as the largest one."""
    mesh = mesh_shape(run.settings, request.workers)
    replicas, count = mesh["dp"] * mesh["ep"], run.settings.accumulate
    size = -(-request.batch // (replicas * count))
    with contextlib.suppress(MeshError, ClusterError):
        setting = Setting(mesh, size * replicas * count, size, request.options, request.program)
        if not request.problem(setting):
            made = simulate(request.model, request.cluster, setting)
            return Candidate(setting, made)
    return None


def _search(
    run: Run, workers: int, allowed: list[str], transport: str
) -> tuple[Request, list[Candidate]]:
    """The best for this run on this machine; none if the planner cannot help. Raises UserError."""
    batches = [run.settings.batch_size]
    if "batch_size" in allowed:
        step = max(1, batches[0] // BATCHES)
        batches = list(range(batches[0], 2 * batches[0] + 1, step))
    with user_errors(ClusterError, PlanError, MeshError):
        cluster = machine(workers, transport, measure=True)
        cluster = replace(cluster, algorithms=os.environ.get("RINGLET_ALGORITHM", ""))
        request = make_request(
            run.model, cluster, batches[0], ranks=workers, program=RINGLET,
            states=optimizer_states(run.settings), options=parallelism(run.settings),
            facts=facts(run.settings), fixed=fixed(run.settings, run.asked),
        )  # fmt: skip
        found = [searching(replace(request, batch=batch)) for batch in batches]
    best = [one for each in found for one in each.best if _keeps(run, one, each.request)]
    if not best and found[0].nearest is not None:
        raise UserError(why_nothing(found[0]))
    if not best:
        Screen().say(f"not planned, the options stay: {why_nothing(found[0])}")
    if len(batches) > 1:
        best.sort(key=lambda one: one.simulation.seconds / one.setting.batch)
    return found[0].request, best


def _keeps(run: Run, one: Candidate, request: Request) -> bool:
    """Whether what was asked for has an effect with this candidate."""
    with contextlib.suppress(ConfigError):
        check_effects(run.by(the_plan(one, request)), run.asked, request.workers)
        return True
    return False


def allow(words: str) -> list[str]:
    """The options that --allow names; raises UserError for those that have no price."""
    found = [word.strip().replace("-", "_") for word in words.split(",") if word.strip()]
    for name in found:
        if name not in ALLOWED:
            raise UserError(f"--allow has {name}; it takes batch_size")
        if ALLOWED[name]:
            raise UserError(f"--allow {name}: {ALLOWED[name]}; --allow takes batch_size")
    return found
