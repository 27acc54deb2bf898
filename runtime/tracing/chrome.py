"""A trace as a file that Perfetto and chrome://tracing open: Chrome's Trace Event Format.

A process for each rank; its threads are those of the program, what communicates in the background,
and the messages. On a thread, slices lie within each other or apart: what would overlap otherwise
gets another thread. An arrow leads from each message sent to its arrival.

https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ringlet.comm.timeline import (
    ARRIVED,
    CALL,
    IN_BACKGROUND,
    SENT,
    SPAN,
    TRANSFER,
    WAIT,
)
from ringlet.runtime.tracing.matches import Matches, Message
from ringlet.runtime.tracing.records import Entry, Record, clock_error, read_records, refused

FORMAT = 1
"""Of the file; a reader refuses others."""

HEAD = '{"otherData": {"ringlet_trace": '
"""How a trace begins: by this a file is known as one."""

IN_RUN = "trace.json"
"""In the folder of a run, the trace that belongs to it."""

STEP = "step"
STEPS = 100
"""The last steps, which a trace has."""

COMMUNICATING, MESSAGES = 100, 200
"""The first threads of what communicates in the background, and of messages."""

WORDS = {
    "F": "forward", "B": "backward", "I": "backward", "W": "weights", "SEND_F": "send activations",
    "SEND_B": "send gradients", "RECV_F": "receive activations", "RECV_B": "receive gradients",
}  # fmt: skip
"""A pipeline's actions."""


class Slice(NamedTuple):
    """Something that takes time on a thread of a rank; in ns."""

    start: int
    end: int
    thread: int
    name: str
    kind: str
    facts: dict[str, Any]
    message: Message | None = None


