"""`ringlet explain`: a collective's rounds, what is proven about them, and what they cost."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import click

from ringlet.comm.schedules.algorithms import ALGORITHMS, schedule
from ringlet.comm.schedules.choice import SHARED
from ringlet.comm.schedules.draw import draw_text
from ringlet.comm.schedules.picture import draw_svg
from ringlet.comm.schedules.price import LinkCost, Network, Price, price
from ringlet.comm.schedules.prove import prove
from ringlet.comm.schedules.prove_direct import prove_direct
from ringlet.comm.schedules.schedule import Schedule
from ringlet.comm.schedules.svg import counted
from ringlet.comm.schedules.trace import Trace, trace, trace_direct
from ringlet.comm.signature import size_text
from ringlet.launcher.commands.options import Argument, refuse, with_options
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.launcher.units import parse_bytes, parse_rate, parse_time, seconds_text

DRAWN, PICTURED, PROVEN, COMPARED, PRICED = 16, 64, 128, 128, 4096
"""The most ranks whose drawing fits a screen, whose picture fits a page, and so on."""

ROOTED = ("broadcast", "reduce", "gather", "scatter")


def _dashes(name: str) -> str:
    return name.replace("_", "-")


OPERATIONS = ", ".join(map(_dashes, ALGORITHMS))


@dataclass(frozen=True)
class CollectiveOptions:
    """What is explained: the schedule, and how it is shown."""

    ranks: int = option(4, "Number of ranks.", least=1, most=PRICED)
    algorithm: str = option(
        "", "Name of an algorithm, or shared-memory.", metavar="NAME", shown="the first"
    )
    root: int = option(0, "The root, for operations that have one.", metavar="RANK")
    segments: int = option(1, "Number of segments to cut each slot into.", least=1, most=PRICED)
    per_host: int | None = option(None, "Ranks on each host.", least=1)
    ports: int = option(1, "Messages that a rank can send at the same time.", least=1, most=PRICED)
    svg: Path | None = option(None, "Write a picture to this file.", metavar="FILE")

    def check(self, operation: str) -> None:
        """Raise UserError for options that do not fit the operation."""
        if not 0 <= self.root < self.ranks:
            raise UserError(f"there is no root {self.root} among {counted(self.ranks, 'rank')}")
        if self.root and operation not in ROOTED:
            raise UserError(f"{_dashes(operation)} has no root")
        if self.per_host is not None and self.ranks % self.per_host:
            raise UserError(f"{self.ranks} ranks cannot be split into hosts of {self.per_host}")


@dataclass(frozen=True)
class NetworkOptions:
    """The array, and the network on which its collective is priced."""

    HEADING: ClassVar = "Network"
    nbytes: str = option("64MiB", "Size of the array.", "--bytes", metavar="SIZE")
    latency: str = option("20us", "Latency of a message.", metavar="TIME")
    bandwidth: str = option("1GB/s", "Bandwidth of a rank, each way.", metavar="RATE")
    overhead: str = option("0us", "How long a message occupies a port.", metavar="TIME")
    host_latency: str = option("1us", "With --per-host: latency within a host.", metavar="TIME")
    host_bandwidth: str = option(
        "10GB/s", "With --per-host: bandwidth within a host.", metavar="RATE"
    )

    def make(self, per_host: int | None, ports: int) -> Network:
        """The network; raises UserError for quantities that cannot be read."""
        between = LinkCost(
            parse_time(self.latency, "--latency"),
            parse_rate(self.bandwidth, "--bandwidth"),
            parse_time(self.overhead, "--overhead"),
        )
        inside = LinkCost(
            parse_time(self.host_latency, "--host-latency"),
            parse_rate(self.host_bandwidth, "--host-bandwidth"),
            between.overhead,
        )
        if per_host is None:
            return Network.uniform(between, ports=ports)
        return Network.of_hosts(per_host, inside, between, ports=ports)


@with_options(options=CollectiveOptions, network=NetworkOptions)
def collective(
    context: click.Context,
    operation: Annotated[str, Argument("OPERATION", f"One of {OPERATIONS}.")],
    *,
    options: CollectiveOptions,
    network: NetworkOptions,
) -> None:
    """Draw, prove and price a collective.

    Shows what each rank sends in each round, and compares the algorithms on a network.
    The word `collective` is optional.
    """
    operation = _named("operation", operation, [*ALGORITHMS])
    options.check(operation)
    ranks, per_host, segments = options.ranks, options.per_host, options.segments
    names = [*ALGORITHMS[operation], SHARED]
    name = _named("algorithm", options.algorithm or names[0], names, f" of {_dashes(operation)}")
    if per_host is None:
        refuse(context, ["host_latency", "host_bandwidth"], "without --per-host there is one host")
    if name == SHARED:
        prices = [each.name for each in fields(NetworkOptions)]
        refuse(context, ["segments", "ports", "per_host", *prices], "memory is not priced")
    if operation == "barrier":
        refuse(context, ["nbytes"], "a barrier carries nothing")
    priced_on = network.make(per_host, options.ports)
    size = 0 if operation == "barrier" else parse_bytes(network.nbytes, "--bytes")
    title = f"{_dashes(operation)}: {_dashes(name)}, {counted(ranks, 'rank')}\n"
    if name == SHARED:
        _explain_shared(title, operation, ranks, options.root, options.svg)
        return
    make = partial(schedule, operation, size=ranks, root=options.root, per_host=per_host)
    made = make(name)
    if options.svg is not None and ranks > PICTURED:
        raise UserError(f"a picture of {ranks} ranks is too large; the most are {PICTURED}")
    shown = options.svg is not None or ranks <= DRAWN
    _draw(title, trace(made, segments, options.ports) if shown else None, options.svg)
    _prove(made, segments, options.ports)
    hosts = "" if per_host is None else f" between hosts of {per_host}"
    click.echo(f"{size_text(size)}, {network.latency} and {network.bandwidth}{hosts}:")
    entries = ALGORITHMS[operation].items() if ranks <= COMPARED else ()
    # With all ranks on one host, the hierarchical form is a ring.
    compared = dict.fromkeys(key for key, entry in entries if per_host or not entry.knows_hosts)
    compared[name] = None
    _price(name, {key: price(make(key), priced_on, size, segments) for key in compared})


def write_file(text: str, path: Path) -> None:
    """Write a file that was asked for; raises UserError if that fails."""
    with user_errors(os_error=f"cannot write {path}"):
        path.write_text(text, encoding="utf-8")


def _named(what: str, text: str, names: list[str], where: str = "") -> str:
    """The operation or algorithm of this name, with dashes or underscores."""
    if (name := text.replace("-", "_")) not in names:
        known = ", ".join(map(_dashes, names))
        raise UserError(f"unknown {what} {text!r}{where}; there are {known}")
    return name


def _draw(title: str, traced: Trace | None, svg: Path | None) -> None:
    if svg is not None and traced is not None:
        write_file(draw_svg(traced), svg)
    click.echo(title)
    if traced is not None and traced.schedule.size <= DRAWN:
        click.echo(draw_text(traced))
    else:
        click.echo(f"(Rounds are shown for up to {DRAWN} ranks.)\n")


def _explain_shared(title: str, operation: str, size: int, root: int, svg: Path | None) -> None:
    """Ranks of one host that reach each other's memory: fences take the place of messages."""
    if size > PICTURED:
        raise UserError(f"{_dashes(SHARED)} is explained for up to {PICTURED} ranks")
    traced = trace_direct(operation, size, root)
    _draw(title, traced, svg)
    if size <= DRAWN:
        click.echo("A round is what happens between two fences; a rank sends what another reads")
        click.echo("in its memory, and what it stores in another's.\n")
    click.echo("Proven: between two fences no rank touches what another may be writing, and no")
    click.echo("contribution is lost or counts twice.")
    fences, moved = prove_direct(operation, size, root).fences, len(traced.transfers)
    click.echo(f"{counted(fences, 'fence')}; {counted(moved, 'slot')} read or stored across ranks.")


