"""`ringlet explain overlap`: buckets of gradients under backward."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ringlet.comm.schedules.svg import counted
from ringlet.comm.signature import size_text
from ringlet.launcher.commands.explain.chart import Box, Chart, Row, Section, ShowOptions
from ringlet.launcher.commands.explain.subject import (
    Subject,
    facts_of,
    options_for,
    rehearse,
    rehearsed,
    setting_of,
)
from ringlet.launcher.commands.options import with_options
from ringlet.launcher.errors import user_errors
from ringlet.launcher.options import option
from ringlet.launcher.units import seconds_text
from ringlet.runtime.planning.cluster import load_cluster, shipped
from ringlet.runtime.planning.costs import ModelCosts
from ringlet.runtime.planning.fabric import Fabric
from ringlet.runtime.planning.figures import ClusterError
from ringlet.runtime.planning.finish import groups
from ringlet.runtime.training.config import TrainConfig
from ringlet.runtime.training.rehearsal import Rehearsal

Given = options_for("bucket_bytes", "recompute")
BACKWARD, SUMS = "backward", "sum of a bucket"


@dataclass(frozen=True)
class ClusterOptions:
    """Where the step is simulated."""

    cluster: str = option(
        "laptop", f"{', '.join(shipped())}, or a TOML file (docs/reference/clusters.md).",
        metavar="NAME|FILE",
    )  # fmt: skip


class Sum(NamedTuple):
    """Of a bucket: when it is final, in seconds from backward's start, how long it takes, its size,
    and the part of backward in which it is final."""

    final: float
    seconds: float
    nbytes: int
    part: str


@with_options(subject=Subject, where=ClusterOptions, show=ShowOptions, given=Given)
def overlap(
    *, subject: Subject, where: ClusterOptions, show: ShowOptions, given: dict[str, Any]
) -> None:
    """Show how sums of gradients hide under backward.

    The buckets and when each is final are a rehearsed step's; how long blocks and sums take is what
    the simulator says of a cluster.
    """
    config, workers = rehearsed(subject, Given, given, "dp")
    with user_errors(ClusterError):
        parts, sums = _timeline(config, workers, where.cluster)
    end, sections, alone = parts[-1].stop, [], []
    ways = (("each bucket is summed when it is final", 0.0), ("all after backward", end))
    for heading, earliest in ways:
        boxes = list(_placed(sums, earliest))
        alone.append(max(0.0, boxes[-1].stop - end))
        rows = [Row("backward", parts, seconds_text(end))]
        rows.append(Row("sums", boxes, f"{seconds_text(alone[-1])} more"))
        sections.append(Section(heading, rows, seconds_text))
    hidden = f"{100 * (1 - alone[0] / alone[1]):.0f} % of the sums hidden"
    facts = [*facts_of(config, workers), f"on {where.cluster}", hidden]
    buckets = counted(len(sums), "bucket")
    where_final = ", ".join(f"{n} in {part}" for part, n in Counter(s.part for s in sums).items())
    note = (
        f"{buckets} of up to {size_text(max(each.nbytes for each in sums))}, in the order in which "
        f"they travel. When they are final: {where_final}. Within a block that goes evenly."
    )
    show.show(Chart("overlap: a step's backward", facts, [BACKWARD, SUMS], sections, [note]))


def _timeline(config: TrainConfig, workers: int, name: str) -> tuple[list[Box], list[Sum]]:
    """Backward's parts one after the other, and the sums in the order in which they are sent."""
    model, setting = setting_of(config, workers)
    cluster = load_cluster(name).of(workers)
    costs = ModelCosts(model, cluster, setting, fabric=Fabric(cluster))
    blocks = [*enumerate(costs.blocks)][::-1]
    times = [("head", costs.head), *((f"block {number}", each) for number, each in blocks)]
    parts, now = list[Box](), 0.0
    for label, each in (*times, ("embedding", costs.embedding)):
        parts.append(Box(now, now := now + each.inputs + each.weights, BACKWARD, label))
    made = rehearse(config, workers)
    reducer = made.parallel.gradient_groups[0].reducer
    places = _places(made)
    spans: dict[int, tuple[int, int]] = {}
    for slot in reducer.shard.slots:
        place = places[slot.name]
        spans[place] = spans.get(place, (slot.start, 0))[0], slot.stop
    sums = list[Sum]()
    for event in made.run(update=False):
        if event.name.startswith("gradients "):
            first = reducer.buckets[len(sums)].slots[0]  # backward goes the other way
            place = places[first.name]
            (start, stop), part = spans[place], parts[place]
            done = (stop - first.start) / (stop - start)
            final = part.start + done * (part.stop - part.start)
            seconds = costs.fabric.collective(event.what, groups(setting)[0], event.nbytes)
            sums.append(Sum(final, seconds, event.nbytes, part.label))
    return parts, sums


def _places(made: Rehearsal) -> dict[str, int]:
    """By parameter, which part of backward gives it its gradient: the head's is 0."""
    found, place = {}, len(made.blocks) + 1
    for name in made.parallel.names:  # from the embedding on
        inside = [n for n, block in enumerate(made.blocks) if name.startswith(f"{block}.")]
        if inside:
            place = len(made.blocks) - inside[0]
        elif place <= len(made.blocks):
            place = 0
        found[name] = place
    return found


def _placed(sums: list[Sum], earliest: float) -> Iterator[Box]:
    """One after the other, each when it is final, and none before `earliest`."""
    now = earliest
    for number, each in enumerate(sums, 1):
        start = max(now, each.final)
        yield Box(start, now := start + each.seconds, SUMS, str(number))
