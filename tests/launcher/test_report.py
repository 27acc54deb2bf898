"""`ringlet report`: what is in the page, what it is made from, and what is refused."""

import json
import os
import re
import socket
from dataclasses import asdict
from html.parser import HTMLParser

import pytest

from ringlet.launcher.cli import main
from ringlet.runtime.planning.cluster import load_cluster
from ringlet.runtime.planning.models import model_of
from ringlet.runtime.planning.plan import make_plan, plan
from ringlet.runtime.training.config import make_config
from ringlet.runtime.training.factories import model_config

SIZES = {"mesh": "pp=2", "accumulate": 4}


def row(step, **more):
    found = {"step": step, "loss": 5 / step, "learning_rate": 1e-3, "grad_norm": 1.0}
    found |= {"tokens": 256 * step, "step_s": 0.1, "tokens_per_s": 2560.0, "comm_s": 0.02}
    return {**found, "comm_bytes": 1000, "elapsed_s": 0.1 * step, "mfu": 0.25, **more}


def of_rank(rank, steps, step):
    times = {"step_s": 0.1, "compute_s": 0.06 + rank / 100, "comm_s": 0.02, "update_s": 0.005}
    sent = {"send": 65_536, "all_reduce": 65_792}
    memory = {"peak_bytes": 90_000_000, "base_bytes": 60_000_000}
    return {"step": step, "steps": steps, "rank": rank, **times, "sent_bytes": sent, **memory}


def make_run(folder, steps=40, sizes=SIZES, end=None, tail=""):
    """The folder of a run that is none."""
    folder.mkdir(parents=True)
    config = make_config("tiny", options={**sizes, "steps": steps})
    about = {"workers": 2, "vocab_size": 256, "config": asdict(config), "began": 1.7e9}
    (folder / "run.json").write_text(json.dumps(about))
    rows = [{"step": 0, "val_loss": 5.5}, *map(row, range(1, steps)), row(steps, val_loss=1.5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + tail)
    ranks = [of_rank(r, steps // 2, s) for s in (steps // 2, steps) for r in (0, 1)]
    (folder / "ranks.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ranks))
    end = end or {"how": "done", "step": steps}
    (folder / "end.json").write_text(json.dumps(end))
    return folder


class Page(HTMLParser):
    """Headings, tables and words of a page; every element is closed, no id is there twice."""

    ALONE = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.headings, self.tables, self.words = [], [], [], [], []
        self.feed(text)
        assert self.open == []
        assert len(self.ids) == len({*self.ids})

    def handle_starttag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in self.ALONE:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)
        elif self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def cells(self, start):
        """The rest of the first row of any table that begins with these words."""
        rows = (row for table in self.tables for row in table)
        return next(row[1:] for row in rows if row[0] == start)


def reported(capsys, *words):
    """The exit code, and what was printed."""
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, words)])
    return ended.value.code or 0, *capsys.readouterr()


def test_a_run_is_shown_beside_what_was_predicted(tmp_path, capsys):
    folder = make_run(tmp_path / "mine")
    model = model_of(model_config(make_config("tiny"), 256))
    search = plan(model, load_cluster("laptop"), 8, ranks=2)
    chosen = make_plan(search.best[0], model, search.request.cluster, search.best)
    assert len(chosen.others) > 1
    (folder / "plan.toml").write_text(str(chosen))
    code, out, err = reported(capsys, folder)
    assert (code, out, err) == (0, f"wrote {folder / 'report.html'}\n", "")
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.headings == [
        "Report: mine", "mine", "A step's time on each rank", "What travels", "Memory", "The plan",
        "Options",
    ]  # fmt: skip
    assert page.cells("ended") == ["done after step 40"]
    assert page.cells("the lowest") == ["1.5000 after step 40"]
    assert page.cells("MFU")[0].startswith("25.0 %")
    assert page.cells("a step") == ["100 ms (median)"]
    # 4 micro-batches of 2 samples, 32 positions, 64 wide; the embedding is on both ranks.
    assert ["rank 0", "send", "65,536", "65,536", "1.000"] in page.tables[2]
    assert ["rank 0", "all-reduce", "65,792", "65,536", "1.004"] in page.tables[2]
    assert page.cells("rank 1")[:2] == ["100 ms", "70.0 ms"]
    assert page.tables[4][1][1].startswith(chosen.choices.mesh)
    assert page.tables[4][-1] == ["measured", "", "100 ms", "30 MB"]
    assert len(page.tables[4]) == 3 + len(chosen.others)


