"""`ringlet key new`: make a job key."""

from pathlib import Path
from typing import Annotated

import typer

from ringlet.comm.join.key import JobKey, write_key
from ringlet.launcher.commands.pasted import quoted
from ringlet.launcher.errors import UserError, user_errors

keys = typer.Typer(rich_markup_mode=None)


@keys.callback()
def _group() -> None:
    """Make job keys: whoever has a job's key can join it."""


@keys.command("new")
def new(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to make; only you can read it.")
    ] = None,
) -> None:
    """Make a job key, and print it unless --out is given.

    Copy the file to every host and set RINGLET_KEY_FILE to its path there, or set RINGLET_KEY to
    the key itself."""
    if out is None:
        typer.echo(JobKey.new().text)
        return
    if out.exists():
        raise UserError(f"{out} already exists; jobs that use it would lose their key")
    with user_errors(os_error=f"cannot write {out}"):
        write_key(out)
    typer.echo(f"wrote {out}; on every host: export RINGLET_KEY_FILE={quoted(out.resolve())}")
