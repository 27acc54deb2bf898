"""What `ringlet run` and `ringlet train` do with --engine."""

from collections.abc import Collection
from dataclasses import fields

import click

from ringlet.launcher.commands.options import refuse
from ringlet.launcher.errors import UserError
from ringlet.launcher.hosts.options import HostOptions
from ringlet.launcher.ray.options import RayOptions

OF_AGENTS = {
    "grace",
    "pin",
    "output",
    "quiet",
    "prefix",
    "trace",
    "trace_steps",
    *(each.name for each in fields(HostOptions)),
}
"""Options of ringlet's own agents."""


def is_on_ray(context: click.Context, options: RayOptions, but: Collection[str] = ()) -> bool:
    """Whether Ray places the workers. Raises UserError for options that would do nothing, those of
    the agents among them, `but` not these."""
    if options.engine is None:
        refuse(context, {each.name for each in fields(RayOptions)}, "it is for --engine ray")
        return False
    if options.engine != "ray":
        raise UserError(
            f"there is no engine {options.engine!r} to run on; there is ray, and `ringlet submit` "
            "has others"
        )
    refuse(context, OF_AGENTS.difference(but), "Ray starts the workers and shows their output")
    return True
