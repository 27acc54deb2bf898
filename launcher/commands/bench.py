"""`ringlet bench`: how fast the collectives are on this host, in the manner of nccl-tests."""

import json
from dataclasses import dataclass
from typing import Any

import click

from ringlet.comm.schedules.choice import algorithm_named
from ringlet.comm.signature import size_text
from ringlet.launcher.commands.options import with_options
from ringlet.launcher.errors import ExitCode, UserError, user_errors
from ringlet.launcher.options import option
from ringlet.launcher.supervisor.agent import Agent
from ringlet.launcher.supervisor.options import JoinOptions, WorkerOptions
from ringlet.launcher.supervisor.output import Screen
from ringlet.launcher.supervisor.supervisor import Supervisor

OPERATIONS = (
    "all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "reduce", "gather",
    "scatter", "barrier", "send_recv", "ping_pong",
)  # fmt: skip
GRACE_S = 5.0

HEADER = f"{'operation':15}{'size':>11}{'time':>12}{'algorithm':>13}{'bus':>13}{'of a copy':>11}"


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, on how many ranks."""

    workers: int = option(2, "Number of worker processes.", "-n", "--workers", least=2, metavar="N")
    operations: str = option(
        ",".join(OPERATIONS), f"Comma-separated, from {', '.join(OPERATIONS)}.", shown="all"
    )
    min_bytes: int = option(4, "Size of the smallest array.", least=4, unit="bytes")
    max_bytes: int = option(
        256 << 20, "Size of the largest array.", least=4, unit="bytes", shown="256MiB"
    )
    factor: int = option(8, "Factor from one size to the next.", least=2)
    plain: bool = option(False, "Use ordinary arrays instead of registered memory.")
    algorithm: str = option(
        "", "Algorithm of the one operation measured, named as in `ringlet explain`."
    )
    as_json: bool = option(False, "Print each row as a line of JSON.", "--json")

    def task(self) -> dict[str, Any]:
        """What the workers measure; raises UserError."""
        names = [name.strip().replace("-", "_") for name in self.operations.split(",")]
        unknown = [name for name in names if name not in OPERATIONS]
        if unknown:
            raise UserError(f"unknown operation {unknown[0]!r}; there are {', '.join(OPERATIONS)}")
        algorithm = ""
        if self.algorithm:
            if len(names) != 1:
                raise UserError("--algorithm takes one operation: name it with --operations")
            with user_errors(ValueError):
                algorithm = algorithm_named(names[0], self.algorithm)
        if self.min_bytes > self.max_bytes:
            raise UserError(
                f"--min-bytes {self.min_bytes} is more than --max-bytes {self.max_bytes}"
            )
        sizes = [self.min_bytes]
        while sizes[-1] * self.factor <= self.max_bytes:
            sizes.append(sizes[-1] * self.factor)
        registered = not self.plain
        return {
            "operations": names, "sizes": sizes, "registered": registered, "algorithm": algorithm,
        }  # fmt: skip


@with_options(options=BenchOptions, join=JoinOptions)
def bench(options: BenchOptions, join: JoinOptions) -> None:
    """Measure the collectives on this host, and check them.

    Times are the median of the slowest rank. Algorithm bandwidth is size / time; bus bandwidth is
    what each rank's link carries at least, and the last column compares it with a copy in memory.
    send_recv goes around all ranks at once; ping_pong is one way, half of a round trip.
    """
    join.check()
    task, screen, wrong = options.task(), Screen(), []
    if not options.as_json:
        arrays = "plain" if options.plain else "registered"
        screen.line(f"{options.workers} ranks, {arrays} arrays, {join.transport}")
        screen.line(HEADER)

    def show(notice: dict[str, Any]) -> None:
        row = notice["row"]
        screen.line(json.dumps(row) if options.as_json else text(row))
        if not row["right"]:
            wrong.append(row["operation"])

    agent = Agent(options.workers, WorkerOptions(join.transport, join.timeout, grace=GRACE_S))
    job, _ = agent.next_job(0)
    module = "ringlet.launcher.workers.bench_worker"
    supervisor = Supervisor(
        job, module, [json.dumps(task)], screen=screen, agent=agent, inform=show
    )
    code = supervisor.run()
    raise click.exceptions.Exit(ExitCode.FAILED if wrong and code == ExitCode.OK else code)


def text(row: dict[str, Any]) -> str:
    """A row for people."""
    return (
        f"{row['operation']:15}{size_text(row['bytes']):>11}{row['time_us']:>9.1f} us"
        f"{row['algorithm_bandwidth'] / 1e9:>8.3f} GB/s{row['bus_bandwidth'] / 1e9:>8.3f} GB/s"
        f"{row['share_of_copy']:>10.0%}{'' if row['right'] else '  WRONG'}"
    )
