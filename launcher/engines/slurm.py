"""Slurm: a batch script with one task on each host, which is the agent of that host's workers.

Before the time is up Slurm sends SIGUSR2; the ranks save, the job exits with code 75 and is queued
again, and so it is when a host fails. sbatch(1), srun(1), scontrol(1): https://slurm.schedmd.com
"""

import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import ClassVar

from ringlet.comm.join.environment import INSECURE
from ringlet.comm.join.key import KEY, KEY_FILE, read_key, write_key
from ringlet.launcher.engines.engine import RINGLET, Submission, call
from ringlet.launcher.errors import ExitCode, UserError, user_errors
from ringlet.launcher.options import option

EARLY_S = 60
"""How much earlier than asked Slurm may send a signal (sbatch(1), --signal)."""

WAIT_S = 60
"""Agents end together. One that still runs this long after the first has ended waits in vain.
(Slurm's own remedy, --kill-on-bad-exit, ends agents that have saved before they can say so.)"""


@dataclass(frozen=True)
class Slurm:
    """What sbatch is told of a job."""

    HEADING: ClassVar = "Slurm"
    SHARES_FILES: ClassVar = True

    partition: str | None = option(None, "Partition to run in.", shown="the cluster's")
    account: str | None = option(None, "Account to charge.")
    notice: float = option(
        120.0, "How long before the end of --time the ranks are told to save.", unit="seconds"
    )
    sbatch: str = option("", "More options for sbatch: '--constraint=ib --mail-type=END'.")

    def write(self, job: Submission) -> str:
        """The batch script."""
        lines = ["#!/bin/bash", *(f"#SBATCH {each}" for each in self._options(job)), ""]
        lines += [f"cd {shlex.quote(str(Path.cwd()))} || exit {ExitCode.USER_ERROR}"]
        key = _key_file(job)
        if key is not None:
            lines += [f"export {KEY_FILE}={shlex.quote(str(key))}"]
        step = ["srun", "--kill-on-bad-exit=0", f"--wait={WAIT_S}", "--cpu-bind=none"]
        step += [] if job.cpus is None else [f"--cpus-per-task={job.cpus}"]
        command = shlex.join([*step, *RINGLET, *job.command])
        if job.trains:
            command += _continued(job)
        lines += [
            "trap 'exit 143' TERM  # scancel: what is saved stays, and the job ends",
            command,
            "code=$?",
            f"case $code in {ExitCode.STOPPED}|{ExitCode.PEER_LOST})"
            "  # saved before the end of its time, or a host is lost",
            '  scontrol requeue "$SLURM_JOB_ID" ;;',
            "esac",
            "exit $code",
        ]
        return "\n".join(lines) + "\n"

    def _options(self, job: Submission) -> list[str]:
        """What the batch script tells sbatch."""
        if job.seconds is not None and job.seconds < self.notice + EARLY_S:
            raise UserError(
                f"--time is {job.seconds:g} s, and ranks would be told to save at once: Slurm does "
                f"so {self.notice:g} s before the end (--notice), or up to {EARLY_S} s earlier"
            )
        try:
            more = shlex.split(self.sbatch)
        except ValueError as error:
            raise UserError(f"--sbatch is {self.sbatch!r}: {error}") from error
        given = {
            "--partition": self.partition,
            "--account": self.account,
            "--time": None if job.seconds is None else _clock(job.seconds),
            "--gpus-per-node": job.gpus,
        }
        options = [
            f"--job-name={job.name}",
            f"--nodes={job.nodes}",
            "--ntasks-per-node=1",
            "--exclusive" if job.cpus is None else f"--cpus-per-task={job.cpus}",
            *(f"{name}={value}" for name, value in given.items() if value is not None),
            f"--output={job.name}-%j.log",
            "--open-mode=append",
            "--requeue",
            f"--signal=USR2@{round(self.notice)}",
            *more,
        ]
        if strange := next((each for each in options if "\n" in each), ""):
            raise UserError(f"an option of sbatch has one line, and this one has more: {strange!r}")
        return options

    def submit(self, job: Submission, text: str) -> str:
        """Make the key unless it is there, and call sbatch."""
        if which("sbatch") is None:
            raise UserError(
                "there is no sbatch on this host: submit on a host of the cluster, or write the "
                "script with --print and submit it there"
            )
        key = _key_file(job)
        if key is not None and not key.exists():
            with user_errors(os_error=f"cannot write {key}"):
                write_key(key)
        # Slurm takes jobs that are larger than the cluster, and lets them wait for ever.
        waits, _, why = call("sbatch", "--test-only", given=text)
        there, most = self._hosts()
        if waits and not most:
            raise UserError(f"Slurm is not reached, or has no such partition: {_line(why)}")
        if waits and most < job.nodes:
            hosts = "1 host" if job.nodes == 1 else f"{job.nodes} hosts"
            raise UserError(f"the job asks for {hosts}. {there}")
        code, out, error = call("sbatch", "--parsable", given=text)
        if code:
            raise UserError(f"sbatch refuses the job: {_line(error)}. {there}")
        number = out.strip().partition(";")[0]
        note = (
            f"\nIt has to wait: as things are, the cluster cannot run it. {there}" if waits else ""
        )
        log = f"{job.name}-{number}.log"
        return f"job {number}: its output is in {log}, `scancel {number}` ends it{note}"

    def _hosts(self) -> tuple[str, int]:
        """What the cluster has, in a sentence, and how many hosts one job may get at most."""
        where = [] if self.partition is None else [f"--partition={self.partition}"]
        _, out, _ = call("sinfo", "--noheader", "--format=%P %D %c %l", *where)
        hosts: dict[str, int] = {}
        text = []
        for line in out.splitlines():
            name, count, cores, time = (*line.split(), "", "", "", "")[:4]
            hosts[name] = hosts.get(name, 0) + int(count if count.isdecimal() else 0)
            text.append(f"{name}: {count} hosts of {cores} cores, at most {time}")
        there = f"There is {'; '.join(text)}" if text else "`sinfo` shows no hosts"
        return there, max(hosts.values(), default=0)


def _line(error: str) -> str:
    """What sbatch has said, in one line."""
    lines = (line.removeprefix("sbatch: ").removeprefix("error: ") for line in error.splitlines())
    return "; ".join(line.strip() for line in lines if line.strip())


def _clock(seconds: float) -> str:
    """In minutes and seconds, as Slurm counts: 120:00."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}:{rest:02}"


def _continued(job: Submission) -> str:
    """What lets a training that is queued again find what it has saved."""
    out = "" if job.gives("--out") else ' --out "runs/$SLURM_JOB_NAME-$SLURM_JOB_ID"'
    return out + ("" if job.gives("--resume") else " ${SLURM_RESTART_COUNT:+--resume-if-saved}")


def _key_file(job: Submission) -> Path | None:
    """The file with the job's key, in this folder, which all hosts see, unless the user has set
    another; None if no key is needed or the environment holds it. Raises AuthenticationError for
    one that others can read."""
    if job.nodes == 1 or os.environ.get(KEY) or os.environ.get(INSECURE) == "1":
        return None
    given = os.environ.get(KEY_FILE)
    path = Path(given or f"{job.name}.key").resolve()
    if given or path.exists():
        read_key(path)
    return path
