"""`--trace` and `ringlet trace`, as people use them."""

import json
import os
import signal
from pathlib import Path

import pytest
import trace_format
from commands import outcome

from ringlet.comm.join.addresses import free_port
from ringlet.comm.timeline import SPAN, Timeline
from ringlet.runtime.tracing import measure, read_trace

STEPS = """
    import os, signal, sys
    import numpy as np
    from ringlet import comm
    from ringlet.comm import timeline

    world = comm.init()
    for number in range(1, 6):
        with timeline.span("step", number):
            with timeline.span("forward"):
                sum(range(10_000))
            world.all_reduce(np.ones(1000))
            if number == 4 and world.rank == 1 and len(sys.argv) > 1:
                print(os.getpid(), file=open("pid", "w"))
                signal.pause()
"""


def right(path):
    """The trace in a file, which has been found right."""
    assert trace_format.problems(json.loads(path.read_text())) == []
    return read_trace(path)


def test_a_script_that_is_traced(launch, capsys):
    job = launch(STEPS, options=("-n", "2", "--trace", "out.json", "--trace-steps", "3"))
    code, _, errors = job.end()
    assert code == 0, errors
    assert "the trace of steps 3 to 5 is in out.json" in errors
    assert [path.name for path in job.folder.iterdir() if path.name != "script.py"] == ["out.json"]
    trace = right(job.folder / "out.json")
    assert trace.about["command"][:2] == ["ringlet", "run"]
    assert measure(trace).links == {(0, 1): 8000, (1, 0): 8000}
    code, text, _ = outcome(capsys, "trace", str(job.folder / "out.json"))
    assert code == 0
    assert "2 ranks on 1 host\nsteps 3 to 5, " in text
    assert "links: 0 to 1 7.8 KiB, 1 to 0 7.8 KiB" in text
    code, text, _ = outcome(capsys, "trace", str(job.folder / "out.json"), "--json")
    assert json.loads(text)["steps"] == [3, 4, 5]


def test_what_a_killed_rank_has_recorded_is_there(launch, monkeypatch, capsys):
    job = launch(STEPS, "wait", options=("-n", "2", "--trace", "out.json"))
    pid = job.number("pid")
    monkeypatch.chdir(job.folder)
    code, _, errors = outcome(capsys, "run", "--trace", "out.json", "script.py")
    assert code == 2
    assert "--trace out.json belongs to a run that goes on; name another" in errors
    os.kill(pid, signal.SIGKILL)
    code, _, errors = job.end()
    assert code == 128 + signal.SIGKILL
    assert "the trace of steps 1 to " in errors
    trace = right(job.folder / "out.json")
    assert list(trace.steps) == [1, 2, 3]  # both have taken these
    assert trace.ranks == (0, 1)
    last = trace.slices[0, 0][-1]
    assert last.name.startswith(("step 5", "all_reduce"))


def test_records_that_nobody_has_put_together_are_read_by_the_command(tmp_path, capsys):
    folder = tmp_path / "out.json.records"
    folder.mkdir()
    for rank in (0, 1):
        made = Timeline(folder, rank, 2, 0, "here/1")
        made.add(1.0, 3.0, SPAN, 0, made.name("step", lambda: {"span": "step"}), -1, 7)
    code, text, _ = outcome(capsys, "trace", str(tmp_path / "out.json"))
    assert code == 0
    assert "2 ranks on 1 host\nsteps 7 to 7, 2.00 s each" in text
    right(tmp_path / "out.json")


