"""The command line: `ringlet run`, `train`, `generate`, `export`, `bench`, `explain`, `key`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import ringlet
from ringlet.comm.errors import AuthenticationError
from ringlet.launcher.bench import bench
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.explain import explain
from ringlet.launcher.explain_pipeline import explain_pipeline
from ringlet.launcher.export import export
from ringlet.launcher.generate import generate
from ringlet.launcher.hosts import HostOptions, parse_hosts, place_of, run_over_ssh
from ringlet.launcher.key import keys
from ringlet.launcher.local import run_script
from ringlet.launcher.options import (
    DEFAULT_GRACE_S,
    DEFAULT_TIMEOUT_S,
    Address,
    Announce,
    Encrypt,
    Grace,
    Hostfile,
    Hosts,
    Insecure,
    Interface,
    KeyFile,
    Master,
    Nnodes,
    NodeRank,
    Timeout,
    Transport,
    check_encrypt,
    check_options,
)
from ringlet.launcher.output import Screen
from ringlet.launcher.train import train

app = typer.Typer(
    name="ringlet",
    help="Train transformers on many processes, in pure NumPy.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(train)
app.command()(generate)
app.command()(export)
app.command()(bench)


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
app.add_typer(explanations, name="explain")
app.add_typer(keys, name="key")


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
    transport: Transport = "auto",
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    grace: Grace = DEFAULT_GRACE_S,
    nnodes: Nnodes = 1,
    node_rank: NodeRank = None,
    master: Master = None,
    interface: Interface = None,
    address: Address = None,
    hosts: Hosts = None,
    hostfile: Hostfile = None,
    key_file: KeyFile = None,
    insecure: Insecure = False,
    encrypt: Encrypt = None,
    announce: Announce = False,
) -> None:
    """Run a script on several worker processes; in it, ringlet.comm.init() joins them.

    On several hosts: the same command on each, with --nnodes, --node-rank and --master; or, from
    one of them, --hosts or --hostfile.
    """
    check_options(transport, timeout)
    check_encrypt(encrypt)
    if program[0] != "-m" and not Path(program[0]).is_file():
        raise UserError(f"there is no script {program[0]}")
    if program == ["-m"]:
        raise UserError("-m needs the name of a module")
    options = HostOptions(
        nnodes, node_rank, master, interface, address, key_file, insecure, encrypt
    )
    if hosts is not None or hostfile is not None:
        common = [f"--transport={transport}", f"--timeout={timeout}", f"--grace={grace}"]
        places = parse_hosts(hosts, hostfile, workers)
        raise typer.Exit(run_over_ssh(places, ["run", *common, *program], options, Screen()))
    place = place_of(options, workers, announce)
    raise typer.Exit(
        run_script(program, workers, transport=transport, timeout=timeout, grace=grace, place=place)
    )


def main(arguments: list[str] | None = None) -> Any:
    """The entry point: what the user can mend is shown as one line, with exit code 2."""
    try:
        app(arguments)
    except (UserError, AuthenticationError) as error:
        print(f"ringlet: {error}", file=sys.stderr)
        sys.exit(ExitCode.USER_ERROR)
