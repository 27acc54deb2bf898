"""Everything that ringlet is measured against, in one table: each row beside its peer, in one run.

    PEERS=$(bash benchmarks/peers/setup.sh)              # once; makes the peers' environment
    python benchmarks/table.py --peers "$PEERS"          # a quarter of an hour on an idle machine
    python benchmarks/table.py --parts step,start --record benchmarks/records   # for guard.py

Runs the other benchmarks in turns, `--rounds` times, one round of each at a time. A row's figure is
how many times as long its peer takes, so more is better: the median over the rounds, and the
lowest and the highest. The peer of a row is another library or, where the row says so, something
of ringlet's own that it is held against: a barrier, the blocking call, the same link in the clear,
the same step without the link.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs import CONFIGS
from peer_programs import DEFAULT_PEERS

from ringlet.nn import mkl

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
SIZES = {64 * MIB: "64 MiB", 16 * MIB: "16 MiB", MIB: "1 MiB"}
BUCKETS = {1 << 16: "64 KiB", 1 << 18: "256 KiB", MIB: "1 MiB", 4 * MIB: "4 MiB"}
SHARED_CONFIGS = tuple(name for name, sizes in CONFIGS.items() if sizes[-1] > 1)

Rows = list[dict[str, Any]]
Found = Iterator[tuple[str, float, float, float | None]]
"""A row's name, ringlet's figure, its peer's, and the ratio that is aimed at."""


@dataclass(frozen=True)
class Part:
    """A benchmark, and how its lines of JSON become rows. `short` are arguments for guard.py, which
    has five minutes for all parts."""

    title: str
    unit: str
    command: tuple[str, ...]
    short: tuple[str, ...]
    read: Callable[[Rows], Found]


def one_host(rows: Rows) -> Found:
    """Sums on one host beside Open MPI's."""
    aims = {"registered": (5.0, 2.0, 2.5), "plain": (2.0, 1.3, 1.3)}
    for kind, ratios in aims.items():
        for row in rows:
            aim = dict(zip(SIZES, ratios, strict=True))[row["bytes"]]
            name = f"{kind}, {SIZES[row['bytes']]}, beside Open MPI"
            yield name, row[f"ringlet {kind}"], row["openmpi"], aim


def short_messages(rows: Rows) -> Found:
    """A sum of one number beside a barrier, of `ringlet bench`."""
    us = {row["operation"]: row["time_us"] for row in rows}
    yield "4 B, beside a barrier", us["all_reduce"], us["barrier"], 0.5


def four_ranks(rows: Rows) -> Found:
    """The same with four ranks, beside what is aimed at."""
    (row,) = rows
    yield "4 B, four ranks, beside 200 us", row["time_us"], 200.0, 1.0


def asynchronous(rows: Rows) -> Found:
    """Buckets that are issued together beside blocking calls."""
    for row in rows:
        name = f"asynchronous, {BUCKETS[row['bytes']]}, beside blocking"
        yield name, row["issued together"], row["blocking"], 1 / 1.2


def loopback(rows: Rows) -> Found:
    """Sums over TCP beside Gloo's and Open MPI's."""
    aims = {"gloo": (1.25, 1.25, 2.0), "openmpi tcp": (1.0, 1.0, None)}
    for peer, ratios in aims.items():
        for row in rows:
            aim = dict(zip(SIZES, ratios, strict=True))[row["bytes"]]
            yield f"TCP, {SIZES[row['bytes']]}, beside {peer}", row["ringlet tcp"], row[peer], aim


def encrypted(rows: Rows) -> Found:
    """Sums over TCP with the job's key beside the same in the clear."""
    allowed = 1.3 if "vaes" in processor() else 1.6
    for row in rows:
        aim = 1 / allowed if row["bytes"] == 16 * MIB else None
        name = f"TCP with the key, {SIZES[row['bytes']]}, beside the clear"
        yield name, row["sealed"], row["clear"], aim
        yield name.replace("with the key", "with CURVE"), row["curve"], row["clear"], None


