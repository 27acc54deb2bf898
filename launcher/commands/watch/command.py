"""`ringlet watch`: what a run is doing, in the terminal or as a page."""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated

import click

from ringlet.launcher.commands.options import Argument, with_options
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.options import option
from ringlet.launcher.supervisor.output import Screen


@dataclass(frozen=True)
class WatchOptions:
    """Where it is shown."""

    http: int | None = option(
        None, "Serve a page on this port of the loopback instead (ringlet[watch]); 0: any free "
        "port.", least=0, most=65535, metavar="PORT",
    )  # fmt: skip


@with_options(options=WatchOptions)
def watch(
    target: Annotated[
        str,
        Argument("RUN|JOB", "Folder of a training run; or a job's name, or pid, in `ringlet ps`."),
    ],
    options: WatchOptions,
) -> None:
    """Watch a run: its loss, its speed, what each rank does.

    Ends when the run does. Ctrl-C ends the watching, and leaves the run alone. A page stays until
    Ctrl-C; its address, with a secret token, is shown at the start.
    """
    http = options.http
    if http is not None and find_spec("h11") is None:
        raise UserError("--http needs h11: pip install 'ringlet[watch]'")
    with contextlib.suppress(OSError):
        os.nice(19)  # the run has the cores first
    try:
        _watch(target, http)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(ExitCode.SIGNAL + signal.SIGINT) from None


def _watch(target: str, http: int | None) -> None:
    # Imported here and below, at that priority: it takes a second of a processor.
    from ringlet.launcher.commands.watch.watched import EVERY_S, Watched, printable

    screen = Screen()
    if http is None:
        from ringlet.launcher.commands.watch.terminal import show

        with Watched(target) as watched:
            show(watched, screen)
        return
    from ringlet.launcher.commands.watch.server import Server, listen

    with listen(http) as listener, Watched(target) as watched:
        server = Server(watched, screen.line)
        watched.wait(EVERY_S)
        screen.line(
            f"watching {printable(watched.name)}\n"
            f"the page is at {server.address(listener.getsockname()[1])}\n"
            "whoever on this host knows the address can read it; Ctrl-C ends the page, not the run"
        )
        asyncio.run(server.serve(listener))
