"""The options of jobs on several hosts."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from ringlet.launcher.errors import UserError
from ringlet.launcher.options import option


@dataclass(frozen=True)
class HostOptions:
    """Which hosts a job runs on, how they reach each other, and how that is protected."""

    HEADING: ClassVar = "Hosts"
    nnodes: str = option(
        "1",
        "Number of hosts; run the same command on each. With MIN:MAX the job goes on without hosts "
        "that are lost.",
        metavar="N|MIN:MAX",
    )
    node_rank: int | None = option(
        None, "This host's number, from 0. Host 0 is the one that --master names.", metavar="N"
    )
    master: str | None = option(
        None, "Address and port where host 0 listens for the others.", metavar="HOST:PORT"
    )
    hosts: str | None = option(
        None, "Start this many workers on each of these hosts, over ssh: a:2,b:4.", metavar="HOSTS"
    )
    hostfile: Path | None = option(
        None, "Like --hosts, from a file with a:2 on each line, or Open MPI's: a slots=2."
    )
    interface: str | None = option(
        None,
        "Network interface where workers listen for other hosts.",
        metavar="NAME",
        shown="the one that routes to --master",
    )
    address: str | None = option(None, "IP address where workers listen, without --interface.")
    key_file: Path | None = option(
        None,
        "File with the job key, which jobs on several hosts need (`ringlet key new`). Also "
        "RINGLET_KEY_FILE; --hosts makes a key if there is none.",
    )
    insecure: bool = option(False, "Use no key: only on a network where you trust everybody.")
    encrypt: str | None = option(
        None,
        "What the key encrypts: all, or control, which sends arrays in the clear (SECURITY.md).",
        metavar="all|control",
        shown="all",
    )
    host_timeout: float = option(
        4.5, "Seconds after which a host that is not heard counts as lost.", least=1
    )
    announce: bool = option(False, "Print where host 0 listens.", hidden=True)

    def check_one_host(self) -> None:
        """Raise UserError for an option that means nothing to a job on this host alone."""
        given = {
            "--node-rank": self.node_rank or None, "--interface": self.interface,
            "--address": self.address, "--insecure": self.insecure or None,
        }  # fmt: skip
        for name, value in given.items():
            if value is not None:
                raise UserError(
                    f"{name} is for jobs on several hosts: --nnodes, --node-rank and --master, or "
                    "--hosts, make one"
                )

    def range(self) -> tuple[int, int]:
        """The smallest and the largest number of hosts; raises UserError."""
        least, colon, most = self.nnodes.partition(":")
        numbers = [least, most] if colon else [least, least]
        if not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise UserError(f"--nnodes is {self.nnodes!r}; it must be like 4 or 1:4")
        if int(numbers[0]) > int(numbers[1]):
            raise UserError(f"--nnodes is {self.nnodes}; the fewest hosts come first, as in 1:4")
        return int(numbers[0]), int(numbers[1])

    @property
    def left_out(self) -> set[str]:
        """The options that ssh's launcher gives each host itself."""
        return {"workers", *(each.name for each in fields(self))}

    @property
    def over_ssh(self) -> bool:
        """Whether the hosts are started from here."""
        return self.hosts is not None or self.hostfile is not None