@pytest.mark.parametrize(
    "line",
    ['{"clock": 3}', '{"clock": [1, 1e308, 1]}', '{"pipeline": 3}', '{"name": []}',
     '{"format": 1, "rank": 0}', '{"name": 0, "ranks": 3}'],
)  # fmt: skip
def test_damaged_records_are_refused_in_one_line(tmp_path, capsys, line):
    folder = tmp_path / "out.json.records"
    folder.mkdir()
    made = Timeline(folder, 0, 1, 0, "here/1")
    made.add(1.0, 3.0, SPAN, 0, made.name("step", lambda: {"span": "step"}), -1, 7)
    facts = folder / "rank-0.facts"
    kept = "" if "format" in line else facts.read_text()
    facts.write_text(f"{kept}{line}\n")
    code, out, errors = outcome(capsys, "trace", str(tmp_path / "out.json"))
    assert (code, out, len(errors.splitlines())) == (2, "", 1)
    assert f"what lies in {folder} is damaged" in errors


@pytest.mark.slow
def test_a_killed_launcher_leaves_what_the_command_can_read(launch, capsys):
    job = launch(STEPS, "wait", options=("-n", "2", "--trace", "out.json"))
    pid = job.number("pid")
    job.process.kill()
    assert job.gone([pid])
    file = job.folder / "out.json"
    assert not file.exists()
    code, text, _ = outcome(capsys, "trace", str(file))
    assert code == 0
    assert "steps 1 to 3, " in text
    right(file)


