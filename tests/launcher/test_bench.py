"""`ringlet bench`: every operation is measured and checked."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from ringlet.launcher.cli import main, make_app
from ringlet.launcher.commands.bench import OPERATIONS, text
from ringlet.launcher.workers.bench_worker import make, measure


def bench(capfd, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    out, err = capfd.readouterr()
    return ended.value.code, out, err


def test_every_operation_is_measured_and_right(capfd):
    code, out, _ = bench(capfd, "--json", "--max-bytes", "4KiB", "--factor", "1024", "-n", "3")
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    sizes = {name: [r["bytes"] for r in rows if r["operation"] == name] for name in OPERATIONS}
    assert [len(of) for of in sizes.values()] == [1 if n == "barrier" else 2 for n in OPERATIONS]
    assert sum(map(len, sizes.values())) == len(rows)
    assert all(row["right"] and row["ranks"] == 3 and row["time_us"] > 0 for row in rows)
    for row in rows:
        if row["operation"] == "all_reduce":
            assert row["bus_bandwidth"] == pytest.approx(row["algorithm_bandwidth"] * 4 / 3)


def test_a_table_for_people(capfd):
    code, out, _ = bench(
        capfd, "--operations", "all-reduce,broadcast", "--plain", "--max-bytes", "4",
        "--transport", "tcp",
    )  # fmt: skip
    assert code == 0
    head, columns, first, second = out.splitlines()
    assert head == "2 ranks, plain arrays, tcp"
    assert columns.split() == ["operation", "size", "time", "algorithm", "bus", "of", "a", "copy"]
    assert first.startswith("all_reduce             4 B")
    assert second.startswith("broadcast ")


def test_an_algorithm_by_name(capfd):
    code, out, _ = bench(
        capfd, "--operations", "all_reduce", "--algorithm", "halving-doubling", "--json",
        "--max-bytes", "4",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["right"]


def spoiled(world):
    """A result that is wrong on one rank is noticed on all."""
    case = make(world, "all_reduce", 8, registered=False)
    _, right = measure(world, case._replace(right=lambda x: world.rank != 1 and case.right(x)))
    _, usual = measure(world, case)
    return [right, usual, case.right(np.zeros(8))]


def test_a_wrong_result_is_noticed(ranks):
    assert ranks(2).run(spoiled) == [[False, True, False]] * 2
    row = {
        "operation": "reduce", "bytes": 4, "time_us": 1.0, "algorithm_bandwidth": 1.0,
        "bus_bandwidth": 1.0, "share_of_copy": 0.1, "right": False,
    }  # fmt: skip
    assert text(row).endswith("WRONG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--operations", "all_reduce,gossip"], "unknown operation 'gossip'"),
        (["--min-bytes", "100", "--max-bytes", "10"], "--min-bytes 100 is more"),
        (["--transport", "pigeon"], "pigeon"),
        (["--algorithm", "ring"], "--algorithm takes one operation"),
        (["--operations", "reduce", "--algorithm", "ring"], "reduce has no algorithm 'ring'"),
    ],
)
def test_wrong_wishes_are_one_line(capfd, arguments, message):
    code, out, err = bench(capfd, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


def test_help():
    assert "bus bandwidth" in CliRunner().invoke(make_app(), ["bench", "--help"]).output
