"""Lists of hosts: `a:2,b:4`, and files with one on each line, as Open MPI reads them, too.

https://docs.open-mpi.org/en/main/launching-apps/scheduling.html#hostfiles
"""

import re
from pathlib import Path

from ringlet.launcher.errors import UserError

_SLOTS = ("slots", "cpu", "count")
_LIMITS = {f"{word}{dash}max" for word in _SLOTS for dash in "-_"}
_LIMITS |= {f"max{dash}{word}" for word in _SLOTS for dash in "-_"}
_USER = ("username", "user-name", "user_name")
_COMMENT = re.compile(r"/\*.*?\*/|(#|//)[^\n]*", re.DOTALL)


def parse_hosts(text: str | None, file: Path | None, workers: int) -> list[tuple[str, int]]:
    """The (host, workers) of `a:2,b:4`, or of a file with `a:2` or Open MPI's `a slots=2` on each
    line. A host without a number gets `workers`."""
    if text is not None and file is not None:
        raise UserError("--hosts and --hostfile both name the hosts: give one")
    if file is not None:
        hosts = _read(file, workers)
    else:
        words = [word.strip() for word in (text or "").split(",")]
        hosts = [_parse_host(word, workers) for word in words if word]
    if not hosts:
        raise UserError("no hosts are given; name them as in --hosts a:2,b:4")
    return hosts


def _read(file: Path, workers: int) -> list[tuple[str, int]]:
    from ringlet.nn.files import read_text  # not for jobs on one host

    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the hostfile {file}: {error}") from error
    text = _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), text)
    plain: dict[str, int] = {}  # how often a host is there without a number: so many slots
    hosts: dict[str, list[int]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (words := re.sub(r"\s*=\s*", "=", line).split()):
            continue
        try:
            word, slots = _parse_options(*words)
            name, count = _parse_host(word, slots or 0)
        except UserError as error:
            raise UserError(f"{file}, line {number}: {error}") from error
        if not count:
            plain[name] = plain.get(name, 0) + 1
        hosts.setdefault(name, []).extend([count] if count else [])
    found = []
    for name, counts in hosts.items():
        if len(counts) + (name in plain) > 1:
            raise UserError(f"{file}: {name} is there twice; give it one line, or no numbers")
        alone = plain.get(name, 0)
        found.append((name, counts[0] if counts else alone if alone > 1 else workers))
    return found


def _parse_options(host: str, *options: str) -> tuple[str, int | None]:
    """The host, with its user, and its number of slots."""
    slots = None
    for option in options:
        name, equals, value = option.partition("=")
        if equals and name in _USER:
            host = f"{value}@{host}"
        elif not equals or name not in (*_SLOTS, *_LIMITS):
            known = ", ".join((*_SLOTS, "max_slots", "username"))
            raise UserError(f"{option!r} is not known; there are {known}")
        else:
            count = _count(option, value)
            slots = count if name in _SLOTS else slots  # a limit is no wish
    return host, slots


def _count(word: str, text: str) -> int:
    if not (text.isdecimal() and len(text) < 10 and int(text)):
        raise UserError(f"{word!r}: the number of workers must be a whole number from 1 up")
    return int(text)


def _parse_host(word: str, workers: int) -> tuple[str, int]:
    name, colon, count = word.partition(":")
    if "[" in word:  # an IPv6 address: [fd00::1]:2, me@[fd00::1]
        name, _, count = word.replace("[", "").partition("]")
        colon, count = count[:1], count[1:]
    elif word.count(":") > 1:
        name, colon = word, ""
    # A name that begins with a dash would be an option of ssh.
    if not name or name.startswith("-") or any(c.isspace() or c in "^+=" for c in word):
        raise UserError(f"{word!r} is not a host; write a:2 or user@a:2")
    return name, _count(word, count) if colon else workers