def write_trace(
    folder: Path, path: Path, steps: int = STEPS, about: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write the trace of what the ranks have recorded in a folder: the last `steps` steps, or all
    if there are none. Returns what it says of itself, with `about`. Raises TraceError and OSError.
    """
    with refused(f"what lies in {folder}"):
        return _write(folder, path, steps, about or {})


def _write(folder: Path, path: Path, steps: int, about: Mapping[str, Any]) -> dict[str, Any]:
    records = read_records(folder)
    matches, begins = Matches(records), _begins(records, steps)
    slices = {
        record.rank: [
            _slice(record, entry, matches)
            for entry in record.entries
            if entry.start >= begins[record.rank]
        ]
        for record in records
    }
    origin = min((each.start for row in slices.values() for each in row), default=0)
    head = {**_head(records, slices), **about}
    temporary = folder / "merged.json"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(f"{HEAD}{FORMAT}, {json.dumps(head)[1:]},\n")
        file.write('"displayTimeUnit": "ms",\n"traceEvents": [\n')
        between = ""
        for event in _events(records, slices, origin):
            file.write(between + json.dumps(event, separators=(",", ":")))
            between = ",\n"
        file.write("\n]}\n")
    temporary.replace(path)
    return head


def _begins(records: Sequence[Record], steps: int) -> dict[int, int]:
    """By rank, when what is shown begins: with the same step on all."""
    found = {record.rank: record.whole_from for record in records}
    starts = {record.rank: _steps_of(record) for record in records}
    if all(starts.values()):
        last = max(max(own) for own in starts.values())
        first = max(last - steps + 1, *(min(own) for own in starts.values()))
        for rank, own in starts.items():
            begins = (own[number] for number in sorted(own) if number >= first)
            found[rank] = next(begins, found[rank])
    return found


def _steps_of(record: Record) -> dict[int, int]:
    """When each step of which nothing is missing began."""
    return {
        entry.a: entry.start
        for entry in record.entries
        if entry.kind == SPAN
        and entry.start >= record.whole_from
        and record.named(entry).get("span") == STEP
    }


def _head(records: Sequence[Record], slices: Mapping[int, Sequence[Slice]]) -> dict[str, Any]:
    """What the file says of itself, for readers."""
    numbers = {each.facts["number"] for row in slices.values() for each in row if each.kind == STEP}
    groups = {
        named["group"]: named["ranks"]
        for record in records
        for named in record.names.values()
        if "ranks" in named
    }
    pipelines = {
        tuple(fact["pipeline"]): {
            "ranks": fact["pipeline"], "schedule": fact["schedule"], "chunks": fact["chunks"],
        }
        for record in records
        for fact in record.facts
        if "pipeline" in fact
    }  # fmt: skip
    return {
        "size": records[0].size,
        "ranks": [record.rank for record in records],
        "hosts": [record.host for record in records],
        "clock_errors_s": [clock_error(record, list(records)) for record in records],
        "drift_known": [len(record.clocks_of_machine) != 1 for record in records],
        "steps": [min(numbers), max(numbers)] if numbers else [],
        "groups": groups,
        "pipelines": list(pipelines.values()),
    }


# -- entries as slices ----------------------------------------------------------------------------


def _slice(record: Record, entry: Entry, matches: Matches) -> Slice:
    make = {SPAN: _span, CALL: _call, TRANSFER: _transfer, WAIT: _wait, SENT: _message,
            ARRIVED: _message}[entry.kind]  # fmt: skip
    return make(record, entry, matches)


def _span(record: Record, entry: Entry, matches: Matches) -> Slice:
    span, facts = record.named(entry).get("span", "?"), dict[str, Any]()
    name, kind = WORDS.get(span, span), "compute"
    if span == STEP:
        kind, facts = STEP, {"number": entry.a}
        name = f"step {entry.a}"
    elif span in WORDS:
        kind = "compute" if len(span) == 1 else "transfer"
        facts = {"action": span, "stage": entry.a, "micro_batch": entry.b}
        name = f"{name} {entry.b}"
    return Slice(entry.start, entry.end, entry.thread, name, kind, facts)


def _met(record: Record, entry: Entry, matches: Matches) -> dict[str, Any]:
    """Facts of a call or a wait for one: which rank was late, and until when."""
    met = matches.met(record, entry)
    if met is None:
        return {}
    return {"ready": met.ready, "moving": met.moving, "late": met.late}


def _call(record: Record, entry: Entry, matches: Matches) -> Slice:
    named = record.named(entry)
    facts = {
        "operation": named.get("call", "?"), "array": named.get("text", ""),
        "group": named.get("group", ""), "number": entry.a, "bytes": entry.c,
        "sent": named.get("sent", {}), "issued": entry.b, **_met(record, entry, matches),
    }  # fmt: skip
    if named.get("error"):
        facts["error"] = named["error"]
    thread = COMMUNICATING if entry.thread == IN_BACKGROUND else entry.thread
    return Slice(entry.start, entry.end, thread, _title(named), "call", facts)


def _title(named: Mapping[str, Any]) -> str:
    return f"{named.get('call', '?')} {named.get('label', '')}".strip()


def _transfer(record: Record, entry: Entry, matches: Matches) -> Slice:
    named = record.named(entry)
    way = "send to" if named.get("call") == "send" else "receive from"
    facts = {
        "operation": named.get("call", "?"), "array": named.get("text", ""),
        "group": named.get("group", ""), "peer": entry.peer, "tag": entry.b, "number": entry.a,
        "bytes": entry.c, **_met(record, entry, matches),
    }  # fmt: skip
    arrived = matches.arrived(record, entry) if named.get("call") == "recv" else None
    if arrived is not None:
        facts["arrived"] = arrived
    if named.get("error"):
        facts["error"] = named["error"]
    name = f"{way} rank {entry.peer}"
    return Slice(entry.start, entry.end, COMMUNICATING, name, "call", facts)


def _wait(record: Record, entry: Entry, matches: Matches) -> Slice:
    named = record.named(entry)
    facts = {
        "operation": named.get("call", "?"), "group": named.get("group", ""), "number": entry.a,
        **_met(record, entry, matches),
    }  # fmt: skip
    name = f"wait for {_title(named)}"
    if entry.peer >= 0:
        way = "to" if named.get("call") == "send" else "from"
        facts["peer"], name = entry.peer, f"{name} {way} rank {entry.peer}"
    return Slice(entry.start, entry.end, entry.thread, name, "wait", facts)


def _message(record: Record, entry: Entry, matches: Matches) -> Slice:
    way = "to" if entry.kind == SENT else "from"
    facts = {"peer": entry.peer, "bytes": entry.c}
    name, message = f"{way} rank {entry.peer}", matches.message(record, entry)
    return Slice(entry.start, entry.end, MESSAGES, name, way, facts, message)


# -- slices as events -----------------------------------------------------------------------------


def _events(
    records: Sequence[Record], slices: Mapping[int, Sequence[Slice]], origin: int
) -> Iterator[dict[str, Any]]:
    """All events; what has no time first."""
    ends: dict[str, dict[Message, dict[str, Any]]] = {"to": {}, "from": {}}
    for record in records:
        rank, name = record.rank, f"rank {record.rank} (process {record.pid} on {record.host})"
        yield _metadata("process_name", rank, 0, name=name)
        yield _metadata("process_sort_index", rank, 0, sort_index=rank)
        lanes = arranged(slices[rank])
        for thread in sorted(lanes):
            yield _metadata("thread_name", rank, thread, name=_thread_name(record, thread))
            yield _metadata("thread_sort_index", rank, thread, sort_index=thread)
        for thread, row in lanes.items():
            for each in row:
                place = {"pid": rank, "tid": thread, "ts": (each.start - origin) / 1000}
                kind = "message" if each.kind in ends else each.kind
                facts = {
                    key: (value - origin) / 1000 if key in TIMES else value
                    for key, value in each.facts.items()
                }
                took = {"dur": (each.end - each.start) / 1000}
                yield {"ph": "X", "name": each.name, "cat": kind, **place, **took, "args": facts}
                if each.message is not None:
                    ends[each.kind].setdefault(each.message, place)
    for number, (message, start) in enumerate(ends["to"].items()):
        end = ends["from"].get(message)
        if end is not None and start["ts"] <= end["ts"]:  # clocks agree only so far
            flow = {"name": "message", "cat": "message", "id": number}
            yield {"ph": "s", **flow, **start}
            yield {"ph": "f", "bp": "e", **flow, **end}


TIMES = ("ready", "moving", "issued", "arrived")
"""The facts that are times."""


def _metadata(what: str, rank: int, thread: int, **facts: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": rank, "tid": thread, "args": facts}


def _thread_name(record: Record, thread: int) -> str:
    if thread < COMMUNICATING:
        known = record.threads.get(thread, f"thread {thread}")
        return "computing" if thread == 0 else known
    name, first = ("I/O", MESSAGES) if thread >= MESSAGES else ("communicating", COMMUNICATING)
    return name if thread == first else f"{name} {thread - first + 1}"


def arranged(slices: Sequence[Slice]) -> dict[int, list[Slice]]:
    """The slices by thread, each with what it would overlap moved to another: those of the program
    lie within each other or apart, those in the background apart."""
    lanes: dict[int, list[Slice]] = {}
    open_ones: dict[int, list[int]] = {}  # by thread, the ends of what lies around
    for each in sorted(slices, key=lambda each: (each.start, -each.end)):
        thread = each.thread
        while not _fits(each, open_ones.setdefault(thread, [])):
            thread += 1
        open_ones[thread].append(each.end)
        lanes.setdefault(thread, []).append(each)
    return lanes


def _fits(each: Slice, ends: list[int]) -> bool:
    """Whether a slice can follow on a thread; ends what has ended there."""
    while ends and ends[-1] <= each.start:
        ends.pop()
    return not ends or (each.thread < COMMUNICATING and each.end <= ends[-1])
