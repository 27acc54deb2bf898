"""`ringlet explain pipeline`: what it shows for every schedule, and what it refuses."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from commands import outcome

from ringlet.runtime.pipeline.schedules import SCHEDULES

ROOT = Path(__file__).resolve().parents[2]
LESSON = (ROOT / "docs/explanation/pipeline.md").read_text(encoding="utf-8")


def explain(capsys, *arguments):
    """Exit code, stdout, stderr of `ringlet explain arguments...`."""
    return outcome(capsys, "explain", *arguments)


def rows(out):
    """The table: (chosen, schedule) -> time, bubble, formula, activations."""
    pattern = r"^([> ]) ([a-z0-9-]+(?: x \d+)?) +([\d.]+) +([\d.]+ %) +([\d.]+ %|-) +([\d.]+)$"
    found = re.findall(pattern, out, re.MULTILINE)
    return {(mark == ">", name): values for mark, name, *values in found}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_is_drawn_proven_and_compared(schedule, capsys):
    code, out, err = explain(capsys, "pipeline", "--schedule", schedule, "--stages", "3")
    assert (code, err) == (0, "")
    title, *lines = out.splitlines()
    assert title.startswith(f"{schedule} of 3 ranks") and title.endswith(", 8 micro-batches")
    assert lines[3].startswith("rank 2")
    assert any(line.startswith("Proven: ") for line in lines)
    assert max(map(len, lines)) <= 100
    table = rows(out)
    assert [name.split()[0] for _, name in table] == list(SCHEDULES)
    assert [name.split()[0] for chosen, name in table if chosen] == [schedule]
    searched = {(mark, name) for mark, name in table if name in ("zb-1p", "zb-2p")}
    for key, (_, bubble, formula, _) in table.items():
        assert formula == ("-" if key in searched else bubble)


def test_the_defaults_are_those_of_the_issue(capsys):
    code, out, _ = explain(
        capsys, "pipeline", "--schedule", "1f1b", "--stages", "4", "--micro-batches", "8",
    )  # fmt: skip
    assert code == 0
    assert out == explain(capsys, "pipeline")[1]
    assert "rank 3  . . . 0 <0- 1 <1- 2 <2- 3 <3- 4 <4- 5 <5- 6 <6- 7 <7- . . . . . .\n" in out
    assert "A rank sends up to 16 messages." in out
    assert "Bubble: 27.3 % of 33 units of time\n  formula: (p-1) / (m + p-1) = 27.3 %\n" in out
    assert "Peak of activations, in micro-batches, from rank 0: 4, 3, 2, 1\n" in out
    assert rows(out) == {
        (False, "gpipe"): ["33", "27.3 %", "27.3 %", "8"],
        (True, "1f1b"): ["33", "27.3 %", "27.3 %", "4"],
        (False, "interleaved x 2"): ["28.5", "15.8 %", "15.8 %", "5.5"],
        (False, "zero-bubble"): ["27", "11.1 %", "11.1 %", "4"],
        (False, "zb-h2"): ["27", "11.1 %", "11.1 %", "7"],
        (False, "zb-v x 2"): ["25.5", "5.9 %", "5.9 %", "4"],
        (False, "zb-1p"): ["27", "11.1 %", "-", "4"],
        (False, "zb-2p"): ["27", "11.1 %", "-", "8"],
    }


def test_chunks_count_for_their_share(capsys):
    _, out, _ = explain(capsys, "pipeline", "--schedule", "interleaved", "--chunks", "4")
    assert "interleaved of 4 ranks x 4 chunks, 8 micro-batches" in out
    assert "from rank 0: 4.75, 4.25, 3.75, 3.25\n  (a chunk has 1/4 of the layers" in out
    assert rows(out)[True, "interleaved x 4"] == ["26.25", "8.6 %", "8.6 %", "4.75"]


def test_times(capsys):
    _, out, _ = explain(
        capsys, "pipeline", "--schedule", "zero-bubble", "--forward", "2", "--backward", "4.5",
        "--weights", "1.5",
    )  # fmt: skip
    assert "(p-1) (F+I-W) / (m (F+I+W) + (p-1) (F+I-W)) = 16.8 %" in out
    assert rows(out)[True, "zero-bubble"][0] == "62.5"
    _, out, _ = explain(
        capsys, "pipeline", "--schedule", "zero-bubble", "--micro-batches", "2", "--weights", "1.5",
    )  # fmt: skip
    assert "formula: none for fewer micro-batches than stages where W > F or W > I" in out
    assert rows(out)[True, "zero-bubble"] == ["10", "40.0 %", "-", "2"]


def test_transfers_cost_what_the_formula_leaves_out(capsys):
    _, out, _ = explain(capsys, "pipeline", "--transfer", "0.1")
    assert "Bubble: 30.6 %" in out
    assert "formula without transfers: (p-1) / (m + p-1) = 27.3 %" in out


def test_many_stages_are_explained_but_not_drawn(capsys):
    code, out, _ = explain(capsys, "pipeline", "--stages", "50", "--micro-batches", "21")
    assert code == 0
    assert "(Drawings are made of up to 1000 forwards.)" in out
    assert rows(out)[True, "1f1b"] == ["210", "70.0 %", "70.0 %", "21"]
    assert max(map(len, out.splitlines())) <= 100


def test_a_picture(capsys, tmp_path):
    path = tmp_path / "1f1b.svg"
    assert explain(capsys, "pipeline", "--svg", str(path))[0] == 0
    assert ElementTree.parse(path).getroot().tag.endswith("svg")


WRONG = {
    "schedule": (["--schedule", "2f2b"], "unknown schedule '2f2b'; there are gpipe, 1f1b, interl"),
    "chunks": (["--chunks", "2"], "1f1b has 1 chunk on each rank, not 2; for several: interleaved"),
    "one chunk": (["--schedule", "interleaved", "--chunks", "1"], "needs at least 2 chunks"),
    "no chunks": (["--chunks", "0"], "chunks is 0; it must be at least 1"),
    "stages": (["--stages", "0"], "--stages is 0; it must be at least 1"),
    "micro-batches": (["--micro-batches", "-3"], "--micro-batches is -3; it must be at least 1"),
    "too many": (["--stages", "999", "--micro-batches", "99"], "the most that are explained are"),
    "forward": (["--forward", "-1"], "--forward is '-1'; it takes a time in any unit, as in 1 or"),
    "backward": (["--backward", "2s"], "--backward is '2s'; it takes a time"),
    "weights": (["--weights", "3"], "--weights is 3; it is a part of --backward, 2"),
    "transfer": (["--transfer", "inf"], "--transfer is 'inf'; it takes a time"),
    "no time": (["--forward", "0", "--backward", "0"], "one of them must take time"),
    "too large": (["--stages", "99", "--micro-batches", "50", "--svg", "x"], "is too large; leave"),
    "layers": (["--layers-per-stage", "3,5,4"], "is 3,5,4; it takes 4 numbers of at least 1"),
    "no layers": (
        ["--stages", "2", "--layers-per-stage", "0,1"],
        "it takes 2 numbers of at least 1",
    ),
    "a cut": (["--layers-per-stage", "3;4"], "each stage's number of blocks, as in 3,5,4"),
    "no file": (["--schedule", "gone.csv"], "cannot read gone.csv: No such file"),
    "a file": (
        ["--schedule", "wrong.csv"],
        "wrong.csv: row 2, column 1: 1B0: 1F0 must come before",
    ),
    "a file's ranks": (
        ["--schedule", "right.csv", "--stages", "3"],
        "the schedule file has 2 rows",
    ),
    "no room": (["--csv", "nowhere/x.csv"], "cannot write nowhere/x.csv: No such"),
    "no folder": (["--svg", "nowhere/x.svg"], "cannot write nowhere/x.svg: No such"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_the_user_can_mend_is_one_line(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("right.csv").write_text("0F0,0B0\n1F0,1B0\n")
    Path("wrong.csv").write_text("0F0,0B0\n1B0,1F0\n")
    arguments, text = WRONG[case]
    code, stdout, stderr = explain(capsys, "pipeline", *arguments)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("ringlet: ")
    assert stderr.count("\n") == 1
    assert text in stderr


def test_a_schedule_goes_through_a_file(capsys, tmp_path):
    path = str(tmp_path / "zb-v.csv")
    _, made, _ = explain(capsys, "pipeline", "--schedule", "zb-v", "--stages", "3", "--csv", path)
    code, read, _ = explain(capsys, "pipeline", "--schedule", path)
    assert code == 0
    title, lines = read.split("\n", 1)
    assert title == "csv of 3 ranks x 2 chunks, 8 micro-batches"
    assert lines.split("  formula")[0] == made.split("\n", 1)[1].split("  formula")[0]
    assert rows(read)[True, "csv x 2"][0] == rows(made)[True, "zb-v x 2"][0]


def test_stages_may_differ(capsys):
    code, out, _ = explain(
        capsys, "pipeline", "--stages", "3", "--micro-batches", "4", "--layers-per-stage", "1,4,1"
    )
    assert code == 0
    assert "Bubble: 5.9 % to 76.5 % of 25.5 units of time\n  formula: none for stages that d" in out
    assert "from rank 0: 1.5, 4, 0.5\n" in out
    assert {name for _, name in rows(out)} == {*SCHEDULES} - {"interleaved", "zb-v"}


def test_help_is_clear_about_both(capsys):
    code, out, _ = explain(capsys, "--help")
    assert code == 0
    words = " ".join(out.split())
    assert "collective (`ringlet explain all-reduce`)" in words
    assert "pipeline schedule (`ringlet explain pipeline`)" in words
    assert "--algorithm" in explain(capsys, "all-reduce", "--help")[1]
    assert "--micro-batches" in explain(capsys, "pipeline", "--help")[1]


def test_a_collective_needs_no_command(capsys):
    named = explain(capsys, "collective", "barrier", "--ranks", "3")
    assert named[0] == 0
    assert named == explain(capsys, "barrier", "--ranks", "3")
    assert named == explain(capsys, "--ranks", "3", "barrier")


def test_the_lesson_shows_every_schedule():
    drawn = re.findall(
        r"^ringlet explain pipeline .*--svg docs/(pictures/pipeline-(.+)\.svg)$",
        LESSON,
        re.MULTILINE,
    )
    assert {name for _, name in drawn} == {*SCHEDULES}
    assert all(f"](../{picture})" in LESSON for picture, _ in drawn)
    pictures = (ROOT / "docs" / "pictures").glob("pipeline-*")
    assert {f"pictures/{path.name}" for path in pictures} == {picture for picture, _ in drawn}
