"""`ringlet explain ...`: collectives and pipeline schedules."""

from typing import Any

import typer
from typer.core import TyperGroup

from ringlet.launcher.commands.explain.collective import collective
from ringlet.launcher.commands.explain.pipeline import pipeline
from ringlet.launcher.commands.options import Command


class CollectiveByDefault(TyperGroup):
    """A group that takes an unknown first word for a collective: `ringlet explain all-reduce`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in ("--help", *self.commands):
            args = ["collective", *args]
        return super().parse_args(ctx, args)


explain = typer.Typer(
    cls=CollectiveByDefault,
    help="Draw, prove and price a schedule.\n\nExplain a collective (`ringlet explain all-reduce`) "
    "or a pipeline schedule (`ringlet explain pipeline`); each has its own --help.",
    rich_markup_mode=None,
)
explain.command("collective", cls=Command)(collective)
explain.command("pipeline", cls=Command)(pipeline)
