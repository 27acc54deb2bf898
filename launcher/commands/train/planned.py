"""`ringlet train --plan` and `--auto`: a plan's choices in place of options."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ringlet.launcher.commands.plan.asked import CHOICES, flag
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.supervisor.output import Screen
from ringlet.runtime.mesh import MeshError, parse_mesh
from ringlet.runtime.planning.figures import ClusterError
from ringlet.runtime.planning.models import Model, model_of
from ringlet.runtime.planning.plan import Plan, PlanError, load_plan, make_plan
from ringlet.runtime.planning.search import Candidate
from ringlet.runtime.planning.settings import Request
from ringlet.runtime.training.config import ConfigError, TrainConfig, check_config
from ringlet.runtime.training.factories import model_config
from ringlet.runtime.training.fit import parallelism


@dataclass(frozen=True)
class Run:
    """A run before it is planned: what is trained, and the options that were asked for."""

    settings: TrainConfig
    asked: Mapping[str, Any]
    vocabulary: int

    @property
    def model(self) -> Model:
        """What the planner knows of the model."""
        found = model_of(model_config(self.settings, self.vocabulary))
        return replace(found, context=self.settings.block_size)

    def by(self, plan: Plan) -> TrainConfig:
        """The run as the plan says; raises UserError."""
        choices = {name: getattr(plan.choices, name) for name in CHOICES}
        with user_errors(ConfigError):
            return check_config({**asdict(self.settings), **choices, "batch_size": plan.batch})

    def unplanned(self) -> TrainConfig:
        """The run without what its plan had chosen."""
        usual = {name: getattr(TrainConfig, name) for name in CHOICES if name not in self.asked}
        return replace(self.settings, **usual)

    def check(self, plan: Plan, name: Path) -> None:
        """Raise UserError if the plan is for another run, or the user has chosen otherwise."""
        with user_errors(PlanError):
            plan.check(self.model, self.settings.batch_size)
        for option in (name for name in CHOICES if name in self.asked):
            mine, other = self._values(self.settings, option), self._values(self.by(plan), option)
            if any(other.get(part, 1) != value for part, value in mine.items()):
                shown = getattr(plan.choices, option)
                raise UserError(
                    f"{flag(option)} {getattr(self.settings, option)} contradicts {name}, which "
                    f"has {shown if shown != '' else 'none'}: leave it out, or plan again"
                )
        for variable, value in plan.variables.items():
            if os.environ.get(variable, value) != value:
                raise UserError(
                    f"{variable} is {os.environ[variable]!r}, and {name} pins {value!r}: unset it, "
                    "or plan again"
                )

    @staticmethod
    def _values(settings: TrainConfig, option: str) -> dict[str, Any]:
        """What an option means: of a mesh, the axes that it names."""
        with user_errors(MeshError):
            if option == "mesh":
                return {**parse_mesh(settings.mesh)}
            options = parallelism(settings)
        return {option: getattr(options, option, getattr(settings, option))}


def from_file(run: Run, path: Path) -> Plan:
    """The plan of a file, for this run; raises UserError."""
    with user_errors(PlanError):
        plan = load_plan(path)
    run.check(plan, path)
    return plan


def kept(run: Run, path: Path, workers: int | None) -> Plan | None:
    """The plan that a resumed run has had; None, and says why, if it shall now go on in another
    way."""
    try:
        plan = from_file(run, path)
        if workers not in (None, plan.ranks):
            raise UserError(f"it is for {plan.ranks} workers, not {workers}")
    except UserError as error:
        Screen().say(f"the run goes on without its plan and what that chose: {error}")
        return None
    return plan


def the_plan(one: Candidate, request: Request, best: Sequence[Candidate] = ()) -> Plan:
    """The plan of a candidate, with the links that the user has pinned; of the `best`, those that
    came next."""
    made = make_plan(one, request.model, request.cluster, best)
    with user_errors(ClusterError):
        return replace(made, links=os.environ.get("RINGLET_LINKS", "") or made.links)
