"""How a run ended and what it was: the result, a failure, the plan, the options."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

import numpy as np

from ringlet.launcher.commands.plan.tables import gigabytes, percent
from ringlet.launcher.commands.report.page import paragraph, pre, section, table
from ringlet.launcher.commands.report.runs import Run, most
from ringlet.launcher.commands.watch.follow import holder
from ringlet.launcher.units import seconds_text
from ringlet.runtime.mesh import mesh_text
from ringlet.runtime.planning.plan import Choices, Predicted
from ringlet.runtime.training.config import TrainConfig

ROWS = 64


def result(named: Sequence[tuple[str, Run]]) -> str:
    """How the runs ended, side by side."""
    facts = [dict(_facts(run)) for _, run in named]
    names = dict.fromkeys(name for each in facts for name in each)
    rows = [[name, *(each.get(name, "") for each in facts)] for name in names]
    head = ["", *(name for name, _ in named)] if len(named) > 1 else ["", ""]
    return table("The result", head, rows)


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    steps = len(run.points("loss")[0])
    yield "ended", _ended(run, steps)
    if "began" in run.about and isinstance(run.about["began"], int | float):
        moment = time.gmtime(min(max(0, run.about["began"]), 1e11))
        yield "began", time.strftime("%Y-%m-%d %H:%M:%S UTC", moment)
    where, losses = run.points("val_loss")
    if len(losses):
        best = int(np.argmin(losses))
        yield "validation loss", f"{losses[-1]:.4f}"
        yield "the lowest", f"{losses[best]:.4f} after step {where[best]:.0f}"
    for name, words in (("tokens", "tokens"), ("elapsed_s", "seconds")):
        if len(found := run.points(name)[1]):
            yield words, f"{found[-1]:,.0f}"
    if math.isfinite(step := run.median("step_s")):
        yield "a step", f"{seconds_text(step)} (median)"
    if math.isfinite(speed := run.median("tokens_per_s")):
        yield "tokens in a second", f"{speed:,.0f} (median)"
    if math.isfinite(mfu := run.median("mfu")):
        yield "MFU", f"{percent(mfu)} of the ranks' own matrix products (median)"
    if run.setting is not None and run.model is not None:
        yield "on", f"{run.setting.ranks} workers ({mesh_text(run.setting.mesh)})"
        yield "parameters", f"{run.model.parameters:,}"


def _ended(run: Run, steps: int) -> str:
    how = run.end.get("how")
    last = int(run.columns["step"][-1]) if steps else 0
    if how in ("done", "stopped", "failed"):
        return f"{how} after step {run.end.get('step', last)}"
    pid, host = holder(run.folder)
    if pid is not None:
        return f"not yet: it has taken step {last}"
    where = f"not yet, on host {host}, or" if host else "not as it should:"
    return f"{where} its launcher was killed after step {last}"


def failure(run: Run) -> str:
    """What is known of each rank after a failure, and the flight recorder."""
    if run.end.get("how") != "failed":
        return ""
    rows, texts = [], []
    for each in run.end.get("ranks", []) if isinstance(run.end.get("ranks"), list) else []:
        if isinstance(each, dict):
            one = {k: str(each.get(k, "")) for k in ("rank", "host", "exit", "doing", "error")}
            rows.append([one["rank"], one["host"], one["exit"], one["doing"] or "no answer"])
            if one["error"]:
                texts.append(f"<h4>rank {escape(one['rank'])}</h4>")
                texts.append(pre(f"rank {one['rank']}: its error", one["error"].rstrip()))
    head = ["rank", "host", "how it ended", "what it was in when the first failed"]
    return section(
        "The failure",
        paragraph(str(run.end.get("cause", "")), "failed"),
        table("The ranks", head, rows[:ROWS]),
        *texts[: 2 * ROWS],
    )


def plan(run: Run) -> str:
    """What was chosen, what it was expected to take, and what came next."""
    if run.plan is None:
        return ""
    made, peaks = run.plan, [most(rows, "peak_bytes") for rows in run.ranks.values()]
    bases = [most(rows, "base_bytes") for rows in run.ranks.values()]
    own = max((p - b for p, b in zip(peaks, bases, strict=True)), default=math.nan)
    measured = [
        seconds_text(step) if math.isfinite(step := run.median("step_s")) else "",
        gigabytes(own) if math.isfinite(own) else "",
    ]
    rows = [["chosen", _chosen(made.choices), *_predicted(made.predicted)]]
    rows += [[f"{n}", _chosen(o.choices), *_predicted(o.predicted)]
             for n, o in enumerate(made.others, 2)]  # fmt: skip
    rows.append(["measured", "", *measured])
    head = ["", "choices", "a step", "memory of a rank"]
    return section("The plan", table("The plan, and what came next in the search", head, rows))


def _chosen(choices: Choices) -> str:
    usual = asdict(Choices(choices.mesh))
    more = (f"{n} {v}" for n, v in asdict(choices).items() if v != usual[n])
    return ", ".join([choices.mesh, *more])


def _predicted(found: Predicted) -> list[str]:
    return [seconds_text(found.seconds), gigabytes(found.memory)]


def options(run: Run) -> str:
    """What differs from the defaults."""
    if run.config is None:
        return ""
    usual, chosen = asdict(TrainConfig()), asdict(run.config)
    rows: list[list[Any]] = [[n, str(v)] for n, v in chosen.items() if v != usual[n]]
    return section("Options", table("Options that are not the defaults", ["", ""], rows))
