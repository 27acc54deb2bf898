"""`ringlet bench`: how fast the collectives are here, in the manner of nccl-tests."""

import json
from typing import Annotated, Any

import typer

from ringlet.comm.schedules.choice import algorithm_named
from ringlet.comm.signature import size_text
from ringlet.launcher.commands.options.common import (
    DEFAULT_TIMEOUT_S,
    Timeout,
    Transport,
    check_options,
)
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.supervisor.environment import Job
from ringlet.launcher.supervisor.local import Supervisor
from ringlet.launcher.supervisor.output import Screen

OPERATIONS = (
    "all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "reduce", "gather",
    "scatter", "barrier", "send_recv", "ping_pong",
)  # fmt: skip
SMALLEST, LARGEST, FACTOR = 4, 256 << 20, 8
GRACE_S = 5.0

HEADER = f"{'operation':15}{'size':>11}{'time':>12}{'algorithm':>13}{'bus':>13}{'of a copy':>11}"


def bench(
    operations: Annotated[
        str, typer.Option(help=f"Some of {', '.join(OPERATIONS)}, with commas.")
    ] = ",".join(OPERATIONS),
    workers: Annotated[
        int, typer.Option("-n", "--workers", min=2, help="How many worker processes.")
    ] = 2,
    min_bytes: Annotated[int, typer.Option(min=4, help="The smallest array.")] = SMALLEST,
    max_bytes: Annotated[int, typer.Option(min=4, help="The largest array.")] = LARGEST,
    factor: Annotated[int, typer.Option(min=2, help="From one size to the next.")] = FACTOR,
    plain: Annotated[
        bool, typer.Option("--plain", help="Ordinary arrays, not registered memory.")
    ] = False,
    algorithm: Annotated[
        str, typer.Option(help="Of one operation: by name, as `ringlet explain` shows them.")
    ] = "",
    transport: Transport = "auto",
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line for each row.")] = False,
) -> None:
    """Measure the collectives between processes of this host; every result is checked.

    Time is the median of the slowest rank. Algorithm bandwidth is size / time; bus bandwidth is
    what each rank's link carries at least, to compare with the last column: a copy in memory.
    send_recv goes round all ranks at once; ping_pong is one way, half of there and back.
    """
    check_options(transport, timeout)
    names = [name.strip().replace("-", "_") for name in operations.split(",")]
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown:
        raise UserError(f"unknown operation {unknown[0]!r}; there are {', '.join(OPERATIONS)}")
    if algorithm:
        algorithm = _algorithm(names, algorithm)
    if min_bytes > max_bytes:
        raise UserError(f"--min-bytes {min_bytes} is more than --max-bytes {max_bytes}")
    sizes = [min_bytes]
    while sizes[-1] * factor <= max_bytes:
        sizes.append(sizes[-1] * factor)
    screen, wrong = Screen(), []
    if not as_json:
        screen.line(f"{workers} ranks, {'plain' if plain else 'registered'} arrays, {transport}")
        screen.line(HEADER)

    def show(rank: int, message: dict[str, Any]) -> None:
        row = message["row"]
        screen.line(json.dumps(row) if as_json else text(row))
        if not row["right"]:
            wrong.append(row["operation"])

    task = {
        "operations": names,
        "sizes": sizes,
        "registered": not plain,
        "algorithm": algorithm,
    }
    supervisor = Supervisor(
        Job(workers, transport, timeout),
        "ringlet.launcher.workers.bench_worker",
        [json.dumps(task)],
        screen=screen,
        grace=GRACE_S,
        inform=show,
    )
    code = supervisor.run()
    raise typer.Exit(ExitCode.FAILED if wrong and code == ExitCode.OK else code)


def _algorithm(operations: list[str], text: str) -> str:
    """The algorithm of the one operation that is measured."""
    if len(operations) != 1:
        raise UserError("--algorithm takes one operation: name it with --operations")
    try:
        return algorithm_named(operations[0], text)
    except ValueError as error:
        raise UserError(str(error)) from error


def text(row: dict[str, Any]) -> str:
    """A row for people."""
    return (
        f"{row['operation']:15}{size_text(row['bytes']):>11}{row['time_us']:>9.1f} us"
        f"{row['algorithm_bandwidth'] / 1e9:>8.3f} GB/s{row['bus_bandwidth'] / 1e9:>8.3f} GB/s"
        f"{row['share_of_copy']:>10.0%}{'' if row['right'] else '  WRONG'}"
    )
