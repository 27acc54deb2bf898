"""`ringlet plan`: the best ways to train a model on a cluster, and why the others are not."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ringlet.launcher.commands.options import with_options
from ringlet.launcher.commands.plan.asked import Asked, TrainingGiven
from ringlet.launcher.commands.plan.nothing import why_nothing
from ringlet.launcher.commands.plan.progress import searching
from ringlet.launcher.commands.plan.tables import search_json, search_text
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.runtime.planning.plan import make_plan
from ringlet.runtime.planning.search import OBJECTIVES


@dataclass(frozen=True)
class PlanOptions:
    """What is the best, and where the plan goes."""

    objective: str = option("time", f"What is minimized: {' or '.join(OBJECTIVES)}.")
    out: Path | None = option(
        None, "Write the best as a plan, for `ringlet train --plan`.", metavar="FILE",
        heading="Output",
    )  # fmt: skip
    every: bool = option(False, "Say of every mesh why it lost.", "--all", heading="Output")


@with_options(asked=Asked, options=PlanOptions, given=TrainingGiven)
def plan(*, asked: Asked, options: PlanOptions, given: dict[str, Any]) -> None:
    """Search for the best way to train a model on a cluster.

    Options under the heading Parallelism stay as they are given (of --mesh, the axes that it
    names); all others are chosen. Nothing that changes the mathematics is.
    """
    if options.objective not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise UserError(f"there is no objective {options.objective}; there are {known}")
    if options.out is not None and not options.out.parent.is_dir():
        raise UserError(f"cannot write {options.out}: there is no folder {options.out.parent}")
    found = searching(asked.request(given)[0], options.objective)
    if not found.best:
        raise UserError(why_nothing(found))
    if options.out is not None:
        request = found.request
        made = make_plan(found.best[0], request.model, request.cluster, found.best)
        with user_errors(os_error=f"cannot write {options.out}"):
            options.out.write_text(str(made), encoding="utf-8")
    click.echo(
        json.dumps(search_json(found)) if asked.as_json else search_text(found, options.every)
    )
