"""Makes what the figures show, from the code that runs: `python docs/figures/make.py`.

The pages, figure.css and figure.js, and a script for each page are written by hand; this writes the
data of each page (data_*.js) and the colours of all pictures (look.css, look.js).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, product
from pathlib import Path
from typing import Any, NamedTuple

from ringlet.comm.schedules import svg
from ringlet.comm.schedules.algorithms import schedule
from ringlet.comm.schedules.price import LinkCost, Network, price
from ringlet.comm.schedules.prove import Transfer
from ringlet.comm.schedules.schedule import Schedule, Step
from ringlet.comm.schedules.trace import trace
from ringlet.launcher.commands.explain.memory import PARTS
from ringlet.runtime.options import Parallelism
from ringlet.runtime.pipeline.activations import peak_activations
from ringlet.runtime.pipeline.formulas import NO_FORMULA, bubble
from ringlet.runtime.pipeline.picture import COLOURS, HATCHED, pale
from ringlet.runtime.pipeline.price import PipelinePrice
from ringlet.runtime.pipeline.price import price as price_pipeline
from ringlet.runtime.pipeline.schedules import SCHEDULES, make_schedule
from ringlet.runtime.planning.footprint import Footprint, footprints
from ringlet.runtime.planning.models import MODELS
from ringlet.runtime.planning.setting import Setting
from ringlet.runtime.rules import MODEL, problem

FOLDER = Path(__file__).resolve().parent

RANKS = (2, 3, 4, 5, 6, 7, 8)
STAGES, MICRO_BATCHES = (2, 3, 4, 6, 8), (1, 2, 4, 6, 8, 12, 16)
SHOWN = ("gpt2", "llama-7b", "llama3-8b", "llama3-70b", "gpt3-175b")
CUTS, SAMPLES = (1, 2, 4, 8), 8
"""What tp, pp and cp can be, and the samples of a replica, each a micro-batch of its own."""


class Textbook(NamedTuple):
    """Of n ranks: rounds, and arrays that the busiest rank sends, as written and as numbers."""

    rounds: str
    volume: str
    counts: Callable[[int], tuple[float, float]]


def lg(n: int) -> int:
    """The logarithm to base 2, rounded up."""
    return (n - 1).bit_length()


def power(n: int) -> int:
    """The largest power of two up to n."""
    return 1 << n.bit_length() - 1


def two_ports(each: Textbook) -> Textbook:
    """The same rounds, for ranks that send two messages at once; here they send one."""
    return each._replace(rounds=f"{each.rounds}, on two ports")


RING = Textbook("2 (n - 1)", "2 (n - 1) / n", lambda n: (2 * (n - 1), 2 * (n - 1) / n))
HALF = Textbook("n - 1", "(n - 1) / n", lambda n: (n - 1, (n - 1) / n))
LOG = Textbook("lg n", "(n - 1) / n", lambda n: (lg(n), (n - 1) / n))
TEXTBOOK: dict[str, dict[str, Textbook]] = {
    "all_reduce": {
        "ring": RING,
        "bidirectional_ring": two_ports(RING),
        "recursive_doubling": Textbook(
            "lg p, + 2 if n > p", "lg p, + 1 if n > p",
            lambda n: (lg(power(n)) + 2 * (n > power(n)), lg(power(n)) + (n > power(n))),
        ),
        "halving_doubling": Textbook(
            "2 lg p, + 2 if n > p", "2 (p - 1) / p, + 1 if n > p",
            lambda n: (
                2 * lg(power(n)) + 2 * (n > power(n)),
                2 * (power(n) - 1) / power(n) + (n > power(n)),
            ),
        ),
        "circulant": Textbook("2 lg n", "2 (n - 1) / n", lambda n: (2 * lg(n), 2 * (n - 1) / n)),
    },
    "reduce_scatter": {"ring": HALF, "bidirectional_ring": two_ports(HALF), "circulant": LOG},
    "all_gather": {"ring": HALF, "bidirectional_ring": two_ports(HALF), "bruck": LOG},
    "broadcast": {
        "tree": Textbook("lg n", "lg n", lambda n: (lg(n), lg(n))),
        "chain": Textbook("n - 1", "1 (in turn: n - 1)", lambda n: (n - 1, n - 1)),
        "scatter_all_gather": Textbook(
            "lg n + n - 1", "2 (n - 1) / n", lambda n: (lg(n) + n - 1, 2 * (n - 1) / n)
        ),
    },
}  # fmt: skip
"""As in docs/explanation/collectives.md, of what has one kind of link between all ranks."""


def collectives(ranks: int) -> dict[str, dict[str, Any]]:
    """By operation and algorithm: its slots and, by round, what is sent, as text of four characters
    for each slot (sender, receiver, slot, + if it is added or = if it replaces), and the time until
    then: the most of some numbers of latencies and slots."""
    found: dict[str, dict[str, Any]] = {}
    for operation, names in TEXTBOOK.items():
        found[operation] = {}
        for name, textbook in names.items():
            made = schedule(operation, name, ranks)
            transfers = trace(made).transfers
            sent: dict[int, str] = {}
            for each in transfers:
                assert each.source == each.slot
                places = "".join(map(_digit, (each.sender, each.receiver, each.slot)))
                sent[each.round] = sent.get(each.round, "") + places + "=+"[each.combined]
            times = [time_of(first) for first in _beginnings(made, transfers)]
            rounds, volume = textbook.counts(ranks)
            found[operation][name] = {
                "slots": made.slots,
                "rounds": [[sent[count], times[count - 1]] for count in sent],
                "textbook": [textbook.rounds, textbook.volume, rounds, round(volume, 6)],
            }
    return found


def _digit(number: int) -> str:
    """0 to 9, then a to z."""
    return "0123456789abcdefghijklmnopqrstuvwxyz"[number]


def _beginnings(whole: Schedule, transfers: Sequence[Transfer]) -> Iterator[Schedule]:
    """The schedule up to the end of each of its rounds."""
    rounds: dict[tuple[int, int], list[int]] = {}
    for each in transfers:
        rounds.setdefault((each.sender, each.receiver), []).append(each.round)

    def kept(rank: int, last: int) -> Iterator[Step]:
        # Messages between two ranks stay in order: the n-th that is sent is the n-th to arrive.
        queues = {pair: iter(own) for pair, own in rounds.items()}
        for step in whole.steps[rank]:
            pair = whole.queue(rank, step)
            if pair is None or next(queues[pair]) <= last:
                yield step

    for last in range(1, transfers[-1].round + 1):
        steps = tuple(tuple(kept(rank, last)) for rank in range(whole.size))
        yield replace(whole, steps=steps)


def time_of(made: Schedule) -> list[tuple[int, int]]:
    """Its price on links of any latency and bandwidth, as (latencies, slots): the time is the
    largest of so many latencies and so many times what a slot takes."""
    large = 1 << 20

    def seconds(latency: float, slot: float) -> int:
        network = Network.uniform(LinkCost(latency, bandwidth=1))
        return round(price(made, network, slot * made.array_slots).seconds)

    def between(first: tuple[int, int], last: tuple[int, int]) -> list[tuple[int, int]]:
        latency, slot = last[1] - first[1], first[0] - last[0]  # where both are the same
        there = seconds(latency * large, slot * large)
        if there == large * (first[0] * latency + first[1] * slot):
            return [first, last] if first != last else [first]
        count = seconds(latency * large + 1, slot * large) - there
        middle = count, (there - count * latency * large) // (slot * large)
        return [*between(first, middle), *between(middle, last)[1:]]

    most_latencies, most_slots = seconds(1, 0), seconds(0, 1)
    return between(
        (most_latencies, seconds(large, 1) - most_latencies * large),
        (seconds(1, large) - most_slots * large, most_slots),
    )


def pipelines(stages: int) -> dict[str, dict[int, Any]]:
    """By schedule and number of micro-batches: the time of each rank, a letter for each unit (F, B,
    I, W of the first chunk, small letters for the second, a dot where it is idle), the most
    activations that it holds, the bubble's formula, and the chunks of a rank. In each chunk a
    forward, a backward to the inputs and one to the weights take a unit; messages take none."""
    found: dict[str, dict[int, Any]] = {}
    for name in SCHEDULES:
        found[name] = {}
        for count in MICRO_BATCHES:
            made = make_schedule(name, stages, count)
            priced = price_pipeline(made)
            formula = bubble(made)
            found[name][count] = [
                "|".join(_row(priced, rank) for rank in range(stages)),
                peak_activations(made, 1 / made.chunks),
                formula.text if formula else f"none {NO_FORMULA[name]}",
                made.chunks,
            ]
    return found


def _row(priced: PipelinePrice, rank: int) -> str:
    """A rank's time; letters that repeat once, after their number: 3F.2B."""
    row = ["."] * round(priced.makespan)
    for action, start, end in priced.computed(rank):
        second = priced.schedule.chunk_of(action.stage)
        row[start:end] = (action.kind.lower() if second else action.kind) * (end - start)
    runs = ((len([*run]), letter) for letter, run in groupby(row))
    return "".join(f"{length if length > 1 else ''}{letter}" for length, letter in runs)


