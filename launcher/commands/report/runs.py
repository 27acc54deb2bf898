"""A run's folder, read for its report."""

import math
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ringlet.comm.schedules.svg import counted
from ringlet.launcher.commands.train.prepare import PLAN
from ringlet.launcher.errors import UserError
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.mesh import MeshError
from ringlet.runtime.planning.footprint import Footprint, footprints
from ringlet.runtime.planning.models import Model, model_of
from ringlet.runtime.planning.plan import Plan, PlanError, load_plan, with_states
from ringlet.runtime.planning.setting import RINGLET, Setting
from ringlet.runtime.planning.traffic import traffic
from ringlet.runtime.tracing import Measures, Trace, TraceError, measure, read_trace
from ringlet.runtime.tracing.chrome import HEAD
from ringlet.runtime.training.config import ConfigError, TrainConfig, check_config
from ringlet.runtime.training.factories import model_config, optimizer_states
from ringlet.runtime.training.fit import check_fit, mesh_shape, parallelism
from ringlet.runtime.training.metrics import METRICS, RANKS, read_rows
from ringlet.runtime.training.record import END, RUN, read_record

NUMBERS = (
    "step", "loss", "val_loss", "learning_rate", "grad_norm", "tokens", "step_s", "tokens_per_s",
    "comm_s", "mfu", "elapsed_s",
)  # fmt: skip

T = TypeVar("T")

LARGEST = 2_000
"""Forwards of a pipeline, blocks, or experts, for which formulas are still quick."""

MOST_IDS = 2**31
"""More workers, or ids of tokens, no run has."""


