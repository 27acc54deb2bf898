"""The training loop: the same on one process and on many."""

import math
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ringlet.comm import Group, timeline
from ringlet.nn import uninitialized
from ringlet.nn.autograd.tensor import Array
from ringlet.runtime.assembly import DATA, Values
from ringlet.runtime.checkpoint.checkpoint import (
    latest_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.checkpoint.restore import load_checkpoint
from ringlet.runtime.compression.automatic import AUTO, reason
from ringlet.runtime.mesh import Mesh, share
from ringlet.runtime.parallel import Step, parallelize
from ringlet.runtime.pipeline.run import MicroBatch
from ringlet.runtime.training.callbacks import Callback, tell
from ringlet.runtime.training.checks import NonFinite, all_finite, blame
from ringlet.runtime.training.config import TrainConfig
from ringlet.runtime.training.corpus import (
    Corpus,
    Sampler,
    packing,
    validation_offsets,
    windows,
)
from ringlet.runtime.training.export import check_run
from ringlet.runtime.training.factories import make_model, make_optimizer, make_schedule
from ringlet.runtime.training.fit import mesh_shape, parallelism
from ringlet.runtime.training.meter import SENT, Meter
from ringlet.runtime.training.metrics import Metrics

CHECKPOINTS = "checkpoints"

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""Schedulers announce the end of a job's time with SIGUSR2 or SIGTERM."""

EVAL_BATCH = 32
EVAL_IN_FLIGHT = 4
"""Batches evaluated at once, for each stage of a pipeline."""

IGNORED = -100
"""A target that does not count."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: after `step` steps; `stopped` if a signal asked for it."""

    step: int
    val_loss: float
    stopped: bool
    checkpoint: Path | None


class Trainer:
    """Trains a model on a corpus, on the mesh of `world` that the config names.

    Rank 0 writes checkpoints and metrics to `folder`, unless it is None, tells the `callbacks` of
    what happens (callbacks.py), and `warn` what it could not read or write. With `flops`, those of
    the model in a step, metrics have the utilisation. The parameters begin with `values`, if there
    are any. The result depends on these and the config alone, with the same bits every time; on
    another mesh it is the same up to rounding. Raises MeshError if they do not fit together.
    """

    def __init__(
        self,
        config: TrainConfig,
        corpus: Corpus,
        world: Group,
        folder: Path | None = None,
        callbacks: Sequence[Callback] = (),
        warn: Callable[[str], None] = print,
        flops: float = 0.0,
        values: Values | None = None,
    ) -> None:
        self.config, self.corpus, self.world, self.folder = config, corpus, world, folder
        self._meter, self._flops = Meter(world), flops
        with uninitialized():
            model = make_model(config, corpus.vocab_size)
        self.mesh = Mesh(world, **mesh_shape(config, world.size))
        options = parallelism(config)
        self.parallel = parallelize(model, self.mesh, options, seed=config.seed, values=values)
        self.parallel.use(lambda flat: make_optimizer(config, flat))
        if config.compress == AUTO and not world.rank:
            warn(reason(self.mesh.group(*DATA)))
        # Gradients that travel into the next step would hold up small messages on the world.
        self._control = self.mesh.control if config.priority else world
        self._learning_rate = make_schedule(config)
        self.step = 0
        self.checkpoint: Path | None = None
        files = [] if folder is None else [Metrics(folder, warn)]
        self._callbacks, self._warn = [] if world.rank else [*files, *callbacks], warn
        if folder is not None and corpus.tokenizer is not None and not world.rank:
            folder.mkdir(parents=True, exist_ok=True)
            corpus.tokenizer.copy_to(folder)
        self._stop = threading.Event()
        self._elapsed_before = 0.0
        self._ranks, self._rank = self.mesh.size("dp", "ep"), self.parallel.data_index
        # Replicas that train on their own scale the loss for their own part of the batch.
        self._replicas = self.mesh.size("dp") if config.local_steps > 1 else 1
        self._first, self._count = share(config.batch_size, self._ranks, self._rank)
        self._sampler = Sampler(corpus, config.block_size, config.batch_size, config.seed)
        self._training_bytes = corpus.training_bytes

    def resume(self, other: Path | None = None) -> int:
        """Continue from the folder's newest checkpoint that verifies, or from another run's; return
        its step."""
        found = None
        if self.world.rank == 0 and other is not None:
            found = verify_checkpoint(other)
        elif self.world.rank == 0 and self.folder is not None:
            found = latest_checkpoint(self.folder / CHECKPOINTS, self._warn, check_run)
        if not self.world.broadcast_object(found is not None):
            raise CheckpointError(f"there is no checkpoint that verifies in {self.folder}")
        self.step = load_checkpoint(found, self.world, self.parallel.state())
        self.parallel.restored()
        self.checkpoint = Path(self.world.broadcast_object(found and str(found.folder)))
        if found is not None:
            self._elapsed_before = float(found.manifest.get("elapsed_s", 0.0))
        return self.step

    def stop(self) -> None:
        """Ask all ranks to stop after the same step; signal handlers may call it."""
        self._stop.set()

    def run(self) -> Outcome:
        """Train up to `config.steps`; evaluate, save and report on the way.

        Raises NonFinite on all ranks in the same step. In the main thread SIGTERM, SIGINT and
        SIGUSR2 stop the run after the current step.
        """
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, lambda *_: self.stop()) for number in STOPS}
        try:
            outcome = self._run()
        except Exception as error:
            tell(self._callbacks, "failure", {"step": self.step, "cause": str(error)})
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        facts = {**asdict(outcome), "checkpoint": outcome.checkpoint and str(outcome.checkpoint)}
        tell(self._callbacks, "end", facts)
        return outcome

    def _run(self) -> Outcome:
        config, started = self.config, time.perf_counter() - self._elapsed_before
        facts = {"step": self.step, "steps": config.steps, "config": asdict(config)}
        facts |= {"workers": self.world.size, "mesh": self.mesh.shape}
        facts["folder"] = None if self.folder is None else str(self.folder)
        tell(self._callbacks, "start", facts)
        stopped, val_loss = False, math.nan
        if not self.step:
            self._evaluated()
        while self.step < config.steps and not stopped:
            with timeline.span("step", self.step + 1):
                row, stopped = self._train_step()
            row["elapsed_s"] = time.perf_counter() - started
            last = stopped or self.step == config.steps
            if last or self.step % config.eval_every == 0:
                row |= self._evaluated()
                val_loss = row["val_loss"]
            saving = last or self.step % config.checkpoint_every == 0
            if saving:
                self.parallel.complete()
                if not all_finite(self.world, self.parallel.shards, self.parallel.optimizers):
                    raise self._non_finite(self.step, "the update is not finite")
            tell(self._callbacks, "step", row)
            if saving:
                self.save(row["elapsed_s"], row.get("val_loss"))
        self._meter.agree(self._control)  # the last step's figures
        self._tell_ranks(last=True)
        if math.isnan(val_loss):
            val_loss = self._evaluated()["val_loss"]
        return Outcome(self.step, val_loss, stopped, self.checkpoint)

    def _evaluated(self) -> dict[str, float]:
        """The validation loss, per token and if that is known per byte, as metrics have it."""
        loss = self.evaluate()
        nbytes = self.corpus.validation_bytes(self._validation_offsets())
        found = {"val_loss": loss, **_bits(loss, nbytes, "val_bits_per_byte")}
        tell(self._callbacks, "evaluation", {"step": self.step, **found})
        return found

    def _tell_ranks(self, last: bool = False) -> None:
        if self._callbacks and (rows := self._meter.rows(self.step, last)):
            tell(self._callbacks, "ranks", {"step": self.step, "rows": rows})

    @timeline.recorded("checkpoint")
    def save(self, elapsed_s: float = 0.0, val_loss: float | None = None) -> None:
        """Write a checkpoint (a collective).

        Its random state is complete, as every draw is a function of (seed, step).
        """
        if self.folder is None:
            return
        self.checkpoint = save_checkpoint(
            self.folder / CHECKPOINTS,
            self.world,
            self.parallel.state(),
            step=self.step,
            config=asdict(self.config),
            extra={
                "mesh": self.mesh.shape,
                "vocab_size": self.corpus.vocab_size,
                "as_bytes": self.corpus.as_bytes,
                "tokenizer": self.corpus.tokenizer and self.corpus.tokenizer.facts,
                "elapsed_s": elapsed_s,
                "val_loss": val_loss,
                "random": {"seed": self.config.seed, "step": self.step},
            },
            keep=self.config.keep,
            keep_best=self.config.keep_best,
        )
        facts = {"step": self.step, "folder": str(self.checkpoint)}
        tell(self._callbacks, "checkpoint", facts)

    def _validation_offsets(self) -> Array:
        size, most = self.config.block_size, self.config.eval_windows
        return validation_offsets(self.corpus, size, most)

    @timeline.recorded("evaluation")
    def evaluate(self) -> float:
        """The validation loss in nats per token, the same on all ranks; raises NonFinite on all."""
        size, offsets = self.config.block_size, self._validation_offsets()
        batches = self._validation_batches(offsets)
        total, at_once = np.zeros(1, np.float64), EVAL_IN_FLIGHT * self.mesh.size("pp")
        for start in range(0, len(batches), at_once):
            total += self.parallel.evaluate(batches[start : start + at_once])
        self.world.all_reduce(total, label="validation loss")
        if not math.isfinite(total[0]):
            raise self._non_finite(self.step, f"the validation loss is {total[0]}")
        return float(total[0]) / (len(offsets) * size)

    def _validation_batches(self, offsets: Array) -> list[MicroBatch]:
        """This rank's share of the contexts; all ranks have as many batches of the same shapes."""
        first, count = share(len(offsets), self._ranks, self._rank)
        most = -(-len(offsets) // self._ranks)
        parts = -(-most // EVAL_BATCH)
        batches = []
        for number in range(parts):
            skip, size = share(most, parts, number)
            mine = offsets[first + skip : first + min(skip + size, count)]
            ids, targets = windows(self.corpus.validation, mine, self.config.block_size)
            missing = ((0, size - len(mine)), (0, 0))
            targets = np.pad(targets, missing, constant_values=IGNORED)
            options = self._options(mine, validation=True)
            options = {name: np.pad(array, missing) for name, array in options.items()}
            batches.append(MicroBatch(np.pad(ids, missing), targets, 0, options))
        return batches

    def _train_step(self) -> tuple[dict[str, Any], bool]:
        """Take one optimizer step; return its metrics and whether all ranks stop."""
        config, started = self.config, time.perf_counter()
        sent_before = self.mesh.sent()
        learning_rate = self._learning_rate(self.step)
        loss = self._gradients() / self._replicas
        computed = time.perf_counter() - started - self.parallel.waited
        norm, clip = None, config.clip
        if not config.priority:  # which does not wait for all gradients
            norm = self.parallel.clip(clip) if clip else self.parallel.norm()
        stop, bad = self._stop.is_set(), not math.isfinite(norm or 0)
        waited = time.perf_counter()
        status = self._meter.agree(self._control, loss, stop, bad)
        self._tell_ranks()
        comm_s = self.parallel.waited + time.perf_counter() - waited
        if status[2] or not math.isfinite(status[0]):  # on all ranks, in the same step
            what = "gradient" if math.isfinite(status[0]) else "loss"
            raise self._non_finite(self.step + 1, f"the {what} is not finite")
        updating = time.perf_counter()
        self.parallel.update(learning_rate)
        self.step += 1
        agreed = self.step % config.local_steps == 0
        now = time.perf_counter()
        seconds, sent = now - started, self.mesh.sent()
        by_operation = [sent.get(name, 0) - sent_before.get(name, 0) for name in SENT]
        self._meter.measured((seconds, computed, comm_s, now - updating), by_operation)
        tokens = config.batch_size * config.block_size
        row = {
            "step": self.step,
            "loss": float(status[0]),
            **_bits(status[0], self._training_bytes, "bits_per_byte"),
            "learning_rate": learning_rate,
            "grad_norm": norm,
            "tokens": self.step * tokens,
            "epoch": self._sampler.epoch(self.step),
            "step_s": seconds,
            "tokens_per_s": tokens / seconds,
            "comm_s": comm_s,
            "comm_bytes": sum(sent.values()) - sum(sent_before.values()),
        }
        if self._flops and self._meter.flops:
            row["mfu"] = self._flops / (seconds * self._meter.flops)
        return row, bool(status[1]) and agreed

    def _gradients(self) -> float:
        """Run forward and backward of this rank's share; return its part of the loss."""
        config = self.config
        scale = self._replicas / (config.batch_size * config.block_size)
        return self.parallel.gradients(self._batches(), Step(config.seed, self.step, scale))

    @timeline.recorded("data")
    def _batches(self) -> list[MicroBatch]:
        config, batches = self.config, []
        for number in range(config.accumulate):
            skip, count = share(self._count, config.accumulate, number)
            first = self._first + skip
            offsets = self._sampler.offsets(self.step, first, count)
            ids, targets = windows(self.corpus.train, offsets, config.block_size)
            options = self._options(offsets, validation=False)
            batches.append(MicroBatch(ids, targets, first, options))
        return batches

    def _options(self, offsets: Array, validation: bool) -> dict[str, Array]:
        if not self.config.pack:
            return {}
        return packing(self.corpus, offsets, self.config.block_size, validation)

    def _non_finite(self, step: int, what: str) -> NonFinite:
        """The error, the same on all ranks (a collective)."""
        good = f"the last good checkpoint is {self.checkpoint}"
        if self.checkpoint is None:
            good = "there is no checkpoint from before it"
        where = blame(self.world, self.parallel.shards, self.parallel.numbers)
        return NonFinite(f"step {step}: {what}; {where}; nothing of this step was saved; {good}")


def _bits(nats: float, nbytes: float | None, name: str) -> dict[str, float]:
    """A loss per token as bits per byte, if the bytes of a token are known."""
    return {} if nbytes is None else {name: float(nats) / math.log(2) / nbytes}
