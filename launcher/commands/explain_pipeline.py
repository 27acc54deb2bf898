"""`ringlet explain pipeline`: a schedule drawn and proven, its bubble and its activations."""

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Annotated

import typer

from ringlet.launcher.errors import UserError
from ringlet.runtime.pipeline.actions import PipelineSchedule
from ringlet.runtime.pipeline.draw import draw_text
from ringlet.runtime.pipeline.formulas import Bubble, bubble
from ringlet.runtime.pipeline.picture import draw_svg
from ringlet.runtime.pipeline.price import Costs, PipelinePrice, price
from ringlet.runtime.pipeline.prove import PipelineProof, prove
from ringlet.runtime.pipeline.schedules import SCHEDULES, make_schedule

DRAWN, PICTURED, EXPLAINED = 1_000, 4_000, 20_000
"""Up to so many forwards of all stages a drawing fits a screen, a picture a page, and so on."""


@dataclass(frozen=True)
class Question:
    """A model on so many ranks. Times are those of all layers of a rank, for one micro-batch."""

    stages: int
    micro_batches: int
    forward: float
    backward: float
    weights: float
    transfer: float

    def answer(self, name: str, chunks: int) -> "Answer":
        """Raises UserError with what would fit if the schedule cannot be made."""
        try:
            schedule = make_schedule(name, self.stages, self.micro_batches, chunks)
        except ValueError as error:
            raise UserError(str(error)) from error
        times = (self.forward, self.backward - self.weights, self.weights)
        forward, inputs, weights = (time / chunks for time in times)
        costs = Costs(forward, inputs, weights, transfer=self.transfer)
        formula = bubble(schedule, forward, inputs, weights)
        return Answer(schedule, costs, price(schedule, costs), prove(schedule), formula)


@dataclass(frozen=True)
class Answer:
    """A schedule, and what its readers say."""

    schedule: PipelineSchedule
    costs: Costs
    priced: PipelinePrice
    proof: PipelineProof
    formula: Bubble | None

    @property
    def peaks(self) -> list[str]:
        """Activations in flight, of all layers of a rank: a chunk's count for so much less."""
        return [f"{peak / self.schedule.chunks:g}" for peak in self.proof.peaks]


def explain_pipeline(
    schedule: Annotated[str, typer.Option(help=f"{', '.join(SCHEDULES)}.")] = "1f1b",
    stages: Annotated[int, typer.Option(help="How many ranks the layers are cut among.")] = 4,
    micro_batches: Annotated[int, typer.Option(help="How many in a step.")] = 8,
    chunks: Annotated[
        int | None, typer.Option(help="Of layers on each rank.  [default: 2 if interleaved, or 1]")
    ] = None,
    forward: Annotated[str, typer.Option(help="Time of a rank's layers, in any unit.")] = "1",
    backward: Annotated[str, typer.Option(help="Time of inputs and weights together.")] = "2",
    weights: Annotated[
        str, typer.Option(help="What the weights take of --backward.  [default: half]")
    ] = "",
    transfer: Annotated[str, typer.Option(help="Time of a message between stages.")] = "0",
    svg: Annotated[Path | None, typer.Option(help="Write the picture to this file.")] = None,
) -> None:
    """Draw a pipeline schedule, prove that it is right, and state its bubble and activations."""
    chosen = _chunks(schedule, chunks)
    _check_size(stages, micro_batches, max(chosen, 2))
    question = _question(stages, micro_batches, forward, backward, weights, transfer)
    answer = question.answer(schedule, chosen)
    if svg is not None:
        _picture(answer, svg)
    typer.echo(f"{answer.schedule}\n")
    _draw(answer)
    _state(answer)
    _compare(question, answer)


def _chunks(schedule: str, chunks: int | None) -> int:
    if chunks is not None:
        return chunks
    return 2 if schedule in SCHEDULES and SCHEDULES[schedule].interleaves else 1


