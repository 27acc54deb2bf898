"""`ringlet key new`: make a job key."""

from dataclasses import dataclass
from pathlib import Path

import click

from ringlet.comm.join.key import JobKey, write_key
from ringlet.launcher.commands.options import Group, with_options
from ringlet.launcher.commands.pasted import quoted
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option


@dataclass(frozen=True)
class KeyOptions:
    """Where the key goes."""

    out: Path | None = option(None, "File to make; only you can read it.", metavar="FILE")


@with_options(options=KeyOptions)
def new(options: KeyOptions) -> None:
    """Make a job key, and print it unless --out is given.

    Copy the file to every host and set RINGLET_KEY_FILE to its path there, or set RINGLET_KEY to
    the key itself."""
    out = options.out
    if out is None:
        click.echo(JobKey.new().text)
        return
    if out.exists():
        raise UserError(f"{out} already exists; jobs that use it would lose their key")
    with user_errors(os_error=f"cannot write {out}"):
        write_key(out)
    click.echo(f"wrote {out}; on every host: export RINGLET_KEY_FILE={quoted(out.resolve())}")


keys = Group(
    "key",
    help="Make job keys: whoever has a job's key can join it.",
    commands=[new],
)
