"""Options of how workers run, and where what they write goes."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ringlet.launcher.errors import UserError


@dataclass(frozen=True)
class WorkerOptions:
    """The options, as given."""

    pin: Annotated[
        bool, typer.Option("--pin", help="Each worker has cores of its own, and runs on no other.")
    ] = False
    output: Annotated[
        Path | None,
        typer.Option(help="A folder: what rank 3 writes goes to rank-3.log in it, too."),
    ] = None
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="What the workers write is not shown, but for the first "
                     "failure."),
    ] = False  # fmt: skip
    prefix: Annotated[bool, typer.Option(help="Lines of several workers begin with host:rank.")] = (
        True
    )

    def check(self) -> None:
        """Make the folder; raises UserError for what cannot be."""
        if self.pin and not hasattr(os, "sched_setaffinity"):
            raise UserError("--pin: this system does not let programs choose their cores")
        if self.output is not None:
            try:
                self.output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--output {self.output}: {error.strerror}") from error
