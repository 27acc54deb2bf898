"""`ringlet train`: check everything first, then start the workers and show how they get on."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ringlet.launcher.environment import Job
from ringlet.launcher.errors import ExitCode, UserError
from ringlet.launcher.local import Supervisor
from ringlet.launcher.options import (
    DEFAULT_GRACE_S,
    DEFAULT_TIMEOUT_S,
    Grace,
    Timeout,
    Transport,
    check_options,
)
from ringlet.launcher.output import Screen
from ringlet.launcher.restarts import persist
from ringlet.runtime.checkpoint import Checkpoint, latest_checkpoint
from ringlet.runtime.config import (
    DEFAULT_PRESET,
    PRESETS,
    ConfigError,
    TrainConfig,
    make_config,
    resume_config,
)
from ringlet.runtime.data import Corpus, DataError, load_corpus
from ringlet.runtime.fit import DEFAULT_WORKERS, check_fit, default_workers
from ringlet.runtime.trainer import CHECKPOINTS, METRICS

RUNS = Path("runs")
PLAIN_EVERY_S = 10.0

_DEFAULTS = TrainConfig()


def _option(name: str, text: str, *flags: str) -> Any:
    """A flag that overrides the preset and the file; its help names the default."""
    default = getattr(_DEFAULTS, name)
    return typer.Option(*flags, help=f"{text} [default: {default}]", show_default=False)


def train(
    data: Annotated[
        str | None,
        _option("data", "A file of text (any encoding: bytes), a nanoGPT .bin (uint16), or pydoc."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--workers",
            help=f"How many worker processes. [default: {DEFAULT_WORKERS}, or as --mesh needs]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int | None, _option("steps", "Optimizer steps in all.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"Sizes to start from: {', '.join(PRESETS)}. [default: {DEFAULT_PRESET}]",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file of options; see docs/train.md.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for checkpoints and metrics [default: runs/DATA-PRESET[-NUMBER]]"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")
    ] = False,
    seed: Annotated[int | None, _option("seed", "Decides every random number.")] = None,
    batch_size: Annotated[
        int | None, _option("batch_size", "Contexts for each step, over all workers.")
    ] = None,
    accumulate: Annotated[
        int | None, _option("accumulate", "Micro-batches for each worker and step.")
    ] = None,
    mesh: Annotated[
        str | None,
        typer.Option(
            help="Axes and lengths, as in dp=2,tp=2,pp=2: data, tensor, pipeline, context (cp) and "
            "expert (ep) parallelism. [default: dp, all workers]",
            show_default=False,
        ),
    ] = None,
    zero: Annotated[
        int | None,
        _option("zero", "Stage of ZeRO: 1 cuts optimizer state, 2 gradients too, 3 parameters."),
    ] = None,
    schedule: Annotated[
        str | None, _option("schedule", "gpipe, 1f1b, interleaved or zero-bubble, for pp.")
    ] = None,
    chunks: Annotated[
        int | None, _option("chunks", "Stages on each rank of an interleaved pipeline.")
    ] = None,
    sequence: Annotated[
        bool | None,
        typer.Option(
            "--sequence/--no-sequence",
            help="Sequence parallelism, for tp. [default: no]",
            show_default=False,
        ),
    ] = None,
    recompute: Annotated[
        str | None,
        typer.Option(
            help="Compute again in backward: blocks, or patterns of modules, as in *.attend,*.act.",
            show_default=False,
        ),
    ] = None,
    compress: Annotated[
        str | None,
        typer.Option(
            help="Of gradients: float16, bfloat16, int8, topk[:ratio] or powersgd[:rank].",
            show_default=False,
        ),
    ] = None,
    compress_activations: Annotated[
        str | None,
        typer.Option(
            help="Between tp layers and pp stages: float16, bfloat16 or int8.", show_default=False
        ),
    ] = None,
    clip: Annotated[
        float | None, _option("clip", "The largest norm of all gradients together; 0: any.")
    ] = None,
    bucket_bytes: Annotated[
        int | None,
        _option("bucket_bytes", "Of gradients that travel at once; 0: as the link is measured."),
    ] = None,
    needed_first: Annotated[
        bool | None,
        typer.Option(
            "--needed-first/--no-needed-first",
            help="The first layers' gradients overtake; for slow links. [default: no]",
            show_default=False,
        ),
    ] = None,
    local_steps: Annotated[
        int | None, _option("local_steps", "Steps that dp replicas take before they agree.")
    ] = None,
    outer_learning_rate: Annotated[
        float | None, _option("outer_learning_rate", "Of the agreement; DiLoCo's is 0.7.")
    ] = None,
    outer_momentum: Annotated[
        float | None, _option("outer_momentum", "Of the agreement; DiLoCo's is 0.9.")
    ] = None,
    experts: Annotated[
        int | None, _option("experts", "Experts in the place of each MLP; 0: one MLP for all.")
    ] = None,
    top_k: Annotated[int | None, _option("top_k", "Experts for each position.")] = None,
    capacity_factor: Annotated[
        float | None,
        _option("capacity_factor", "Of an expert's even share; more is dropped. 0: no limit."),
    ] = None,
    balance: Annotated[
        float | None, _option("balance", "Weight of the loss that evens out the experts' load.")
    ] = None,
    optimizer: Annotated[
        str | None,
        _option("optimizer", "adamw, sgd, adam, adagrad, rmsprop, lion, adafactor or muon."),
    ] = None,
    learning_rate: Annotated[
        float | None, _option("learning_rate", "The highest learning rate.")
    ] = None,
    learning_rate_schedule: Annotated[
        str | None,
        _option("learning_rate_schedule", "cosine, linear, constant, one_cycle or inverse_sqrt."),
    ] = None,
    dropout: Annotated[float | None, _option("dropout", "Dropout probability.")] = None,
    eval_every: Annotated[int | None, _option("eval_every", "Steps between validations.")] = None,
    checkpoint_every: Annotated[
        int | None, _option("checkpoint_every", "Steps between checkpoints.")
    ] = None,
    transport: Transport = "auto",
    timeout: Timeout = DEFAULT_TIMEOUT_S,
    grace: Grace = DEFAULT_GRACE_S,
    max_restarts: Annotated[
        int,
        typer.Option(
            min=0,
            help="When a worker fails, go on from the newest checkpoint, so many times at most.",
        ),
    ] = 0,
    sample: Annotated[int, typer.Option(help="Tokens of the sample at the end.")] = 400,
) -> None:
    """Train a GPT on text, on any mesh of workers, and show a sample of what it writes.

    The defaults are nanoGPT's recipe for a CPU, on the text of Python's own documentation.
    """
    given = {name: value for name, value in locals().items() if name in _FIELDS}
    check_options(transport, timeout)
    if sample < 0:
        raise UserError(f"--sample is {sample}; it has to be 0 or more")
    try:
        found = _to_resume(out) if resume else None
        if found is None:
            settings = make_config(preset or DEFAULT_PRESET, config, given)
        else:
            saved = {**found.manifest["config"], "vocab_size": found.manifest["vocab_size"]}
            settings = resume_config(saved, preset, config, given)
        workers = workers if workers is not None else default_workers(settings)
        check_fit(settings, workers)
        corpus = load_corpus(settings.data, settings.block_size, settings.vocab_size or None)
    except (ConfigError, DataError) as error:
        raise UserError(str(error)) from error
    if found is not None:
        _check_resumed(found, settings, corpus)
    folder = out if resume and out else _new_folder(out, corpus.name, preset or DEFAULT_PRESET)
    raise typer.Exit(
        _run(
            settings,
            folder,
            resume,
            lambda generation: Job(workers, transport, timeout, generation=generation),
            grace,
            sample,
            max_restarts,
        )
    )


_FIELDS = {field.name for field in fields(TrainConfig)}


def _to_resume(out: Path | None) -> Checkpoint:
    """The run's newest checkpoint."""
    if out is None:
        raise UserError("--resume needs --out: the folder of the run that is to go on")
    found = latest_checkpoint(out / CHECKPOINTS, warn=lambda text: print(text, file=sys.stderr))
    if found is None:
        raise UserError(f"there is no checkpoint to go on from in {out}")
    return found


