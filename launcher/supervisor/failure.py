"""How a worker failed, as its launcher tells other hosts."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Failure:
    """One worker's failure: `text` is the traceback, `echo` whether it only reports the failure of
    another rank."""

    rank: int
    exit_reason: str
    code: int
    text: str = ""
    echo: bool = False
    host: str = ""


def first_cause(failures: Sequence[Failure]) -> Failure | None:
    """The first failure that is no echo, of failures in the order in which they became known."""
    return next((each for each in failures if not each.echo), failures[0] if failures else None)
