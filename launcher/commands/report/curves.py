"""What changes from step to step: losses, the learning rate, speed; of one run or of several."""

from collections.abc import Iterator, Sequence

from ringlet.comm.schedules.lines import PARTS, Line, draw_lines
from ringlet.launcher.commands.report.page import charts, paragraph
from ringlet.launcher.commands.report.runs import Run

AXES = {"step": "steps", "tokens": "tokens", "elapsed_s": "seconds"}

CURVES = {
    "learning_rate": "learning rate",
    "grad_norm": "norm of the gradients",
    "tokens_per_s": "tokens in a second",
    "mfu": "MFU",
}
FROM_ZERO = ("learning_rate", "tokens_per_s", "mfu")


def curves(run: Run) -> str:
    """All curves of a run."""
    lines = [
        Line("training", *run.points("loss")),
        Line("validation", *run.points("val_loss"), True),
    ]
    pictures = [] if _empty(lines) else [draw_lines("loss, nats per token", lines, "steps")]
    return charts([*pictures, *_others([("", run)])]) + _note([run])


def together(named: Sequence[tuple[str, Run]]) -> str:
    """Several runs over each other."""
    pictures = []
    for over, words in AXES.items():
        for number, what in (("val_loss", "validation loss"), ("loss", "training loss")):
            lines = [Line(name, *run.points(number, over)) for name, run in named]
            if number == "val_loss":
                lines = [line._replace(dots=len(line.x) <= 40) for line in lines]
            if not _empty(lines):
                pictures.append(draw_lines(f"{what} over {words}", lines, words))
    return charts([*pictures, *_others(named)]) + _note([run for _, run in named])


def _others(named: Sequence[tuple[str, Run]]) -> Iterator[str]:
    for number, words in CURVES.items():
        lines = [Line(name, *run.points(number)) for name, run in named]
        if not _empty(lines):
            yield draw_lines(words, lines, "steps", from_zero=number in FROM_ZERO)


def _empty(lines: Sequence[Line]) -> bool:
    return not any(len(line.x) for line in lines)


def _note(runs: Sequence[Run]) -> str:
    if all(len(run.columns["step"]) <= PARTS for run in runs):
        return ""
    return paragraph(
        f"A line with more than {PARTS} points is drawn in {PARTS} parts: the mean of each, in a "
        "band from its lowest to its highest value.",
        "note",
    )
