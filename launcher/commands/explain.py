"""`ringlet explain`: a collective's rounds, what is proven about them, and what they cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ringlet.comm.schedules.algorithms import ALGORITHMS, schedule
from ringlet.comm.schedules.choice import SHARED
from ringlet.comm.schedules.draw import draw_text, text_of
from ringlet.comm.schedules.picture import draw_svg, svg_of
from ringlet.comm.schedules.price import LinkCost, Network, Price, price
from ringlet.comm.schedules.prove import Proof, prove
from ringlet.comm.schedules.prove_direct import prove_direct
from ringlet.comm.schedules.schedule import Schedule
from ringlet.comm.schedules.trace_direct import trace_direct
from ringlet.comm.sockets.wire import size_text
from ringlet.launcher.commands.options.units import (
    parse_bytes,
    parse_rate,
    parse_seconds,
    seconds_text,
)
from ringlet.launcher.errors import UserError

DRAWN, PICTURED, PROVEN, COMPARED, PRICED = 16, 64, 128, 128, 4096
"""Up to so many ranks a drawing fits a screen, a picture a page, and so on."""

ROOTED = ("broadcast", "reduce", "gather", "scatter")


@dataclass(frozen=True)
class Question:
    """What is asked for: one operation among so many ranks."""

    operation: str
    ranks: int
    root: int
    per_host: int | None

    def plan(self, algorithm: str) -> Schedule:
        """Its schedule by this algorithm."""
        return schedule(self.operation, algorithm, self.ranks, self.root, self.per_host)

    @property
    def algorithms(self) -> list[str]:
        """Those that differ: with all ranks on one host, the hierarchical form is a ring."""
        entries = ALGORITHMS[self.operation].items()
        return [name for name, entry in entries if self.per_host or not entry.knows_hosts]


def explain(
    operation: Annotated[str, typer.Argument(help=f"{', '.join(map(str, ALGORITHMS))}.")],
    ranks: Annotated[int, typer.Option(min=1, max=PRICED, help="How many ranks.")] = 4,
    algorithm: Annotated[str, typer.Option(help="Or shared-memory; default: the first.")] = "",
    root: Annotated[int, typer.Option(help="The root, where there is one.")] = 0,
    segments: Annotated[int, typer.Option(min=1, help="Cut every slot into so many.")] = 1,
    per_host: Annotated[int | None, typer.Option(min=1, help="Ranks on each host.")] = None,
    ports: Annotated[int, typer.Option(min=1, help="Messages a rank sends at once.")] = 1,
    svg: Annotated[Path | None, typer.Option(help="Write the picture to this file.")] = None,
    nbytes: Annotated[str, typer.Option("--bytes", help="The size of the array.")] = "64MiB",
    latency: Annotated[str, typer.Option(help="Of a message.")] = "20us",
    bandwidth: Annotated[str, typer.Option(help="Of a rank, each way.")] = "1GB/s",
    overhead: Annotated[str, typer.Option(help="For which a message blocks a port.")] = "0us",
    host_latency: Annotated[str, typer.Option(help="With --per-host: on a host.")] = "1us",
    host_bandwidth: Annotated[str, typer.Option(help="With --per-host: on a host.")] = "10GB/s",
) -> None:
    """Draw a collective's rounds, prove that they are right, and price them on a network."""
    question = Question(_operation(operation), ranks, root, per_host)
    _check(question)
    name = _algorithm(question.operation, algorithm)
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
    size = 0.0 if question.operation == "barrier" else parse_bytes(nbytes, "--bytes")

    if name == SHARED:
        _explain_shared(question, svg)
        return
    plan = question.plan(name)
    if svg is not None:
        _picture(plan, segments, ports, svg)
    typer.echo(_title(question, name))
    _draw(plan, segments, ports)
    _prove(plan, segments, ports)
    heading = f"{size_text(round(size))}, {latency} and {bandwidth}"
    typer.echo(heading + ("" if per_host is None else f" between hosts of {per_host}") + ":")
    _price(question, name, network, size, segments)


def _operation(text: str) -> str:
    name = text.replace("-", "_")
    if name not in ALGORITHMS:
        known = ", ".join(map(_dashes, ALGORITHMS))
        raise UserError(f"unknown operation {text!r}; there are {known}")
    return name


def _algorithm(operation: str, text: str) -> str:
    names = [*ALGORITHMS[operation], SHARED]
    name = text.replace("-", "_") or next(iter(names))
    if name not in names:
        known = ", ".join(map(_dashes, names))
        raise UserError(f"unknown algorithm {text!r} of {_dashes(operation)}; there are {known}")
    return name


