"""What `ringlet plan` and `ringlet simulate` are asked: a model, a cluster, and what is fixed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

from ringlet.launcher.commands.plan.machine import machine
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.runtime.mesh import MeshError, parse_mesh
from ringlet.runtime.planning.cluster import Cluster, load_cluster, shipped
from ringlet.runtime.planning.figures import ClusterError
from ringlet.runtime.planning.models import MODELS, Model, model_of
from ringlet.runtime.planning.plan import Choices, PlanError, make_request
from ringlet.runtime.planning.setting import MEGATRON, RINGLET
from ringlet.runtime.planning.settings import FACTS, Request
from ringlet.runtime.training.config import (
    DEFAULT_PRESET,
    PRESETS,
    ConfigError,
    TrainConfig,
    make_config,
    read_config,
)
from ringlet.runtime.training.corpus import BYTES, DataError, load_corpus
from ringlet.runtime.training.factories import model_config, optimizer_states
from ringlet.runtime.training.fit import default_workers, parallelism

PROGRAMS = {"ringlet": RINGLET, "megatron": MEGATRON}
FAMILIES = ("gpt", "llama")

CHOICES = tuple(each.name for each in fields(Choices))
"""The options of `ringlet train` that a plan chooses."""

MODEL_OPTIONS = {
    each.name
    for each in fields(TrainConfig)
    if each.metadata["heading"] == "Model" and each.name != "model"
}


def training_options(*names: str, **defaults: Any) -> Any:
    """A dataclass with these options of `ringlet train`, some with another default."""
    return make_dataclass(
        "TrainingOptions",
        [
            (e.name, e.type, field(default=defaults.get(e.name, e.default), metadata=e.metadata))
            for e in fields(TrainConfig)
            if e.name in names
        ],
    )


PARALLELISM = {e.name for e in fields(TrainConfig) if e.metadata["heading"] == "Parallelism"}
TrainingGiven: Any = training_options(
    *MODEL_OPTIONS, *PARALLELISM, "data", "tokenizer", "optimizer", "momentum"
)
"""Those options of `ringlet train` on which a step's time and memory depend."""


@dataclass(frozen=True)
class Asked:
    """The model, the cluster, and the limits."""

    model: str = option(
        DEFAULT_PRESET,
        f"A preset of `ringlet train` ({', '.join(PRESETS)}); gpt or llama, with sizes from the "
        f"heading Model; or one of {', '.join(MODELS)}.",
        metavar="NAME",
    )
    config: Path | None = option(None, "TOML file with options of `ringlet train`.")
    cluster: str = option(
        "",
        f"{', '.join(shipped())}, or a TOML file (docs/reference/clusters.md).",
        metavar="NAME|FILE",
        shown="this machine",
    )
    batch: int | None = option(
        None, "Samples in each step, over all ranks.", "--batch-size", "--batch", least=1,
        metavar="N", shown="the preset's",
    )  # fmt: skip
    ranks: int | None = option(
        None, "Ranks that train.", "-n", "--workers", "--ranks", least=1, metavar="N",
        shown="all of the cluster; here as `ringlet train`",
    )  # fmt: skip
    memory: int | None = option(
        None, "Memory that a rank may need.", least=1, unit="bytes", shown="all that it has"
    )
    program: str = option(
        "", f"What trains: {' or '.join(PROGRAMS)}.", metavar="NAME",
        shown="megatron on devices with float16, else ringlet",
    )  # fmt: skip
    as_json: bool = option(False, "Print JSON.", "--json", heading="Output")

    def request(self, given: Mapping[str, Any]) -> tuple[Request, TrainConfig]:
        """What is searched for, with what was `given` of TrainingGiven; raises UserError."""
        if self.program not in ("", *PROGRAMS):
            raise UserError(f"there is no program {self.program}; there are {', '.join(PROGRAMS)}")
        with user_errors(ConfigError, DataError, MeshError, ClusterError, PlanError):
            asked = read_config(self.config)
            asked |= {name: value for name, value in given.items() if value is not None}
            config = self.settings(asked)
            model, batch = self.sizes(config, given), self.batch or config.batch_size
            if self.model in MODELS and self.batch is None:
                raise UserError(f"{self.model} needs --batch: the samples in each step")
            cluster, ranks = self._cluster(config)
            return make_request(
                model, cluster, batch, ranks=ranks, memory=self.memory or 0,
                program=PROGRAMS.get(self.program), states=optimizer_states(config),
                options=parallelism(config), fixed=fixed(config, asked), facts=facts(config),
            ), config  # fmt: skip

    def settings(self, asked: dict[str, Any]) -> TrainConfig:
        """The config of the model and of these options; raises UserError and ConfigError."""
        preset, known = asked.pop("preset", None), self.model in MODELS or self.model in FAMILIES
        if not known and self.model not in PRESETS:
            raise UserError(
                f"there is no model {self.model}; there are {', '.join((*FAMILIES, *PRESETS))}, "
                f"{', '.join(MODELS)}"
            )
        if preset is None or self.model != DEFAULT_PRESET:
            preset = DEFAULT_PRESET if known else self.model
        if self.model in FAMILIES:
            asked["model"] = self.model
        if self.batch is not None:
            asked["batch_size"] = self.batch
        return make_config(preset, options=asked)

    def sizes(self, config: TrainConfig, given: Mapping[str, Any]) -> Model:
        """The model as costs see it, with what was `given`; raises UserError and DataError."""
        if self.model in MODELS:
            for name in sorted(MODEL_OPTIONS):
                if given.get(name) is not None:
                    raise UserError(
                        f"{flag(name)} is for a preset, gpt or llama; {self.model} has its own"
                    )
            return MODELS[self.model]
        size = config.vocab_size
        if not size and config.data == TrainConfig.data:
            size = BYTES
        elif not size:
            size = load_corpus(
                config.data, config.block_size, tokenizer=config.tokenizer
            ).vocab_size
        return model_of(model_config(config, size), self.model)

    def _cluster(self, config: TrainConfig) -> tuple[Cluster, int]:
        if self.cluster:
            return load_cluster(self.cluster), self.ranks or 0
        workers = self.ranks or default_workers(config)
        return machine(workers), workers


def facts(config: TrainConfig) -> dict[str, Any]:
    """What the rules ask for beside mesh and options."""
    return {name: value for name, value in asdict(config).items() if name in FACTS}


def fixed(config: TrainConfig, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The choices that were asked for, as a Request has them: of a mesh, the axes that it names."""
    found = {name: getattr(config, name) for name in CHOICES if name in asked}
    return {**found, **parse_mesh(found.pop("mesh", ""))}


def flag(name: str) -> str:
    """An option as it is written on the command line."""
    return f"--{name.replace('_', '-')}"