def _check_size(stages: int, micro_batches: int, chunks: int) -> None:
    for option, number in (("--stages", stages), ("--micro-batches", micro_batches)):
        if number < 1:
            raise UserError(f"{option} is {number}; it has to be at least 1")
    forwards = stages * chunks * micro_batches
    if forwards > EXPLAINED:
        raise UserError(
            f"{stages} stages x {chunks} chunks x {micro_batches} micro-batches are {forwards} "
            f"forwards; the most that are explained are {EXPLAINED}"
        )


def _question(
    stages: int, micro_batches: int, forward: str, backward: str, weights: str, transfer: str
) -> Question:
    whole = _time(backward, "--backward")
    part = _time(weights, "--weights") if weights else whole / 2
    if part > whole:
        raise UserError(f"--weights is {weights}; it is a part of --backward, {backward}")
    question = Question(
        stages,
        micro_batches,
        _time(forward, "--forward"),
        whole,
        part,
        _time(transfer, "--transfer"),
    )
    if not question.forward + question.backward:
        raise UserError("--forward and --backward are 0; one of them has to take time")
    return question


def _time(text: str, option: str) -> float:
    if not re.fullmatch(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}", text):
        raise UserError(f"{option} is {text!r}; it takes a time in any unit, as in 1 or 2.5")
    return float(text)


def _picture(answer: Answer, path: Path) -> None:
    if _forwards(answer) > PICTURED:
        raise UserError(f"a picture of {answer.schedule} is too large; leave out --svg")
    try:
        path.write_text(draw_svg(answer.schedule, answer.costs), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _draw(answer: Answer) -> None:
    if _forwards(answer) > DRAWN:
        typer.echo(f"(Drawings are made of up to {DRAWN} forwards.)\n")
    else:
        typer.echo(draw_text(answer.schedule, answer.costs))


def _forwards(answer: Answer) -> int:
    return answer.schedule.stages * answer.schedule.micro_batches


def _state(answer: Answer) -> None:
    """What is proven, the bubble, and the peaks."""
    schedule, formula = answer.schedule, answer.formula
    typer.echo("Proven: no rank waits for ever, no message is left over, every stage takes each")
    typer.echo("forward and each backward once, backwards in the order of the micro-batches.")
    typer.echo(f"A rank sends up to {max(answer.proof.sent)} messages.\n")
    typer.echo(
        f"Bubble: {_percent(answer.priced.bubbles[0])} of {answer.priced.makespan:g} units of time"
    )
    if formula is None:
        typer.echo("  formula: none for fewer micro-batches than stages where W > F or W > I")
    else:
        free = " without transfers" if answer.costs.transfer else ""
        typer.echo(f"  formula{free}: {formula.text} = {_percent(formula.part)}")
    peaks = f"Peak of activations, in micro-batches, from rank 0: {', '.join(answer.peaks)}"
    typer.echo(fill(peaks, 96, subsequent_indent="  "))
    if schedule.chunks > 1:
        typer.echo(f"  (a chunk has 1/{schedule.chunks} of the layers, so its count as that much)")
    typer.echo("")


def _compare(question: Question, chosen: Answer) -> None:
    """All schedules, each with its own chunks."""
    typer.echo(f"  {'schedule':<18}{'time':>8}{'bubble':>10}{'formula':>10}{'activations':>14}")
    for name, spec in SCHEDULES.items():
        chunks = max(2, chosen.schedule.chunks) if spec.interleaves else 1
        own = name == chosen.schedule.name
        answer = chosen if own else question.answer(name, chunks)
        measured = _percent(answer.priced.bubbles[0])
        formula = _percent(answer.formula.part) if answer.formula else "-"
        label = f"{name} x {chunks}" if chunks > 1 else name
        typer.echo(
            f"{'>' if own else ' '} {label:<18}{answer.priced.makespan:>8g}"
            f"{measured:>10}{formula:>10}{max(answer.peaks, key=float):>14}"
        )
    typer.echo(
        "\np stages, m micro-batches, v chunks of layers on each; F forward, I backward to the"
    )
    typer.echo("inputs, W to the weights. Activations: of micro-batches, on the rank with most.")


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"
