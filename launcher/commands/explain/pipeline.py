"""`ringlet explain pipeline`: a schedule drawn and proven, its bubble and its activations."""

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import typer

from ringlet.launcher.commands.explain.collective import write_picture
from ringlet.launcher.commands.options import with_options
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.runtime.pipeline.activations import peak_activations
from ringlet.runtime.pipeline.costs import Costs
from ringlet.runtime.pipeline.draw import draw_text
from ringlet.runtime.pipeline.formulas import NO_FORMULA, bubble
from ringlet.runtime.pipeline.picture import draw_svg
from ringlet.runtime.pipeline.price import price
from ringlet.runtime.pipeline.prove import prove
from ringlet.runtime.pipeline.schedules import SCHEDULES, make_schedule, recipe_of

DRAWN, PICTURED, EXPLAINED = 1_000, 4_000, 20_000
"""The most forwards of all stages whose drawing fits a screen, whose picture fits a page, ..."""


class Explained:
    """A schedule with its price, at these times: of the forward of all layers of a
    rank, their backward for inputs and for weights, and a message between stages. Raises
    UserError, with what would fit, if the schedule cannot be made."""

    def __init__(
        self,
        name: str,
        stages: int,
        micro_batches: int,
        chunks: int,
        times: tuple[float, float, float, float],
    ) -> None:
        forward, inputs, weights = (time / chunks for time in times[:3])
        self.costs = Costs(forward, inputs, weights, transfer=times[3])
        with user_errors(ValueError):
            self.schedule = make_schedule(name, stages, micro_batches, chunks, self.costs)
        self.priced = price(self.schedule, self.costs)
        self.formula = bubble(self.schedule, forward, inputs, weights)
        self.forwards = self.schedule.stages * micro_batches
        # In micro-batches of all layers of a rank: a chunk has 1/chunks of them.
        self.peaks = [f"{peak / chunks:g}" for peak in peak_activations(self.schedule)]


@dataclass(frozen=True)
class PipelineOptions:
    """A pipeline schedule. Times are those of all layers of a rank, for one micro-batch."""

    schedule: str = option("1f1b", f"One of {', '.join(SCHEDULES)}.", metavar="NAME")
    stages: int = option(4, "Number of ranks that the layers are divided among.")
    micro_batches: int = option(8, "Number of micro-batches in a step.")
    chunks: int | None = option(
        None, "Chunks of layers on each rank.", shown="as few as the schedule needs"
    )
    forward: str = option("1", "Forward time of a rank's layers, in any unit.", metavar="TIME")
    backward: str = option("2", "Backward time, for inputs and weights together.", metavar="TIME")
    weights: str = option(
        "", "The part of --backward that the weights take.", metavar="TIME", shown="half"
    )
    transfer: str = option("0", "Time of a message between stages.", metavar="TIME")
    svg: Path | None = option(None, "Write a picture to this file.", metavar="FILE")

    def check(self, chunks: int) -> None:
        """Raise UserError unless the schedule is small enough to explain."""
        for name, number in (("--stages", self.stages), ("--micro-batches", self.micro_batches)):
            if number < 1:
                raise UserError(f"{name} is {number}; it must be at least 1")
        forwards = self.stages * chunks * self.micro_batches
        if forwards > EXPLAINED:
            raise UserError(
                f"{self.stages} stages x {chunks} chunks x {self.micro_batches} micro-batches are "
                f"{forwards} forwards; the most that are explained are {EXPLAINED}"
            )

    def times(self) -> tuple[float, float, float, float]:
        """Of forward, backward for inputs and for weights, and a message; raises UserError."""
        backward = _time(self.backward, "--backward")
        weights = _time(self.weights, "--weights") if self.weights else backward / 2
        if weights > backward:
            raise UserError(f"--weights is {weights:g}; it is a part of --backward, {backward:g}")
        forward, transfer = _time(self.forward, "--forward"), _time(self.transfer, "--transfer")
        if not forward + backward:
            raise UserError("--forward and --backward are 0; one of them must take time")
        return forward, backward - weights, weights, transfer


