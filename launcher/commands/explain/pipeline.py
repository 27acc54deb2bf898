"""`ringlet explain pipeline`: a schedule drawn and proven, its bubble and its activations."""

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import click

from ringlet.launcher.commands.explain.collective import write_file
from ringlet.launcher.commands.options import with_options
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.runtime.mesh import MeshError
from ringlet.runtime.options import parse_layers
from ringlet.runtime.pipeline.activations import peak_activations
from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.draw import draw_text
from ringlet.runtime.pipeline.formulas import NO_FORMULA, bubble
from ringlet.runtime.pipeline.picture import draw_svg
from ringlet.runtime.pipeline.price import price
from ringlet.runtime.pipeline.prove import prove
from ringlet.runtime.pipeline.schedule_file import write_schedule
from ringlet.runtime.pipeline.schedules import (
    SCHEDULES,
    fit_problem,
    make_schedule,
    named,
    recipe_of,
)

DRAWN, PICTURED, EXPLAINED = 1_000, 4_000, 20_000
"""The most forwards of all stages whose drawing fits a screen, whose picture fits a page, ..."""


@dataclass(frozen=True)
class Times:
    """Of all layers of a rank: their forward, backward to inputs and to weights; and of a message
    between stages. `layers` are those of each stage, if they are not equally many."""

    forward: float
    inputs: float
    weights: float
    transfer: float
    layers: tuple[int, ...] = ()

    def costs(self, chunks: int) -> Costs:
        """For stages that are 1/chunks of a rank's layers, or have their own number."""
        parts = self.parts(chunks)
        forward, inputs, weights = ([time * part for part in parts] for time in self.of_layers)
        if not self.layers:
            return Costs(forward[0], inputs[0], weights[0], self.transfer)
        return Costs(forward, inputs, weights, self.transfer)

    def parts(self, chunks: int) -> list[float]:
        """Of a rank's layers, on average, by stage; one for all without `layers`."""
        layers = self.layers or (1,)
        return [count * len(layers) / sum(layers) / chunks for count in layers]

    @property
    def of_layers(self) -> tuple[float, float, float]:
        """The times that depend on the number of layers."""
        return self.forward, self.inputs, self.weights


class Explained:
    """A schedule with its price at these times. Raises UserError, with what would fit, if the
    schedule cannot be made."""

    def __init__(
        self, name: str, stages: int, micro_batches: int, chunks: int, times: Times
    ) -> None:
        self.costs, self.layers = times.costs(chunks), times.layers
        with user_errors(ValueError):
            self.schedule = make_schedule(name, stages, micro_batches, chunks, self.costs)
        self.priced = price(self.schedule, self.costs)
        parts = times.parts(chunks)
        each = (time * parts[0] for time in times.of_layers)
        self.formula = None if times.layers else bubble(self.schedule, *each)
        self.forwards = self.schedule.stages * micro_batches
        # In micro-batches of all layers of a rank, on average.
        held = peak_activations(self.schedule, parts if times.layers else parts[0])
        self.peaks = [f"{peak:g}" for peak in held]


@dataclass(frozen=True)
class PipelineOptions:
    """A pipeline schedule. Times are those of all layers of a rank, for one micro-batch."""

    schedule: str = option(
        "1f1b", f"One of {', '.join(SCHEDULES)}, or a file NAME.csv as PyTorch's.", metavar="NAME"
    )
    stages: int | None = option(
        None, "Number of ranks that the layers are divided among.", shown="4, or as a file says"
    )
    micro_batches: int | None = option(
        None, "Number of micro-batches in a step.", shown="8, or as a file says"
    )
    chunks: int | None = option(
        None, "Chunks of layers on each rank.", shown="as few as the schedule needs"
    )
    layers_per_stage: str = option(
        "", "Layers of each stage, as in 3,5,4; all times grow with them.", metavar="N,N,..."
    )
    forward: str = option("1", "Forward time of a rank's layers, in any unit.", metavar="TIME")
    backward: str = option("2", "Backward time, for inputs and weights together.", metavar="TIME")
    weights: str = option(
        "", "The part of --backward that the weights take.", metavar="TIME", shown="half"
    )
    transfer: str = option("0", "Time of a message between stages.", metavar="TIME")
    svg: Path | None = option(None, "Write a picture to this file.", metavar="FILE")
    csv: Path | None = option(
        None, "Write the schedule to this file, as PyTorch's.", metavar="FILE"
    )

    def sizes(self, schedule: str) -> tuple[int, int, int]:
        """Ranks, micro-batches and chunks of this schedule (a name, or the text of a file); raises
        UserError unless it is small enough to explain."""
        with user_errors(ValueError):
            recipe = recipe_of(schedule)
            fits = recipe.fits or (4, 8)
            if problem := fit_problem(schedule, self.stages or 0, self.micro_batches or 0):
                raise UserError(problem)
        stages = fits[0] if self.stages is None else self.stages
        micro_batches = fits[1] if self.micro_batches is None else self.micro_batches
        chunks = recipe.chunks[0] if self.chunks is None else self.chunks
        for name, number in (
            ("--stages", stages), ("--micro-batches", micro_batches), ("--chunks", chunks),
        ):  # fmt: skip
            if number < 1:
                raise UserError(f"{name} is {number}; it must be at least 1")
        forwards = stages * max(2, chunks) * micro_batches
        if forwards > EXPLAINED:
            raise UserError(
                f"{stages} stages x {max(2, chunks)} chunks x {micro_batches} micro-batches are "
                f"{forwards} forwards; the most that are explained are {EXPLAINED}"
            )
        return stages, micro_batches, chunks

    def times(self, stages: int) -> Times:
        """The times for so many stages; raises UserError."""
        backward = _time(self.backward, "--backward")
        weights = _time(self.weights, "--weights") if self.weights else backward / 2
        if weights > backward:
            raise UserError(f"--weights is {weights:g}; it is a part of --backward, {backward:g}")
        forward, transfer = _time(self.forward, "--forward"), _time(self.transfer, "--transfer")
        if not forward + backward:
            raise UserError("--forward and --backward are 0; one of them must take time")
        with user_errors(MeshError):
            layers = parse_layers(self.layers_per_stage)
        if layers and (len(layers) != stages or min(layers) < 1):
            raise UserError(
                f"--layers-per-stage is {self.layers_per_stage}; it takes {stages} numbers of at "
                "least 1"
            )
        return Times(forward, backward - weights, weights, transfer, layers)