def _check_resumed(found: Checkpoint, settings: TrainConfig, corpus: Corpus) -> None:
    """Refuse to go on with a run that is at its end, or with data of another kind."""
    if settings.steps <= found.step:
        raise UserError(
            f"the run has taken {found.step} steps already ({found.folder}); to go on, give "
            "--steps more than that"
        )
    if corpus.as_bytes != found.manifest["as_bytes"]:
        kinds = ("bytes", "ids") if corpus.as_bytes else ("ids", "bytes")
        raise UserError(f"{settings.data} holds {kinds[0]}, and the run was made with {kinds[1]}")


def _new_folder(out: Path | None, name: str, preset: str) -> Path:
    """Make the folder that was asked for, if it holds no run; by default the first free name."""
    if out is None:
        return _first_free(RUNS / f"{name}-{preset}")
    if _taken(out):
        raise UserError(
            f"{out} holds another run; go on with it with --resume, or choose another --out"
        )
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, and the run needs a folder")
    _make(out, exist_ok=True)
    return out


def _first_free(wanted: Path) -> Path:
    """Made here and now, so that of two commands at once each has a folder of its own."""
    folder, number = wanted, 1
    while True:
        try:
            _make(folder, exist_ok=False)
            return folder
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")


def _make(folder: Path, exist_ok: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        raise
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error


def _taken(folder: Path) -> bool:
    return (folder / METRICS).exists() or (folder / CHECKPOINTS).exists()


def _run(
    settings: TrainConfig,
    folder: Path,
    resume: bool,
    job_of: Callable[[int], Job],
    grace: float,
    sample: int,
    max_restarts: int,
) -> int:
    job, screen = job_of(0), Screen()
    progress = Progress(screen, settings)
    mesh = f" ({settings.mesh})" if settings.mesh else ""
    experts = f"{settings.experts} experts, " if settings.experts else ""
    screen.line(
        f"training {settings.n_layer} layers, {settings.n_head} heads, {settings.n_embd} wide, "
        f"{experts}context {settings.block_size}, batch {settings.batch_size} on {settings.data} "
        f"with {job.size} worker{'s' if job.size > 1 else ''}{mesh}"
    )
    task = {"config": asdict(settings), "folder": str(folder), "sample": sample}

    def start(generation: int) -> Supervisor:
        again = resume if not generation else _to_restart(folder)
        return Supervisor(
            job_of(generation) if generation else job,
            "ringlet.launcher.train_worker",
            [json.dumps({**task, "resume": again})],
            screen=screen,
            grace=grace,
            inform=lambda rank, message: progress.take(message),
        )

    code = persist(
        start,
        max_restarts,
        lambda: progress.steps > 0,
        lambda text: screen.line(f"ringlet: {text}", sys.stderr),
    )
    if code == ExitCode.OK:
        progress.conclude(folder)
        if progress.stopped:
            return ExitCode.STOPPED
    return code


def _to_restart(folder: Path) -> bool:
    """Whether there is a checkpoint to go on from; if not, the run begins anew."""
    warn = lambda text: print(text, file=sys.stderr)  # noqa: E731
    if latest_checkpoint(folder / CHECKPOINTS, warn) is not None:
        return True
    (folder / METRICS).unlink(missing_ok=True)
    return False


class Progress:
    """Turns the workers' reports into a live line, or into plain lines now and then."""

    def __init__(self, screen: Screen, settings: TrainConfig) -> None:
        self._screen, self._settings = screen, settings
        self._last: dict[str, Any] = {}
        self._val_loss = ""
        self._rate = 0.0
        self._plain_at = 0.0
        self.stopped = False
        self.steps = 0  # taken by this command
        self._sample = ""

    def take(self, message: dict[str, Any]) -> None:
        """Take one message of rank 0."""
        if "row" in message:
            self._row(message["row"])
        elif "resumed" in message:
            self._screen.line(f"going on after step {message['resumed']}")
        elif "note" in message:
            self._screen.line(message["note"])
        elif "outcome" in message:
            self._last.update(message["outcome"])
            self.stopped = message["outcome"]["stopped"]
            self._sample = message["sample"]

    def _row(self, row: dict[str, Any]) -> None:
        self._last.update(row)
        if "val_loss" in row:
            self._val_loss = f", validation {row['val_loss']:.3f}"
        if "loss" not in row:
            self._screen.line(f"step 0/{self._settings.steps}{self._val_loss}")
            return
        self.steps += 1
        self._rate = 0.9 * self._rate + 0.1 * row["step_s"] if self._rate else row["step_s"]
        text = self._text(row)
        if self._screen.live:
            self._screen.status(text)
            if "val_loss" in row:
                self._screen.line(text)
        elif "val_loss" in row or time.monotonic() >= self._plain_at:
            self._plain_at = time.monotonic() + PLAIN_EVERY_S
            self._screen.line(text)

    def _text(self, row: dict[str, Any]) -> str:
        left = int((self._settings.steps - row["step"]) * self._rate)
        tokens = self._settings.batch_size * self._settings.block_size / self._rate
        return (
            f"step {row['step']}/{self._settings.steps}  loss {row['loss']:.3f}{self._val_loss}  "
            f"{tokens:,.0f} tokens/s  {left // 60}:{left % 60:02d} left"
        )

    def conclude(self, folder: Path) -> None:
        """Say what came of it, where it lies, and how to go on."""
        step, steps = self._last["step"], self._settings.steps
        self._screen.status("")
        ended = "stopped" if self.stopped else "done"
        more = steps if self.stopped else 2 * steps
        self._screen.line(
            f"{ended} after step {step}: validation loss {self._last['val_loss']:.4f} nats per "
            f"{'byte' if self._last['as_bytes'] else 'token'}"
        )
        if self._sample:
            self._screen.line(f"\n--- a sample ---\n{self._sample}\n---\n")
        self._screen.line(f"checkpoint  {self._last['checkpoint']}")
        self._screen.line(f"metrics     {folder / METRICS}")
        self._screen.line(f"go on       ringlet train --resume --out {folder} --steps {more}")
        self._screen.line(f'generate    ringlet generate --from {folder} --prompt "The "')
