"""How a worker failed, as its agent tells it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass
class Failure:
    """`text` is the traceback, `echo` whether it only reports another rank's failure."""

    rank: int
    epitaph: str
    code: int
    text: str = ""
    echo: bool = False
    host: str = ""


def parse_failure(fields: Any) -> Failure:
    """The failure in an agent's word; raises TypeError for what is none."""
    failure = Failure(**fields)
    texts = (failure.epitaph, failure.text, failure.host)
    if not all(type(text) is str for text in texts) or type(failure.echo) is not bool:
        raise TypeError("a failure's epitaph, text and host are text, echo is true or false")
    if type(failure.rank) is not int or type(failure.code) is not int:
        raise TypeError("a failure's rank and code are numbers")
    return failure


def first_cause(failures: Iterable[Failure]) -> Failure | None:
    """Of failures in the order in which they were heard of: the first that is no echo."""
    failures = list(failures)
    return next((each for each in failures if not each.echo), failures[0] if failures else None)
