"""A search, with its progress on a terminal."""

from ringlet.launcher.commands.progress import progress
from ringlet.launcher.errors import user_errors
from ringlet.runtime.planning.figures import ClusterError
from ringlet.runtime.planning.search import Search, search
from ringlet.runtime.planning.settings import Request


def searching(request: Request, objective: str = "time") -> Search:
    """Search, and show how far it is if stderr is a terminal; raises UserError."""
    with progress("planning") as at, user_errors(ClusterError):
        return search(request, objective, lambda done, of: at(done, of, "settings"))