def _prove(made: Schedule, segments: int, ports: int) -> None:
    if made.size > PROVEN:
        click.echo(f"(Proofs are made for up to {PROVEN} ranks.)\n")
        return
    proof = prove(made, segments, ports)
    click.echo("Proven: no rank waits for ever, no message is left over, no contribution is lost")
    if made.operation == "all_reduce":
        click.echo("or counts twice; all ranks combine in one order, so they get the same bits.")
    else:
        click.echo("or counts twice.")
    rounds = counted(proof.rounds if segments == 1 else proof.slot_times, "round")
    if segments > 1:
        rounds += f" of 1/{segments} slot"
    elif proof.slot_times > proof.rounds:
        rounds += f", as long as {proof.slot_times} slots"
    busiest = max(proof.sent)
    click.echo(
        f"{rounds}; a rank sends up to {counted(busiest, 'slot')}, "
        f"{busiest / made.array_slots:.4g} of the array; {counted(sum(proof.sent), 'slot')} in all."
        "\n"
    )


def _price(chosen: str, prices: dict[str, Price]) -> None:
    click.echo(f"  {'algorithm':<20}{'time':>10}{'sent by a rank':>17}  waits longest")
    best = min(prices, key=lambda name: prices[name].seconds)
    for name, cost in sorted(prices.items(), key=lambda item: item[1].seconds):
        mark = ">" if name == chosen else " "
        remark = "  <- fastest" if name == best and len(prices) > 1 else ""
        click.echo(
            f"{mark} {_dashes(name):<20}{seconds_text(cost.seconds):>10}"
            f"{size_text(round(max(cost.nbytes))):>17}  {_longest_wait(cost)}{remark}"
        )


def _longest_wait(cost: Price) -> str:
    if not cost.waits:
        return "nobody"
    (rank, peer), seconds = max(cost.waits.items(), key=lambda item: item[1])
    return f"rank {rank}, {seconds_text(seconds)} for rank {peer}"