@dataclass
class Run:
    """What a folder holds; `notes` say what of it could not be read."""

    folder: Path
    name: str = ""
    columns: dict[str, Array] = field(default_factory=dict)
    """By NUMBERS: of each step, NaN where there is none."""

    ranks: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)
    plan: Plan | None = None
    notes: list[str] = field(default_factory=list)
    config: TrainConfig | None = None
    model: Model | None = None
    setting: Setting | None = None
    footprints: tuple[Footprint, ...] = ()
    traffic: list[dict[str, float]] = field(default_factory=list)
    """By rank of the pipeline, as the formulas say; nothing if they cannot."""

    trace: Trace | None = None
    measures: Measures | None = None

    def points(self, name: str, over: str = "step") -> tuple[Array, Array]:
        """Where a number was measured, and the number."""
        x, y = self.columns[over], self.columns[name]
        there = np.isfinite(y) & np.isfinite(x)
        return x[there], y[there]

    def of_stage(self, found: Sequence[T], rank: int) -> T | None:
        """What formulas say of a rank; the pipeline is the slowest axis of a mesh."""
        if self.setting is None or not found or rank >= self.setting.ranks:
            return None
        return found[rank // (self.setting.ranks // self.setting.mesh["pp"])]

    def median(self, name: str) -> float:
        """Of all steps; NaN if there are none."""
        _, found = self.points(name)
        return float(np.median(found)) if len(found) else math.nan


def read_run(folder: Path, name: str) -> Run:
    """The run in this folder; raises UserError if there is none, or it has no metrics."""
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "is not there"
        raise UserError(f"{folder} {what}: name the folder of a run, as runs/pydoc-nano")
    run = Run(folder, name)
    run.about, run.end = (read_record(folder / each) or {} for each in (RUN, END))
    metrics = folder / METRICS
    if not metrics.is_file() and not run.about:
        raise UserError(f"{folder} is no folder of a run: it has neither {METRICS} nor {RUN}")
    run.columns = _columns(run, metrics)
    if not len(run.columns["step"]) and not run.end:
        raise UserError(f"{folder} has no metrics yet: {METRICS} holds no row")
    _ranks(run)
    if (folder / PLAN).exists():
        try:
            run.plan = load_plan(folder / PLAN)
        except (PlanError, OSError) as error:
            run.notes.append(f"the plan is left out: {error}")
    _sizes(run)
    _trace(run)
    return run


def _columns(run: Run, path: Path) -> dict[str, Array]:
    columns = {name: array("d") for name in NUMBERS}
    wrong, lost = 0, array("q")
    for row in read_rows(path) if path.is_file() else ():
        if row is None:
            wrong += 1
            continue
        loss = row.get("loss")
        if type(loss) is float and not math.isfinite(loss):
            lost.append(row["step"])
        for name, column in columns.items():
            before = 0 if row["step"] == 0 and name in ("tokens", "elapsed_s") else None
            column.append(_number(row.get(name, before)))
    _say_wrong(run, path, wrong)
    if lost:
        steps = f"{counted(len(lost), 'step')}, first of step {lost[0]}"
        run.notes.append(f"the loss of {steps}, is infinite or no number: it is not drawn")
    if not wrong and not len(columns["step"]):
        run.notes.append(f"there are no curves: {path} holds no row")
    return {name: np.frombuffer(column, np.float64) for name, column in columns.items()}


def _ranks(run: Run) -> None:
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    path, wrong = run.folder / RANKS, 0
    for row in read_rows(path) if path.is_file() else ():
        if row is None or not _is_of_rank(row):
            wrong += 1
        else:
            found[row["rank"]].append(row)
    _say_wrong(run, path, wrong)
    if not wrong and not found:
        run.notes.append(f"there are no figures of ranks: {path} holds no row")
    run.ranks = dict(sorted(found.items()))


def _is_of_rank(row: dict[str, Any]) -> bool:
    rank = row.get("rank")
    return type(rank) is int and rank >= 0 and _number(row.get("steps")) >= 1


def _say_wrong(run: Run, path: Path, wrong: int) -> None:
    if wrong:
        lines = "a line" if wrong == 1 else f"{wrong} lines"
        run.notes.append(f"{lines} of {path} left out: not a whole row")


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else math.nan


def _sizes(run: Run) -> None:
    """The model and its setting, for the formulas."""
    try:
        values = run.about["config"]
        sizes = workers, vocabulary = run.about["workers"], run.about["vocab_size"]
        if not isinstance(values, dict) or not all(
            type(each) is int and 0 < each < MOST_IDS for each in sizes
        ):
            raise ValueError(f"{RUN} is damaged")
        run.config = config = check_config(values)
        check_fit(config, workers)
        mesh = mesh_shape(config, workers)
        replicas, count = mesh["dp"] * mesh["ep"], config.accumulate
        share, left = divmod(config.batch_size, replicas * count)
        if left or not share:
            raise MeshError(f"a batch of {config.batch_size} has no equal parts for the ranks")
        if max(config.n_layer, config.experts, mesh["pp"] * count) > LARGEST:
            raise MeshError("there are too many parts")
        program = with_states(RINGLET, optimizer_states(config))
        model = model_of(model_config(config, vocabulary))
        setting = Setting(mesh, config.batch_size, share, parallelism(config), program)
        run.footprints = footprints(model, setting)
        run.traffic = [] if config.compress_activations else traffic(model, setting)
        run.model, run.setting = model, setting
    except KeyError:
        run.notes.append(f"there is no {RUN}, which an older ringlet did not write: no formulas")
    except (ConfigError, MeshError, ValueError, TypeError, ArithmeticError) as error:
        run.notes.append(f"formulas are left out: {error}")


def _trace(run: Run) -> None:
    """The newest trace in the folder."""
    found = []
    for path in run.folder.glob("*.json"):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(HEAD)) == HEAD.encode():
                    found.append(path)
    for path in sorted(found, key=lambda path: path.stat().st_mtime)[-1:]:
        try:
            trace = read_trace(path)
            run.measures = measure(trace)
            run.trace = trace
        except (TraceError, OSError) as error:
            run.notes.append(f"the trace is left out: {error}")


def weighted(rows: list[dict[str, Any]], name: str) -> float:
    """The mean of a figure of a rank over all steps."""
    pairs = [(_number(row.get(name)), row["steps"]) for row in rows]
    pairs = [(value, steps) for value, steps in pairs if math.isfinite(value)]
    total = sum(steps for _, steps in pairs)
    return sum(value * steps for value, steps in pairs) / total if total else math.nan


def most(rows: list[dict[str, Any]], name: str) -> float:
    """The largest of a figure of a rank."""
    return max((v for row in rows if math.isfinite(v := _number(row.get(name)))), default=math.nan)


def sent(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Bytes of a step that a rank has sent, by operation."""
    flat = [
        {"steps": row["steps"], **row["sent_bytes"]}
        for row in rows
        if isinstance(row.get("sent_bytes"), dict)
    ]
    names = dict.fromkeys(name for row in flat for name in row if name != "steps")
    return {name: weighted([{name: 0, **row} for row in flat], name) for name in names}
