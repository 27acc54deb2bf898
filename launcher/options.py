"""Options that several commands have in common."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ringlet.comm.environment import DEFAULT_TIMEOUT_S, ENCRYPTIONS, TRANSPORTS
from ringlet.launcher.errors import UserError
from ringlet.launcher.local import DEFAULT_GRACE_S

Transport: TypeAlias = Annotated[
    str,
    typer.Option(help="auto (shared memory), ipc (Unix sockets) or tcp (the loopback)."),
]
Timeout: TypeAlias = Annotated[
    float, typer.Option(help="Seconds until a waiting operation raises CommTimeout.")
]
Grace: TypeAlias = Annotated[
    float, typer.Option(help="Seconds between a passed-on SIGINT or SIGTERM and SIGKILL.")
]

Nnodes: TypeAlias = Annotated[
    int, typer.Option("--nnodes", min=1, help="How many hosts; the same command runs on each.")
]
NodeRank: TypeAlias = Annotated[
    int | None,
    typer.Option("--node-rank", help="This host's number, from 0; host 0 is where --master is."),
]
Master: TypeAlias = Annotated[
    str | None, typer.Option(help="HOST:PORT where host 0 listens for the others.")
]
Interface: TypeAlias = Annotated[
    str | None,
    typer.Option(help="The interface for other hosts. [default: the one towards --master]"),
]
Address: TypeAlias = Annotated[
    str | None, typer.Option(help="This host's address for other hosts, instead of --interface.")
]
Hosts: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Start the hosts from here, over ssh: a:2,b:4 (a's and b's workers)."),
]
Hostfile: TypeAlias = Annotated[
    Path | None, typer.Option(help="As --hosts; a file with a:2, or a slots=2, on each line.")
]
KeyFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="The job key, which several hosts need (`ringlet key new`); also "
                 "RINGLET_KEY_FILE. --hosts makes one of its own."),
]  # fmt: skip
Insecure: TypeAlias = Annotated[
    bool, typer.Option("--insecure", help="No key: for networks where everybody is trusted.")
]
Encrypt: TypeAlias = Annotated[
    str | None,
    typer.Option(help="all, or control: arrays travel in the clear (see SECURITY.md). "
                 "[default: all]", show_default=False),
]  # fmt: skip
Announce: TypeAlias = Annotated[bool, typer.Option("--announce", hidden=True)]

__all__ = [
    "DEFAULT_GRACE_S",
    "DEFAULT_TIMEOUT_S",
    "Address",
    "Announce",
    "Encrypt",
    "Grace",
    "Hostfile",
    "Hosts",
    "Insecure",
    "Interface",
    "KeyFile",
    "Master",
    "Nnodes",
    "NodeRank",
    "Timeout",
    "Transport",
    "check_encrypt",
    "check_options",
]


def check_encrypt(encrypt: str | None) -> None:
    """Raise UserError for an --encrypt that is none."""
    if encrypt not in (None, *ENCRYPTIONS):
        raise UserError(f"unknown --encrypt {encrypt!r}; there are {', '.join(ENCRYPTIONS)}")


def check_options(transport: str, timeout: float) -> None:
    """Raise UserError for a transport that is none, or a timeout that cannot be."""
    if transport not in TRANSPORTS:
        raise UserError(f"unknown transport {transport!r}; there are {', '.join(TRANSPORTS)}")
    if not timeout > 0:
        raise UserError(f"--timeout is {timeout:g}; it has to be above 0")