def memory(name: str) -> dict[str, Any]:
    """A model on meshes of tp, pp and cp: bytes of each rank of the pipeline, in MB.

    By "tp,pp": its parameters, what ZeRO 2 has whole besides, and the buffer of a bucket. By
    "tp,pp,cp,again" (1: all blocks are computed again): activations and buffers.
    """
    model = MODELS[name]
    block = model.blocks[0]
    sizes = {
        "n_head": block.heads, "n_kv_head": block.kv_heads, "experts": 0,
        "n_layer": len(model.blocks), "ep": 1, "chunks": 1, "layers_per_stage": (),
    }  # fmt: skip
    found: dict[str, Any] = {"parameters": model.parameters, "context": model.context}

    def ranks(again: bool, zero: int = 0, **mesh: int) -> tuple[Footprint, ...]:
        options = Parallelism(zero=zero, recompute=("blocks",) if again else ())
        setting = Setting(mesh, SAMPLES * mesh.get("dp", 1), 1, options)
        return footprints(model, setting)

    for tp, pp in product(CUTS, CUTS):
        if why := problem({**sizes, "tp": tp, "pp": pp}, MODEL):
            found[f"{tp},{pp}"] = why
            continue
        one, two = ranks(False, tp=tp, pp=pp), ranks(False, tp=tp, pp=pp, dp=2)
        whole = ranks(False, 2, tp=tp, pp=pp, dp=2)
        found[f"{tp},{pp}"] = [
            megabytes(rank.parameters for rank in one),
            megabytes(b.buffers - a.buffers for a, b in zip(two, whole, strict=True)),
            megabytes([two[0].buffers - one[0].buffers]),
        ]
        for cp, again in product(CUTS, (0, 1)):
            each = ranks(bool(again), tp=tp, pp=pp, cp=cp)
            found[f"{tp},{pp},{cp},{again}"] = [
                megabytes(rank.activations for rank in each),
                megabytes(rank.buffers for rank in each),
            ]
    return found


