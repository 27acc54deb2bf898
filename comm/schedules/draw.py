"""Draw a schedule as text: its rounds in a table. picture.py draws it as a picture."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from ringlet.comm.schedules.prove import Transfer
from ringlet.comm.schedules.schedule import Schedule
from ringlet.comm.schedules.symbols import Contributions
from ringlet.comm.schedules.trace import Trace


def draw_text(traced: Trace) -> str:
    """Round by round, a line for each rank: what it sends, and what its slots hold afterwards."""
    rounds = [list[Transfer]() for _ in traced.states]
    for transfer in traced.transfers:
        rounds[transfer.round].append(transfer)
    slots = [f" {slot}" for slot in range(traced.schedule.slots)]
    rows: list[list[str]] = []
    for round_, now in enumerate(rounds):
        rows.append([f"round {round_}" if round_ else "start", "sends", *slots])
        rows += [_row(traced, now, round_, rank) for rank in range(traced.schedule.size)]
        rows.append([""] * len(rows[0]))
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[1:]]
    lines = [
        f"{head:<10}{'  '.join(map(str.ljust, cells, widths))}".rstrip() for head, *cells in rows
    ]
    return "\n".join([*lines, *_legend(traced.schedule)]) + "\n"


def _row(traced: Trace, now: list[Transfer], round_: int, rank: int) -> list[str]:
    """The rank, what it sends in the round, and what each of its slots holds after it."""
    marks = {t.slot: "+" if t.combined else ">" for t in now if t.receiver == rank}
    cells = [
        marks.get(slot, " ") + _cell(traced.schedule, held)
        for slot, held in enumerate(traced.states[round_][rank])
    ]
    sent = _sends(transfer for transfer in now if transfer.sender == rank)
    return [f"  rank {rank}", sent, *cells]


def _sends(transfers: Iterable[Transfer]) -> str:
    """2-3 to 1, 0 to 3"""
    by_receiver = groupby(transfers, key=lambda transfer: transfer.receiver)
    return ", ".join(
        f"{_ranges(sorted({transfer.source for transfer in group}))} to {receiver}"
        for receiver, group in by_receiver
    )


def _cell(schedule: Schedule, held: Contributions | None) -> str:
    """Whose values a slot holds."""
    if held is None:
        return "."
    ranks = sorted({rank for rank, _ in held})
    if schedule.operation == "all_to_all":
        part = schedule.slots // 2 // schedule.size
        return ",".join(f"{rank}>{slot // part}" for rank, slot in sorted(held))
    if len(ranks) == schedule.size > 1:
        return "all"
    return "".join(map(str, ranks)) if schedule.size <= 10 else _ranges(ranks)


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> 0-2,5"""
    ends = ((run[0], run[-1]) for run in runs(numbers))
    return ",".join(f"{first}-{last}" if first < last else str(first) for first, last in ends)


def runs(numbers: Sequence[int]) -> list[list[int]]:
    """[0, 1, 2, 5] -> [[0, 1, 2], [5]]"""
    found = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    return [[number for _, number in run] for _, run in found]


def _legend(schedule: Schedule) -> list[str]:
    """What cells and marks mean."""
    if schedule.operation == "all_to_all":
        half = schedule.slots // 2
        meaning = f"2>0: from rank 2 to rank 0; slots from {half} on are what has been received"
    elif schedule.size > 10:
        meaning = "0-3,5: the values of ranks 0 to 3 and 5, combined; all: of all ranks"
    elif schedule.reduces:
        meaning = "02: the values of ranks 0 and 2, combined; all: of all ranks"
    else:
        meaning = "2: the value of rank 2"
    marks = "+ combined with what came, > replaced by it" if schedule.reduces else "> came"
    return [f"{meaning}. Nothing yet: a dot.", f"In this round: {marks}."]
