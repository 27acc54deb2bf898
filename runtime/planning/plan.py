"""`runtime.plan`, and a plan as a file: how to train a model, pinned so that its bits repeat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ringlet.comm.errors import CommError
from ringlet.comm.schedules.choice import Policy
from ringlet.comm.schedules.links import Links
from ringlet.nn.files import read_toml, short
from ringlet.runtime.options import Parallelism
from ringlet.runtime.planning import figures
from ringlet.runtime.planning.cluster import Cluster, load_cluster
from ringlet.runtime.planning.figures import (
    ClusterError,
    figure,
    flag,
    make,
    text,
    whole,
)
from ringlet.runtime.planning.models import MODELS, Model, model_of
from ringlet.runtime.planning.search import OBJECTIVES, Candidate, Search, search
from ringlet.runtime.planning.setting import MEGATRON, RINGLET, Program, Setting
from ringlet.runtime.planning.settings import Request

VERSION = 1

OTHERS = 4
"""The most of those that came next, which a plan remembers."""

ADAM_STATES = 2
"""Numbers that AdamW, which programs are described with, keeps for each parameter."""


class PlanError(ValueError):
    """A plan cannot be made, or is none, or not one for this run; the message says why."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the model that a plan is for."""

    blocks: int = whole()
    width: int = whole()
    heads: int = whole()
    kv_heads: int = whole()
    inner: int = whole()
    experts: int = whole(least=0)
    vocabulary: int = whole()
    context: int = whole()
    name: str = text()

    @classmethod
    def of(cls, model: Model) -> "Sizes":
        """The sizes of a model, as of its first block."""
        block = model.blocks[0]
        return cls(
            len(model.blocks), block.width, block.heads, block.kv_heads, block.inner,
            block.experts, model.vocabulary, model.context, model.name,
        )  # fmt: skip

    def __post_init__(self) -> None:
        figures.check(self)


@dataclass(frozen=True)
class Choices:
    """What was chosen, under the names of `TrainConfig`."""

    mesh: str = text()
    accumulate: int = whole(default=1)
    zero: int = whole(default=0, least=0)
    schedule: str = text(default="1f1b")
    chunks: int = whole(default=0, least=0)
    layers_per_stage: str = text()
    sequence: bool = flag(default=False)
    recompute: str = text()
    bucket_bytes: int = whole(default=0, least=0)

    @classmethod
    def of(cls, setting: Setting) -> "Choices":
        """What a setting has chosen."""
        options = setting.options
        mesh = {axis: length for axis, length in setting.mesh.items() if length > 1}
        return cls(
            ",".join(f"{axis}={length}" for axis, length in mesh.items()) or "dp=1",
            setting.micro_batches, options.zero, options.schedule,
            options.chunks if setting.mesh["pp"] > 1 else 0,
            ",".join(map(str, options.layers_per_stage)), options.sequence,
            ",".join(options.recompute), options.bucket_bytes,
        )  # fmt: skip

    def __post_init__(self) -> None:
        figures.check(self)


@dataclass(frozen=True)
class Predicted:
    """What a step was expected to take."""

    seconds: float = figure(above=0.0)
    memory: float = figure(above=0.0)
    """Bytes of the rank that needs most."""

    def __post_init__(self) -> None:
        figures.check(self)


@dataclass(frozen=True)
class Other:
    """What came after the chosen one in the search."""

    choices: Choices
    predicted: Predicted


@dataclass(frozen=True)
class Plan:
    """How to train a model of these sizes on so many ranks: all that results depend on.

    The algorithms of collectives, which decide in which order numbers are added, follow from
    `algorithms` (as in RINGLET_ALGORITHM) and the `links` of the machine for which the plan was
    made (as in RINGLET_LINKS): with both, bits repeat on another machine with as many ranks on
    each host.
    """

    version: int = whole()
    ranks: int = whole()
    batch: int = whole()
    model: Sizes = field(kw_only=True)
    choices: Choices = field(kw_only=True)
    predicted: Predicted = field(kw_only=True)
    cluster: str = text()
    algorithms: str = text()
    links: str = text()
    others: tuple[Other, ...] = ()

    def __post_init__(self) -> None:
        figures.check(self)
        try:
            Policy.parse(self.algorithms)
            if self.links:
                Links.parse(self.links)
        except CommError as error:
            raise ClusterError(str(error)) from error

    def __str__(self) -> str:
        """TOML that `load_plan` reads back."""
        return figures.write_toml(self)

    @property
    def variables(self) -> dict[str, str]:
        """The environment that pins the algorithms of collectives."""
        pins = {"RINGLET_ALGORITHM": self.algorithms, "RINGLET_LINKS": self.links}
        return {name: value for name, value in pins.items() if value}

    def check(self, model: Model, batch: int) -> None:
        """Raise PlanError, naming the first difference, unless it is for this model and batch."""
        wanted, mine = asdict(Sizes.of(model)), asdict(self.model)
        differ = [n for n in wanted if n != "name" and wanted[n] != mine[n]]
        if differ:
            raise PlanError(
                f"the plan is for a model with {differ[0]} {mine[differ[0]]}, and this one has "
                f"{wanted[differ[0]]}: plan again"
            )
        if self.batch != batch:
            raise PlanError(
                f"the plan is for a batch of {self.batch}, and this run's is {batch}: plan again"
            )


