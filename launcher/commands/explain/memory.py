"""`ringlet explain memory` and `plan`: what each rank holds, and what a plan has chosen."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from ringlet.comm.schedules.svg import counted
from ringlet.launcher.commands.explain.chart import Box, Chart, Row, Section, ShowOptions
from ringlet.launcher.commands.explain.subject import Subject, options_for, setting_of
from ringlet.launcher.commands.options import Argument, with_options
from ringlet.launcher.commands.plan.asked import PROGRAMS
from ringlet.launcher.commands.plan.tables import gigabytes, recompute_text, schedule_text
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.launcher.units import seconds_text
from ringlet.runtime.mesh import MeshError, mesh_text, parse_mesh
from ringlet.runtime.options import Parallelism, parse_layers
from ringlet.runtime.planning.footprint import Footprint, footprints
from ringlet.runtime.planning.models import Model
from ringlet.runtime.planning.plan import Plan, PlanError, load_plan
from ringlet.runtime.planning.recompute import recomputed
from ringlet.runtime.planning.setting import Setting
from ringlet.runtime.training.config import ConfigError
from ringlet.runtime.training.corpus import DataError

PARTS = tuple(field.name for field in fields(Footprint))

Given = options_for(
    "zero", "accumulate", "schedule", "chunks", "layers_per_stage", "sequence", "recompute",
    "bucket_bytes", "compress",
)  # fmt: skip


@dataclass(frozen=True)
class ProgramOptions:
    """What trains."""

    program: str = option("ringlet", f"What trains: {' or '.join(PROGRAMS)}.", metavar="NAME")


@with_options(subject=Subject, options=ProgramOptions, show=ShowOptions, given=Given)
def memory(
    *, subject: Subject, options: ProgramOptions, show: ShowOptions, given: dict[str, Any]
) -> None:
    """Show what takes each rank's memory.

    Parameters, gradients, optimizer state and activations by the formulas that plans use, with what
    --recompute says, and with all blocks computed again.
    """
    if options.program not in PROGRAMS:
        raise UserError(f"there is no program {options.program}; there are {', '.join(PROGRAMS)}")
    with user_errors(ConfigError, DataError, MeshError):
        config, workers, model = subject.settled(Given, given, "dp")
        _, setting = setting_of(config, workers, model, PROGRAMS[options.program])
    sections = [_section(model, setting)]
    if setting.options.recompute != ("blocks",):
        sections.append(_section(model, recomputed(setting)))
    facts = [f"{model.parameters:,} parameters", str(setting), *_choices(setting)]
    show.show(Chart(f"memory: {model.name}", facts, PARTS, sections))


def _section(model: Model, setting: Setting) -> Section:
    patterns, rows = setting.options.recompute, []
    what = "all blocks" if patterns == ("blocks",) else recompute_text(patterns)
    for number, each in enumerate(footprints(model, setting)):
        rows.append(Row(_ranks(setting, number), bars(each), gigabytes(each.total)))
    return Section(f"computed again: {what if patterns else 'nothing'}", rows, gigabytes)


def bars(each: Footprint) -> list[Box]:
    """The parts of a rank's memory side by side."""
    found, start = [], 0.0
    for part in PARTS:
        size = getattr(each, part)
        found.append(Box(start, start + size, part, gigabytes(size)))
        start += size
    return found


def _ranks(setting: Setting, stage_rank: int) -> str:
    """The ranks with the same part of a pipeline."""
    together = setting.strides["pp"]
    first = stage_rank * together
    return f"ranks {first}-{first + together - 1}" if together > 1 else f"rank {first}"


def _choices(setting: Setting) -> Iterator[str]:
    options = setting.options
    yield from [schedule_text(setting)] if setting.mesh["pp"] > 1 else []
    yield from [f"zero {options.zero}"] if options.zero else []
    yield from ["sequence parallelism"] if options.sequence else []


@with_options(show=ShowOptions)
def plan(
    file: Annotated[Path, Argument("FILE", "A plan of `ringlet plan --out`.")],
    *,
    show: ShowOptions,
) -> None:
    """Show what a plan has chosen.

    Where the blocks lie, how a batch is cut, and what the step is expected to take.
    """
    with user_errors(PlanError, os_error=f"cannot read {file}"):
        found = load_plan(file)
    try:
        setting, rows = _planned(found), list[Row]()
        stages = setting.blocks_of(found.model.blocks)
    except MeshError as error:
        raise UserError(f"{file}: {error}") from error
    for number, own in enumerate(setting.stages_by_rank):
        here = [(chunk, stages[stage]) for chunk, stage in enumerate(own)]
        boxes = [Box(b.start, b.stop, f"chunk {c}", f"{b.start}-{b.stop - 1}") for c, b in here]
        count = counted(sum(len(blocks) for _, blocks in here), "block")
        rows.append(Row(_ranks(setting, number), boxes, count))
    options, seconds = setting.options, found.predicted.seconds
    again = recompute_text(options.recompute) if options.recompute else "nothing"
    note = (
        f"A batch of {found.batch} samples is cut over {counted(setting.replicas, 'replica')} with "
        f"{counted(setting.micro_batches, 'micro-batch', 'es')} of {setting.micro_batch} each. "
        f"Computed again in backward: {again}. Expected: {seconds_text(seconds)} a step, "
        f"{found.batch * found.model.context / seconds:,.0f} tokens/s, up to "
        f"{gigabytes(found.predicted.memory)} on a rank."
    )
    names = _plain(found.model.name) or "a model", _plain(found.cluster) or "a cluster"
    kinds = [f"chunk {chunk}" for chunk in range(options.chunks)]
    section = Section("blocks, by rank of the pipeline", rows, "{:g}".format)
    facts = [str(setting), *_choices(setting)]
    show.show(Chart(f"plan: {' on '.join(names)}", facts, kinds, [section], [note]))


def _planned(found: Plan) -> Setting:
    """The setting of a plan; raises MeshError if it contradicts itself."""
    chosen, mesh = found.choices, parse_mesh(found.choices.mesh)
    options = Parallelism(
        zero=chosen.zero, schedule=chosen.schedule, chunks=chosen.chunks,
        layers_per_stage=parse_layers(chosen.layers_per_stage), sequence=chosen.sequence,
        recompute=tuple(filter(None, chosen.recompute.split(","))),
    )  # fmt: skip
    once = Setting(mesh, found.batch, 1, options)
    size, left = divmod(once.micro_batches, chosen.accumulate)
    if found.ranks != once.ranks or left:
        count = counted(chosen.accumulate, "micro-batch", "es")
        raise MeshError(
            f"{mesh_text(mesh)} with {count} does not fit {counted(found.ranks, 'rank')} and a "
            f"batch of {found.batch}"
        )
    return Setting(mesh, found.batch, size, options)


def _plain(name: str) -> str:
    """A name from a file without what a terminal or XML would take for more."""
    return "".join(filter(str.isprintable, name))
