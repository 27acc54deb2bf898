"""The machine on which this process runs, and choices between two ways that were measured on it.

A choice is kept by name, in one file for each kind of machine, in $XDG_CACHE_HOME/ringlet
(~/.cache). It is known to later starts once two in a row have made it on a machine that was not
busy, and for a month: one that was measured beside other work does not stay. Where no file can be
read or written nothing is known, and each start measures.
"""

import contextlib
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

VERSION = 1
"""Of what is measured: what an older one has chosen is not known."""

AGREEING = 2
KEPT_S = 30 * 24 * 3600.0
MOST_BYTES = 1 << 20

_L2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
_USUAL = 512 << 10


@lru_cache
def level_2_bytes() -> int:
    """The size of a core's second-level cache; a usual one where the system does not say."""
    try:
        return int(_L2.read_text().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return _USUAL


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> bool:
    """Whether more than this machine's cores can do was to be done in the last minute."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def processor() -> str:
    """The name of this machine's processor."""
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:  # the file is long where cores are many
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cache_file(name: str, suffix: str, **facts: Any) -> Path:
    """Where something is kept for this processor and so many cores, as far as the facts are the
    same. A user without a home has no such file."""
    text = json.dumps({"processor": processor(), "cores": cores(), **facts}, sort_keys=True)
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not folder.is_absolute():
        try:
            folder = Path("~/.cache").expanduser()
        except RuntimeError:
            folder = Path(os.devnull)
    return folder / "ringlet" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}{suffix}"


def write_whole(path: Path, text: str) -> None:
    """Write all or nothing; where nothing can be written, nothing is."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            part = Path(file.name)
            try:
                file.write(text)
                file.close()
                part.replace(path)
            except OSError:
                part.unlink()


def choices_file() -> Path:
    """Where choices are kept."""
    return cache_file("choices", ".json", version=VERSION, kernel=platform.release())


def choices() -> dict[str, tuple[Any, int, float]]:
    """By name: what was chosen last, by how many starts in a row, and when."""
    try:
        with choices_file().open("rb") as file:
            found = json.loads(file.read(MOST_BYTES))
        return {
            name: (value, int(starts), float(at)) for name, (value, starts, at) in found.items()
        }
    except (ArithmeticError, AttributeError, OSError, RecursionError, TypeError, ValueError):
        return {}


def known(name: str) -> Any:
    """What was chosen before; None if that has to be measured."""
    value, starts, at = choices().get(name, (None, 0, 0.0))
    return value if starts >= AGREEING and time.time() < at + KEPT_S else None


def keep(chosen: Mapping[str, Any]) -> None:
    """Remember what this start has chosen, by name: texts, numbers, truths, or lists of them."""
    found = choices()
    for name, value in chosen.items():
        before, starts, _ = found.get(name, (None, 0, 0.0))
        found[name] = (value, starts + 1 if before == value else 1, time.time())
    write_whole(choices_file(), json.dumps(found))