def slow_links(rows: Rows) -> Found:
    """A step over a slow link beside DDP's, beside the plain one, beside a step that sends nothing.

    The rows of a way are joined: its figure is the median of its steps."""
    steps: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        steps.setdefault((row["mbit"], row["way"]), []).extend(row["seconds"])
    step = {key: statistics.median(each) for key, each in steps.items()}
    aims = {
        1000: {"plain": 1.4, "float16": 1.2, "powersgd:4": 1.1},
        100: {"plain": 1.0, "float16": 1.25, "powersgd:4": 1.1},
    }
    for (mbit, way), seconds in step.items():
        if way == "alone" or way.startswith("ddp"):
            continue
        like = {"plain": "ddp", "float16": "ddp:float16", "powersgd:4": "ddp:powersgd"}.get(way)
        if like is not None and (mbit, like) in step:
            yield f"{mbit} Mbit/s, {way}, beside DDP's", seconds, step[mbit, like], aims[mbit][way]
        if way in ("plain", "zero1") and (mbit, "alone") in step:
            aim, which = 1 / 1.2 if mbit == 1000 else None, ", zero1" if way == "zero1" else ""
            yield f"{mbit} Mbit/s{which}, beside no link", seconds, step[mbit, "alone"], aim
        if way != "plain" and (mbit, "plain") in step:
            yield f"{mbit} Mbit/s, {way}, beside plain", seconds, step[mbit, "plain"], 1.0


def steps(rows: Rows) -> Found:
    """Steps on one thread, and peak memory, beside PyTorch eager's with our allocator's settings;
    and steps beside PyTorch as it comes."""

    def mean(side: str) -> float:
        return math.exp(statistics.mean(math.log(row[f"{side}_ms"]) for row in rows))

    for peer, beside in {"torch": "", "own": ", beside PyTorch as it comes"}.items():
        there = [row for row in rows if f"{peer}_ms" in row]
        for row in there:
            name = f"step, {row['config']}{beside}"
            yield name, row["ringlet_ms"], row[f"{peer}_ms"], 1 / 0.97
        if len(there) == len(CONFIGS):
            yield f"step, geometric mean of all{beside}", mean("ringlet"), mean(peer), 1 / 0.85
    for row in rows:
        aim = 1 / 0.6 if row["config"] == "baby" else 1 / 0.62
        yield f"memory, {row['config']}", row["ringlet_rss_mb"], row["torch_rss_mb"], aim


def two_workers(rows: Rows) -> Found:
    """Steps of two workers beside PyTorch's ways of using both cores."""
    for row in rows:
        for way in ("ddp", "eager", "compile"):
            if way in row:
                yield f"two workers, {row['config']}, beside {way}", row["ringlet"], row[way], 1.05


def start(rows: Rows) -> Found:
    """Two workers that start, add up and leave."""
    seconds = {row["name"]: row["s"] for row in rows}
    yield "start, beside mpirun", seconds["ringlet run"], seconds["mpirun"], 1.48 / 0.45
    yield "start, beside torchrun", seconds["ringlet run"], seconds["torchrun"], None

    if "import torch" in seconds:
        yield "import, beside torch", seconds["import ringlet.nn"], seconds["import torch"], None


def parts(peers: Path) -> dict[str, Part]:
    """All parts, by the name that `--parts` takes."""
    python = str(peers / "python")
    reduce = ("all_reduce.py", "--peers", str(peers), "--rounds", "1")
    bench = ("-m", "ringlet", "bench", "--max-bytes", "4", "--json")
    sizes = ("--sizes", ",".join(map(str, SIZES)))
    small = ("--sizes", str(16 * MIB))
    step = ("--python", python, "--rounds", "1", "--steps", "6")
    return {
        "host": Part("Sums on one host", "us", (*reduce, *sizes), (), one_host),
        "short": Part(
            "Short sums", "us", (*bench, "--operations", "all_reduce,barrier", "-n", "2"), (),
            short_messages,
        ),
        "four": Part(
            "Four ranks", "us", (*bench, "--operations", "all_reduce", "-n", "4"), (), four_ranks
        ),
        "async": Part("Asynchronous sums", "us", (*reduce, "--asynchronous"), (), asynchronous),
        "tcp": Part("Sums over TCP", "us", (*reduce, "--tcp", *sizes), small, loopback),
        "key": Part("Encrypted links", "us", (*reduce, "--key", *sizes), small, encrypted),
        "step": Part(
            "A step on one thread", "ms",
            ("train_step.py", *step, "--own-allocator", "--configs", ",".join(CONFIGS)),
            ("--configs", "nano,small,baby"), steps,
        ),
        "two": Part(
            "Two workers", "ms", ("two_workers.py", *step, "--configs", ",".join(SHARED_CONFIGS)),
            ("--configs", "nano,small", "--ways", "ringlet,ddp"), two_workers,
        ),
        "links": Part(
            "Slow links", "s",
            ("slow_links.py", "--python", python, "--rounds", "1", "--in-turn", "6"),
            ("--mbit", "1000", "--ways", "alone,plain,float16,powersgd:4,ddp"), slow_links,
        ),
        "start": Part(
            "Start", "s", ("startup.py", "--peers", str(peers), "--rounds", "2"), (), start
        ),
    }  # fmt: skip


