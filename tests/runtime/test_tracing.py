"""Traces: what ranks record is put together, written, read back and measured."""

import json
from collections import Counter
from itertools import pairwise

import pytest
import trace_format
from small_runs import small_trainer

from ringlet.comm import timeline
from ringlet.comm.clocks import compare_clocks
from ringlet.comm.timeline import ARRIVED, CALL, IN_BACKGROUND, SENT, SPAN, TRANSFER, WAIT
from ringlet.runtime.pipeline.costs import UNIT
from ringlet.runtime.pipeline.formulas import bubble
from ringlet.runtime.pipeline.price import price
from ringlet.runtime.pipeline.schedules import make_schedule
from ringlet.runtime.tracing import TraceError, measure, read_trace, records, write_trace
from ringlet.runtime.tracing.chrome import FORMAT, HEAD
from ringlet.runtime.tracing.pieces import common, pieces, union

BEGIN = 1000.0


class Rank:
    """One rank of a run that never was; times are seconds from its beginning."""

    def __init__(self, folder, rank, size=2, generation=0, machine="a/1", ahead=0.0):
        self.ranks, self.begin = list(range(size)), BEGIN + ahead
        self.timeline = timeline.Timeline(folder, rank, size, generation, machine)

    def add(self, start, end, kind, thread, name, facts, *numbers):
        number = self.timeline.name(name, lambda: facts)
        self.timeline.add(self.begin + start, self.begin + end, kind, thread, number, *numbers)

    def span(self, name, start, end, number=-1, micro_batch=-1):
        self.add(start, end, SPAN, 0, name, {"span": name}, -1, number, micro_batch)

    def facts(self, operation, error=""):
        sent = {1: 100, 2: 20} if operation == "all_reduce" and len(self.ranks) > 2 else {}
        return {
            "call": operation, "text": f"{operation} of (25,) float32", "detail": "sum",
            "label": "gradients 1/3", "group": "world", "ranks": self.ranks, "sent": sent,
            "error": error,
        }  # fmt: skip

    def all_reduce(self, number, start, end, issued=None, error=""):
        """On the program's thread, or, issued before, in the background."""
        thread = 0 if issued is None else IN_BACKGROUND
        issued = int((self.begin + (start if issued is None else issued)) * 1e9)
        facts = self.facts("all_reduce", error)
        self.add(start, end, CALL, thread, ("sum", error), facts, -1, number, issued, 100)

    def wait(self, number, start, end):
        self.add(start, end, WAIT, 0, "waits", self.facts("all_reduce"), -1, number, -1)

    def transfer(self, way, peer, start, end):
        self.add(start, end, TRANSFER, IN_BACKGROUND, way, self.facts(way), peer, 0, 7, 4096)

    def message(self, kind, peer, start, end):
        facts = {"messages": "world"}
        place = timeline.message_place(7, 0)
        self.add(start, end, kind, IN_BACKGROUND, "m", facts, peer, 0, place, 4096)


def written(folder, **options):
    """The trace of what was recorded in a folder, whose file has been found right."""
    path = folder / "trace.json"
    write_trace(folder, path, **options)
    assert trace_format.problems(json.loads(path.read_text())) == []
    return read_trace(path)


def test_a_rank_waits_until_the_last_one_comes_and_communicates_from_then_on(tmp_path):
    for rank, computed in enumerate((4, 8, 5)):
        made = Rank(tmp_path, rank, size=3)
        made.span("forward", 0, computed)
        made.all_reduce(3, computed, 9)
        made.span("optimizer", 9, 10)
        made.span("step", 0, 10, 17)
    found = measure(written(tmp_path))
    assert found.steps == (17,)
    assert found.seconds == pytest.approx(10)
    assert found.parts[0] == pytest.approx(
        {"forward": 4, "waiting": 4, "communicating": 1, "optimizer": 1}
    )
    assert found.parts[1] == pytest.approx({"forward": 8, "communicating": 1, "optimizer": 1})
    sums = "all_reduce gradients"
    waited = [(each.rank, each.call, each.late) for each in found.idle if each.late >= 0]
    assert waited == [(0, sums, 1), (2, sums, 1)]
    assert {each.call for each in found.idle} == {sums}
    slow = found.stragglers[0]
    assert (slow.rank, slow.computing, slow.factor, slow.awaited) == pytest.approx((1, 9, 1.5, 7))
    path = {(each.what, each.rank): each.seconds for each in found.critical}
    assert path["forward", 1] == pytest.approx(8)
    assert sum(path.values()) == pytest.approx(10)
    assert found.links == {
        (0, 1): 100,
        (0, 2): 20,
        (1, 1): 100,
        (1, 2): 20,
        (2, 1): 100,
        (2, 2): 20,
    }
    assert found.bubbles == ()