@with_options(options=PipelineOptions)
def pipeline(options: PipelineOptions) -> None:
    """Draw, prove and price a pipeline schedule.

    States its bubble and its activations, and compares it with the other schedules.
    """
    schedule, chunks = options.schedule, options.chunks
    with user_errors(ValueError):
        least = recipe_of(schedule).chunks[0]
    chunks = least if chunks is None else chunks
    if chunks < 1:
        raise UserError(f"--chunks is {chunks}; it must be at least 1")
    options.check(max(chunks, 2))
    sizes, times = (options.stages, options.micro_batches), options.times()
    chosen = Explained(schedule, *sizes, chunks, times)
    if options.svg is not None:
        if chosen.forwards > PICTURED:
            raise UserError(f"a picture of {chosen.schedule} is too large; leave out --svg")
        write_picture(draw_svg(chosen.schedule, chosen.costs), options.svg)
    typer.echo(f"{chosen.schedule}\n")
    if chosen.forwards > DRAWN:
        typer.echo(f"(Drawings are made of up to {DRAWN} forwards.)\n")
    else:
        typer.echo(draw_text(chosen.schedule, chosen.costs))
    _state(chosen)
    typer.echo(f"  {'schedule':<18}{'time':>8}{'bubble':>10}{'formula':>10}{'activations':>14}")
    for name, recipe in SCHEDULES.items():
        if name == schedule:
            _row(chosen, ">")
        else:
            several = int(min(max(recipe.chunks[0], chunks), recipe.chunks[1]))
            _row(Explained(name, *sizes, several, times), " ")
    typer.echo(
        "\np stages, m micro-batches, v chunks of layers on each; F forward, I backward to the"
    )
    typer.echo("inputs, W to the weights. Activations: of micro-batches, on the rank with most.")


def _time(text: str, option: str) -> float:
    if not re.fullmatch(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}", text):
        raise UserError(f"{option} is {text!r}; it takes a time in any unit, as in 1 or 2.5")
    return float(text)


def _state(explained: Explained) -> None:
    """What is proven, the bubble, and the peaks."""
    schedule, formula, priced = explained.schedule, explained.formula, explained.priced
    proof = prove(schedule)
    typer.echo("Proven: no rank waits for ever, no message is left over, every stage takes each")
    typer.echo("forward and each backward once, backwards in the order of the micro-batches.")
    typer.echo(f"A rank sends up to {max(proof.sent)} messages.\n")
    typer.echo(f"Bubble: {_percent(priced.bubbles[0])} of {priced.makespan:g} units of time")
    if max(priced.spans) < priced.makespan * (1 - 1e-9):
        part, span = 1 - max(priced.busy) / max(priced.spans), max(priced.spans)
        typer.echo(f"  {_percent(part)} of {span:g} from a rank's own first action to its last")
    if formula is None:
        typer.echo(f"  formula: none {NO_FORMULA[schedule.name]}")
    else:
        free = " without transfers" if explained.costs.transfer else ""
        typer.echo(f"  formula{free}: {formula.text} = {_percent(formula.part)}")
    peaks = f"Peak of activations, in micro-batches, from rank 0: {', '.join(explained.peaks)}"
    typer.echo(fill(peaks, 96, subsequent_indent="  "))
    if schedule.chunks > 1:
        typer.echo(f"  (a chunk has 1/{schedule.chunks} of the layers, so its count as that much)")
    typer.echo("")


def _row(explained: Explained, mark: str) -> None:
    """A line of the table that compares all schedules."""
    schedule, formula, priced = explained.schedule, explained.formula, explained.priced
    label = schedule.name + (f" x {schedule.chunks}" if schedule.chunks > 1 else "")
    typer.echo(
        f"{mark} {label:<18}{priced.makespan:>8g}{_percent(priced.bubbles[0]):>10}"
        f"{_percent(formula.part) if formula else '-':>10}{max(explained.peaks, key=float):>14}"
    )


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"