@dataclass
class Row:
    """One row of the table: the ratios of the rounds so far, and what is aimed at."""

    aim: float | None
    unit: str
    ours: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """How many times as long the peer takes: the median."""
        return statistics.median(self.ratios)

    def text(self, name: str) -> str:
        """One line."""
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        aim = "" if self.aim is None else f"{self.aim:.2f}"
        short = "short" if self.aim is not None and self.ratio < 0.995 * self.aim else ""
        ours = figure(statistics.median(self.ours), self.unit)
        return f"| {name} | {ours} | {self.ratio:.2f} | {spread} | {aim} | {short} |"


def figure(amount: float, unit: str) -> str:
    """Three digits, in a larger unit of time from a thousand on: 64.3 us, 13 ms."""
    larger = {"us": "ms", "ms": "s"}
    while amount >= 999.5 and unit in larger:
        amount, unit = amount / 1000, larger[unit]
    return f"{amount:.3g} {unit}" if amount < 999.5 else f"{amount:.0f} {unit}"


def run(part: Part, short: bool) -> Rows:
    """One round of a part."""
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as lines:
        first, *rest = part.command
        start = [first] if first.startswith("-") else [str(HERE / first)]
        out = ["--out", lines.name] if first == "slow_links.py" else ["--json"]
        words = [sys.executable, *start, *rest, *(part.short if short else ()), *out]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
        found = lines.read() or done.stdout
    return [json.loads(line) for line in found.splitlines() if line.startswith("{")]


def measure(chosen: dict[str, Part], rounds: int, short: bool) -> dict[str, Row]:
    """The rows of the parts, in turns."""
    table: dict[str, Row] = {}
    for number in range(rounds):
        for part in chosen.values():
            print(f"round {number + 1}: {part.title}", file=sys.stderr, flush=True)
            for name, ours, peer, aim in part.read(run(part, short)):
                unit = "MB" if name.startswith("memory") else part.unit
                row = table.setdefault(name, Row(aim, unit))
                row.ours.append(ours)
                row.ratios.append(peer / ours)
    return table


def processor() -> str:
    """The kind of machine, so that ratios of one kind are compared: processor, cores, caches,
    what of its instructions matters here, and MKL where that multiplies."""
    text = Path("/proc/cpuinfo").read_text()
    facts = dict(re.findall(r"^([^\t:]+?)\s*: (.*)$", text.partition("\n\n")[0], re.MULTILINE))
    words = [word for word in ("avx2", "avx512f", "f16c", "vaes") if word in facts["flags"].split()]
    level = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
    cache = level.read_text().strip() if level.exists() else facts["cache size"].replace(" ", "")
    kind = f"{facts['model name']}, family {facts['cpu family']} model {facts['model']}"
    words += [mkl.description()] if mkl.wanted() else []
    return f"{kind}, {os.cpu_count()} cores, second-level cache {cache}, {' '.join(words)}"


def record_of(folder: Path) -> Path:
    """The file of this kind of machine."""
    return folder / f"{re.sub(r'[^a-z0-9]+', '-', processor().lower())}.json"


def parser_of(text: str | None, peers: Path = DEFAULT_PEERS) -> argparse.ArgumentParser:
    """What this and guard.py take."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawTextHelpFormatter
    )
    names = ",".join(parts(peers))
    parser.add_argument("--parts", default=names, help="default: %(default)s")
    parser.add_argument("--peers", type=Path, default=peers, help="the folder of their programs")
    return parser


def chosen_parts(parser: argparse.ArgumentParser, given: argparse.Namespace) -> dict[str, Part]:
    """The parts that were asked for."""
    there = parts(given.peers)
    names = given.parts.split(",")
    if set(names) - set(there):
        parser.error(f"parts are {', '.join(there)}")
    if not (given.peers / "python").exists():
        parser.error(f"there is no python in {given.peers}; run benchmarks/peers/setup.sh first")
    return {name: there[name] for name in names}


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--short", action="store_true", help="as guard.py measures")
    parser.add_argument("--record", type=Path, help="a folder: keep the ratios for guard.py there")
    given = parser.parse_args()
    table = measure(chosen_parts(parser, given), given.rounds, given.short)
    print(f"{processor()}\n")
    print("| | ringlet | times as long | spread | aim | |\n|---|---|---|---|---|---|")
    for name, row in table.items():
        print(row.text(name))
    if given.record:
        given.record.mkdir(parents=True, exist_ok=True)
        kept = {name: round(row.ratio, 3) for name, row in table.items()}
        file = record_of(given.record)
        before = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps({**before, **kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
