"""What a worker of this machine does: ringlet's own models run, and each of their operations timed.

A step is cut where one operation ends and the next begins, so all of it counts, Python's part too.
What was measured goes into the description as it is; for shapes that were not, products get a table
of efficiencies by size (Isaev et al., "Calculon", SC 2023) and all else a rate for each kind.
"""

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from time import thread_time as clock

import numpy as np

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array, Tensor
from ringlet.nn.autograd.tensor import Operation as Node
from ringlet.nn.module import Module, uninitialized
from ringlet.nn.watch import watching
from ringlet.runtime.mesh import Mesh
from ringlet.runtime.options import Parallelism
from ringlet.runtime.parallel import Step, parallelize
from ringlet.runtime.pipeline.run import MicroBatch
from ringlet.runtime.planning.device import Device, Measured, Operation
from ringlet.runtime.planning.models import Model, model_of
from ringlet.runtime.planning.operations import Part, block_part, embedding_part, head_part, update
from ringlet.runtime.planning.setting import FLOAT32, Setting
from ringlet.runtime.training.config import make_config
from ringlet.runtime.training.factories import make_model, make_optimizer

KINDS = {
    "LayerNorm": "norm", "RMSNorm": "norm", "Linear": "linear", "PackedSelfAttention": "attention",
    "ScaledDotProductAttention": "attention", "Reshape": "heads", "Permute": "heads",
    "Rotary": "heads", "TanhGELU": "gelu", "SwiGLU": "swiglu", "Add": "residual",
    "Embedding": "embedding", "LinearCrossEntropy": "loss",
}  # fmt: skip
"""The models' operations, as operations.py calls them."""

LAYERS = 2
VOCABULARY = 256

CASES = (
    ("nano", "gpt", 1), ("tiny", "gpt", 4), ("small", "gpt", 1), ("wide", "gpt", 1),
    ("nano", "llama", 1), ("baby", "gpt", 1), ("nano", "gpt", 2), ("small", "gpt", 2),
    ("wide", "gpt", 2), ("baby", "gpt", 2), ("tiny", "gpt", 1), ("small", "llama", 1),
    ("nano", "gpt", 4), ("small", "gpt", 4), ("wide", "gpt", 4), ("baby", "gpt", 4),
    ("small", "llama", 2), ("long", "gpt", 1), ("small", "llama", 4), ("small", "gpt", 8),
    ("nano", "llama", 2), ("wide", "llama", 1), ("baby", "llama", 1),
)  # fmt: skip
"""(preset, model, by what its batch is divided), the most useful first."""

REPEATS = 5
"""Steps of a case, after a first one; the fastest counts."""

SIZES = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Lengths of the products beside the models': square ones, and three times as wide."""

LARGE = 4 << 20
"""Numbers in an array that no cache holds."""

BINS = 4
"""Rows of the table of efficiencies for each power of ten of FLOPs."""

Timed = dict[Operation, list[float]]


def profile(alone: Group, seconds: float = 20.0) -> Device:
    """What this process does on its own: `alone` is its own group. Takes about `seconds`, at
    least for the first of CASES; seconds of the processor, so that little depends on what else
    runs at the moment."""
    until = time.monotonic() + seconds
    rough = _rough(seconds / 4)
    found, updates = defaultdict[Operation, list[float]](list), list[tuple[int, float]]()
    for number, (preset, model, parts) in enumerate(CASES):
        if number and time.monotonic() > until:
            break
        case = Case(alone, preset, model, parts)
        for operation, each in case.operations(rough).items():
            found[operation] += each
        updates.append(case.update())
    return _device(rough, found, updates)


