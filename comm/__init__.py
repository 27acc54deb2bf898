"""Processes that talk: point to point, collectives, groups.

    from ringlet import comm

    world = comm.init()
    world.all_reduce(gradients)

Nothing here knows models. See `Group` for everything that ranks can do together.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ringlet.comm.errors import (
    AuthenticationError,
    CollectiveMismatch,
    CommError,
    CommTimeout,
    PeerLost,
    ScheduleError,
)

if TYPE_CHECKING:
    from ringlet.comm.calls.work import Work
    from ringlet.comm.group import Group
    from ringlet.comm.world import (
        in_flight,
        init,
        inject,
        last_operation,
        report_lost,
        show_last_operations_on_signal,
        shutdown,
        when_joined,
    )

__all__ = [
    "AuthenticationError",
    "CollectiveMismatch",
    "CommError",
    "CommTimeout",
    "Group",
    "PeerLost",
    "ScheduleError",
    "Work",
    "in_flight",
    "init",
    "inject",
    "last_operation",
    "report_lost",
    "show_last_operations_on_signal",
    "shutdown",
    "when_joined",
]

_PLACES = {"Group": "group", "Work": "calls.work"}


def __getattr__(name: str) -> Any:
    """Import what needs NumPy when it is asked for: launchers start twice as fast."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PLACES.get(name, 'world')}"), name)
    globals()[name] = value
    return value
