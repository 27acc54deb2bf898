"""`ringlet train`: check everything first, then start the workers and show how they get on."""

import inspect
import json
import sys
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
from ringlet.launcher.progress import Progress
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


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of TrainConfig; those not given arrive as None."""
    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind != inspect.Parameter.VAR_KEYWORD]
    for each in fields(TrainConfig):
        text = f"{each.metadata['help']} [default: {_shown(each.default)}]"
        option = typer.Option(None, help=text, show_default=False)
        kind = type(each.default) | None
        own.append(
            inspect.Parameter(
                each.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind
            )
        )
    changed: Any = command
    changed.__signature__ = signature.replace(parameters=own)
    changed.__annotations__ = {p.name: p.annotation for p in own}
    return command


def _shown(default: Any) -> str:
    names = {False: "no", True: "yes", "": "none"}
    return names[default] if isinstance(default, bool | str) and default in names else str(default)


@with_config
def train(
    workers: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--workers",
            help=f"How many worker processes. [default: {DEFAULT_WORKERS}, or as --mesh needs]",
            show_default=False,
        ),
    ] = None,
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
    **given: Any,
) -> None:
    """Train a GPT on text, on any mesh of workers, and show a sample of what it writes.

    The defaults are nanoGPT's recipe for a CPU, on the text of Python's own documentation.
    """
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
