"""The processes of this host: their command lines and variables, and the ranks of a training."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


def words(pid: int) -> bytes:
    """The command line; empty of a process that has ended."""
    return _read(pid, "cmdline")


def variables(pid: int) -> dict[str, str]:
    """With what it was started."""
    pairs = (text.partition("=") for text in _read(pid, "environ").decode().split("\0"))
    return {name: value for name, _, value in pairs}


def parent(pid: int) -> int:
    """The process that has started it."""
    return int(_read(pid, "stat").rpartition(b")")[2].split()[1])


def pids() -> Iterator[int]:
    """All that run."""
    yield from (int(path.name) for path in Path("/proc").glob("[0-9]*"))


def ranks(out: Path) -> dict[int, int]:
    """rank -> pid of the training whose folder this is, where ringlet's own agents started it."""
    found = {}
    for pid in pids():
        line = words(pid)
        if b"train_worker" in line and f'"{out}"'.encode() in line:
            found[int(variables(pid)["RANK"])] = pid
    return found


def _read(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):  # it has ended, or is another user's
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""
