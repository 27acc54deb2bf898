"""`ringlet submit`: what is written for an engine, and what is refused before it is asked."""

import subprocess

import pytest
from commands import outcome, stand_in

from ringlet.comm.join.key import read_key

SLURM = ("--engine", "slurm", "--nodes", "2")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RINGLET_KEY", "RINGLET_KEY_FILE", "RINGLET_INSECURE"):
        monkeypatch.delenv(name, raising=False)


def submit(capfd, *words):
    """Exit code, and what is shown."""
    code, out, error = outcome(capfd, "submit", *words)
    return code, out + error


def test_the_script_is_shown_and_nothing_is_changed(tmp_path, capfd):
    words = ("--time", "2:00:00", "--partition", "long", "--name", "gpt", "--print")
    code, text = submit(capfd, *SLURM, *words, "--", "train", "-n", "4", "--data", "a b")
    assert code == 0
    assert {"#SBATCH --nodes=2", "#SBATCH --time=120:00", "#SBATCH --partition=long",
            "#SBATCH --requeue", "#SBATCH --signal=USR2@120"} <= {*text.splitlines()}  # fmt: skip
    assert "ringlet train -n 4 --data 'a b' --out" in text
    assert f"RINGLET_KEY_FILE={tmp_path}/gpt.key" in text
    assert list(tmp_path.iterdir()) == []
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=20)


def test_a_job_is_submitted_with_a_key_that_nobody_else_reads(tmp_path, capfd, monkeypatch):
    stand_in(tmp_path, monkeypatch, sbatch="cat > script; echo '17;cluster'")
    code, text = submit(capfd, *SLURM, "--", "train", "--out", "here", "--resume")
    assert (code, "scancel 17" in text) == (0, True)
    read_key(tmp_path / "ringlet.key")
    script = (tmp_path / "script").read_text()
    assert "train --out here --resume\n" in script  # the user's own are not given twice
    (tmp_path / "ringlet.key").chmod(0o644)
    code, text = submit(capfd, *SLURM, "--", "train")
    assert (code, "other users can read" in text) == (2, True)


REFUSED = {
    "no engine": (("--engine", "moab", "--", "train"), "there is no engine 'moab'"),
    "no sbatch": ((*SLURM, "--", "train"), "there is no sbatch on this host"),
    "a bare time": ((*SLURM, "--time", "30", "--", "train"), "--time is '30'; it takes a time"),
    "another command": ((*SLURM, "--", "ps"), "ps is not for an engine; train and run are"),
    "an option of hosts": ((*SLURM, "--", "train", "--nnodes", "2"), "--nnodes would do nothing"),
    "an unknown option": ((*SLURM, "--", "train", "--stepps", "2"), "--stepps"),
    "a name that is a path": ((*SLURM, "--name", "a/b", "--", "train"), "--name is 'a/b'"),
    "quotes": ((*SLURM, "--sbatch", "'x", "--", "train"), "No closing quotation"),
    "a name of two lines": (
        (*SLURM, "--account", "a\nrm", "--", "train"),
        "has more: '--account=a\\nrm'",
    ),
    "no time but to save": (
        (*SLURM, "--time", "150s", "--", "train"),
        "would be told to save at once",
    ),
    "no script": ((*SLURM, "--", "run", "nothing.py"), "there is no script nothing.py"),
    "no host": (("--engine", "slurm", "--nodes", "0", "--", "train"), "'--nodes'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused(case, tmp_path, capfd, monkeypatch):
    words, text = REFUSED[case]
    monkeypatch.setenv("PATH", str(tmp_path))
    code, shown = submit(capfd, *words)
    assert code == 2
    assert text in shown
    assert "Traceback" not in shown


THERE = "echo 'all* 2 4 infinite'"
FULL = "cat >/dev/null; [ $1 = --test-only ] && exit 1; echo 17"


def test_a_refusal_says_what_there_is(tmp_path, capfd, monkeypatch):
    refusal = "cat >/dev/null; echo 'sbatch: error: Invalid account' >&2; exit 1"
    stand_in(tmp_path, monkeypatch, sbatch=refusal, sinfo=THERE)
    code, text = submit(capfd, *SLURM, "--", "train")
    assert code == 2
    assert "refuses the job: Invalid account. There is all*: 2 hosts of 4 cores" in text


def test_a_cluster_that_is_not_reached_is_not_called_small(tmp_path, capfd, monkeypatch):
    silent = "cat >/dev/null; echo 'sbatch: fatal: cannot connect' >&2; exit 1"
    stand_in(tmp_path, monkeypatch, sbatch=silent, sinfo="exit 1")
    code, text = submit(capfd, *SLURM, "--", "train")
    assert (code, "Slurm is not reached, or has no such partition: fatal: cannot" in text) == (
        2, True,
    ), text  # fmt: skip
    code, text = submit(capfd, *SLURM, "--", "train", "--data", "none.txt")
    assert (code, "--data none.txt: there is no such file" in text) == (2, True), text


def test_more_hosts_than_there_are_would_be_waited_for_in_vain(tmp_path, capfd, monkeypatch):
    stand_in(tmp_path, monkeypatch, sbatch=FULL, sinfo=THERE)
    code, text = submit(capfd, *SLURM[:3], "3", "--", "train")
    assert (code, "asks for 3 hosts. There is all*: 2 hosts" in text) == (2, True)
    code, text = submit(capfd, *SLURM, "--", "train")  # some are down now
    assert (code, "It has to wait: as things are" in text) == (0, True)
