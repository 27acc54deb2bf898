"""The progress of a training run, for the screen."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ringlet.comm.schedules.svg import counted
from ringlet.launcher.commands.pasted import command
from ringlet.launcher.supervisor.control import Notice
from ringlet.launcher.supervisor.output import Screen
from ringlet.runtime.training.callbacks import Callback, Facts
from ringlet.runtime.training.config import TrainConfig
from ringlet.runtime.training.metrics import METRICS

PLAIN_EVERY_S = 10.0
"""Between two lines where the output is not a terminal."""


class TrainingProgress(Callback):
    """Turns events into a live line, or into a plain line now and then; `quiet`, only into the
    conclusion."""

    def __init__(self, screen: Screen, quiet: bool = False) -> None:
        self._screen, self._quiet = screen, quiet
        self._settings: TrainConfig
        self._last: dict[str, Any] = {}
        self._headline = self._val_loss = ""
        self._rate = 0.0
        self._plain_at = 0.0
        self.steps = 0  # taken by this command

    def headline(self, settings: TrainConfig, workers: int, notes: Sequence[str] = ()) -> None:
        """Show what is trained, on how many workers, and notes on it, unless the last start has
        shown the same."""
        self._settings = settings
        mesh = f" ({settings.mesh})" if settings.mesh else ""
        experts = f"{settings.experts} experts, " if settings.experts else ""
        text = (
            f"training {settings.n_layer} layers, {settings.n_head} heads, {settings.n_embd} "
            f"wide, {experts}context {settings.block_size}, batch {settings.batch_size} on "
            f"{settings.data} with {counted(workers, 'worker')}{mesh}"
        )
        if text != self._headline:
            self._headline = text
            for line in (text, *notes):
                self._line(line)
        self._status("starting the workers")

    def start(self, facts: Facts) -> None:
        if facts["step"]:
            self._line(f"resumed after step {facts['step']}")
        self._status("the first step" if facts["step"] else "the first validation")

    def note(self, notice: Notice) -> None:
        """Take what rank 0 says besides: a `note` to show, the `sample` at the end."""
        if "note" in notice:
            self._screen.line(notice["note"])
        else:
            self._last |= notice

    def end(self, facts: Facts) -> None:
        self._last |= facts
        self._status("drawing a sample")

    def evaluation(self, facts: Facts) -> None:
        self._val_loss = f", validation {facts['val_loss']:.3f}{_bits(facts)}"
        if not facts["step"]:
            self._line(f"step 0/{self._settings.steps}{self._val_loss}")

    @property
    def step_taken(self) -> int:
        """The last step, as far as it is known here."""
        return int(self._last.get("step", 0))

    def step(self, facts: Facts) -> None:
        row, self._last = facts, {**self._last, **facts}
        self.steps += 1
        self._rate = 0.9 * self._rate + 0.1 * row["step_s"] if self._rate else row["step_s"]
        text = self._text(row)
        if self._screen.live and not self._quiet:
            self._status(text)
            if "val_loss" in row:
                self._screen.line(text)
        elif "val_loss" in row or time.monotonic() >= self._plain_at:
            self._plain_at = time.monotonic() + PLAIN_EVERY_S
            self._line(text)

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._screen.line(text)

    def _status(self, text: str) -> None:
        if not self._quiet:
            self._screen.status(text)

    def _text(self, row: Facts) -> str:
        left = int((self._settings.steps - row["step"]) * self._rate)
        tokens = self._settings.batch_size * self._settings.block_size / self._rate
        return (
            f"step {row['step']}/{self._settings.steps}  loss {row['loss']:.3f}{self._val_loss}  "
            f"{tokens:,.0f} tokens/s  epoch {row['epoch']:.2f}  {left // 60}:{left % 60:02d} left"
        )

    def conclude(self, folder: Path, workers: Sequence[str] = ()) -> None:
        """Show the result, where it is, and how to continue, on this number of `workers`."""
        last, steps = self._last, self._settings.steps
        ended, more = ("stopped", steps) if last["stopped"] else ("done", 2 * steps)
        unit = "byte" if last["as_bytes"] else "token"
        sample = f"\n--- a sample ---\n{last['sample']}\n---\n\n" if last["sample"] else ""
        go_on: tuple[str | Path, ...] = (
            "--resume",
            "--out",
            folder,
            "--steps",
            str(more),
            *workers,
        )
        prompt = "The " if last["speaks"] else "0"
        self._screen.status("")
        self._screen.line(
            f"{ended} after step {last['step']}: validation loss {last['val_loss']:.4f} nats per "
            f"{unit}{_bits(last)}\n{sample}"
            f"checkpoint  {last['checkpoint']}\n"
            f"metrics     {folder / METRICS}\n"
            f"continue    {command('train', *go_on)}\n"
            f"generate    {command('generate', '--from', folder, '--prompt', prompt)}"
        )


def _bits(row: Facts) -> str:
    """The validation loss in the unit in which models of any vocabulary can be compared."""
    bits = row.get("val_bits_per_byte")
    return "" if bits is None else f" ({bits:.3f} bits per byte)"
