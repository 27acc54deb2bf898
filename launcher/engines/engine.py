"""What the engines have in common: the job they are given, and what each can do with it."""

import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol


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

    @property
    def trains(self) -> bool:
        """Whether it can go on from what it has saved, once it is started again."""
        return self.command[0] == "train"

    def gives(self, name: str) -> bool:
        """Whether the command has the option of this name, as in `--out FOLDER` or
        `--out=FOLDER`."""
        return any(word.partition("=")[0] == name for word in self.command)

    def value(self, name: str) -> str:
        """What the command gives this option; empty if it does not."""
        for word, following in pairwise((*self.command, "")):
            if word.partition("=")[0] == name:
                return word.partition("=")[2] or following
        return ""


class Engine(Protocol):
    """An engine: a dataclass of options that it alone has (launcher/options.py)."""

    SHARES_FILES: ClassVar[bool]
    """Whether its hosts have the files of the one that submits."""

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

ANSWER_S = 60.0
"""How long an engine's commands may take."""


def call(*words: str, given: str = "") -> tuple[int, str, str]:
    """A command of an engine's: exit code, output and errors."""
    try:
        done = subprocess.run(
            words, input=given, capture_output=True, text=True, errors="replace", timeout=ANSWER_S
        )
    except OSError as error:
        return 1, "", f"{words[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 1, "", f"{words[0]} has not answered for {ANSWER_S:g} s"
    return done.returncode, done.stdout, done.stderr
