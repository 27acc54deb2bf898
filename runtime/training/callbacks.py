"""The events of a training, for whoever records or shows it: one protocol.

The files of a run's folder, the progress on the screen, TensorBoard, MLflow and Weights & Biases
are such callbacks. Facts are dicts of what JSON can hold, so that events can also travel from a
worker to its launcher.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Facts: TypeAlias = Mapping[str, Any]

EVENTS = ("start", "step", "ranks", "evaluation", "checkpoint", "end", "failure")


class Callback:
    """Is told of a training; override the methods for what you want to know.

    `Trainer(..., callbacks=[...])` calls them on rank 0, in the thread that trains, in the order of
    the list. The next step waits for them, and what they raise ends the training on all ranks.
    """

    def start(self, facts: Facts) -> None:
        """Training begins after `step` (0, or more of a run that is resumed), up to `steps`.
        `config` has all options, `workers` is their number, `mesh` the length of each axis;
        `folder` is the run's, or None."""

    def step(self, facts: Facts) -> None:
        """A step has been taken: a row of metrics.jsonl (docs/reference/training.md)."""

    def ranks(self, facts: Facts) -> None:
        """About every second: `rows` of ranks.jsonl, one for each rank."""

    def evaluation(self, facts: Facts) -> None:
        """`val_loss` after `step`: at the beginning, and before the row of the step, which has it,
        too."""

    def checkpoint(self, facts: Facts) -> None:
        """The checkpoint of `step` is complete in `folder`."""

    def end(self, facts: Facts) -> None:
        """Training has ended after `step`, with `val_loss` and the last `checkpoint`; `stopped` if
        a signal asked for it."""

    def failure(self, facts: Facts) -> None:
        """Training has failed after `step`, by this `cause`. From the launcher, `ranks` has a row
        for each: rank, host, how it ended (`exit`), its `error` with its last operations, and what
        it was `doing` when the first failed."""

    def take(self, event: str, facts: Facts) -> None:
        """One of EVENTS, by its name."""
        getattr(self, event)(facts)


def tell(callbacks: Iterable[Callback], event: str, facts: Facts) -> None:
    """Tell all of them of an event."""
    for callback in callbacks:
        callback.take(event, facts)
