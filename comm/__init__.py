"""Processes that talk: point to point, collectives, groups.

    from ringlet import comm

    world = comm.init()
    world.all_reduce(gradients)

Nothing here knows models. See `Group` for everything that ranks can do together.
"""

from ringlet.comm.errors import (
    AuthenticationError,
    CollectiveMismatch,
    CommError,
    CommTimeout,
    PeerLost,
    ScheduleError,
)
from ringlet.comm.group import Group
from ringlet.comm.work import Work
from ringlet.comm.world import init, inject, report_lost, show_last_operations_on_signal, shutdown

__all__ = [
    "AuthenticationError",
    "CollectiveMismatch",
    "CommError",
    "CommTimeout",
    "Group",
    "PeerLost",
    "ScheduleError",
    "Work",
    "init",
    "inject",
    "report_lost",
    "show_last_operations_on_signal",
    "shutdown",
]
