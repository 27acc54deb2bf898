"""`ringlet explain`: a collective's rounds, what is proven about them, and what they cost."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ringlet.comm.schedules.algorithms import ALGORITHMS, schedule
from ringlet.comm.schedules.choice import SHARED
from ringlet.comm.schedules.draw import draw_text
from ringlet.comm.schedules.picture import draw_svg
from ringlet.comm.schedules.price import LinkCost, Network, Price, price
from ringlet.comm.schedules.prove import prove
from ringlet.comm.schedules.prove_direct import prove_direct
from ringlet.comm.schedules.schedule import Schedule
from ringlet.comm.schedules.svg import counted
from ringlet.comm.schedules.trace import Trace, trace
from ringlet.comm.schedules.trace_direct import trace_direct
from ringlet.comm.signature import size_text
from ringlet.launcher.commands.options.units import (
    parse_bytes,
    parse_rate,
    parse_seconds,
    seconds_text,
)
from ringlet.launcher.errors import UserError

DRAWN, PICTURED, PROVEN, COMPARED, PRICED = 16, 64, 128, 128, 4096
"""The most ranks whose drawing fits a screen, whose picture fits a page, and so on."""

ROOTED = ("broadcast", "reduce", "gather", "scatter")


def explain(
    operation: Annotated[str, typer.Argument(help=f"{', '.join(map(str, ALGORITHMS))}.")],
    ranks: Annotated[int, typer.Option(min=1, max=PRICED, help="Number of ranks.")] = 4,
    algorithm: Annotated[
        str, typer.Option(help="One of the operation's, or shared-memory.  [default: its first]")
    ] = "",
    root: Annotated[int, typer.Option(help="Root rank, for operations that have one.")] = 0,
    segments: Annotated[int, typer.Option(min=1, help="Segments to cut every slot into.")] = 1,
    per_host: Annotated[int | None, typer.Option(min=1, help="Ranks on each host.")] = None,
    ports: Annotated[int, typer.Option(min=1, help="Messages that a rank sends at once.")] = 1,
    svg: Annotated[Path | None, typer.Option(help="Write the picture to this file.")] = None,
    nbytes: Annotated[str, typer.Option("--bytes", help="Size of the array.")] = "64MiB",
    latency: Annotated[str, typer.Option(help="Latency of a message.")] = "20us",
    bandwidth: Annotated[str, typer.Option(help="Bandwidth of a rank, each way.")] = "1GB/s",
    overhead: Annotated[str, typer.Option(help="Time for which a message blocks a port.")] = "0us",
    host_latency: Annotated[str, typer.Option(help="Latency on a host (--per-host).")] = "1us",
    host_bandwidth: Annotated[
        str, typer.Option(help="Bandwidth on a host (--per-host).")
    ] = "10GB/s",
) -> None:
    """Draw a collective's rounds, prove that they are right, and price them on a network."""
    operation = _named("operation", operation, [*ALGORITHMS])
    _check(operation, ranks, root, per_host)
    names = [*ALGORITHMS[operation], SHARED]
    name = _named("algorithm", algorithm or names[0], names, f" of {_dashes(operation)}")
    between = LinkCost(
        parse_seconds(latency, "--latency"),
        parse_rate(bandwidth, "--bandwidth"),
        parse_seconds(overhead, "--overhead"),
    )
    inside = LinkCost(
        parse_seconds(host_latency, "--host-latency"),
        parse_rate(host_bandwidth, "--host-bandwidth"),
        between.overhead,
    )
    network = Network.uniform(between, ports=ports)
    if per_host is not None:
        network = Network.of_hosts(per_host, inside, between, ports=ports)
    size = 0.0 if operation == "barrier" else parse_bytes(nbytes, "--bytes")
    title = f"{_dashes(operation)}: {_dashes(name)}, {counted(ranks, 'rank')}\n"
    if name == SHARED:
        _explain_shared(title, operation, ranks, root, svg)
        return
    make = partial(schedule, operation, size=ranks, root=root, per_host=per_host)
    plan = make(name)
    if svg is not None and ranks > PICTURED:
        raise UserError(f"a picture of {ranks} ranks is too large; the most are {PICTURED}")
    traced = trace(plan, segments, ports) if svg is not None or ranks <= DRAWN else None
    _draw(title, traced, svg)
    _prove(plan, segments, ports)
    hosts = "" if per_host is None else f" between hosts of {per_host}"
    typer.echo(f"{size_text(round(size))}, {latency} and {bandwidth}{hosts}:")
    entries = ALGORITHMS[operation].items() if ranks <= COMPARED else ()
    # With all ranks on one host, the hierarchical form is a ring.
    compared = dict.fromkeys(key for key, entry in entries if per_host or not entry.knows_hosts)
    compared[name] = None
    _price(name, {key: price(make(key), network, size, segments) for key in compared})


