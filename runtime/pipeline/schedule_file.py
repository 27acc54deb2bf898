"""Schedules in CSV files, as PyTorch reads and writes them (torch.distributed.pipelining,
`_load_csv` and `_dump_csv`).

A row for each rank, an action in each cell: stage, kind, micro-batch, as in 0F0, 1B0, 0I2, 0W2. An
empty cell is a wait. A file of the form "compute_comms" also has transfers (0SEND_F0, 1RECV_F0),
which are checked and then inserted anew, and what concerns sharded parameters (0UNSHARD, 0RESHARD,
0REDUCE_GRAD), which ZeRO does here by itself. (0F4;3B0)OVERLAP_F_B is taken as 0F4, then 3B0.
Files of PyTorch 2.5 say B for I and BW for B. The rows say on which rank each stage is.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from ringlet.comm.errors import ScheduleError
from ringlet.comm.schedules.svg import counted
from ringlet.nn.files import read_text
from ringlet.runtime.pipeline.actions import COMPUTE, TRANSFERS, Action, PipelineSchedule
from ringlet.runtime.pipeline.prove import Refused, prove

IGNORED = ("UNSHARD", "RESHARD", "REDUCE_GRAD")

_ACTION = re.compile(
    rf"([0-9]{{1,9}})({'|'.join(('BW', *COMPUTE, *TRANSFERS, *IGNORED))})([0-9]{{0,9}})"
)
_OVERLAP = re.compile(r"\((.*)\)OVERLAP_F_B")
_OURS = re.compile(r"\b([A-Z_]+?)(\d+)\.(\d+)")


class ScheduleFileError(ValueError):
    """A schedule in a file is wrong; the message names the row and, if there is one, the column."""


class _Cell(NamedTuple):
    row: int
    column: int
    text: str

    def error(self, problem: str) -> ScheduleFileError:
        return ScheduleFileError(f"row {self.row}, column {self.column}: {problem}")


def load_schedule(path: str | Path) -> str:
    """The text of a schedule's file, proven, and with what is computed only; raises
    ScheduleFileError."""
    try:
        text = read_text(Path(path))
    except OSError as error:
        raise ScheduleFileError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ScheduleFileError(f"{path} is not a text file: {error}") from error
    try:
        return write_schedule(read_schedule(text))
    except ScheduleFileError as error:
        raise ScheduleFileError(f"{path}: {error}") from error


def write_schedule(schedule: PipelineSchedule, transfers: bool = False) -> str:
    """The schedule as the text of a file, with the transfers or without."""
    rows = schedule.programs if transfers else schedule.compute
    return "".join(",".join(map(_named, row)) + "\n" for row in rows)


@lru_cache(maxsize=16)
def read_schedule(text: str) -> PipelineSchedule:
    """The schedule in the text of a file; raises ScheduleFileError unless it is proven."""
    try:
        rows = list(csv.reader(StringIO(text, newline="")))
    except csv.Error as error:
        raise ScheduleFileError(f"this is not CSV: {error}") from error
    while rows and not any(map(str.strip, rows[-1])):
        rows.pop()
    if not rows:
        raise ScheduleFileError("there are no actions; there should be a row for each rank")
    cells = _newer([list(_cells(number, row)) for number, row in enumerate(rows, 1)])
    places = _places(cells)
    programs = tuple(tuple(action for action, _ in row) for row in cells)
    compute = tuple(tuple(a for a in program if a.kind in COMPUTE) for program in programs)
    schedule = _schedule(compute, places)
    try:
        prove(schedule)
        if compute != programs:
            prove(schedule, programs)
    except Refused as error:
        raise _translated(error, places) from error
    except ScheduleError as error:
        reason = str(error).removeprefix(f"{schedule} ")
        raise ScheduleFileError(f"the schedule {_renamed(reason)} (rank 0 is row 1)") from error
    return schedule


def _cells(number: int, row: list[str]) -> Iterator[tuple[Action, _Cell]]:
    """The actions of a row."""
    for column, text in enumerate(row, 1):
        overlap = _OVERLAP.fullmatch(text.strip())
        for part in (overlap[1] if overlap else text).split(";"):
            cell = _Cell(number, column, part.strip())
            if not cell.text and not overlap:
                continue
            match = _ACTION.fullmatch(cell.text)
            if match is None:
                raise cell.error(
                    f"{cell.text[:40]!r} is no action; an action is a stage, a kind and a "
                    "micro-batch, as in 0F0, 1B0, 0I2 or 0W2"
                )
            if match[2] in IGNORED:
                continue
            if not match[3]:
                raise cell.error(f"{cell.text} has no micro-batch; one has {cell.text}0")
            yield Action(match[2], int(match[1]), int(match[3])), cell


def _newer(rows: list[list[tuple[Action, _Cell]]]) -> list[list[tuple[Action, _Cell]]]:
    """The same in today's letters: in older files W comes after B, and a whole backward is BW."""
    kinds = {action.kind for row in rows for action, _ in row}
    if "BW" not in kinds and ("W" not in kinds or "I" in kinds):
        return rows
    letters = {"B": "I", "BW": "B"}
    return [
        [
            (action._replace(kind=letters.get(action.kind, action.kind)), cell)
            for action, cell in row
        ]
        for row in rows
    ]


