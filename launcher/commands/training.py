"""What `ringlet train` trains: checked before anything starts, and then each start's task."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ringlet.launcher.errors import UserError
from ringlet.nn.backend import BackendError, find_gpus
from ringlet.runtime.checkpoint.checkpoint import Checkpoint, latest_checkpoint
from ringlet.runtime.training.config import (
    DEFAULT_PRESET,
    ConfigError,
    TrainConfig,
    make_config,
    resume_config,
)
from ringlet.runtime.training.corpus import Corpus, DataError, load_corpus
from ringlet.runtime.training.fit import DEFAULT_WORKERS, check_fit, default_workers, resized
from ringlet.runtime.training.trainer import CHECKPOINTS, METRICS

RUNS = Path("runs")


def prepare(
    preset: str | None,
    config: Path | None,
    out: Path | None,
    resume: bool,
    sample: int,
    given: Mapping[str, Any],
    hosts: tuple[int, int],
) -> "Training":
    """The training that the options mean, on so many hosts (the fewest, the most); raises
    UserError."""
    try:
        found = _to_resume(out) if resume else None
        if found is None:
            settings = make_config(preset or DEFAULT_PRESET, config, given)
        else:
            saved = {**found.manifest["config"], "vocab_size": found.manifest["vocab_size"]}
            settings = resume_config(saved, preset, config, given)
        if settings.device == "cuda" and hosts[1] == 1:
            find_gpus()
        workers = DEFAULT_WORKERS if hosts[1] > 1 else default_workers(settings)
        corpus = load_corpus(settings.data, settings.block_size, settings.vocab_size or None)
    except (ConfigError, DataError, BackendError) as error:
        raise UserError(str(error)) from error
    if found is not None:
        _check_resumed(found, settings, corpus)
    name = f"{corpus.name}-{preset or DEFAULT_PRESET}"
    return Training(settings, out, name, resume, sample, workers, hosts)


class Training:
    """A run of these settings, in the folder `out` or by default one of this name; on so many
    `workers`, unless others are asked for."""

    def __init__(
        self,
        settings: TrainConfig,
        out: Path | None,
        name: str,
        resume: bool,
        sample: int,
        workers: int,
        hosts: tuple[int, int],
    ) -> None:
        self.settings, self.workers = settings, workers
        self._several, self._elastic = hosts[1] > 1, hosts[0] < hosts[1]
        self._out, self._name, self._resume, self._sample = out, name, resume, sample
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """Where checkpoints and metrics go; made when the first start's task is."""
        assert self._folder is not None
        return self._folder

    def task_for(self, generation: int) -> Callable[[int], str]:
        """For a start of the job: its workers' task, by their number.

        Raises UserError if the run does not fit so many.
        """

        def task(workers: int) -> str:
            try:
                if self._elastic:
                    self.settings = resized(self.settings, workers)
                check_fit(self.settings, workers)
            except ConfigError as error:
                raise UserError(str(error)) from error
            if self._folder is None:
                self._folder = self._make_folder()
            resume = _to_restart(self._folder) if generation else self._resume
            # The other hosts need not have been started in the same folder.
            folder = self._folder.resolve() if self._several else self._folder
            words = {"config": asdict(self.settings), "folder": str(folder), "resume": resume}
            return json.dumps({**words, "sample": self._sample})

        return task

    def headline(self, workers: int) -> str:
        """What is trained, and on how many."""
        settings = self.settings
        mesh = f" ({settings.mesh})" if settings.mesh else ""
        experts = f"{settings.experts} experts, " if settings.experts else ""
        return (
            f"training {settings.n_layer} layers, {settings.n_head} heads, {settings.n_embd} "
            f"wide, {experts}context {settings.block_size}, batch {settings.batch_size} on "
            f"{settings.data} with {workers} worker{'s' if workers > 1 else ''}{mesh}"
        )

    def _make_folder(self) -> Path:
        """The folder that was asked for, if it holds no other run; by default the first free
        name."""
        out = self._out
        if out is None:
            return _first_free(RUNS / self._name)
        if not self._resume:
            _check_new(out)
            _make(out, exist_ok=True)
        return out


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


def _check_new(out: Path) -> None:
    """Refuse a folder that holds a run, or is none."""
    if (out / METRICS).exists() or (out / CHECKPOINTS).exists():
        raise UserError(
            f"{out} holds another run; go on with it with --resume, or choose another --out"
        )
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, and the run needs a folder")


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


def _to_restart(folder: Path) -> bool:
    """Whether there is a checkpoint to go on from; if not, the run begins anew."""
    warn = lambda text: print(text, file=sys.stderr)  # noqa: E731
    if latest_checkpoint(folder / CHECKPOINTS, warn) is not None:
        return True
    (folder / METRICS).unlink(missing_ok=True)
    return False