class Case:
    """A preset's model with few layers, on this process alone, and its training step."""

    def __init__(self, alone: Group, preset: str, model: str = "gpt", parts: int = 1) -> None:
        config = make_config(preset, None, {"model": model, "n_layer": LAYERS})
        vocabulary = config.vocab_size or VOCABULARY
        with uninitialized():
            made = make_model(config, vocabulary)
        self.model: Model = model_of(made.config)
        self.samples = max(1, config.batch_size // parts)
        self.parallel = parallelize(made, Mesh(alone), Parallelism(), seed=1)
        self.parallel.use(lambda flat: make_optimizer(config, flat))
        shape = (self.samples, config.block_size + 1)
        ids = np.random.default_rng(0).integers(0, vocabulary, shape)
        self._batch = [MicroBatch(ids[:, :-1], ids[:, 1:], 0)]

    def gradients(self) -> None:
        """Forward and backward."""
        self.parallel.gradients(self._batch, Step(1, 0, 1e-3))

    def step(self) -> None:
        """A whole step."""
        self.gradients()
        self.parallel.norm()
        self.parallel.update(1e-3)

    def update(self) -> tuple[int, float]:
        """(numbers that are updated, seconds)."""
        times = []
        for _ in range(REPEATS):
            started = clock()
            self.parallel.norm()
            self.parallel.update(1e-3)
            times.append(clock() - started)
        return sum(shard.size for shard in self.parallel.shards), min(times)

    def operations(self, rough: Device) -> Timed:
        """Seconds of each operation of operations.py that the step did."""
        self.gradients()
        clocks = []
        for _ in range(REPEATS):
            watch = _Clock()
            with watching(watch.ran):
                self.gradients()
            watch.mark("")
            clocks.append(watch)
        fastest = min(clocks, key=lambda watch: watch.total)
        forward, backward = fastest.forward, fastest.backward
        setting = Setting({}, self.samples, self.samples)
        block = block_part(self.model.blocks[0], self.model, setting)
        parts = [embedding_part(self.model, setting), *[block] * len(self.model.blocks)]
        parts.append(head_part(self.model, setting))
        found = defaultdict[Operation, list[float]](list)
        for operations, seconds in (*_there(parts, forward), *_back(parts, backward)):
            for operation, share in _shares(operations, seconds, rough):
                found[operation].append(share)
        return found


class _Clock:
    """When the operations of a step ran: seconds by kind, in the order in which they did."""

    def __init__(self) -> None:
        self.forward = defaultdict[str, list[float]](list)
        self.backward = defaultdict[str, list[float]](list)
        self._now, self._last, self._kind = self.forward, clock(), ""
        self._normed = False

    def ran(
        self, node: Node, inputs: tuple[Tensor, ...], result: Tensor, around: list[Module]
    ) -> None:
        """An operation has ended, in forward."""
        kind = KINDS[type(node).__name__]
        self._normed = self._normed or kind == "norm"
        if not self._normed:  # positions are added, too
            kind = "embedding"
        self._add(kind)
        plain = node.backward

        def timed(grad: Array) -> object:
            self.mark(kind)
            return plain(grad)

        node.backward = timed  # type: ignore[method-assign, assignment]

    def mark(self, kind: str) -> None:
        """In backward, what ran until now has ended, and `kind` begins."""
        if self._now is self.forward:  # until here it was the loss
            self._now, self._kind = self.backward, kind
            return
        self._add(self._kind)
        self._kind = kind

    @property
    def total(self) -> float:
        """Seconds in all."""
        return sum(map(sum, (*self.forward.values(), *self.backward.values())))

    def _add(self, kind: str) -> None:
        now = clock()
        self._now[kind].append(now - self._last)
        self._last = now


Groups = Iterable[tuple[list[Operation], float]]
"""Operations that were timed together."""


def _there(parts: Sequence[Part], times: dict[str, list[float]]) -> Groups:
    """Of forward."""
    *_, head = parts
    operations = [one for part in parts[:-1] for one in part.forward]
    return _matched(operations, times, ["linear"], list(head.forward))


def _back(parts: Sequence[Part], times: dict[str, list[float]]) -> Groups:
    """Of backward: what belongs to inputs and to weights is timed together."""
    *_, head = parts
    operations = [one for part in parts[:-1] for one in (*part.inputs, *part.weights)]
    renamed = {f"{kind}_backward": each for kind, each in times.items() if kind != "linear"}
    renamed["linear"] = times["linear"][::-1]
    last = [*head.inputs, *head.weights]
    return _matched(operations, renamed, ["linear_inputs", "linear_weights"], last)


def _matched(
    operations: list[Operation], times: dict[str, list[float]], products: list[str],
    head: list[Operation],
) -> Groups:  # fmt: skip
    named = defaultdict[str, list[Operation]](list)
    for one in operations:
        named[one.name].append(one)
    groups = zip(*(named.pop(name) for name in products), strict=True)
    for together, seconds in zip(groups, times["linear"], strict=True):
        yield list(together), seconds
    suffix = "_backward" if len(products) > 1 else ""
    yield [one for one in head if not one.name.startswith("norm")], sum(times[f"loss{suffix}"])
    named[f"norm{suffix}"] += [one for one in head if one.name.startswith("norm")]
    if f"heads{suffix}" not in times:  # a GPT's attention does that itself
        named[f"attention{suffix}"] += named.pop(f"heads{suffix}")
    for name, group in named.items():
        yield group, sum(times[name])


def _shares(
    operations: list[Operation], seconds: float, rough: Device
) -> Iterable[tuple[Operation, float]]:
    """The seconds of operations that were timed together, shared as a roofline would."""
    expected = [rough.seconds(one, FLOAT32.dtype) for one in operations]
    for one, share in zip(operations, expected, strict=True):
        yield one, seconds * share / sum(expected)


def _rough(seconds: float) -> Device:
    """The roofline: products of SIZES, and what memory moves."""
    until, speeds = time.monotonic() + seconds, list[tuple[float, float]]()
    random = np.random.default_rng(0)
    for size in SIZES:
        a, b = (random.standard_normal((size, n), np.float32) for n in (size, 3 * size))
        for x in (a, b):
            out, flops = np.empty((size, x.shape[1]), np.float32), 2.0 * size * x.size
            speeds.append((flops, flops / _best(partial(np.matmul, a, x, out=out))))
        if time.monotonic() > until:
            break
    x, y = np.ones(LARGE, np.float32), np.ones(LARGE, np.float32)
    moving = _best(lambda: np.add(x, y, out=y))
    tiny = np.ones(8, np.float32)
    peak = max(speed for _, speed in speeds)
    return Device(
        memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        bandwidth=plain(3 * x.nbytes / moving),
        peak={FLOAT32.dtype: plain(peak)},
        efficiency=_steps([(flops, speed / peak) for flops, speed in speeds]),
        kernel=_best(lambda: np.add(tiny, tiny)),
    )


def _best(call: Callable[[], object], least: float = 2e-3) -> float:
    """Seconds of the fastest call, of several batches of calls that each take `least`."""
    call()
    started = clock()
    call()
    times = max(1, int(least / max(clock() - started, 1e-7)))
    found = []
    for _ in range(REPEATS):
        started = clock()
        for _ in range(times):
            call()
        found.append((clock() - started) / times)
    return min(found)


def _steps(points: Iterable[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """A step table of efficiencies from (FLOPs, efficiency): the median of each bin."""
    bins = defaultdict[int, list[float]](list)
    for flops, share in points:
        bins[int(np.floor(BINS * np.log10(flops)))].append(min(1.0, share))
    first = min(bins)
    return tuple(
        (0.0 if number == first else plain(10 ** (number / BINS)), plain(statistics.median(each)))
        for number, each in sorted(bins.items())
    )


def plain(figure: float) -> float:
    """Four digits: more are not measured."""
    return float(f"{figure:.4g}")


def _device(rough: Device, found: Timed, updates: list[tuple[int, float]]) -> Device:
    """The device of which each operation takes what was measured, and others what is near."""
    times = {one: statistics.fmean(each) for one, each in found.items()}
    least: dict[str, float] = {}
    for one, seconds in times.items():
        if not one.flops:
            least[one.name] = min(seconds / one.kernels, least.get(one.name, seconds))
    kernel = statistics.median(least.values())
    peak = rough.peak[FLOAT32.dtype]
    speeds = [
        (one.flops, one.flops / max(seconds - kernel, seconds / 10) / peak)
        for one, seconds in times.items()
        if one.name.startswith("linear")
    ]
    most = max(flops for flops, _ in speeds)
    above = [(start, share) for start, share in rough.efficiency if start > most]
    device = replace(
        rough,
        kernel=plain(kernel),
        efficiency=(*_steps(speeds), *above),
        rates=_rates(times, kernel),
    )
    attention = [(one, t) for one, t in times.items() if one.name.startswith("attention")]
    left = sum(
        max(t - one.passes / device.bandwidth - one.kernels * kernel, t / 10)
        for one, t in attention
    )
    flops = sum(one.flops for one, _ in attention)
    speed = statistics.median(update(numbers, FLOAT32).nbytes / took for numbers, took in updates)
    rates = {**device.rates, "update": speed}
    for numbers in {numbers for numbers, _ in updates}:
        took = min(seconds for each, seconds in updates if each == numbers)
        times[update(numbers, FLOAT32)] = took
    return replace(
        device,
        attention=plain(min(1.0, flops / left / peak)),
        rates={name: plain(rate) for name, rate in rates.items()},
        operators=tuple(Measured(one.name, one.shape, plain(t)) for one, t in times.items()),
    )


def _rates(times: dict[Operation, float], kernel: float) -> dict[str, float]:
    """Bytes per second of each kind of operation that is no product."""
    moved, took = defaultdict[str, float](float), defaultdict[str, float](float)
    for one, seconds in times.items():
        if not one.flops:
            moved[one.name] += one.nbytes
            took[one.name] += max(seconds - one.kernels * kernel, seconds / 10)
    return {name: moved[name] / took[name] for name in moved}
