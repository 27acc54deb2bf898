"""Figures of a description: fields of frozen dataclasses that say what they may be.

A figure is checked wherever it comes from, so that an error names the key and what it must be:
`links[1].bandwidth is -3; it must be above 0`.
"""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any, TypeVar

from ringlet.nn.files import short

T = TypeVar("T")


class ClusterError(ValueError):
    """A description has figures that are missing or cannot be; the message names the key."""


def figure(
    *,
    default: Any = MISSING,
    above: float | None = None,
    least: float = 0.0,
    most: float = math.inf,
) -> Any:
    """A finite number: above `above`, or from `least` to `most`."""
    allowed = f"{least:g} or more" if above is None else f"above {above:g}"
    if most < math.inf:
        allowed = f"{allowed.removesuffix(' or more')} to {most:g}"

    def problem(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        high = value <= most and value < math.inf
        return "" if high and (value >= least if above is None else value > above) else allowed

    return field(default=default, metadata={"problem": problem})


def whole(*, default: Any = MISSING, least: int = 1) -> Any:
    """A whole number of at least `least`."""

    def problem(value: Any) -> str:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return "" if whole and value >= least else f"a whole number of at least {least}"

    return field(default=default, metadata={"problem": problem})


def steps(what: str, *, above: float = 0.0, most: float = math.inf, default: Any = ()) -> Any:
    """A step table: [[from, value], ...], the value from there to the next, `from` rising."""

    def problem(value: Any) -> str:
        try:
            rows = [(float(start), float(worth)) for start, worth in value]
        except (TypeError, ValueError, OverflowError):
            return f"rows of two numbers, [from, {what}]"
        starts = [start for start, _ in rows]
        if starts != sorted(set(starts)) or (starts and starts[0] < 0):
            return f"rows [from, {what}] with rising numbers of 0 or more"
        within = all(above < worth <= most and worth < math.inf for _, worth in rows)
        limit = f" and at most {most:g}" if most < math.inf else ""
        return "" if within else f"rows [from, {what}] with {what} above {above:g}{limit}"

    return field(default=default, metadata={"problem": problem})


def tables(start: str, what: str) -> Any:
    """Step tables by name, as in `steps`, each of at least a row, that begin above 0."""
    rows = steps(what).metadata["problem"]
    wanted = f"tables by name of rows [{start}, {what}], both above 0, with rising {start}"

    def problem(value: Any) -> str:
        named = isinstance(value, Mapping)
        return (
            ""
            if named and all(t and not rows(t) and t[0][0] > 0 for t in value.values())
            else wanted
        )

    return field(default_factory=dict, metadata={"problem": problem})


def amounts(unit: str, *, above: float = 0.0, filled: bool = False) -> Any:
    """A table of numbers by name."""

    def problem(value: Any) -> str:
        numbers = isinstance(value, Mapping) and all(
            isinstance(v, int | float) and not isinstance(v, bool) and above < v < math.inf
            for v in value.values()
        )
        return "" if numbers and (value or not filled) else f"a table of {unit} above {above:g}"

    if filled:
        return field(metadata={"problem": problem})
    return field(default_factory=dict, metadata={"problem": problem})


def text(*, default: str = "") -> Any:
    """A name."""
    return field(
        default=default,
        metadata={"problem": lambda value: "" if isinstance(value, str) else "text"},
    )


def flag(*, default: bool) -> Any:
    """True or false."""
    return field(
        default=default,
        metadata={"problem": lambda value: "" if isinstance(value, bool) else "true or false"},
    )


def check(made: Any) -> None:
    """Raise ClusterError for the first figure of a dataclass that cannot be."""
    for one in fields(made):
        value, problem = getattr(made, one.name), one.metadata.get("problem")
        if problem is not None and (text := problem(value)):
            raise ClusterError(f"{one.name} is {short(value)}; it must be {text}")


def make(kind: Callable[..., T], table: Any, where: str = "", **parts: Any) -> T:
    """A dataclass from a TOML table; `parts` are fields that were made already.

    Raises ClusterError naming the key that is unknown, missing or impossible.
    """
    prefix = f"{where}." if where else ""
    if not isinstance(table, Mapping):
        raise ClusterError(f"{where} is {short(table)}; it must be a table")
    known = check_keys(kind, table, prefix)
    for name, one in known.items():
        given = name in table or name in parts
        if not given and one.default is MISSING and one.default_factory is MISSING:
            raise ClusterError(f"{prefix}{name} is missing")
    values = {key: _frozen(value) for key, value in table.items() if key not in parts}
    try:
        return kind(**values, **parts)
    except ClusterError as error:
        raise ClusterError(f"{prefix}{error}") from error


def check_keys(kind: Any, table: Mapping[str, Any], prefix: str = "") -> dict[str, Field[Any]]:
    """The fields of a dataclass by name; raises ClusterError for keys that it does not have."""
    known = {one.name: one for one in fields(kind)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
            raise ClusterError(f"{prefix}{key} is unknown{hint}")
    return known


def write_toml(made: Any) -> str:
    """A dataclass as TOML that reads back the same; defaults are left out."""
    lines: list[str] = []
    _write(_table(made), "", lines)
    return "\n".join(lines).strip() + "\n"


def _table(made: Any) -> Mapping[str, Any]:
    """A table as it is, of a dataclass the fields that differ from their defaults."""
    if isinstance(made, Mapping):
        return made
    result = {}
    for one in fields(made):
        value = getattr(made, one.name)
        factory = one.default_factory
        default = one.default if factory is MISSING else factory()
        if default is MISSING or value != default:
            result[one.name] = value
    return result


def _write(table: Mapping[str, Any], path: str, lines: list[str]) -> None:
    """Values first, then the tables below."""
    below = []
    for key, value in table.items():
        value = _table(value) if is_dataclass(value) else value
        many = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
        if many and all(is_dataclass(one) or isinstance(one, Mapping) for one in value):
            below += [(f"[[{path}{key}]]", key, one) for one in value]
        elif isinstance(value, Mapping):
            below.append((f"[{path}{key}]", key, value))
        else:
            lines.append(f"{_key(key)} = {_value(value)}")
    for heading, key, value in below:
        lines += ["", heading]
        _write(_table(value), f"{path}{key}.", lines)


def _key(key: str) -> str:
    plain = key.replace("_", "").replace("-", "")
    return key if plain.isascii() and plain.isalnum() else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(float(value)) if isinstance(value, float) else str(value)
    if isinstance(value, str):
        escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
        ordinary = (escapes.get(c, c if c.isprintable() else f"\\u{ord(c):04x}") for c in value)
        return f'"{"".join(ordinary)}"'
    return f"[{', '.join(map(_value, value))}]"


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _frozen(one) for key, one in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