def _places(rows: list[list[tuple[Action, _Cell]]]) -> dict[Action, _Cell]:
    """Where each action stands, once."""
    places: dict[Action, _Cell] = {}
    for action, cell in (entry for row in rows for entry in row):
        if action in places:
            first = places[action]
            raise cell.error(f"{cell.text} is in row {first.row}, column {first.column} already")
        places[action] = cell
    return places


def _schedule(
    compute: tuple[tuple[Action, ...], ...], places: dict[Action, _Cell]
) -> PipelineSchedule:
    """With the stages where their forwards are; there are as many on each rank."""
    forwards = [action for action in places if action.kind == "F"]
    rank_of: dict[int, int] = {}
    for action in forwards:
        cell = places[action]
        rank = rank_of.setdefault(action.stage, cell.row - 1)
        if rank != cell.row - 1:
            raise cell.error(f"stage {action.stage} is in row {rank + 1}")
    counts = Counter(rank_of.values())
    for rank in range(len(compute)):
        if counts[rank] != counts[0]:
            raise ScheduleFileError(
                f"row {rank + 1}: there are forwards of {counted(counts[rank], 'stage')}, and of "
                f"{counts[0]} in row 1; every rank has as many"
            )
    if not forwards:
        raise ScheduleFileError("row 1: there are no forwards, such as 0F0")
    if missing := set(range(len(rank_of))) - set(rank_of):
        raise ScheduleFileError(f"no row has forwards of stage {min(missing)}")
    micro_batches = 1 + max(action.micro_batch for action in places)
    if micro_batches * len(rank_of) > len(forwards):
        _refuse_gaps(forwards, rank_of, micro_batches)
    placement = tuple(rank_of[stage] for stage in range(len(rank_of)))
    schedule = PipelineSchedule("csv", len(compute), counts[0], micro_batches, compute, placement)
    cyclic = all(rank == stage % len(compute) for stage, rank in enumerate(placement))
    return replace(schedule, placement=()) if cyclic else schedule


def _refuse_gaps(forwards: list[Action], rank_of: dict[int, int], micro_batches: int) -> None:
    """Say which forward is missing, however large the numbers are."""
    there = set(forwards)
    for stage, rank in sorted(rank_of.items()):
        for number in range(min(micro_batches, len(forwards) + 1)):
            if Action("F", stage, number) not in there:
                raise ScheduleFileError(f"row {rank + 1}: {stage}F{number} is missing")


def _translated(error: Refused, places: dict[Action, _Cell]) -> ScheduleFileError:
    """The prover's refusal in the words of the file."""
    where = f"row {error.rank + 1}"
    if error.action in places:
        cell = places[error.action]
        where = f"row {cell.row}, column {cell.column}"
    return ScheduleFileError(f"{where}: {_named(error.action)}: {_renamed(error.reason)}")


def _renamed(text: str) -> str:
    """F2.5 -> 2F5"""
    return _OURS.sub(r"\2\1\3", text)


def _named(action: Action) -> str:
    return f"{action.stage}{action.kind}{action.micro_batch}"
