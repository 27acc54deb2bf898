"""Waiting for what can be seen, and whether a process is still there."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE_S = 30.0


def until(condition: Callable[[], Any], seconds: float = DEADLINE_S) -> Any:
    """Wait until the condition is true; returns what it returned last."""
    end = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return result


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped by its parent does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()
