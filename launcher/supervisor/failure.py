"""How a worker failed, as its launcher tells other hosts."""

from collections.abc import Sequence
from dataclasses import dataclass

from ringlet.launcher.errors import ExitCode


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
