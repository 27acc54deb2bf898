"""The examples run as their first lines say, and find what one process finds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

RINGLET = [sys.executable, "-c", "from ringlet.launcher.cli import main; main()"]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

RUNS = {
    "ring": (3, [], r"rank 1 sent 384 bytes for an array of 288"),
    "data_parallel": (2, [], r"2 ranks: loss 3\.\d+ -> [01]\.\d+, as one process has it"),
    "tensor_parallel": (2, [], r"rank 1 has \(32, 16\) of \(64, 16\): the same result"),
    "pipeline": (3, [], r"3 stages, 4 micro-batches: loss \d+\.\d+, as one process"),
    "any_mesh": (4, ["dp=2,tp=2"], r"'tp': 2}: loss 3\.\d+ -> [12]\.\d+, as one process has it"),
}


def test_all_are_here():
    assert sorted(RUNS) == sorted(file.stem for file in EXAMPLES.glob("*.py"))
    listed = re.findall(r"\[(\w+)\.py\]", (EXAMPLES / "README.md").read_text())
    assert sorted(RUNS) == sorted(listed)


@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs(name, tmp_path):
    workers, arguments, said = RUNS[name]
    done = subprocess.run(
        [*RINGLET, "run", "-n", str(workers), str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(said, done.stdout)
