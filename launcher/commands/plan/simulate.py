"""`ringlet simulate`: what a training step takes on a cluster that need not be there, and why."""

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

import click

from ringlet.launcher.commands.options import with_options
from ringlet.launcher.commands.plan.asked import Asked, TrainingGiven
from ringlet.launcher.commands.plan.shown import simulation_json, simulation_text
from ringlet.launcher.commands.progress import progress
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.runtime.mesh import MeshError, misfit
from ringlet.runtime.planning.failures import Goodput, goodput
from ringlet.runtime.planning.figures import ClusterError
from ringlet.runtime.planning.search import Candidate
from ringlet.runtime.planning.setting import Setting
from ringlet.runtime.planning.settings import Request
from ringlet.runtime.planning.simulate import simulate as simulate_step
from ringlet.runtime.training.config import TrainConfig
from ringlet.runtime.training.fit import mesh_shape


@dataclass(frozen=True)
class SimulateOptions:
    """What differs from a healthy step."""

    slow: str = option(
        "", "Stragglers, and how many times as long they compute: 3=1.5,7=2.",
        metavar="RANK=FACTOR,...",
    )  # fmt: skip

    def factors(self) -> dict[int, float]:
        """By rank; raises UserError."""
        found: dict[int, float] = {}
        for word in filter(None, map(str.strip, self.slow.split(","))):
            match = re.fullmatch(r"(\d{1,9})=(\d{1,6}(?:\.\d{1,9})?)", word, re.ASCII)
            if match is None or not float(match[2]):
                raise UserError(f"--slow has {word!r}; it takes RANK=FACTOR, as in 3=1.5")
            if int(match[1]) in found:
                raise UserError(f"--slow has rank {match[1]} twice")
            found[int(match[1])] = float(match[2])
        return found


@with_options(asked=Asked, options=SimulateOptions, given=TrainingGiven)
def simulate(*, asked: Asked, options: SimulateOptions, given: dict[str, Any]) -> None:
    """Simulate a training step: how long it takes, and why.

    Nothing is chosen: what is not given is as `ringlet train` has it (of --mesh, dp takes the
    remaining ranks).
    """
    slow = options.factors()
    request, config = asked.request(given)
    with progress("simulating"), user_errors(ClusterError, MeshError):
        setting = the_setting(request, config)
        cluster = request.cluster.of(setting.ranks)
        found = simulate_step(request.model, cluster, setting, slow)
        failing: Goodput | None = None
        if cluster.failures is not None:
            failing = goodput(request.model, cluster, setting, found.seconds)
    one = Candidate(setting, found)
    if asked.as_json:
        failures = None if failing is None else asdict(failing)
        click.echo(json.dumps({**simulation_json(one), "failures": failures}))
    else:
        click.echo(simulation_text(replace(request, cluster=cluster), one, failing))


def the_setting(request: Request, config: TrainConfig) -> Setting:
    """The one setting that is asked for; raises UserError and MeshError if it cannot be."""
    ranks = request.workers
    mesh = mesh_shape(config, ranks)
    if request.ranks == 0 and "dp" in request.fixed:
        ranks = math.prod(mesh.values())  # --mesh says how many
    if text := misfit(mesh, ranks):
        raise UserError(text)
    replicas, count = mesh["dp"] * mesh["ep"], config.accumulate
    share, left = divmod(request.batch, replicas)
    if left or share % count:
        parts = f" with {count} micro-batches each" if count > 1 else ""
        raise UserError(
            f"a batch of {request.batch} has no equal parts for {replicas} replicas{parts}; a "
            f"multiple of {replicas * count} has"
        )
    setting = Setting(mesh, request.batch, share // count, request.options, request.program)
    if text := replace(request, ranks=ranks).problem(setting):
        raise UserError(text)
    return setting
