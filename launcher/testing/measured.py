"""What coverage.py measures in forked ranks, where it is measuring at all."""

import contextlib
import sys
from typing import Any

OPTIONS = (
    "branch", "source", "source_pkgs", "source_dirs", "include", "omit", "plugins", "concurrency",
    "cover_pylib", "timid",
)  # fmt: skip
"""Of coverage's section [run]: what is measured, and how."""


def current() -> Any:
    """The running measurement of this process, or None."""
    coverage = sys.modules.get("coverage")
    return None if coverage is None else coverage.Coverage.current()


def start_again() -> Any:
    """In a fork: stop what its parent started, and measure the same in memory; returns the new
    measurement, or None. The parent's, if it went on here, would write over the parent's file."""
    inherited = current()
    if inherited is None:
        return None
    inherited.stop()
    own = type(inherited)(data_file=None, config_file=False, messages=False)
    for name in OPTIONS:
        with contextlib.suppress(Exception):  # this version of coverage has no such option
            own.set_option(f"run:{name}", inherited.get_option(f"run:{name}"))
    own.start()
    return own


def taken(measurement: Any) -> bytes | None:
    """Stop a measurement; returns what it has found."""
    if measurement is None:
        return None
    measurement.stop()
    data: bytes = measurement.get_data().dumps()
    return data


def add(found: bytes | None) -> None:
    """Add what was found in a fork to the measurement of this process."""
    measurement = current()
    if measurement is None or found is None:
        return
    data = sys.modules["coverage"].CoverageData(no_disk=True)
    data.loads(found)
    measurement.get_data().update(data)
