"""The command line: `ringlet run`, `ringlet train`, `ringlet generate`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import ringlet
from ringlet.comm.environment import TRANSPORTS
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.generate import generate
from ringlet.launcher.local import DEFAULT_GRACE_S, run_script
from ringlet.launcher.train import train

app = typer.Typer(
    name="ringlet",
    help="Train transformers on many processes, in pure NumPy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(train)
app.command()(generate)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ringlet {ringlet.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train transformers on many processes, in pure NumPy."""


@app.command(
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)
def run(
    program: Annotated[
        list[str],
        typer.Argument(
            metavar="SCRIPT [ARGS]...", help="script.py, or -m module, and its arguments."
        ),
    ],
    workers: Annotated[
        int, typer.Option("-n", "--workers", min=1, help="How many worker processes.")
    ] = 2,
    transport: Annotated[
        str, typer.Option(help="auto (shared memory), ipc (Unix sockets) or tcp (the loopback).")
    ] = "auto",
    timeout: Annotated[
        float, typer.Option(help="Seconds until a waiting operation raises CommTimeout.")
    ] = 300.0,
    grace: Annotated[
        float, typer.Option(help="Seconds between a passed-on SIGINT or SIGTERM and SIGKILL.")
    ] = DEFAULT_GRACE_S,
) -> None:
    """Run a script on several worker processes; in it, ringlet.comm.init() joins them."""
    if transport not in TRANSPORTS:
        raise UserError(f"unknown transport {transport!r}; there are {', '.join(TRANSPORTS)}")
    if timeout <= 0:
        raise UserError(f"--timeout is {timeout:g}; it has to be above 0")
    if program[0] != "-m" and not Path(program[0]).is_file():
        raise UserError(f"there is no script {program[0]}")
    if program == ["-m"]:
        raise UserError("-m needs the name of a module")
    code = run_script(program, workers, transport=transport, timeout=timeout, grace=grace)
    raise typer.Exit(code)


def main(arguments: list[str] | None = None) -> Any:
    """The entry point: what the user can mend is shown as one line, with exit code 2."""
    try:
        app(arguments)
    except UserError as error:
        print(f"ringlet: {error}", file=sys.stderr)
        sys.exit(ExitCode.USER_ERROR)
