"""Why no setting can be, and the nearest change with which one can."""

import math
from collections.abc import Iterator
from dataclasses import replace

from ringlet.comm.schedules.svg import counted
from ringlet.launcher.commands.plan.tables import gigabytes
from ringlet.runtime.mesh import AXES, mesh_text
from ringlet.runtime.planning.search import Search, least_memory
from ringlet.runtime.planning.setting import Setting
from ringlet.runtime.planning.settings import Request

DOUBLINGS = 8
"""How often more ranks are tried."""

FEW = 3


def why_nothing(found: Search) -> str:
    """One line on a search that has found nothing."""
    request = found.request
    name = f"{request.model.name}, batch {request.batch}, on {counted(request.workers, 'rank')}"
    if found.nearest is None:
        return f"{name}: {_refused(found)}"
    setting, nbytes = found.nearest
    text = (
        f"{name}: nothing fits into {gigabytes(request.limit)} on each; the least is "
        f"{gigabytes(nbytes)}, with {_shown(setting)}. It fits with --memory "
        f"{math.ceil(nbytes / 1e6) / 1e3:g}GB"
    )
    for more, least in _larger(request):
        if least <= request.limit:
            return f"{text}, or on {more} ranks"
    return text


def _refused(found: Search) -> str:
    """Of meshes that the rules refuse, some and why."""
    fixed = {axis: n for axis, n in found.request.fixed.items() if axis in AXES}
    if not found.lost:
        wanted = ",".join(f"{axis}={length}" for axis, length in fixed.items())
        return f"no mesh of so many has {wanted}"
    reasons = {reason: mesh.replace(" ", "") for mesh, reason in reversed(found.lost.items())}
    few = [f"{mesh}: {reason}" for reason, mesh in reversed(reasons.items())][:FEW]
    more = f"; and {len(found.lost) - len(few)} others" if len(found.lost) > len(few) else ""
    return f"no mesh can be ({'; '.join(few)}{more})"


def _shown(setting: Setting) -> str:
    options = setting.options
    parts = [mesh_text(setting.mesh).replace(" ", ""), f"micro-batches of {setting.micro_batch}"]
    parts += [f"zero {options.zero}"] if options.zero else []
    parts += ["all blocks recomputed"] if "blocks" in options.recompute else []
    return ", ".join(parts)


def _larger(request: Request) -> Iterator[tuple[int, float]]:
    """(ranks, the least that one of them needs) with more hosts like these."""
    for doubling in range(1, DOUBLINGS + 1):
        ranks = request.workers << doubling
        cluster = request.cluster
        hosts = -(-ranks // cluster.devices)
        *inner, last = cluster.links or (None,)
        if last is None or (last.memory and hosts > 1):
            return  # nothing is known of links between hosts
        last = replace(last, ranks=max(last.ranks, -(-ranks // last.ranks) * last.ranks))
        cluster = replace(cluster, hosts=max(hosts, cluster.hosts), links=(*inner, last))
        found = least_memory(replace(request, cluster=cluster, ranks=ranks))
        if found is not None:
            yield ranks, found[1]