def test_what_travels_while_a_rank_computes_is_hidden(tmp_path):
    for rank, start in enumerate((1, 2)):
        made = Rank(tmp_path, rank)
        made.span("step", 0, 9, 1)
        made.span("backward", 0, 6)
        made.all_reduce(0, start, 8, issued=start - 0.5)
        made.all_reduce(1, 8, 8.5, issued=5)  # behind the first
        made.wait(0, 6, 8)
        made.wait(1, 8, 8.5)
    found = measure(written(tmp_path))
    for rank in (0, 1):  # from 2 on, when both are at work on it
        assert tuple(found.overlap[rank]) == pytest.approx((6.5, 4))
        assert found.overlap[rank].part == pytest.approx(4 / 6.5)
        assert found.parts[rank] == pytest.approx(
            {"backward": 6, "communicating": 2.5, "other": 0.5}
        )


def test_a_receiver_waits_for_its_sender_and_then_for_the_bytes(tmp_path):
    sender, receiver = Rank(tmp_path, 0), Rank(tmp_path, 1)
    sender.span("step", 0, 10, 1)
    sender.span("F", 0, 5, 0, 0)
    sender.transfer("send", 1, 5, 7)
    sender.message(SENT, 1, 5, 5.1)
    receiver.span("step", 0, 10, 1)
    receiver.span("RECV_F", 1, 8, 1, 0)
    receiver.transfer("recv", 0, 1, 8)
    receiver.add(1, 8, WAIT, 0, "recv", receiver.facts("recv"), 0, 0, 7)
    receiver.message(ARRIVED, 0, 6.5, 6.6)
    trace = written(tmp_path)
    cut = [(p.what, p.late, round(p.seconds, 6)) for p in pieces(trace, 1, 1)]
    assert cut == [
        ("other", -1, 1), ("waiting", 0, 4), ("communicating", -1, 3), ("other", -1, 2),
    ]  # fmt: skip
    found = measure(trace)
    assert found.links == {(0, 1): 4096}
    assert found.overlap[1].seconds == pytest.approx(1.6)  # until the message had come
    path = {(each.what, each.rank): each.seconds for each in found.critical}
    assert path["forward", 0] == pytest.approx(5)


PIPELINES = [
    ("1f1b", 2, 4, 1), ("1f1b", 4, 8, 1), ("gpipe", 3, 5, 1), ("interleaved", 2, 4, 2),
    ("zero-bubble", 2, 6, 1), ("zero-bubble", 4, 8, 1), ("zb-v", 2, 6, 2),
]  # fmt: skip


@pytest.mark.parametrize("name, ranks, micro_batches, chunks", PIPELINES)
def test_the_bubble_is_that_of_the_schedule(tmp_path, name, ranks, micro_batches, chunks):
    schedule = make_schedule(name, ranks, micro_batches, chunks)
    priced = price(schedule, UNIT)
    for rank in range(ranks):
        made = Rank(tmp_path, rank, ranks)
        facts = {"schedule": name, "chunks": schedule.chunks}
        made.timeline.fact(pipeline=list(range(ranks)), **facts)
        for step in (1, 2):
            begin = step * (priced.makespan + 3)
            made.span("step", begin, begin + priced.makespan + 2, step)
            for action, start, end in priced.computed(rank):
                made.span(action.kind, begin + start + 1, begin + end + 1, *action[1:])
    trace = written(tmp_path)
    (found,) = measure(trace).bubbles
    assert found.measured == pytest.approx(priced.bubble)
    assert found.predicted == pytest.approx(priced.bubble)
    assert found.textbook == pytest.approx(bubble(schedule).part)
    assert found.pipeline == (tuple(range(ranks)), name, schedule.chunks)
    actions = [(a.kind, a.stage, a.micro_batch) for a in trace.actions(ranks - 1, 2)]
    assert actions == [tuple(action) for action in schedule.compute[ranks - 1]]