def test_the_page_needs_nothing_from_elsewhere(tmp_path, capsys):
    reported(capsys, make_run(tmp_path / "mine"))
    text = (tmp_path / "mine/report.html").read_text()
    assert not re.search(r"<script|<link|<img|<iframe|src=|href=|@import|url\((?!#)", text)
    assert set(re.findall(r"\w+://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    pictures = re.findall(r"<svg [^>]*>", text)
    assert len(pictures) > 6
    assert all('role="img" aria-label="' in picture for picture in pictures)


MS = 1000.0
ACTIONS = {  # (kind, micro-batch, start, end) of a pipeline of two ranks
    0: [("F", 0, 0, 1), ("F", 1, 1, 2), ("B", 0, 4, 6), ("B", 1, 8, 10)],
    1: [("F", 0, 1, 2), ("B", 0, 2, 4), ("F", 1, 4, 5), ("B", 1, 5, 7)],
}


def trace():
    """A trace of one step, in which the last backward comes a millisecond late."""
    about = {"ringlet_trace": 1, "size": 2, "ranks": [0, 1], "hosts": ["a", "a"]}
    about |= {"clock_errors_s": [0, 0], "drift_known": [True, True]}
    about["pipelines"] = [{"ranks": [0, 1], "schedule": "1f1b", "chunks": 1}]
    events = []
    for rank, actions in ACTIONS.items():
        common = {"ph": "X", "pid": rank, "tid": 0}
        step = {"ts": 0.0, "dur": 10 * MS, "name": "step 1", "cat": "step"}
        events.append({**common, **step, "args": {"number": 1}})
        for kind, number, start, end in actions:
            facts = {"action": kind, "stage": rank, "micro_batch": number}
            times = {"ts": start * MS, "dur": (end - start) * MS}
            events.append({**common, **times, "name": kind, "cat": "compute", "args": facts})
    return json.dumps({"otherData": about, "traceEvents": events})


def test_the_measured_pipeline_stands_under_the_predicted_one(tmp_path, capsys):
    folder = make_run(tmp_path / "mine")
    (folder / "any.json").write_text(trace())
    code, _, err = reported(capsys, folder)
    assert (code, err) == (0, "")
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.cells("rank 0, rank 1") == ["40.0 %", "33.3 %", "33.3 %"]
    assert text.index(">predicted<") < text.index(">measured, step 1<")
    for damaged in (
        trace()[:-50], trace().replace('"B"', '"Z"'), trace().replace('"stage": 1', '"stage": "x"'),
        trace().replace('"size": 2, "ranks": [0, 1]', '"size": 0, "ranks": []'),
        trace().replace('"stage": 1', '"stage": 1e999'), trace().replace('"1f1b"', "null"),
    ):  # fmt: skip
        (folder / "any.json").write_text(damaged)
        code, _, err = reported(capsys, folder)
        assert (code, len(err.splitlines())) == (0, 1)
        assert "the trace is left out" in err


def test_a_rank_without_actions_is_an_empty_row(tmp_path, capsys):
    folder = make_run(tmp_path / "mine")
    found = json.loads(trace())
    found["traceEvents"] = found["traceEvents"][:6]
    (folder / "any.json").write_text(json.dumps(found))
    assert reported(capsys, folder)[0::2] == (0, "")
    assert ">rank 1<" in (folder / "report.html").read_text()


def test_runs_are_drawn_over_each_other(tmp_path, capsys):
    names = ("a/mine", "b/mine", "c<i>")
    folders = [
        make_run(tmp_path / name, steps) for name, steps in zip(names, (9, 19, 29), strict=True)
    ]
    code, _, _ = reported(capsys, *folders, "--out", tmp_path / "all.html")
    assert code == 0
    text = (tmp_path / "all.html").read_text()
    page = Page(text)
    assert page.headings[1] == "The runs together"
    assert page.cells("ended") == [f"done after step {steps}" for steps in (9, 19, 29)]
    for words in ("loss over steps", "loss over tokens", "loss over seconds"):
        assert f'aria-label="validation {words}"' in text
    assert len({*re.findall(r'stroke-dasharray="([^"]+)"', text)}) == 2
    assert "<i>" not in text


def test_a_run_that_goes_on_is_one_that_has_not_ended(tmp_path, capsys):
    folder = make_run(tmp_path / "mine")
    (folder / "end.json").unlink()
    ended = []
    for pid, host in (
        (os.getpid(), socket.gethostname()), (9999999999, socket.gethostname()), (1, "other"),
    ):  # fmt: skip
        (folder / ".lock").write_text(f"pid {pid} on {host}")
        reported(capsys, folder)
        ended += Page((folder / "report.html").read_text()).cells("ended")
    assert ended == [
        "not yet: it has taken step 40",
        "not as it should: its launcher was killed after step 40",
        "not yet, on host other, or its launcher was killed after step 40",
    ]


FAILED = {
    "how": "failed", "step": 7, "cause": "rank 1 failed: killed by signal 9",
    "ranks": [
        {"rank": 0, "host": "a", "exit": "exit code 1", "doing": "all_reduce #42: in flight",
         "error": "PeerLost: lost rank 1\n  all_reduce <#42>"},
        {"rank": 1, "host": "b", "exit": "killed", "doing": "", "error": ""},
    ],
}  # fmt: skip


def test_after_a_failure_it_says_what_each_rank_was_in(tmp_path, capsys):
    folder = make_run(tmp_path / "mine", end=FAILED)
    (folder / "metrics.jsonl").unlink()
    code, _, _ = reported(capsys, folder)
    assert code == 0
    page = Page((folder / "report.html").read_text())
    assert page.headings[2] == "The failure"
    assert FAILED["cause"] in page.words
    assert page.tables[0][1:] == [
        ["0", "a", "exit code 1", "all_reduce #42: in flight"], ["1", "b", "killed", "no answer"],
    ]  # fmt: skip
    assert FAILED["ranks"][0]["error"] in page.words


def put(name, text):
    return lambda folder: (folder / name).write_text(text)


HALF = '{"step": 41, "lo'
MENDED = {
    "half a line": (put("ranks.jsonl", HALF), "a line of {0}/ranks.jsonl left out"),
    "losses that are none": (
        put("metrics.jsonl", "".join(json.dumps(row(s, loss=float("nan"))) + "\n" for s in (3, 4))),
        "the loss of 2 steps, first of step 3, is infinite or no number",
    ),
    "no figures of ranks": (put("ranks.jsonl", ""), "no figures of ranks: {0}/ranks.jsonl holds"),
    "a folder in place of metrics": (
        lambda f: ((f / "metrics.jsonl").unlink(), (f / "metrics.jsonl").mkdir()),
        "there are no curves: {0}/metrics.jsonl holds no row",
    ),
    "other lines": (put("ranks.jsonl", 'null\n[]\n{"step": "x"}\n'), "3 lines of {0}/ranks.jsonl"),
    "another ringlet's": (put("run.json", "{}"), "there is no run.json, which an older ringlet"),
    "a plan that is none": (put("plan.toml", "version = 9"), "the plan is left out: {0}/plan.toml"),
    "options": (
        put("run.json", '{"config": {"steps": -1}, "workers": 2, "vocab_size": 9}'),
        "formulas are left out: steps is -1",
    ),
    "figures": (
        put("ranks.jsonl", '{"step": 1, "rank": 0, "steps": 1, "sent_bytes": [], "step_s": "x"}\n'),
        "",
    ),
    "ranks that are none": (
        put("ranks.jsonl", "".join(json.dumps(of_rank(rank, 3, 3)) + "\n" for rank in (0, 99, -1))),
        "a line of {0}/ranks.jsonl left out",
    ),
    "times that are none": (
        put("ranks.jsonl", json.dumps({**of_rank(0, 1, 1), "comm_s": -1, "update_s": 1e400})), ""
    ),
    "a huge model": (
        put("run.json", json.dumps({"config": {**asdict(make_config("tiny")), "n_layer": 10**12},
                                    "workers": 2, "vocab_size": 256})),
        "formulas are left out: there are too many parts",
    ),
    "sizes": (
        put("run.json", '{"config": {}, "workers": Infinity, "vocab_size": 0}'),
        "formulas are left out: run.json is damaged",
    ),
    "a config": (
        put("run.json", '{"config": [], "workers": 2, "vocab_size": 9}'),
        "formulas are left out: run.json is damaged",
    ),
    "a step": (
        put("metrics.jsonl", json.dumps(row(1)) + "\n" + json.dumps({**row(2), "step": 10**400})),
        "a line of {0}/metrics.jsonl left out",
    ),
    "an end": (put("end.json", '{"how": 7, "step": []}'), ""),
    "a failure": (put("end.json", '{"how": "failed", "ranks": [7, {"rank": []}]}'), ""),
    "unequal shares": (
        put("run.json", json.dumps({"config": asdict(make_config("nano")), "workers": 5,
                                    "vocab_size": 256})),
        "formulas are left out: a batch of 12 has no equal parts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MENDED)
def test_what_cannot_be_read_is_left_out_and_said(case, tmp_path, capsys):
    folder = make_run(tmp_path / "mine")
    spoil, said = MENDED[case]
    spoil(folder)
    code, _, err = reported(capsys, folder)
    assert code == 0
    assert said.format(folder) in err
    assert len(err.splitlines()) <= 1
    Page((folder / "report.html").read_text())


REFUSED = {
    "not there": (lambda f: f.rename(f.parent / "other"), [], "{0} is not there"),
    "a file": (lambda f: (f.rename(f.parent / "other"), f.touch()), [], "{0} is no folder"),
    "no run": (
        lambda f: (f.rename(f.parent / "other"), f.mkdir()), [], "{0} is no folder of a run"
    ),
    "no metrics": (
        lambda f: ((f / "metrics.jsonl").unlink(), (f / "end.json").unlink()), [],
        "{0} has no metrics yet",
    ),
    "metrics that are a pipe": (
        lambda f: [(f / n).unlink() for n in ("metrics.jsonl", "end.json", "run.json")]
        and os.mkfifo(f / "metrics.jsonl"),
        [], "{0} is no folder of a run",
    ),
    "empty metrics": (
        lambda f: ((f / "metrics.jsonl").write_text(HALF), (f / "end.json").unlink()), [],
        "{0} has no metrics yet",
    ),
    "a folder as file": (lambda f: None, ["--out", "."], "cannot write .: Is a directory"),
    "no such place": (
        lambda f: None, ["--out", "no/such/r.html"],
        "cannot write no/such/r.html: No such file or directory",
    ),
    "a full disk": (lambda f: None, ["--out", "/dev/full"], "cannot write /dev/full: No space"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_one_line(case, tmp_path, capsys):
    folder = make_run(tmp_path / "mine")
    spoil, words, text = REFUSED[case]
    spoil(folder)
    code, out, err = reported(capsys, folder, *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert text.format(folder) in err


@pytest.mark.slow
def test_many_steps_make_a_small_page(tmp_path, capsys):
    folder = make_run(tmp_path / "mine", 100_000)
    assert reported(capsys, folder)[0] == 0
    assert (folder / "report.html").stat().st_size < 3_000_000
