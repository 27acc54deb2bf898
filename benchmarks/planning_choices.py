"""Whether the planner's choices are the best: see planning.py, `--first-choice` and `--auto`."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from network_pair import NetworkPairError
from peer_programs import ONE_THREAD
from planning_runs import WARM_UP, Run, calibrated, pool_of

from ringlet.launcher.testing.ranks import RanksFailed
from ringlet.runtime.mesh import mesh_text
from ringlet.runtime.planning.plan import Choices, make_request
from ringlet.runtime.planning.recompute import needed
from ringlet.runtime.planning.search import search
from ringlet.runtime.planning.setting import RINGLET
from ringlet.runtime.planning.settings import FACTS, meshes, settings
from ringlet.runtime.training.fit import parallelism

FIRST_CHOICES = [(preset, workers) for preset in ("nano", "small") for workers in (2, 4)]
NEAR, FINALISTS, ROUNDS = 12, 4, 5
ENOUGH = 1.05
"""The first choice is good enough if it takes this much of the best one's time."""


def request_of(run, cluster):
    """What the planner is asked for a run."""
    config = run.config
    facts = {name: value for name, value in asdict(config).items() if name in FACTS}
    return make_request(
        run.sizes, cluster, config.batch_size, ranks=run.workers, program=RINGLET,
        options=parallelism(config), facts=facts,
    )  # fmt: skip


def options_of(setting):
    """A setting as options of training."""
    return asdict(Choices.of(setting))


def distinct(request):
    """The settings that fit, one for each mesh, micro-batch, stage of ZeRO and schedule."""
    found = {}
    for mesh, problem in meshes(request):
        for one in () if problem else settings(request, mesh):
            key = mesh_text(mesh), one.micro_batch, one.options.zero, one.options.schedule
            if key not in found and needed(request.model, one) <= request.limit:
                found[key] = one
    return list(found.values())


def times_of(run, pool, steps):
    """Seconds of each step, of the slowest rank in it; infinite if it does not run."""
    try:
        rows = run.measured(pool, steps)
    except RanksFailed as failed:
        print(f"{run}: {str(failed).splitlines()[-1]}", file=sys.stderr)
        return [float("inf")]
    return np.max([[seconds for seconds, _ in times] for times, _ in rows], axis=0).tolist()


def named(run):
    """What a run's setting chooses."""
    config = run.config
    return f"{run.setting}, {config.schedule}, ZeRO {config.zero}"


def alternating(runs, pool, steps, rounds):
    """The median of each run's steps, in turns."""
    found = [[] for _ in runs]
    for _ in range(rounds):
        for times, run in zip(found, runs, strict=True):
            times += times_of(run, pool, steps)
    return [statistics.median(times) for times in found]


def first_choice(steps, seconds, quick, only):
    """Print, for each preset and number of workers, whether the first choice is among the best."""
    cases = FIRST_CHOICES[:1] if quick else FIRST_CHOICES
    for preset, workers in [case for case in cases if only in ("", case[0])]:
        run = Run(preset, "gpt", workers)
        with pool_of(workers, "auto") as pool:
            request = request_of(run, calibrated(pool, seconds))
            first = search(request).best[0]
            one_by_one(run, request, first, pool, steps)


def one_by_one(run, request, first, pool, steps):
    """Try every setting for a step, the NEAR fastest for some more, and the FINALISTS in turns with
    the first choice."""
    runs = [run._replace(options=options_of(one)) for one in distinct(request)]
    quick = {number: min(times_of(one, pool, 1)) for number, one in enumerate(runs)}
    near = sorted(quick, key=quick.get)[:NEAR]
    longer = {number: statistics.median(times_of(runs[number], pool, steps)) for number in near}
    last = [runs[number] for number in sorted(longer, key=longer.get)[:FINALISTS]]
    chosen = run._replace(options=options_of(first.setting))
    took, *others = alternating([chosen, *last], pool, steps, ROUNDS)
    best = min(took, *others)
    print(f"{run}: {len(runs)} settings tried, {len(near)} of them for {steps} steps")
    expected = first.simulation.seconds
    print(f"  first choice {named(chosen)}: {took * 1e3:.1f} ms, expected {expected * 1e3:.1f}")
    for one, other in zip(last, others, strict=True):
        print(f"  {named(one)}: {other * 1e3:.1f} ms")
    verdict = "within" if took <= ENOUGH * best else "NOT within"
    print(f"  {took / best - 1:+.1%} of the best, {verdict} {ENOUGH - 1:.0%}", flush=True)


def auto(steps, seconds, quick, network):
    """Print what `--auto` takes beside what people would choose."""
    default_job(50 if quick else 300, 1 if quick else ROUNDS)
    if not network:
        return
    try:
        slow_link(steps, seconds, 1 if quick else ROUNDS)
    except NetworkPairError as reason:
        print(f"no link of 100 Mbit/s: {reason}")


def default_job(steps, rounds):
    """`ringlet train` with and without `--auto`, in turns; the calibration is cached before."""
    commands = {"default": [], "--auto": ["--auto"]}
    step_times("--auto", commands["--auto"], WARM_UP + 1)
    found = {name: [] for name in commands}
    for _ in range(rounds):
        for name, words in commands.items():
            found[name] += step_times(name, words, steps)
    usual, planned = (statistics.median(found[name]) for name in commands)
    print(f"default job: {usual * 1e3:.2f} ms a step, --auto {planned * 1e3:.2f} ms "
          f"({planned / usual - 1:+.1%}); {rounds} x {steps} steps each", flush=True)  # fmt: skip


def step_times(name, words, steps):
    """Seconds of the steps of one command, without the first ones."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ringlet", "train", "--steps", str(steps), *words]
        done = subprocess.run(
            [*command, "--eval-windows", "32", "--out", folder], capture_output=True, text=True,
            env=dict(os.environ), timeout=600,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"ringlet train {name}: {done.stderr}")
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["step_s"] for row in rows if row.get("step_s") and row["step"] > WARM_UP]


def slow_link(steps, seconds, rounds):
    """`wide` on two hosts with 100 Mbit/s between them: the plan beside the obvious choices."""
    run = Run("wide", "gpt", 2, 100)
    os.environ.update(ONE_THREAD)
    by_hand = ({"mesh": "dp=2"}, {"mesh": "tp=2"}, {"mesh": "pp=2"},
               {"mesh": "pp=2", "accumulate": 4})  # fmt: skip
    with pool_of(run.workers, run.link) as pool:
        first = search(request_of(run, calibrated(pool, seconds))).best[0]
        runs = [run._replace(options=options) for options in (options_of(first.setting), *by_hand)]
        took = alternating(runs, pool, steps, rounds)
    print(f"wide over 100 Mbit/s: planned {first.setting}, {first.setting.options.schedule}: "
          f"{took[0] * 1e3:.0f} ms, expected {first.simulation.seconds * 1e3:.0f}")  # fmt: skip
    for one, other in zip(runs[1:], took[1:], strict=True):
        print(f"  {one.words}: {other * 1e3:.0f} ms ({other / took[0]:.2f} x)")