def test_clocks_are_put_right_and_their_drift_is_taken_out(tmp_path):
    here, there = Rank(tmp_path, 0), Rank(tmp_path, 1, machine="b/1", ahead=-50.0)
    here.span("step", 0, 10, 1)
    # The other clock is 50 s behind at first, and 51 s after 100 s of its time.
    for when, behind, error in ((0.0, 50.0, 2e-5), (100.0, 51.0, 1e-5)):
        there.timeline.fact(clock=[there.begin + when, behind, error])
    there.span("step", 0, 100, 1)
    trace = written(tmp_path)
    assert trace.steps[1][1].start == pytest.approx(trace.steps[1][0].start)
    assert trace.steps[1][1].end == pytest.approx(101)
    assert trace.clock_error == 2e-5
    assert trace.about["drift_known"] == [True, True]


def test_a_clock_that_was_never_compared_is_said_to_be_unknown(tmp_path):
    Rank(tmp_path, 0).span("step", 0, 1, 1)
    Rank(tmp_path, 1, machine="b/1").span("step", 0, 1, 1)
    assert written(tmp_path).clock_error is None


def test_the_last_steps_are_shown_from_the_same_one_on_all_ranks(tmp_path, monkeypatch):
    for module in (timeline, records):
        monkeypatch.setattr(module, "ENTRIES", 64)
    for rank, per_step in ((0, 1), (1, 9)):
        made = Rank(tmp_path, rank)
        for step in range(1, 21):
            for part in range(per_step):
                made.span("forward", step + part / 10, step + part / 10 + 0.05)
            made.span("step", step, step + 1, step)
    # Of the second rank's 200 entries 64 are there: the last six steps, and a part of another.
    assert list(written(tmp_path).steps) == [15, 16, 17, 18, 19, 20]
    trace = written(tmp_path, steps=2)
    assert list(trace.steps) == [19, 20]
    assert trace.about["steps"] == [19, 20]
    assert len(trace.slices[1, 0]) == 20
    first = min(row[0].start for row in trace.slices.values())
    assert first == 0


def test_a_rank_that_is_gone_is_who_the_others_waited_for(tmp_path):
    made = Rank(tmp_path, 0)
    made.span("step", 0, 5, 1)
    made.all_reduce(0, 1, 4, error="PeerLost")
    trace = written(tmp_path)
    assert (trace.size, trace.ranks) == (2, (0,))
    assert [(p.what, p.late) for p in pieces(trace, 0, 1)] == [
        ("other", -1), ("waiting", 1), ("other", -1),
    ]  # fmt: skip
    assert trace.slices[0, 0][1].facts["error"] == "PeerLost"


def test_what_is_torn_or_of_an_earlier_start_is_left_out(tmp_path):
    Rank(tmp_path, 2, size=3).span("step", 0, 1, 1)  # of a start with more ranks
    for rank in (0, 1):
        made = Rank(tmp_path, rank, generation=1)
        made.span("step", 0, 1, 5)
        made.timeline.add(3.0, 2.0, SPAN, 0, 0)
        made.timeline.add(3.0, 4.0, 77, 0, 0)
        made.timeline.add(BEGIN + 0.1, BEGIN + 0.2, CALL, 0, 999, -1, 1, 1, 1)  # its name is lost
        with (tmp_path / f"rank-{rank}.facts").open("a") as file:
            file.write('{"name": 5, "spa')
    trace = written(tmp_path)
    assert trace.ranks == (0, 1)
    assert list(trace.steps) == [5]
    assert measure(trace).seconds == pytest.approx(1)


def test_the_trace_of_a_script_without_steps_has_all_and_measures_nothing(tmp_path):
    Rank(tmp_path, 0, size=1).span("forward", 0, 1)
    trace = written(tmp_path)
    assert len(trace.slices) == 1
    found = measure(trace)
    assert (found.steps, found.seconds, found.idle, found.links) == ((), 0, (), {})


UNREADABLE = {
    "": "is no trace, or only a part of one",
    '{"traceEvents": [{"ph": "X", "na': "is no trace, or only a part of one",
    "[]": "is no trace of ringlet's",
    '{"traceEvents": []}': "is no trace of ringlet's",
    HEAD + "99}}": "is a trace of version 99; this ringlet reads 1",
    HEAD + f'{FORMAT}}}, "traceEvents": []}}': "is damaged",
    "\xff\xfe": "is no trace",
    "[" * 100_000: "is no trace",
}


