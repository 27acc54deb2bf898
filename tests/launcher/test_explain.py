"""`ringlet explain`: what it shows for every algorithm, and what it refuses."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from commands import outcome

from ringlet.comm.schedules.algorithms import ALGORITHMS
from ringlet.launcher.errors import UserError
from ringlet.launcher.units import (
    parse_bytes,
    parse_rate,
    parse_seconds,
    parse_time,
    seconds_text,
)

EVERY = [(operation, name) for operation, names in ALGORITHMS.items() for name in names]


def explain(capsys, *arguments):
    """Exit code, stdout, stderr of `ringlet explain arguments...`."""
    return outcome(capsys, "explain", *arguments)


@pytest.mark.parametrize(("operation", "algorithm"), EVERY)
def test_every_algorithm_is_drawn_proven_and_priced(operation, algorithm, capsys):
    for dashed in (True, False):
        names = [name.replace("_", "-") if dashed else name for name in (operation, algorithm)]
        code, out, err = explain(capsys, names[0], "--algorithm", names[1], "--ranks", "5")
        assert (code, err) == (0, "")
        title, *lines = out.splitlines()
        assert title == f"{operation}: {algorithm}, 5 ranks".replace("_", "-")
        assert sum(line.startswith("  rank 4") for line in lines) > 1
        assert any(line.startswith("Proven: ") for line in lines)
        assert ("same bits" in out) == (operation == "all_reduce")
        (chosen,) = (line for line in lines if line.startswith("> "))
        assert chosen.split()[1] == algorithm.replace("_", "-")
        assert max(map(len, lines)) <= 100


def test_the_ring(capsys):
    code, out, _ = explain(
        capsys, "all-reduce", "--ranks", "4", "--bytes", "64MB", "--latency", "1ms",
    )  # fmt: skip
    assert code == 0
    assert "6 rounds; a rank sends up to 6 slots, 1.5 of the array; 24 slots in all." in out
    (row,) = (line for line in out.splitlines() if line.startswith("> ring "))
    assert " ".join(row.split()) == "> ring 102 ms 91.6 MiB rank 1, 102 ms for rank 0"


def test_segments_make_a_pipeline(capsys):
    _, out, _ = explain(
        capsys, "broadcast", "--algorithm", "chain", "--segments", "8", "--root", "2",
    )  # fmt: skip
    assert "10 rounds of 1/8 slot; a rank sends up to 1 slot, 1 of the array; 3 slots" in out


def test_several_slots_in_a_round(capsys):
    _, out, _ = explain(capsys, "all-reduce", "--algorithm", "halving-doubling", "--ranks", "8")
    assert "6 rounds, as long as 14 slots; a rank sends up to 14 slots, 1.75 of the array" in out


def fastest(out):
    (line,) = (line for line in out.splitlines() if line.endswith("<- fastest"))
    return line.strip("> ").split()[0]


def test_the_network_decides_which_is_fastest(capsys):
    eight = ("all-reduce", "--ranks", "8")
    assert fastest(explain(capsys, *eight, "--bytes", "4")[1]) == "recursive-doubling"
    assert fastest(explain(capsys, *eight, "--bytes", "1GiB")[1]) == "bidirectional-ring"
    dear = explain(capsys, *eight, "--bytes", "1MiB", "--latency", "1s")[1]
    assert fastest(dear) == "recursive-doubling"


def test_hosts(capsys):
    _, out, _ = explain(
        capsys, "all-reduce", "--algorithm", "hierarchical", "--ranks", "8", "--per-host", "4",
        "--latency", "1ms",
    )  # fmt: skip
    assert "8 rounds, as long as 14 slots" in out
    assert "between hosts of 4:" in out


def test_many_ranks_are_proven_and_priced_but_not_drawn(capsys):
    code, out, _ = explain(capsys, "broadcast", "--ranks", "100")
    assert code == 0
    assert "Rounds are shown for up to 16 ranks" in out
    assert "7 rounds; a rank sends up to 7 slots" in out
    code, out, _ = explain(capsys, "broadcast", "--ranks", "4096", "--bytes", "0")
    assert "Proofs are made for up to 128 ranks" in out
    assert "> tree                    240 us" in out


def test_a_picture(capsys, tmp_path):
    path = tmp_path / "ring.svg"
    code, _, _ = explain(capsys, "all-reduce", "--svg", str(path))
    assert code == 0
    assert ElementTree.parse(path).getroot().tag.endswith("svg")


@pytest.mark.parametrize("operation", ALGORITHMS)
def test_the_exchange_through_shared_memory(operation, capsys, tmp_path):
    path, dashed = tmp_path / "picture.svg", operation.replace("_", "-")
    asked = (dashed, "--algorithm", "shared-memory", "--ranks", "5", "--svg", str(path))
    code, out, err = explain(capsys, *asked)
    assert (code, err) == (0, "")
    assert out.startswith(f"{dashed}: shared-memory, 5 ranks\n")
    assert "between two fences no rank touches what another may be writing" in out
    assert max(map(len, out.splitlines())) <= 100
    words = "".join(ElementTree.parse(path).getroot().itertext())
    assert f"{dashed}: shared-memory" in words
    moved = {"barrier": 0, "all_reduce": 40, "broadcast": 4, "reduce": 4, "gather": 4, "scatter": 4}
    assert f"{moved.get(operation, 20)} slots read or stored across ranks" in out


def test_an_all_reduce_through_shared_memory_is_one_round(capsys):
    _, out, _ = explain(capsys, "all-reduce", "--algorithm", "shared-memory", "--ranks", "3")
    assert "  rank 0  0-1 to 1, 0,2 to 2  +all  >all  >all\n" in out
    assert "round 2" not in out
    assert "\n2 fences; " in out


WRONG = {
    "operation": (["all-redcue"], "unknown operation 'all-redcue'; there are all-reduce, red"),
    "algorithm": (
        ["broadcast", "--algorithm", "bush"],
        "unknown algorithm 'bush' of broadcast; there are tree, chain, scatter-all-gather",
    ),
    "root": (["broadcast", "--root", "4"], "there is no root 4 among 4 ranks"),
    "no root": (["barrier", "--root", "1"], "barrier has no root"),
    "hosts": (["all-reduce", "--per-host", "3"], "4 ranks cannot be split into hosts of 3"),
    "bytes": (["all-reduce", "--bytes", "lots"], "--bytes is 'lots'; it takes bytes, as in"),
    "latency": (["all-reduce", "--latency", "3 parsec"], "--latency is '3 parsec'; it takes"),
    "bandwidth": (["all-reduce", "--bandwidth", "0GB/s"], "--bandwidth is 0GB/s; it must be"),
    "too many": (
        ["all-reduce", "--ranks", "65", "--algorithm", "shared-memory"],
        "shared-memory is explained for up to 64 ranks",
    ),
    "too large": (["all-reduce", "--ranks", "65", "--svg", "x"], "65 ranks is too large"),
    "no folder": (["barrier", "--svg", "nowhere/x.svg"], "cannot write nowhere/x.svg: No such"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_the_user_can_mend_is_one_line(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, text = WRONG[case]
    code, stdout, stderr = explain(capsys, *arguments)
    assert (code, stdout) == (2, "")
    assert stderr.startswith("ringlet: ")
    assert stderr.count("\n") == 1
    assert text in stderr


QUANTITIES = [
    (parse_bytes, "4096", 4096), (parse_bytes, "64MiB", 64 << 20), (parse_bytes, "1.5 kB", 1500),
    (parse_bytes, "2e3B", 2000), (parse_time, "20us", 20e-6), (parse_time, "0", 0),
    (parse_time, "3ns", 3e-9), (parse_time, "0.5 \u00b5s", 5e-7), (parse_rate, "1GB/s", 1e9),
    (parse_rate, "1GiB/s", 1 << 30), (parse_rate, "25Gbit/s", 25e9 / 8), (parse_seconds, "2", 2),
    (parse_seconds, ".5", 0.5), (parse_seconds, "5min", 300), (parse_seconds, "500ms", 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("parse", "text", "value"), QUANTITIES)
def test_quantities(parse, text, value):
    assert parse(text, "--option") == pytest.approx(value)


NO_QUANTITIES = {
    parse_bytes: ["", "-1", "4s", "1 GB/s", "1e999", "nan", "0x10", "\u0664", "64 M"],
    parse_time: ["", "20", "-1us", "inf", "1 B", "1e9h9"],  # 20 may mean microseconds or seconds
    parse_seconds: ["", "-1", "nan", "inf", "1e300", "5m", "1 h 5 min"],
    parse_rate: ["", "7", "-1", "1 GB", "GB/s", "1e999", "nan", "1..2", "1Gb/s", "1 s", "0GB/s"],
}


@pytest.mark.parametrize("parse", NO_QUANTITIES)
def test_what_is_no_quantity(parse):
    for text in NO_QUANTITIES[parse]:
        with pytest.raises(UserError, match="--option is"):
            parse(text, "--option")


def test_times_are_short():
    texts = [seconds_text(seconds) for seconds in (0, 4e-8, 2e-5, 0.1007, 0.01234, 3.456, 1234)]
    assert texts == ["0.00 us", "0.04 us", "20.0 us", "101 ms", "12.3 ms", "3.46 s", "1234 s"]


ROOT = Path(__file__).resolve().parents[2]
LESSON = (ROOT / "docs/explanation/collectives.md").read_text(encoding="utf-8")


def test_the_lesson_names_every_algorithm_and_shows_every_picture():
    assert {f"`{name.replace('_', '-')}`" in LESSON for _, name in EVERY} == {True}
    drawn = {*re.findall(r"^ringlet explain .* --svg docs/(pictures/\S+)$", LESSON, re.MULTILINE)}
    pictures = {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    operations = tuple(f"{name.replace('_', '-')}-" for name in ALGORITHMS)
    assert drawn == {f"pictures/{name}" for name in pictures if name.startswith(operations)}
    assert all(f"](../{picture})" in LESSON for picture in drawn)
