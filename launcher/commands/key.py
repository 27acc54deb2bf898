"""`ringlet key new`: make a job key."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ringlet.comm.join.key import JobKey
from ringlet.launcher.errors import UserError

keys = typer.Typer(help="Job keys: whoever has a job's key can join it.", rich_markup_mode=None)


@keys.callback()
def _group() -> None:
    """Job keys: whoever has a job's key can join it."""


@keys.command("new")
def new(
    out: Annotated[
        Path | None, typer.Option(help="The file to make, readable by its owner only.")
    ] = None,
) -> None:
    """Make a job key. Copy the file to every host and set RINGLET_KEY_FILE to it there, or put the
    key itself into RINGLET_KEY. Without --out it is printed."""
    text = JobKey.new().text
    if out is None:
        typer.echo(text)
        return
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(out, flags, 0o600), "w") as file:
            file.write(text + "\n")
    except FileExistsError:
        raise UserError(f"{out} is there already; a job that uses it would lose its key") from None
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    typer.echo(f"wrote {out}; on every host: export RINGLET_KEY_FILE={out.resolve()}")