@with_options(options=PipelineOptions)
def pipeline(options: PipelineOptions) -> None:
    """Draw, prove and price a pipeline schedule.

    States its bubble and its activations, and compares it with the other schedules.
    """
    with user_errors(ValueError):
        schedule = named(options.schedule)
    ranks, micro_batches, chunks = options.sizes(schedule)
    times = options.times(ranks * chunks)
    chosen = Explained(schedule, ranks, micro_batches, chunks, times)
    if options.csv is not None:
        write_file(write_schedule(chosen.schedule), options.csv)
    if options.svg is not None:
        if chosen.forwards > PICTURED:
            raise UserError(f"a picture of {chosen.schedule} is too large; leave out --svg")
        write_file(draw_svg(chosen.schedule, chosen.costs), options.svg)
    click.echo(f"{chosen.schedule}\n")
    if chosen.forwards > DRAWN:
        click.echo(f"(Drawings are made of up to {DRAWN} forwards.)\n")
    else:
        click.echo(draw_text(chosen.schedule, chosen.costs))
    _state(chosen)
    click.echo(f"  {'schedule':<18}{'time':>8}{'bubble':>10}{'formula':>10}{'activations':>14}")
    for name, recipe in SCHEDULES.items():
        several = int(min(max(recipe.chunks[0], chunks), recipe.chunks[1]))
        if name != schedule and (several == chunks or not times.layers):
            _row(Explained(name, ranks, micro_batches, several, times), " ")
        elif name == schedule:
            _row(chosen, ">")
    if schedule not in SCHEDULES:
        _row(chosen, ">")
    click.echo(
        "\np stages, m micro-batches, v chunks of layers on each; F forward, I backward to the"
    )
    click.echo("inputs, W to the weights. Activations: of micro-batches, on the rank with most.")


def _time(text: str, option: str) -> float:
    if not re.fullmatch(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}", text):
        raise UserError(f"{option} is {text!r}; it takes a time in any unit, as in 1 or 2.5")
    return float(text)


def _state(explained: Explained) -> None:
    """What is proven, the bubble, and the peaks."""
    schedule, formula, priced = explained.schedule, explained.formula, explained.priced
    proof = prove(schedule)
    click.echo("Proven: no rank waits for ever, no message is left over, every stage takes each")
    click.echo("forward and each backward once, backwards in the order of the micro-batches.")
    click.echo(f"A rank sends up to {max(proof.sent)} messages.\n")
    least, most = _percent(min(priced.bubbles)), _percent(max(priced.bubbles))
    bubbles = most if least == most else f"{least} to {most}"
    click.echo(f"Bubble: {bubbles} of {priced.makespan:g} units of time")
    span, busy = max(zip(priced.spans, priced.busy, strict=True))
    if span < priced.makespan * (1 - 1e-9):
        part = 1 - busy / span
        click.echo(f"  {_percent(part)} of {span:g} from a rank's own first action to its last")
    if formula is None:
        reason = "for stages that differ" if explained.layers else NO_FORMULA.get(schedule.name)
        click.echo(f"  formula: none {reason or 'for a schedule from a file'}")
    else:
        free = " without transfers" if explained.costs.transfer else ""
        click.echo(f"  formula{free}: {formula.text} = {_percent(formula.part)}")
    peaks = f"Peak of activations, in micro-batches, from rank 0: {', '.join(explained.peaks)}"
    click.echo(fill(peaks, 96, subsequent_indent="  "))
    if schedule.chunks > 1 and not explained.layers:
        click.echo(f"  (a chunk has 1/{schedule.chunks} of the layers, so its count as that much)")
    click.echo("")


def _row(explained: Explained, mark: str) -> None:
    """A line of the table that compares all schedules."""
    schedule, formula, priced = explained.schedule, explained.formula, explained.priced
    label = schedule.name + (f" x {schedule.chunks}" if schedule.chunks > 1 else "")
    click.echo(
        f"{mark} {label:<18}{priced.makespan:>8g}{_percent(priced.bubble):>10}"
        f"{_percent(formula.part) if formula else '-':>10}{max(explained.peaks, key=float):>14}"
    )


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"
