"""How a worker failed, as its launcher tells other hosts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ringlet.launcher.errors import ExitCode

LONGEST = 1 << 16
"""Characters of a traceback that are kept."""


@dataclass
class Failure:
    """One worker's failure: `text` is the traceback, `echo` whether it only reports the failure of
    another rank. One that has ended as it should (`fatal` is False) is told, too: others may wait
    for it."""

    rank: int
    exit_reason: str
    code: int
    text: str = ""
    echo: bool = False
    host: str = ""

    @property
    def fatal(self) -> bool:
        """Whether the job has failed by it."""
        return self.code not in (ExitCode.OK, ExitCode.STOPPED)


def first_cause(failures: Sequence[Failure]) -> Failure | None:
    """The first failure that is no echo, of failures in the order in which they became known."""
    fatal = [each for each in failures if each.fatal]
    return next((each for each in fatal if not each.echo), fatal[0] if fatal else None)


def failure_facts(failures: Sequence[Failure], doing: Mapping[int, str]) -> dict[str, Any]:
    """The same as facts: the cause, and for each rank that is known how it ended, its error, and
    what it was `doing` when the first failed."""
    first = first_cause(failures)
    ranks = [
        {"rank": each.rank, "host": each.host, "exit": each.exit_reason,
         "error": each.text[-LONGEST:], "doing": doing.get(each.rank, "")}
        for each in sorted(failures, key=lambda each: each.rank)
    ]  # fmt: skip
    cause = "" if first is None else f"rank {first.rank} failed: {first.exit_reason}"
    return {"cause": cause or "the workers did not start", "ranks": ranks}