def plan(
    model: str | Model | Any,
    cluster: str | Path | Cluster,
    batch: int,
    *,
    objective: str = "time",
    progress: Callable[[int, int], None] = lambda done, of: None,
    **more: Any,
) -> Search:
    """Search for the best way to train a model on a cluster; `make_plan` makes a plan of a
    candidate that was found.

    The other arguments are those of `make_request`. Raises PlanError or ClusterError for what
    cannot be.
    """
    if objective not in OBJECTIVES:
        raise PlanError(f"there is no objective {objective}; there are {', '.join(OBJECTIVES)}")
    return search(make_request(model, cluster, batch, **more), objective, progress)


def make_request(
    model: str | Model | Any,
    cluster: str | Path | Cluster,
    batch: int,
    *,
    ranks: int = 0,
    memory: float = 0.0,
    program: Program | None = None,
    states: int = ADAM_STATES,
    options: Parallelism | None = None,
    fixed: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Request:
    """What is to be planned.

    `model` is one of MODELS by its name, a Model, or a config of `nn.models`; `cluster` a name, a
    file or a Cluster. `batch` counts samples. The other arguments are those of `Request`; without a
    `program`, devices that compute in half precision run Megatron-LM's, and others ringlet's.
    `states` are the float32 numbers that the optimizer keeps for each parameter.
    Raises PlanError or ClusterError for what cannot be.
    """
    if isinstance(model, str) and model not in MODELS:
        raise PlanError(f"there is no model {model}; there are {', '.join(MODELS)}")
    sizes = MODELS[model] if isinstance(model, str) else model
    if not isinstance(sizes, Model):
        sizes = model_of(sizes)
    if batch < 1:
        raise PlanError(f"a batch of {batch}; it must be at least 1")
    if not isinstance(cluster, Cluster):
        cluster = load_cluster(cluster)
    if program is None:
        program = MEGATRON if MEGATRON.precision.dtype in cluster.device.peak else RINGLET
    cluster.device.peak_of(program.precision.dtype)
    program = with_states(program, states)
    cluster.of(ranks or cluster.ranks)
    return Request(
        sizes, cluster, batch, ranks, memory, program, options or Parallelism(), fixed or {},
        facts or {},
    )  # fmt: skip


def with_states(program: Program, states: int) -> Program:
    """The program with an optimizer that keeps so many float32 numbers for each parameter."""
    if states == ADAM_STATES:
        return program
    precision = program.precision
    kept = precision.optimizer + 4 * (states - ADAM_STATES)
    return replace(program, precision=replace(precision, optimizer=kept))


def make_plan(
    candidate: Candidate, model: Model, cluster: Cluster, best: Sequence[Candidate] = ()
) -> Plan:
    """The plan that says what a candidate does, and what the next `best` would have done."""
    after = [one for one in best if one.setting != candidate.setting][:OTHERS]
    setting = candidate.setting
    return Plan(
        VERSION, setting.ranks, setting.batch, cluster.name, cluster.algorithms,
        str(links_of(cluster)),
        model=Sizes.of(model),
        choices=Choices.of(setting),
        predicted=_predicted(candidate),
        others=tuple(Other(Choices.of(one.setting), _predicted(one)) for one in after),
    )  # fmt: skip


def _predicted(one: Candidate) -> Predicted:
    return Predicted(one.simulation.seconds, one.memory)


def links_of(cluster: Cluster) -> Links:
    """The links of a cluster as `comm` knows them: between processes of a host through sockets,
    and between hosts."""
    found = Links()
    for tier in cluster.links:
        if not tier.memory:
            kind = "host" if tier.ranks <= cluster.devices else "network"
            found = replace(found, **{kind: tier.cost})
    return found


def load_plan(path: Path) -> Plan:
    """A plan from a file; raises PlanError, naming the file and the key that is wrong."""
    try:
        table = read_toml(path, ClusterError)
        version = table.get("version")
        if version != VERSION:
            raise ClusterError(f"version is {short(version)}; this ringlet reads {VERSION}")
        kinds = {"model": Sizes, "choices": Choices, "predicted": Predicted}
        parts = _parts(table, "", kinds)
        others = table.get("others", [])
        if not isinstance(others, list) or not all(isinstance(each, dict) for each in others):
            raise ClusterError(f"others is {short(others)}; it must be tables")
        of_others = {name: kinds[name] for name in ("choices", "predicted")}
        parts["others"] = tuple(
            make(Other, each, f"others[{n}]", **_parts(each, f"others[{n}].", of_others))
            for n, each in enumerate(others)
        )
        return make(Plan, table, **parts)
    except ClusterError as error:
        text = str(error)
        raise PlanError(text if str(path) in text else f"{path}: {text}") from error


def _parts(table: Mapping[str, Any], prefix: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Dataclasses of these kinds from the tables below a table."""
    for name in kinds:
        if name not in table:
            raise ClusterError(f"{prefix}{name} is missing")
    return {name: make(kind, table[name], f"{prefix}{name}") for name, kind in kinds.items()}
