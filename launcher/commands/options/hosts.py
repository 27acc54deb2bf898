"""The options of jobs on several hosts, which several commands have."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ringlet.launcher.errors import UserError


@dataclass(frozen=True)
class HostOptions:
    """The options of --nnodes and of --hosts, as given."""

    nnodes: Annotated[
        str,
        typer.Option("--nnodes", metavar="N|MIN:MAX", help="How many hosts; the same command runs "
                     "on each. With MIN:MAX the job goes on without those that are lost."),
    ] = "1"  # fmt: skip
    node_rank: Annotated[
        int | None,
        typer.Option("--node-rank", help="This host's number, from 0; host 0 is where --master "
                     "is."),
    ] = None  # fmt: skip
    master: Annotated[
        str | None, typer.Option(help="HOST:PORT where host 0 listens for the others.")
    ] = None
    interface: Annotated[
        str | None,
        typer.Option(help="The interface for other hosts. [default: the one towards --master]"),
    ] = None
    address: Annotated[
        str | None,
        typer.Option(help="This host's address for other hosts, instead of --interface."),
    ] = None
    hosts: Annotated[
        str | None,
        typer.Option(help="Start the hosts from here, over ssh: a:2,b:4 (a's and b's workers)."),
    ] = None
    hostfile: Annotated[
        Path | None, typer.Option(help="As --hosts; a file with a:2, or a slots=2, on each line.")
    ] = None
    key_file: Annotated[
        Path | None,
        typer.Option(help="The job key, which several hosts need (`ringlet key new`); also "
                     "RINGLET_KEY_FILE. --hosts makes one of its own."),
    ] = None  # fmt: skip
    insecure: Annotated[
        bool, typer.Option("--insecure", help="No key: for networks where everybody is trusted.")
    ] = False
    encrypt: Annotated[
        str | None,
        typer.Option(help="all, or control: arrays travel in the clear (see SECURITY.md). "
                     "[default: all]", show_default=False),
    ] = None  # fmt: skip
    announce: Annotated[bool, typer.Option("--announce", hidden=True)] = False

    def range(self) -> tuple[int, int]:
        """The fewest hosts and the most; raises UserError."""
        least, colon, most = self.nnodes.partition(":")
        numbers = [least, most] if colon else [least, least]
        if not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise UserError(f"--nnodes is {self.nnodes!r}; it has to be as 4, or as 1:4")
        if int(numbers[0]) > int(numbers[1]):
            raise UserError(f"--nnodes is {self.nnodes}; the fewest hosts come first, as in 1:4")
        return int(numbers[0]), int(numbers[1])

    @property
    def over_ssh(self) -> bool:
        """Whether the hosts are started from here."""
        return self.hosts is not None or self.hostfile is not None
