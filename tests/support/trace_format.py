"""Whether a file is what Perfetto and chrome://tracing open: a strict reading of the Trace Event
Format, of the parts of it that traces use."""

import math
from collections import Counter, defaultdict

KEYS = {
    "M": {"ph", "name", "pid", "tid", "args"},
    "X": {"ph", "name", "cat", "pid", "tid", "ts", "dur", "args"},
    "s": {"ph", "name", "cat", "id", "pid", "tid", "ts"},
    "f": {"ph", "name", "cat", "id", "pid", "tid", "ts", "bp"},
}
"""What each kind of event has: no less, no more."""

METADATA = {
    "process_name": ("name", str), "thread_name": ("name", str),
    "process_sort_index": ("sort_index", int), "thread_sort_index": ("sort_index", int),
}  # fmt: skip


def problems(content):
    """What is wrong with the content of a file; nothing if it is as it must be."""
    if not isinstance(content, dict) or not isinstance(content.get("traceEvents"), list):
        return ["no object with a list traceEvents"]
    events = content["traceEvents"]
    found = [] if content.get("displayTimeUnit") in ("ms", "ns") else ["displayTimeUnit"]
    found += [f"{event}: {text}" for event in events if (text := _shape(event))]
    if not found:
        found = [*_names(events), *_nesting(events), *_flows(events)]
    return found


def _shape(event):
    if not isinstance(event, dict) or event.get("ph") not in KEYS:
        return "an unknown kind of event"
    if event.keys() != KEYS[event["ph"]]:
        return f"differs in {sorted(event.keys() ^ KEYS[event['ph']])}"
    for key, value in event.items():
        if key in ("ts", "dur") and not (type(value) in (int, float) and 0 <= value < math.inf):
            return f"{key} is {value!r}"
        if key in ("pid", "tid", "id") and type(value) is not int:
            return f"{key} is {value!r}"
        if key in ("name", "cat") and not (type(value) is str and value):
            return f"{key} is {value!r}"
        if key == "args" and type(value) is not dict:
            return f"{key} is {value!r}"
    if event["ph"] == "M":
        key, kind = METADATA.get(event["name"], ("", None))
        if kind is None or type(event["args"].get(key)) is not kind:
            return "unknown metadata"
    return "" if event.get("bp", "e") == "e" else "bp"


def _names(events):
    """Every process and every thread has one name."""
    names = Counter(
        (event["name"], event["pid"], event["tid"]) for event in events if event["ph"] == "M"
    )
    processes = {("process_name", event["pid"], 0) for event in events}
    threads = {
        ("thread_name", event["pid"], event["tid"]) for event in events if event["ph"] == "X"
    }
    for place in sorted(processes | threads):
        if names[place] != 1:
            yield f"{place} is there {names[place]} times"


def slices(events):
    """(start, end, event) in ns by process and thread, what lies around others first."""
    found = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            start, end = event["ts"], event["ts"] + event["dur"]
            times = round(start * 1000), round(end * 1000)
            found[event["pid"], event["tid"]].append((*times, event))
    return {place: sorted(row, key=lambda s: (s[0], -s[1])) for place, row in found.items()}


def _nesting(events):
    for place, row in slices(events).items():
        around = []
        for start, end, event in row:
            while around and around[-1][1] <= start:
                around.pop()
            if around and end > around[-1][1]:
                yield f"on {place}, {event} overlaps {around[-1][2]}"
            around.append((start, end, event))


def _flows(events):
    """Each arrow has one beginning and one end, both in slices, and leads forward."""
    ends = {kind: defaultdict(list) for kind in "sf"}
    for event in events:
        if event["ph"] in ends:
            ends[event["ph"]][event["id"]].append(event)
    on = slices(events)
    for number in sorted(ends["s"].keys() | ends["f"].keys()):
        both = [*ends["s"][number], *ends["f"][number]]
        if [event["ph"] for event in both] != ["s", "f"]:
            yield f"flow {number} has the ends {both}"
            continue
        if both[1]["ts"] < both[0]["ts"]:
            yield f"flow {number} leads back: {both}"
        if both[0]["name"] != both[1]["name"] or both[0]["cat"] != both[1]["cat"]:
            yield f"flow {number} has two names"
        for event in both:
            when, row = round(event["ts"] * 1000), on.get((event["pid"], event["tid"]), ())
            if not any(start <= when <= end for start, end, _ in row):
                yield f"flow {number} is bound to no slice: {event}"
