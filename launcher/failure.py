"""How a worker failed, as its agent tells it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Failure:
    """`text` is the traceback, `echo` whether it only reports another rank's failure."""

    rank: int
    epitaph: str
    code: int
    text: str = ""
    echo: bool = False
    host: str = ""


def first_cause(failures: Iterable[Failure]) -> Failure | None:
    """Of failures in the order in which they were heard of: the first that is no echo."""
    failures = list(failures)
    return next((each for each in failures if not each.echo), failures[0] if failures else None)
