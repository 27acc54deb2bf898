"""What can go wrong between processes, by name."""

from collections.abc import Iterable
from typing import Any

LONGEST_S = 1e9
"""Longer timeouts, also infinite ones, are as long as this: threads cannot wait for ever."""


class CommError(RuntimeError):
    """Communication failed; the message names the rank, the operation and the cause."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Those who hand errors on to other processes pickle them; by default that calls the class
        # with `args` alone, and some take more.
        return _again, (type(self), self.args, self.__dict__)


class PeerLost(CommError):
    """A process that this one depends on has ended. `rank` is its rank in the world."""

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank


class CommTimeout(CommError):
    """A wait reached its deadline. `waiting_for` holds the world ranks that had not come."""

    def __init__(self, message: str, waiting_for: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.waiting_for = tuple(waiting_for)


class CollectiveMismatch(CommError):
    """Ranks of one group called different operations, or one with different arguments."""


class AuthenticationError(CommError):
    """A process may not join, or the network may not be used without a key."""


class ScheduleError(CommError):
    """A schedule is wrong: it deadlocks, loses a contribution or counts one twice."""


def _again(kind: type[CommError], args: tuple[Any, ...], state: dict[str, Any]) -> CommError:
    """An error as it was."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
