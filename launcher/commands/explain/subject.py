"""Whose training step is explained: a model on a mesh, given as to `ringlet train`."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ringlet.comm.schedules.svg import counted
from ringlet.launcher.commands.plan.asked import (
    FAMILIES,
    MODEL_OPTIONS,
    PARALLELISM,
    Asked,
    facts,
    training_options,
)
from ringlet.launcher.commands.plan.simulate import the_setting
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.runtime.mesh import MeshError, mesh_text, parse_mesh
from ringlet.runtime.planning.cluster import load_cluster
from ringlet.runtime.planning.models import MODELS, Model, model_of
from ringlet.runtime.planning.setting import RINGLET, Program, Setting
from ringlet.runtime.planning.settings import Request
from ringlet.runtime.training.config import (
    DEFAULT_PRESET,
    PRESETS,
    ConfigError,
    TrainConfig,
    read_config,
)
from ringlet.runtime.training.corpus import BYTES, DataError
from ringlet.runtime.training.factories import model_config
from ringlet.runtime.training.fit import check_fit, mesh_shape, parallelism
from ringlet.runtime.training.rehearsal import Rehearsal

RANKS, USUAL = 32, 4
"""The most ranks of a step that is rehearsed, and how many there are unless it is said."""

LARGEST = 1000
"""The most blocks, and micro-batches of a rank."""

NUMBERS = 50_000_000
"""Parameters of the largest model of which a step is rehearsed."""


@dataclass(frozen=True)
class Subject:
    """The model and the ranks."""

    model: str = option(
        DEFAULT_PRESET,
        f"A preset of `ringlet train` ({', '.join(PRESETS)}); {' or '.join(FAMILIES)}, with sizes "
        "from the heading Model; for `memory` also a model of `ringlet plan`.",
        metavar="NAME",
    )
    config: Path | None = option(None, "TOML file with options of `ringlet train`.")
    batch: int | None = option(
        None, "Samples in each step, over all ranks.", "--batch-size", "--batch", least=1,
        metavar="N", shown="as the preset has, or enough for all",
    )  # fmt: skip
    ranks: int | None = option(
        None, "Ranks that train.", "-n", "--workers", "--ranks", least=1, metavar="N",
        shown=f"as --mesh says, or {USUAL}",
    )  # fmt: skip

    def settled(
        self, kind: Any, given: Mapping[str, Any], axis: str
    ) -> tuple[TrainConfig, int, Model]:
        """The run that is asked for, its number of workers, and the model, with `given` of the
        options `kind`: on `axis` alone unless --mesh says more. Raises UserError, ConfigError,
        MeshError or DataError."""
        usual = {e.name: e.default for e in fields(kind) if e.default != _USUAL[e.name]}
        ours = {e.name for e in fields(kind)}  # a file of a run may say more
        read = read_config(self.config).items()
        asked = usual | {n: value for n, value in read if n in ours or n not in PARALLELISM}
        asked |= {name: value for name, value in given.items() if value is not None}
        subject = Asked(**asdict(self))
        config = subject.settings(asked)
        if not config.mesh:
            config = replace(config, mesh=f"{axis}={self.ranks or USUAL}")
        for name in ("n_layer", "accumulate"):
            if (count := getattr(config, name)) > LARGEST:
                raise UserError(f"{name} is {count:,}; what is explained has up to {LARGEST:,}")
        given_mesh = parse_mesh(config.mesh)
        workers = self.ranks or math.prod(given_mesh.values())
        shape = mesh_shape(config, workers)
        if axis == "ep" and not config.experts:
            config = replace(config, experts=2 * shape["ep"])
        if self.batch is None:
            parts = shape["dp"] * shape["ep"] * config.accumulate
            least = 1 if self.model in MODELS else config.batch_size
            config = replace(config, batch_size=-(-least // parts) * parts)
        return config, workers, subject.sizes(config, given)


_USUAL = asdict(TrainConfig())


def options_for(*names: str, **defaults: Any) -> Any:
    """The options of `ringlet train` that matter to a topic: of the model, the mesh, and these."""
    return training_options(*MODEL_OPTIONS, "mesh", *names, *defaults, **defaults)


def rehearsed(
    subject: Subject, kind: Any, given: Mapping[str, Any], axis: str
) -> tuple[TrainConfig, int]:
    """The run whose step can be rehearsed, and its number of workers; raises UserError."""
    with user_errors(ConfigError, DataError, MeshError):
        config, workers, model = subject.settled(kind, given, axis)
        if workers > RANKS:
            raise UserError(f"{workers} ranks; a step is rehearsed on up to {RANKS}")
        if subject.model in MODELS or model.parameters > NUMBERS:
            raise UserError(
                f"{model.name} has {model.parameters:,} parameters; a step is rehearsed of presets "
                f"and of models up to {NUMBERS:,}: fewer and narrower blocks show the same"
            )
        check_fit(config, workers)
    shape = mesh_shape(config, workers)
    if shape["pp"] > 1:
        raise UserError(f"a mesh with pp={shape['pp']}: one stage is rehearsed; pp=1 would fit")
    if shape[axis] == 1:
        raise UserError(f"a mesh with {axis}=1: there is nothing to show; {axis}=2 would fit")
    return config, workers


def rehearse(config: TrainConfig, workers: int, rank: int = 0) -> Rehearsal:
    """The step of a rank; raises UserError."""
    with user_errors(ConfigError, DataError, MeshError):
        return Rehearsal(config, workers, rank)


def setting_of(
    config: TrainConfig, workers: int, model: Model | None = None, program: Program = RINGLET
) -> tuple[Model, Setting]:
    """The run as costs see it; raises UserError and MeshError as `ringlet simulate` does."""
    model = model or model_of(model_config(config, config.vocab_size or BYTES), config.model)
    # The cluster does not matter: no time is asked for.
    request = Request(
        model, load_cluster("laptop"), config.batch_size, workers, program=program,
        options=parallelism(config), facts=facts(config),
    )  # fmt: skip
    return model, the_setting(request, config)


def facts_of(config: TrainConfig, workers: int) -> list[str]:
    """What is trained, and on what."""
    sizes = f"{counted(config.n_layer, 'block')} of width {config.n_embd}, {config.n_head} heads"
    return [f"{config.model}: {sizes}", mesh_text(mesh_shape(config, workers))]
