"""The cluster: connecting to one that runs, and a place for each rank.

https://docs.ray.io/en/latest/ray-core/scheduling/placement-group.html
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from ringlet.launcher.errors import UserError
from ringlet.launcher.ray.options import RayOptions

OUTPUT_S = 1.0
"""How long what workers have printed may be on its way: Ray cannot be asked whether all is here."""

REACH_S = 5.0
"""How long a cluster may take to accept a connection."""


def ray_module() -> Any:
    """Ray's module; raises UserError without it."""
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # show the same line of each rank
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError("Ray is not installed here: pip install 'ringlet[ray]'") from None
    return ray


@contextmanager
def connected(ray: Any) -> Iterator[None]:
    """Connected to the cluster of ray.init(), of RAY_ADDRESS or of this host; none is started."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "auto"
    try:
        if "://" not in address and ":" in address:  # Ray tries for minutes
            parts = urlsplit(f"//{address}")
            socket.create_connection((parts.hostname or "", parts.port or 0), REACH_S).close()
        ray.init(address=address, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        where = "on this host" if address == "auto" else f"at {address} (RAY_ADDRESS)"
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"there is no Ray cluster {where}: {reason.rstrip('.')}. `ray start --head` starts "
            "one, and RAY_ADDRESS=HOST:PORT names another"
        ) from error
    try:
        yield
    finally:
        time.sleep(OUTPUT_S)
        ray.shutdown()


@contextmanager
def placed(ray: Any, kind: type, workers: int, options: RayOptions) -> Iterator[list[Any]]:
    """An actor of this class for each rank, on as few hosts as can be, for the context."""
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    if workers < 1:
        raise UserError(f"there must be at least one worker, not {workers}")
    amounts = {"CPU": options.cpus, "GPU": options.gpus}
    each = {name: amount for name, amount in amounts.items() if amount}
    if not each:
        raise UserError("each worker needs a core or a GPU: --cpus, --gpus")
    group, actors = placement_group([each] * workers, strategy="PACK"), []
    try:
        if not group.wait(options.place_timeout):
            raise UserError(_no_room(ray, workers, each, options.place_timeout))
        for bundle in range(workers):
            strategy = PlacementGroupSchedulingStrategy(group, bundle)
            made = ray.remote(kind).options(
                num_cpus=options.cpus, num_gpus=options.gpus, scheduling_strategy=strategy
            )
            actors.append(made.remote())
        yield actors
    finally:
        with suppress(ray.exceptions.RayError):  # the cluster is gone
            for actor in actors:
                ray.kill(actor)
            remove_placement_group(group)


def draining(ray: Any) -> set[str]:
    """The nodes that will be taken away: `ray drain-node`, or the autoscaler before a spot host
    ends. Ray has no public name for it; where this one is gone, a node's end is all that is seen.
    """
    try:
        return set(ray._private.state.state.get_draining_nodes())
    except (AttributeError, ray.exceptions.RayError):
        return set()


def _no_room(ray: Any, workers: int, each: dict[str, float], waited: float) -> str:
    """A sentence about what was asked for, and what the cluster has."""

    def text(resources: dict[str, float]) -> str:
        return ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))

    hosts = [node for node in ray.nodes() if node["Alive"]]
    count = "1 host" if len(hosts) == 1 else f"{len(hosts)} hosts"
    there = "; ".join(f"{node['NodeManagerAddress']}: {text(node['Resources'])}" for node in hosts)
    return (
        f"{workers} workers with {text(each)} each found no room on the Ray cluster within "
        f"{waited:g} s. It has {count} ({there}); {text(ray.available_resources())} "
        "of that are free"
    )
