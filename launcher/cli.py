"""The command line. The module of a command is imported only when that command runs, or for the
help of all: `ringlet run` does not wait for what only `ringlet train` needs."""

import errno
import os
import sys
from collections.abc import Iterable
from importlib import import_module

import click

import ringlet
from ringlet.comm.errors import AuthenticationError
from ringlet.launcher.commands.options import Group
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.signals import reset_signals
from ringlet.launcher.supervisor.writer import finish, prepare_streams

COMMANDS = {
    "run": "run:run",
    "train": "train.command:train",
    "submit": "submit:submit",
    "plan": "plan.command:plan",
    "simulate": "plan.simulate:simulate",
    "report": "report.command:report",
    "generate": "generate:generate",
    "data": "data.group:data",
    "export": "export:export",
    "bench": "bench:bench",
    "calibrate": "calibrate:calibrate",
    "explain": "explain.group:explain",
    "lesson": "lesson:lesson",
    "trace": "trace:trace",
    "key": "key:keys",
    "doctor": "doctor:doctor",
    "ps": "ps:ps",
    "watch": "watch.command:watch",
}
"""name -> module:what, a function or a group of commands."""

LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of what this process may use, which no command can foresee."""


def _version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"ringlet {ringlet.__version__}")
        context.exit()


def make_app(names: Iterable[str] = COMMANDS) -> click.Group:
    """The command line with these commands."""
    version = click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version,
        help="Show the version.",
    )  # fmt: skip
    app = Group(
        "ringlet",
        params=[version],
        help="Train transformers on many processes, in pure NumPy.",
        no_args_is_help=True,
    )
    for name in names:
        module, _, what = COMMANDS[name].partition(":")
        app.add_command(getattr(import_module(f"ringlet.launcher.commands.{module}"), what), name)
    return app


def main(arguments: list[str] | None = None) -> None:
    """The entry point. What the user can correct is shown as one line, with exit code 2."""
    reset_signals()
    prepare_streams()
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    finally:
        finish()


def _run(words: list[str]) -> None:
    try:
        app = make_app(words[:1] if words and words[0] in COMMANDS else COMMANDS)
        app(words, prog_name="ringlet")
    except (UserError, AuthenticationError) as error:
        text = str(error)
    except OSError as error:
        # A name that is too long, a folder that may not be read, a disk that is full.
        if error.filename is None and error.errno not in LIMITS:
            raise
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        text = f"{where}{error.strerror}"
    Screen().say(" ".join(text.splitlines()))
    sys.exit(ExitCode.USER_ERROR)
