"""`ringlet run`: any script on several workers, on this host or on many."""

from pathlib import Path
from typing import Annotated

import typer

from ringlet.launcher.errors import UserError
from ringlet.launcher.hosts import HostOptions, parse_hosts, place_of, run_over_ssh
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