def _check(question: Question) -> None:
    ranks, root, per_host = question.ranks, question.root, question.per_host
    if not 0 <= root < ranks:
        raise UserError(f"there is no root {root} among {_count(ranks, 'rank')}")
    if root and question.operation not in ROOTED:
        raise UserError(f"{_dashes(question.operation)} has no root")
    if per_host is not None and ranks % per_host:
        raise UserError(f"{ranks} ranks are not {per_host} on every host")


def _explain_shared(question: Question, svg: Path | None) -> None:
    """Ranks of one host that reach each other's memory: fences take the place of messages."""
    operation, size, root = question.operation, question.ranks, question.root
    if size > PICTURED:
        raise UserError(f"{_dashes(SHARED)} is explained for up to {PICTURED} ranks")
    followed = trace_direct(operation, size, root)
    if svg is not None:
        _write(svg_of(followed), svg)
    typer.echo(_title(question, SHARED))
    if size <= DRAWN:
        typer.echo(text_of(followed))
        typer.echo("A round is what happens between two fences; a rank sends what another reads")
        typer.echo("in its memory, and what it stores in another's.\n")
    typer.echo("Proven: between two fences no rank touches what another may be writing, and no")
    typer.echo("contribution is lost or counts twice.")
    fences, moved = prove_direct(operation, size, root), len(followed.transfers)
    typer.echo(f"{_count(fences, 'fence')}; {_count(moved, 'slot')} read or stored across ranks.")


def _title(question: Question, name: str) -> str:
    return f"{_dashes(question.operation)}: {_dashes(name)}, {_count(question.ranks, 'rank')}\n"


def _draw(plan: Schedule, segments: int, ports: int) -> None:
    if plan.size > DRAWN:
        typer.echo(f"(Rounds are shown for up to {DRAWN} ranks.)\n")
    else:
        typer.echo(draw_text(plan, segments, ports))


def _picture(plan: Schedule, segments: int, ports: int, path: Path) -> None:
    if plan.size > PICTURED:
        raise UserError(f"a picture of {plan.size} ranks is too large; the most are {PICTURED}")
    _write(draw_svg(plan, segments, ports), path)


def _write(picture: str, path: Path) -> None:
    try:
        path.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


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
    typer.echo(f"{_figures(plan, proof, segments)}\n")


def _figures(plan: Schedule, proof: Proof, segments: int) -> str:
    rounds = _count(proof.rounds if segments == 1 else proof.slot_times, "round")
    if segments > 1:
        rounds += f" of 1/{segments} slot"
    elif proof.slot_times > proof.rounds:
        rounds += f", as long as {proof.slot_times} slots"
    busiest = max(proof.sent)
    return (
        f"{rounds}; a rank sends up to {_count(busiest, 'slot')}, "
        f"{busiest / _parts(plan):.4g} of the array; {_count(sum(proof.sent), 'slot')} in all."
    )


def _price(question: Question, chosen: str, network: Network, nbytes: float, segments: int) -> None:
    few = question.ranks <= COMPARED
    names = question.algorithms if few else []
    names += [] if chosen in names else [chosen]
    prices = {name: price(question.plan(name), network, nbytes, segments) for name in names}
    typer.echo(f"  {'algorithm':<20}{'time':>10}{'sent by a rank':>17}  waits longest")
    best = min(names, key=lambda name: prices[name].seconds)
    for name, cost in sorted(prices.items(), key=lambda item: item[1].seconds):
        mark = ">" if name == chosen else " "
        remark = "  <- fastest" if name == best and len(names) > 1 else ""
        typer.echo(
            f"{mark} {_dashes(name):<20}{seconds_text(cost.seconds):>10}"
            f"{size_text(round(max(cost.nbytes))):>17}  {_longest_wait(cost)}{remark}"
        )


def _longest_wait(cost: Price) -> str:
    if not cost.waits:
        return "nobody"
    (rank, peer), seconds = max(cost.waits.items(), key=lambda item: item[1])
    return f"rank {rank}, {seconds_text(seconds)} for rank {peer}"


def _parts(plan: Schedule) -> int:
    """Slots of the whole array."""
    return plan.slots // 2 if plan.operation == "all_to_all" else plan.slots


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _dashes(name: str) -> str:
    return name.replace("_", "-")
