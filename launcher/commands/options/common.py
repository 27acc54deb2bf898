"""Options that several commands have in common."""

from typing import Annotated, TypeAlias

import typer

from ringlet.comm.join.environment import DEFAULT_TIMEOUT_S, ENCRYPTIONS, TRANSPORTS
from ringlet.launcher.errors import UserError
from ringlet.launcher.supervisor.local import DEFAULT_GRACE_S

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

MaxRestarts: TypeAlias = Annotated[
    int,
    typer.Option(min=0, help="When a worker or a host fails, start all again, so many times at "
                 "most."),
]  # fmt: skip

__all__ = [
    "DEFAULT_GRACE_S",
    "DEFAULT_TIMEOUT_S",
    "Grace",
    "MaxRestarts",
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