@pytest.mark.slow
def test_a_training_that_is_traced(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    quick = Path(__file__).parents[1] / "system/quick.toml"
    words = ("--preset", "tiny", "--config", str(quick), "-n", "2", "--out", "run")
    code, _, errors = outcome(capfd, "train", *words, "--trace", "run/trace.json")
    assert code == 0, errors
    assert "is in run/trace.json" in errors
    trace = right(tmp_path / "run/trace.json")
    found = measure(trace)
    assert len(found.steps) > 5
    assert set(found.parts[0]) >= {"forward", "backward", "optimizer", "data", "norm"}
    assert any(each.name == "evaluation" for each in trace.slices[0, 0])


@pytest.mark.slow
def test_two_hosts_have_one_trace(launch, capsys):
    """They share the folder, as on a shared disk."""
    port, hosts = free_port(), []
    for node, host in enumerate("ab"):
        where = ("--nnodes", "2", "--node-rank", str(node), "--master", f"127.0.0.1:{port}")
        options = (*where, "-n", "2", "--transport", "tcp", "--trace", "out.json")
        hosts.append(launch(STEPS, options=options, variables={"RINGLET_HOST": host}))
    for each in hosts:
        code, _, errors = each.end()
        assert code == 0, errors
        assert ("is in out.json" in errors) == (each is hosts[0])
    folder = hosts[0].folder
    assert {path.name for path in folder.iterdir()} == {"script.py", "out.json"}
    trace = right(folder / "out.json")
    assert trace.ranks == (0, 1, 2, 3)
    assert trace.drift_known
    assert 0 < trace.clock_error < 1
    code, text, _ = outcome(capsys, "trace", str(folder / "out.json"))
    assert "; clocks agree within " in text


def test_a_script_that_joins_no_world_has_no_trace(launch):
    job = launch("print(1)", options=("-n", "1", "--trace", "out.json"))
    code, _, errors = job.end()
    assert code == 0
    assert "there is no trace: no rank has called comm.init()" in errors
    assert [path.name for path in job.folder.iterdir()] == ["script.py"]


REFUSED = {
    ("--trace", "."): "--trace . is a folder; name a file",
    ("--trace", "script.py"): "--trace script.py would replace what is no trace",
    ("--trace", "/dev/null"): "--trace /dev/null would replace what is no trace",
    ("--trace-steps", "3"): "--trace-steps is a part of --trace, which is not given",
    ("--trace", "out.json", "--trace-steps", "0"): "trace-steps",
    ("--trace", "script.py/out.json"): "--trace script.py/out.json.records: script.py is a file",
    ("--trace", "x" * 250): "name too long",
}


@pytest.mark.parametrize("words", REFUSED, ids=range(len(REFUSED)))
@pytest.mark.parametrize("command", ["run", "train"])
def test_what_cannot_be_written_is_refused_before_anything_starts(
    tmp_path, monkeypatch, capsys, command, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("print(1)\n")
    program = ["script.py"] if command == "run" else []
    code, _, errors = outcome(capsys, command, *words, *program)
    assert code == 2
    assert REFUSED[words].lower() in errors.lower()
    assert "Traceback" not in errors
    left = {path.name for path in tmp_path.iterdir()} - {"runs"}
    assert left == {"script.py"}


UNREADABLE = {
    "no/such/file": "no such file",
    ".": "is a directory",
    "/": "is a directory",
    "script.py": "is no trace",
    "empty": "is no trace",
    "pipe": "not a regular file",
    "/dev/zero": "not a regular file",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("print(1)\n")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    code, _, errors = outcome(capsys, "trace", name)
    assert code == 2
    assert UNREADABLE[name] in errors.lower()
    assert len(errors.splitlines()) == 1


def written(about=None, step=None, call=None):
    """The trace of one step of two ranks with these changes."""
    head = {"ringlet_trace": 1, "size": 2, "ranks": [0, 1], "hosts": ["a", "a"]}
    head |= {"clock_errors_s": [0, 0], "drift_known": [True, True], "pipelines": []}
    events = []
    for rank in (0, 1):
        common = {"ph": "X", "pid": rank, "tid": 0}
        taken = {"name": "step 1", "cat": "step", "ts": 0.0, "dur": 9.0, "args": {"number": 1}}
        events.append({**common, **taken, **(step or {})})
        facts = {"operation": "send", "peer": 1 - rank, "bytes": 5, **(call or {})}
        sent = {"name": "send", "cat": "call", "ts": 1.0, "dur": 1.0, "args": facts}
        events.append({**common, **sent})
    return json.dumps({"otherData": {**head, **(about or {})}, "traceEvents": events})


DAMAGED = {
    "no ranks": (written({"ranks": [], "hosts": []}), "is damaged"),
    "a rank twice": (written({"ranks": [0, 0]}), "is damaged"),
    "ranks beyond the size": (written({"size": 1}), "is damaged"),
    "fewer hosts": (written({"hosts": ["a"]}), "is damaged"),
    "hosts without names": (written({"hosts": [[], {}]}), "is damaged"),
    "a huge size": (written({"size": 10**400}), "is beyond what a trace has"),
    "a clock that is none": (written({"clock_errors_s": [float("nan")] * 2}), "is beyond"),
    "a step without length": (written(step={"dur": 0}), "has no step that all ranks have taken"),
    "a step back in time": (written(step={"dur": -1}), "ends before it begins"),
    "infinite bytes": (written(call={"bytes": float("inf")}), "is beyond what a trace has"),
    "a peer that is none": (written(call={"peer": []}), "the trace is damaged"),
    "chunks that are none": (
        written({"pipelines": [{"ranks": [0, 1], "schedule": "1f1b", "chunks": "x"}]}),
        "is damaged",
    ),
    "a pipeline that is none": (
        written({"pipelines": [{"ranks": [0, 1], "schedule": 7, "chunks": 1}]}), "is damaged"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_trace_is_refused_in_one_line(tmp_path, capsys, case):
    text, said = DAMAGED[case]
    (tmp_path / "t.json").write_text(text)
    code, out, errors = outcome(capsys, "trace", str(tmp_path / "t.json"))
    assert (code, out, len(errors.splitlines())) == (2, "", 1)
    assert said in errors


def test_of_many_absent_ranks_the_number_is_said(tmp_path, capsys):
    for size, said in (
        (2, "each\n"),
        (4, "of ranks 2 and 3\n"),
        (10**12, "of 999999999998 ranks\n"),
    ):
        (tmp_path / "t.json").write_text(written({"size": size}))
        code, text, _ = outcome(capsys, "trace", str(tmp_path / "t.json"))
        assert code == 0
        assert said in text
