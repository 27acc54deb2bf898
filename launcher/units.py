"""Quantities as people write them (64MiB, 20us, 1GB/s, 25Gbit/s), and the time of a call.

Every command reads them here. A size without a unit is in bytes. A time needs its unit, unless the
option counts in seconds, and a rate always does: a bare 20 may mean anything.
"""

import re
import timeit
from collections.abc import Callable
from typing import Any

from ringlet.launcher.errors import UserError

MOST = 2.0**60
"""More bytes, seconds or bytes per second than there are anywhere."""

_DECIMAL = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BYTES = {
    **{f"{prefix}B": factor for prefix, factor in _DECIMAL.items()},
    **{f"{prefix}iB": 2.0 ** (10 * power) for power, prefix in enumerate("KMGT", start=1)},
}
_SECONDS = {
    "s": 1.0, "ms": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ns": 1e-9,
    "min": 60.0, "h": 3600.0,
}  # fmt: skip
_RATES = {
    **{f"{unit}/s": factor for unit, factor in _BYTES.items()},
    **{f"{prefix}bit/s": factor / 8 for prefix, factor in _DECIMAL.items()},
}


def parse_bytes(text: str, option: str) -> int:
    """64MiB -> 67108864 bytes; raises UserError, as the functions below do."""
    return round(_parse(text, option, {"": 1.0, **_BYTES}, "bytes, as in 4096, 64KB or 64MiB"))


def parse_time(text: str, option: str) -> float:
    """20us -> 2e-05 seconds"""
    return _parse(text, option, _SECONDS, "a time with its unit, as in 0.5ms or 20us")


def parse_seconds(text: str, option: str) -> float:
    """90 or 1.5min -> 90 seconds"""
    return _parse(text, option, {"": 1.0, **_SECONDS}, "seconds, or a time as in 500ms or 5min")


def parse_duration(text: str, option: str) -> float:
    """2:00:00, 1-12:00:00 (a day and a half) or 90min -> seconds, of a whole job. A bare number is
    refused: engines disagree on whether it means minutes or seconds."""
    if match := re.fullmatch(r"(?:(\d{1,4})-)?(\d{1,4}):(\d\d):(\d\d)", text.strip(), re.ASCII):
        days, hours, minutes, seconds = (int(each or 0) for each in match.groups())
        number = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    else:
        number = _parse(text, option, _SECONDS, "a time as in 2:00:00, 1-12:00:00, 90min or 2h")
    if not number >= 1:
        raise UserError(f"{option} is {text}; a job takes at least a second")
    return number


def parse_rate(text: str, option: str) -> float:
    """1GB/s -> 1e9 bytes per second"""
    rate = _parse(text, option, _RATES, "a rate with its unit, as in 1GB/s, 1GiB/s or 25Gbit/s")
    if rate == 0:
        raise UserError(f"{option} is {text}; it must be above 0")
    return rate


def seconds_text(seconds: float) -> str:
    """Three figures and a unit: 101 ms."""
    scales = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
    unit, factor = next((pair for pair in scales.items() if seconds >= pair[1]), ("us", 1e-6))
    value = seconds / factor
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def _parse(text: str, option: str, units: dict[str, float], wanted: str) -> float:
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d+))?\s*([^\d\s]*)\s*", text, re.ASCII)
    factor = units.get(match[3]) if match else None
    if match and not match[3] and not float(match[1]):
        factor = 1.0  # nothing is nothing, in any unit
    if match is None or factor is None:
        raise UserError(f"{option} is {text!r}; it takes {wanted}")
    value = float(f"{match[1]}e{match[2] or 0}") * factor
    if value >= MOST:
        raise UserError(f"{option} is {text!r}, which is more than anything here can be")
    return value


def fastest(call: Callable[[], Any], times: int) -> float:
    """Seconds of the fastest of several calls."""
    return min(timeit.repeat(call, repeat=times, number=1))
