"""What the engines have in common: the job they are given, and what each can do with it."""

import sys
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Submission:
    """A job for an engine: `ringlet COMMAND...`, with one agent on each of `nodes` hosts.

    It takes at most `seconds`, and of each host so many `cpus` and `gpus` (None: all cores, no
    GPU).
    """

    name: str
    nodes: int
    command: tuple[str, ...]
    seconds: float | None = None
    cpus: int | None = None
    gpus: int | None = None


class Engine(Protocol):
    """An engine: a dataclass of options that it alone has (launcher/options.py)."""

    def write(self, job: Submission) -> str:
        """The script or manifest for the job, as people would write it. Changes nothing.

        Raises UserError for a job that this engine cannot run."""
        ...

    def submit(self, job: Submission, text: str) -> str:
        """Hand what `write` has written to the engine; returns what to tell the user.

        Raises UserError if there is no such engine here, or it refuses the job."""
        ...


RINGLET = (sys.executable, "-m", "ringlet")
"""The command line, on hosts that have this Python at the same path."""
