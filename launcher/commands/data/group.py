"""`ringlet data ...`: text as tokens."""

import typer

from ringlet.launcher.commands.data.build import build
from ringlet.launcher.commands.data.show import show
from ringlet.launcher.commands.options import Command

data = typer.Typer(
    help="Make text into tokens to train on; look at them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
data.command("build", cls=Command)(build)
data.command("show", cls=Command)(show)