def write_picture(picture: str, path: Path) -> None:
    """Write the SVG file; raises UserError if that fails."""
    try:
        path.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _named(what: str, text: str, names: list[str], where: str = "") -> str:
    """The operation or algorithm of this name, with dashes or underscores."""
    if (name := text.replace("-", "_")) not in names:
        known = ", ".join(map(_dashes, names))
        raise UserError(f"unknown {what} {text!r}{where}; there are {known}")
    return name


def _check(operation: str, ranks: int, root: int, per_host: int | None) -> None:
    if not 0 <= root < ranks:
        raise UserError(f"there is no root {root} among {counted(ranks, 'rank')}")
    if root and operation not in ROOTED:
        raise UserError(f"{_dashes(operation)} has no root")
    if per_host is not None and ranks % per_host:
        raise UserError(f"{ranks} ranks are not {per_host} on every host")


def _draw(title: str, traced: Trace | None, svg: Path | None) -> None:
    if svg is not None and traced is not None:
        write_picture(draw_svg(traced), svg)
    typer.echo(title)
    if traced is not None and traced.schedule.size <= DRAWN:
        typer.echo(draw_text(traced))
    else:
        typer.echo(f"(Rounds are shown for up to {DRAWN} ranks.)\n")


def _explain_shared(title: str, operation: str, size: int, root: int, svg: Path | None) -> None:
    """Ranks of one host that reach each other's memory: fences take the place of messages."""
    if size > PICTURED:
        raise UserError(f"{_dashes(SHARED)} is explained for up to {PICTURED} ranks")
    traced = trace_direct(operation, size, root)
    _draw(title, traced, svg)
    if size <= DRAWN:
        typer.echo("A round is what happens between two fences; a rank sends what another reads")
        typer.echo("in its memory, and what it stores in another's.\n")
    typer.echo("Proven: between two fences no rank touches what another may be writing, and no")
    typer.echo("contribution is lost or counts twice.")
    fences, moved = prove_direct(operation, size, root).fences, len(traced.transfers)
    typer.echo(f"{counted(fences, 'fence')}; {counted(moved, 'slot')} read or stored across ranks.")


def _prove(plan: Schedule, segments: int, ports: int) -> None:
    if plan.size > PROVEN:
        typer.echo(f"(Proofs are made for up to {PROVEN} ranks.)\n")
        return
    proof = prove(plan, segments, ports)
    typer.echo("Proven: no rank waits for ever, no message is left over, no contribution is lost")
    if plan.operation == "all_reduce":
        typer.echo("or counts twice; all ranks combine in one order, so they get the same bits.")
    else:
        typer.echo("or counts twice.")
    rounds = counted(proof.rounds if segments == 1 else proof.slot_times, "round")
    if segments > 1:
        rounds += f" of 1/{segments} slot"
    elif proof.slot_times > proof.rounds:
        rounds += f", as long as {proof.slot_times} slots"
    busiest = max(proof.sent)
    typer.echo(
        f"{rounds}; a rank sends up to {counted(busiest, 'slot')}, "
        f"{busiest / plan.array_slots:.4g} of the array; {counted(sum(proof.sent), 'slot')} in all."
        "\n"
    )


def _price(chosen: str, prices: dict[str, Price]) -> None:
    typer.echo(f"  {'algorithm':<20}{'time':>10}{'sent by a rank':>17}  waits longest")
    best = min(prices, key=lambda name: prices[name].seconds)
    for name, cost in sorted(prices.items(), key=lambda item: item[1].seconds):
        mark = ">" if name == chosen else " "
        remark = "  <- fastest" if name == best and len(prices) > 1 else ""
        typer.echo(
            f"{mark} {_dashes(name):<20}{seconds_text(cost.seconds):>10}"
            f"{size_text(round(max(cost.nbytes))):>17}  {_longest_wait(cost)}{remark}"
        )


def _longest_wait(cost: Price) -> str:
    if not cost.waits:
        return "nobody"
    (rank, peer), seconds = max(cost.waits.items(), key=lambda item: item[1])
    return f"rank {rank}, {seconds_text(seconds)} for rank {peer}"


def _dashes(name: str) -> str:
    return name.replace("_", "-")
