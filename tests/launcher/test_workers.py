"""How workers run, and where goes what they write: --pin, --output, --quiet, --no-prefix."""

import os
import re

import pytest
from quickly import mostly_slow

from ringlet.launcher.supervisor.cores import in_order, shares

SHARES = {
    "even": (2, [0, 1, 2, 3], [[0, 1], [2, 3]]),
    "left over": (2, [4, 5, 6], [[4], [5]]),
    "one each": (3, [0, 1, 2], [[0], [1], [2]]),
    "more workers": (3, [0, 7], [[0], [7], [0]]),
}


@pytest.mark.parametrize("case", SHARES)
def test_each_worker_gets_as_many_cores(case):
    workers, cores, expected = SHARES[case]
    assert shares(workers, cores) == expected


def test_the_threads_of_a_core_stay_together(tmp_path):
    """Two sockets with two cores each; as often, the second threads are numbered last."""
    for core in range(8):
        folder = tmp_path / f"cpu{core}/topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{core % 2}\n")
        (folder / "core_id").write_text(f"{core // 2 % 2}\n")
    assert in_order([*range(8)], tmp_path) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert in_order([3, 1, 2], tmp_path / "none") == [1, 2, 3]


AFFINITY = "import os; print('on', sorted(os.sched_getaffinity(0)))"


def test_pinned_workers(launch):
    """They have the cores that they should; nobody else's are changed."""
    before = os.sched_getaffinity(0)
    _, out, _ = launch(AFFINITY, options=("-n", "2", "--pin")).end()
    for rank, cores in enumerate(shares(2)):
        assert f":{rank}: on {sorted(cores)}\n" in out
    _, out, _ = launch(AFFINITY).end()
    assert out.count(f"on {sorted(before)}\n") == 2


TALK = """
import os, sys
print("out", os.environ["RANK"], flush=True)
print("err", os.environ["RANK"], file=sys.stderr, flush=True)
if sys.argv[1:] == [os.environ["RANK"]]:
    raise ValueError("enough")
"""

SHOWN = {
    "as usual": ([], r":0: out 0\n", r":1: err 1\n"),
    "without prefix": (["--no-prefix"], r"^out 0\n", r"^err 1\n"),
    "quiet": (["--quiet"], r"\A\Z", r"\A\Z"),
}


@pytest.mark.parametrize("case", mostly_slow(SHOWN, "as usual"))
def test_what_workers_write_is_shown_and_kept(case, launch):
    options, stdout, stderr = SHOWN[case]
    job = launch(TALK, options=("-n", "2", "--output", "logs", *options))
    code, out, err = job.end()
    assert code == 0
    assert re.search(stdout, out, re.MULTILINE)
    assert re.search(stderr, err, re.MULTILINE)
    for rank in range(2):
        text = (job.folder / f"logs/rank-{rank}.log").read_text()
        assert sorted(text.splitlines()) == [f"err {rank}", f"out {rank}"]


def test_a_failure_is_shown_by_quiet_jobs_and_kept_in_its_file(launch):
    job = launch(TALK, "1", options=("-n", "2", "--output", "logs", "--quiet"))
    code, out, err = job.end()
    assert (code, out) == (1, "")
    assert err.startswith("ringlet: rank 1 failed:")
    assert err.endswith("ValueError: enough\n")
    assert (job.folder / "logs/rank-1.log").read_text().endswith("ValueError: enough\n")
    assert "ValueError" not in (job.folder / "logs/rank-0.log").read_text()


def test_a_file_that_cannot_be_written_ends_and_the_job_goes_on(launch, tmp_path):
    logs = tmp_path / "work/logs"
    logs.mkdir()
    (logs / "rank-0.log").symlink_to("/dev/full")
    code, out, err = launch(TALK, options=("-n", "2", "--output", "logs")).end()
    assert code == 0
    assert "out 0" in out
    assert err.count("logs/rank-0.log ends here: No space left on device") == 1
    assert "out 1\n" in (logs / "rank-1.log").read_text()


def test_a_folder_that_cannot_be(launch, tmp_path):
    (tmp_path / "work/logs").write_text("a file")
    code, _, err = launch(TALK, options=("--output", "logs")).end()
    assert (code, err) == (2, "ringlet: --output logs: logs is a file\n")
