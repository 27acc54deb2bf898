"""`ringlet explain ...`: collectives and pipeline schedules."""

from typing import Any

import typer
from typer.core import TyperGroup

from ringlet.launcher.commands.explain import explain
from ringlet.launcher.commands.explain_pipeline import explain_pipeline


class Explanations(TyperGroup):
    """Those of collectives need no command: `ringlet explain all-reduce`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in ("--help", *self.commands):
            args = ["collective", *args]
        return super().parse_args(ctx, args)


explanations = typer.Typer(
    cls=Explanations,
    help="Explain a collective (`ringlet explain all-reduce`) or a pipeline schedule (`ringlet "
    "explain pipeline`): drawn, proven and priced. Both have a --help of their own.",
    rich_markup_mode=None,
)
explanations.command(
    "collective", help=f"{explain.__doc__} The word `collective` can be left out."
)(explain)
explanations.command("pipeline")(explain_pipeline)
