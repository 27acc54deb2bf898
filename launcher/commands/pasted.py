"""Commands that are printed, so that they work when they are pasted into a shell."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def command(*words: str | Path) -> str:
    """A command of this very program, with each word quoted where it has to be."""
    return " ".join([*map(quoted, _program()), *map(quoted, words)])


def quoted(word: str | Path) -> str:
    """A word for the shell; one with a newline, or that is not UTF-8, as in $'caf\\xe9'."""
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    escaped = (
        chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in os.fsencode(text)
    )
    return f"$'{''.join(escaped)}'"


def _program() -> list[str]:
    """How the shell finds this program: by its name, by its path, or as a module."""
    own = Path(sys.argv[0])
    found = shutil.which("ringlet")
    if own.name == "remote.py" or (found and Path(found).resolve() == own.resolve()):
        return ["ringlet"]
    if own.name == "ringlet" and os.access(own, os.X_OK):
        return [sys.argv[0]]
    return [sys.executable, "-m", "ringlet"]