def megabytes(sizes: Iterable[float]) -> str:
    """Whole numbers of MB."""
    return " ".join(f"{size / 1e6:.0f}" for size in sizes)


def look() -> tuple[str, str]:
    """The colours of all pictures as rules, and as patterns with the ink that is read on each."""
    inks = {name: getattr(svg, name) for name in ("INK", "SOFT", "FAINT", "EMPTY", "PAPER")}
    ranks = {f"rank-{rank}": svg.colour(rank) for rank in range(max(RANKS))}
    light = "".join(f"--{name.lower()}: {colour}; " for name, colour in (inks | ranks).items())
    dark = "".join(f"--{name.lower()}: {svg.DARK[colour]}; " for name, colour in inks.items())
    style = f":root {{ {light}}}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n"
    shades = {f"part{number}": (svg.colour(number), number) for number in range(len(PARTS))}
    for kind, chunk in product("FBIW", (0, 1)):
        shades[f"{kind}{chunk}"] = pale(COLOURS[kind], 0.6 * chunk), HATCHED[kind]
    patterns = "".join(svg.hatch(name, *shade) for name, shade in shades.items())
    on = {name: svg.ink_on(colour) for name, (colour, _) in shades.items()}
    return style, f"const PATTERNS = {json.dumps(patterns)};\nconst INKS = {json.dumps(on)};\n"


def files() -> dict[str, str]:
    """All that is made, by its name."""
    style, patterns = look()
    return {
        "look.css": style,
        "look.js": patterns,
        "data_collectives.js": script({ranks: collectives(ranks) for ranks in RANKS}),
        "data_pipelines.js": script({stages: pipelines(stages) for stages in STAGES}),
        "data_memory.js": script({name: memory(name) for name in SHOWN}),
    }


def script(data: dict[Any, Any]) -> str:
    """The data as a script: a page that is opened from a disk may load nothing else."""
    encode = json.JSONEncoder(separators=(",", ":")).encode
    lines = (f"{encode(str(key))}: {encode(each)}" for key, each in data.items())
    return "const DATA = {\n" + ",\n".join(lines) + "\n};\n"


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
