"""The reference of the command line, from the commands themselves."""

import re
from collections.abc import Iterator
from typing import Any

import click
from sphinx.application import Sphinx

from ringlet.launcher.cli import make_app

PAGE = "docs/reference/commands"


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", add_commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def add_commands(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append all commands to their page."""
    if docname == PAGE:
        root = make_app()
        source[0] += "".join(
            f"\n{line}\n" for name in root.commands for line in _command(root.commands[name], name)
        )


def _command(command: click.Command, name: str, depth: int = 2) -> Iterator[str]:
    """The paragraphs of a command and of those below it, in Markdown."""
    yield f"{'#' * depth} `ringlet {name}`"
    context = click.Context(command, info_name=f"ringlet {name}")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"```text\n{usage}\n```"
    yield from re.split(r"\n\s*\n", (command.help or "").replace("\b", "").strip())
    tables: dict[str, list[str]] = {}
    for param in command.params:
        record = param.get_help_record(context)
        if record is not None:
            tables.setdefault(getattr(param, "heading", None) or "", []).append(_row(*record))
    for heading, rows in tables.items():
        yield "\n".join([f"| {heading} | |", "|---|---|", *rows])
    for child, each in getattr(command, "commands", {}).items():
        yield from _command(each, f"{name} {child}", depth + 1)


def _row(names: str, text: str) -> str:
    cells = f"`{names}`", _escaped(" ".join(text.split()))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _escaped(text: str) -> str:
    """Text in which nothing is Markdown but `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", part) for part in parts
    )
