"""What each rank measures of its steps, and how rank 0 learns of it: beside the loss of the next
step, in the same all-reduce."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.backend import chosen
from ringlet.nn.memory import return_freed_memory

SENT = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "send")
"""Operations whose bytes are counted one by one."""

TIMES = ("step_s", "compute_s", "comm_s", "update_s")
AVERAGED = (*TIMES, *SENT)
FIGURES = (*AVERAGED, "peak_bytes", "base_bytes", "peak_flops")

EVERY_S = 1.0
"""Rows are means over the steps of so many seconds, of one step at least."""

PRODUCT_S = 5e-4
"""A matrix product is large enough to tell the speed if it takes so long."""


class Meter:
    """This rank's figures of its last step, and on rank 0 those of all ranks since the last rows.

    Made before the model (a collective of the world): what the process needs without it is known
    then, and how fast all ranks together multiply.
    """

    def __init__(self, world: Group) -> None:
        world.barrier()
        self._own = np.zeros(len(FIGURES))
        self._own[FIGURES.index("peak_flops")] = product_speed()
        self._own[FIGURES.index("base_bytes")] = _restarted_peak()
        self._sum = np.zeros((world.size, len(FIGURES)))
        self._rank, self._steps, self._looked = world.rank, 0, 0.0
        self._shown = time.monotonic()
        self.flops = 0.0  # per second, of all ranks' products

    def measured(self, seconds: tuple[float, ...], sent: Sequence[int]) -> None:
        """A step has taken these TIMES, and has `sent` so many bytes by operation."""
        self._own[: len(AVERAGED)] = (*seconds, *sent)

    def agree(self, group: Group, *numbers: float) -> Array:
        """The sums of these numbers over all ranks (a collective); without any, at the end."""
        if not numbers or time.monotonic() >= self._looked + EVERY_S:
            self._looked = time.monotonic()
            self._own[FIGURES.index("peak_bytes")] = _status("VmHWM")
        table = np.zeros((group.size, len(numbers) + len(FIGURES)))
        table[self._rank] = (*numbers, *self._own)
        group.all_reduce(table, label="loss")
        figures = table[:, len(numbers) :]
        self.flops = figures[:, FIGURES.index("peak_flops")].sum()
        if figures[0, 0]:  # not before the first step
            self._steps += 1
            self._sum[:, : len(AVERAGED)] += figures[:, : len(AVERAGED)]
            self._sum[:, len(AVERAGED) :] = figures[:, len(AVERAGED) :]
        self._own[0] = 0.0  # told
        return table[:, : len(numbers)].sum(0)

    def rows(self, step: int, last: bool = False) -> list[dict[str, Any]]:
        """Rows of all ranks up to this step, if it is time for them, or with `last` for all that is
        left."""
        if not self._steps or not (last or time.monotonic() >= self._shown + EVERY_S):
            return []
        steps, self._shown = self._steps, time.monotonic()
        self._sum[:, : len(AVERAGED)] /= steps
        rows = [_row(step, steps, rank, each) for rank, each in enumerate(self._sum.tolist())]
        self._sum[:], self._steps = 0.0, 0
        return rows


def _row(step: int, steps: int, rank: int, figures: list[float]) -> dict[str, Any]:
    named = dict(zip(FIGURES, figures, strict=True))
    sent = {name: round(named[name]) for name in SENT if named[name]}
    times = {name: round(named[name], 9) for name in TIMES}
    memory = {name: round(named[name]) for name in ("peak_bytes", "base_bytes")}
    return {"step": step, "steps": steps, "rank": rank, **times, "sent_bytes": sent, **memory}


def product_speed() -> float:
    """FLOP/s of float32 matrix products in this process, of the fastest of a few; 0 on a GPU."""
    if chosen().on_device:
        return 0.0
    size, best, seconds = 128, 0.0, 0.0
    while seconds < PRODUCT_S and size < 4096:
        size *= 2
        a, b, out = (np.ones((size, size), np.float32) for _ in range(3))
        for _ in range(3):
            started = time.perf_counter()
            np.matmul(a, b, out=out)
            seconds = time.perf_counter() - started
            best = max(best, 2 * size**3 / seconds)
    return best


def _restarted_peak() -> int:
    """Bytes that this process has now; its peak (VmHWM, proc(5)) begins here."""
    return_freed_memory()  # else the model takes it, and the peak does not rise
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes; 0 where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