@pytest.mark.parametrize("text", UNREADABLE, ids=range(len(UNREADABLE)))
def test_a_file_that_cannot_be_read_says_why(tmp_path, text):
    (tmp_path / "file").write_text(text, "latin-1")
    with pytest.raises(TraceError) as error:
        read_trace(tmp_path / "file")
    assert UNREADABLE[text] in str(error.value)


def test_a_damaged_event_is_an_error_too(tmp_path):
    Rank(tmp_path, 0, size=1).span("step", 0, 1, 1)
    written(tmp_path)
    text = (tmp_path / "trace.json").read_text()
    for old, new in (('"dur"', '"bur"'), ('"number":1', '"number":[]'), ('"ts":0.0', '"ts":{}')):
        (tmp_path / "file").write_text(text.replace(old, new))
        with pytest.raises(TraceError, match="is damaged"):
            read_trace(tmp_path / "file")


def test_records_of_another_version_and_none_at_all(tmp_path):
    with pytest.raises(TraceError, match="holds nothing"):
        write_trace(tmp_path, tmp_path / "trace.json")
    Rank(tmp_path, 0)
    facts = tmp_path / "rank-0.facts"
    facts.write_text(facts.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(TraceError, match="another version"):
        write_trace(tmp_path, tmp_path / "trace.json")


def test_intervals():
    assert union([(3, 4), (0, 2), (1, 3), (5, 5)]) == [(0, 4)]
    assert common([(0, 2), (4, 6)], [(1, 5), (5.5, 9)]) == pytest.approx(2.5)


# -- ranks that really run ------------------------------------------------------------------------


def trained(world, options):
    made, _ = small_trainer(world, {"steps": 4, "eval_windows": 4}, **options)
    made.run()
    return timeline.current is not None


MESHES = [
    ("auto", {"mesh": "pp=2", "accumulate": 4, "schedule": "zero-bubble"}),
    ("tcp", {"zero": 1}),
]


@pytest.mark.parametrize("transport, options", MESHES, ids=["pipeline", "data"])
def test_a_training_that_is_traced(ranks, tmp_path, transport, options):
    pool = ranks(2, transport, RINGLET_TRACE=str(tmp_path))
    try:
        assert pool.run(trained, options=options) == [True, True]
    finally:
        pool.close()
    trace = written(tmp_path)
    found = measure(trace)
    assert found.steps == (1, 2, 3, 4)
    for rank in (0, 1):
        for step in found.steps:
            row, whole = pieces(trace, rank, step), trace.steps[step][rank]
            assert (row[0].start, row[-1].end) == whole[:2]
            assert all(a.end == b.start for a, b in pairwise(row))
        assert {"data", "forward", "optimizer", "norm"} <= found.parts[rank].keys()
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    kinds = Counter(event["ph"] for event in events)
    assert kinds["s"] == kinds["f"] > 4
    if "mesh" in options:
        (pipeline,) = found.bubbles
        assert pipeline.pipeline.schedule == "zero-bubble"
        assert 0 < pipeline.measured < 1
        assert pipeline.textbook is not None
        kinds = Counter(a.kind for a in trace.actions(0, 3))
        assert kinds == {"F": 4, "I": 4, "W": 4}
        assert found.links[0, 1] == found.links[1, 0] > 0
    else:
        assert found.overlap[0].seconds > 0


def clocks(world, folder):
    """As if the other rank were on another machine."""
    hosts = {0: "a/1", 1: "b/1"}
    timeline.start(world.rank, 2, 0, hosts[world.rank])
    compare_clocks(world, hosts)
    with timeline.span("step", 1):
        world.barrier()
    compare_clocks(world, hosts, 5.0)
    timeline.stop()


def test_clocks_are_compared_over_the_group(ranks, tmp_path):
    pool = ranks(2, "tcp", RINGLET_TRACE=str(tmp_path))
    try:
        pool.run(clocks, folder=str(tmp_path))
    finally:
        pool.close()
    record = records.read_records(tmp_path)[1]
    assert len(record.clocks) == 2
    for clock in record.clocks:  # it is the same clock
        assert abs(clock.behind) <= clock.error
    trace = written(tmp_path)
    assert trace.clock_error == max(clock.error for clock in record.clocks)
    assert {s.kind for row in trace.slices.values() for s in row} <= {"step", "call", "message"}
