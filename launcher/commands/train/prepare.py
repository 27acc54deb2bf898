"""What `ringlet train` trains: checked before anything starts, then made into the workers' task."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ringlet import __version__
from ringlet.launcher.commands.data.progress import BuildProgress
from ringlet.launcher.commands.train.folder import RunFolder, newest_checkpoint, warn
from ringlet.launcher.commands.train.trackers.chosen import check_packages
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.nn.backend import BackendError, find_gpus
from ringlet.runtime.checkpoint.checkpoint import Checkpoint, latest_checkpoint
from ringlet.runtime.mesh import MeshError
from ringlet.runtime.planning.costs import model_flops
from ringlet.runtime.planning.models import model_of
from ringlet.runtime.planning.plan import Plan
from ringlet.runtime.text.errors import TextError
from ringlet.runtime.training.config import (
    DEFAULT_PRESET,
    PRESETS,
    ConfigError,
    TrainConfig,
    make_config,
    read_config,
    resume_config,
)
from ringlet.runtime.training.corpus import Corpus, DataError, load_corpus, packing
from ringlet.runtime.training.effects import check_effects
from ringlet.runtime.training.export import check_run
from ringlet.runtime.training.factories import model_config
from ringlet.runtime.training.fit import (
    DEFAULT_WORKERS,
    check_fit,
    default_workers,
    mesh_shape,
    resized,
)
from ringlet.runtime.training.metrics import METRICS, RANKS
from ringlet.runtime.training.record import begin_record
from ringlet.runtime.training.trainer import CHECKPOINTS

PLAN = "plan.toml"
"""In the folder of a run that a plan is for."""


@dataclass(frozen=True)
class TrainOptions:
    """Where a run starts from and where it goes; what it is made of is in TrainConfig."""

    workers: int | None = option(
        None, "Worker processes on each host.", "-n", "--workers", metavar="N",
        shown=f"{DEFAULT_WORKERS}, or as --mesh needs on one host",
    )  # fmt: skip
    preset: str | None = option(
        None, f"Sizes to start from: {', '.join(PRESETS)}.", shown=DEFAULT_PRESET
    )
    config: Path | None = option(
        None, "TOML file with options from the headings below (docs/train.md)."
    )
    out: Path | None = option(
        None, "Folder for checkpoints and metrics.", shown="runs/DATA-PRESET[-NUMBER]"
    )
    resume: bool = option(False, "Continue from the newest checkpoint in --out.")
    resume_if_saved: bool = option(
        False, "Like --resume if --out holds a checkpoint; else start anew: for jobs that are "
        "started again.",
    )  # fmt: skip
    plan: Path | None = option(
        None, "Train as this file of `ringlet plan` says.", metavar="FILE", heading="Parallelism"
    )
    auto: bool = option(
        False, "Plan for this machine, and train by that plan; options that are given stay.",
        heading="Parallelism",
    )  # fmt: skip
    measure: bool = option(
        False, "With --auto: try the best plans for a few steps each.", heading="Parallelism"
    )
    allow: str = option(
        "", "With --auto: what it may choose although results change: batch_size.",
        metavar="NAME,...", heading="Parallelism",
    )  # fmt: skip
    sample: int = option(400, "Number of tokens to generate at the end.", heading="Output")
    tensorboard: Path | None = option(
        None, "Folder for TensorBoard event files (ringlet[tensorboard]).", heading="Output"
    )
    mlflow: str | None = option(
        None, "MLflow server, or a folder for its files (ringlet[mlflow]).", metavar="ADDRESS",
        heading="Output",
    )  # fmt: skip
    wandb: str | None = option(
        None, "Project of Weights & Biases (ringlet[wandb]).", metavar="PROJECT", heading="Output"
    )

    def check(self) -> None:
        """Raise UserError for values that are not possible, and without a package that is
        needed."""
        if self.sample < 0:
            raise UserError(f"--sample is {self.sample}; it must be 0 or more")
        check_packages(self)
        if self.auto and self.plan is not None:
            raise UserError("--plan says how to train, and --auto would plan anew: leave one out")
        for name, given in (("measure", self.measure), ("allow", self.allow)):
            if given and not self.auto:
                raise UserError(f"--{name} is a part of --auto, which is not given")

    def settled(self) -> "TrainOptions":
        """With --resume if --resume-if-saved means it now."""
        if self.resume or not self.resume_if_saved:
            return self
        if self.out is None:
            raise UserError("--resume-if-saved needs --out: the folder of the run to continue")
        return replace(self, resume=_is_saved(self.out))


def prepare(
    options: TrainOptions,
    given: Mapping[str, Any],
    hosts: tuple[int, int],
    launch: WorkerOptions,
) -> "Training":
    """The training that the options mean, on at least and at most so many hosts; raises
    UserError."""
    with user_errors(ConfigError, DataError, TextError, BackendError):
        in_file = read_config(options.config)
        given = {name: value for name, value in given.items() if value is not None}
        preset = options.preset or in_file.pop("preset", None)
        values = {**in_file, **given}
        if not options.resume:
            found = None
            settings = make_config(preset or DEFAULT_PRESET, options=values)
        elif options.out is None:
            raise UserError("--resume needs --out: the folder of the run to continue")
        else:
            found = newest_checkpoint(options.out)
            saved = {**found.manifest["config"], "vocab_size": found.manifest["vocab_size"]}
            settings = resume_config(saved, preset, options=values)
        if settings.device == "cuda" and hosts[1] == 1:
            find_gpus()
        workers = DEFAULT_WORKERS if hosts[1] > 1 else default_workers(settings)
        corpus = _load(settings)
    _check_memory(settings, hosts[1])
    if found is not None:
        _check_resumed(found, settings, corpus)
    name = f"{corpus.name}-{preset or DEFAULT_PRESET}"
    # A file may list all options; those that it leaves at their defaults are not asked for.
    usual = asdict(TrainConfig())
    asked = {n: value for n, value in in_file.items() if value != usual.get(n)} | given
    training = Training(settings, options, name, workers, hosts, asked, corpus.vocab_size)
    if options.auto or options.plan or (options.resume and _stored(options).exists()):
        training.plan_by(launch)
    return training


def _load(settings: TrainConfig) -> Corpus:
    """The data, checked as a whole; text becomes tokens here if that is asked for."""
    with BuildProgress() as progress:
        size = settings.vocab_size or None
        corpus = load_corpus(settings.data, settings.block_size, size, settings.tokenizer, progress)
    for folder in corpus.folders:
        folder.verify()
    if settings.pack:
        packing(corpus, np.array([0]), settings.block_size, validation=False)
    return corpus


def _stored(options: TrainOptions) -> Path:
    """The plan in the folder of the run."""
    return (options.out or Path()) / PLAN


@dataclass
class Training:
    """A run of these settings, in --out or a folder of this name, on at least and at most so many
    `hosts`, and on `workers` workers unless others are asked for; `asked` are the options that must
    have an effect. Checkpoints and metrics go to `folder`, which is made and locked together with
    the first task."""

    settings: TrainConfig
    options: TrainOptions
    name: str
    workers: int
    hosts: tuple[int, int]
    asked: Mapping[str, Any]
    vocabulary: int
    folder: Path = field(init=False)
    plan: Plan | None = None
    _held: RunFolder | None = None

    def plan_by(self, launch: WorkerOptions) -> None:
        """Train as a plan says: of a file, of --auto, or of the run that is resumed."""
        # Imported here, since most runs have none.
        from ringlet.launcher.commands.train.automatic import allow, make
        from ringlet.launcher.commands.train.planned import Run, from_file, kept

        run, options = Run(self.settings, self.asked, self.vocabulary), self.options
        if self.hosts[0] < self.hosts[1] and (options.plan or options.auto):
            raise UserError("a plan is for one number of workers, and --nnodes MIN:MAX for several")
        if options.plan is not None:
            self.plan = from_file(run, options.plan)
        elif not options.auto:
            self.plan = kept(run, _stored(options), options.workers)
        elif self.hosts[1] > 1:
            raise UserError("--auto plans for one host; for several, use `ringlet plan --cluster`")
        else:
            workers, allowed = options.workers or self.workers, allow(options.allow)
            self.plan = make(run, workers, allowed, launch, options.measure)
        if self.plan is not None:
            self.settings = run.by(self.plan)
        elif not options.auto:
            self.settings = run.unplanned()
        if self.hosts[1] == 1:
            self.workers = default_workers(self.settings) if self.plan is None else self.plan.ranks

    def task(self, generation: int, workers: int) -> str:
        """The task for this start of the job; raises UserError if the run does not fit the number
        of workers."""
        if self.plan is not None and self.plan.ranks != workers:
            raise UserError(f"the plan is for {self.plan.ranks} workers, and there are {workers}")
        with user_errors(ConfigError, MeshError):
            if self.hosts[0] < self.hosts[1]:  # the number may change
                self.settings = resized(self.settings, workers)
            check_fit(self.settings, workers)
            if not generation and self.hosts[0] == self.hosts[1]:
                check_effects(self.settings, self.asked, workers)
        if generation:
            resume = _to_restart(self.folder)
        else:
            out, resume = self.options.out, self.options.resume
            anyway = self.options.resume_if_saved
            held = RunFolder(out) if out and (resume or anyway) else RunFolder.new(out, self.name)
            self._held, self.folder = held, held.path
            if anyway and not resume and _to_restart(held.path):
                raise UserError(f"{held.path}: another run has just saved a checkpoint there")
            self._store_plan()
        # Other hosts may run in another working folder.
        folder = self.folder.resolve() if self.hosts[1] > 1 else self.folder
        about = self._about(workers)
        begin_record(self.folder, about, warn)
        facts = {"config": about["config"], "folder": str(folder), "resume": resume}
        variables = {} if self.plan is None else self.plan.variables
        more = {"sample": self.options.sample, "variables": variables, "flops": about["flops"]}
        return json.dumps({**facts, **more})

    def _about(self, workers: int) -> dict[str, Any]:
        """What the run's folder says of it."""
        model = model_of(model_config(self.settings, self.vocabulary))
        return {
            "ringlet": __version__,
            "workers": workers,
            "mesh": mesh_shape(self.settings, workers),
            "vocab_size": self.vocabulary,
            "parameters": model.parameters,
            "flops": model_flops(model, self.settings.batch_size),
            "config": asdict(self.settings),
        }

    def _store_plan(self) -> None:
        """Keep the plan for when the run resumes."""
        path = self.folder / PLAN
        if self.plan is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(str(self.plan), encoding="utf-8")

    @property
    def workers_given(self) -> list[str]:
        """The option for as many workers again, if they are not what the next start takes."""
        count = self.options.workers
        return [] if count in (None, self.workers) else ["-n", str(count)]

    def close(self) -> None:
        """Let other runs have the folder."""
        if self._held is not None:
            self._held.close()


def _check_memory(settings: TrainConfig, hosts: int) -> None:
    """Refuse what plainly has no room in the memory of so many hosts like this one."""
    width, tokens = settings.n_embd, settings.batch_size * settings.block_size
    block = (4 + 8 * max(1, settings.experts)) * width**2
    numbers = settings.n_layer * block + (settings.vocab_size + settings.block_size) * width
    room = hosts * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for what, nbytes in (("the model", 4 * numbers), ("a batch's ids", 8 * tokens)):
        if nbytes > room:
            raise UserError(
                f"{what} would take {nbytes / 2**30:,.0f} GiB, of {room / 2**30:,.0f} GiB in all"
            )


def _check_resumed(found: Checkpoint, settings: TrainConfig, corpus: Corpus) -> None:
    """Refuse to continue a run that has reached its end, or with data of another kind."""
    if settings.steps <= found.step:
        raise UserError(
            f"the run has taken {found.step} steps already ({found.folder}); to continue, set "
            "--steps to more than that"
        )
    if corpus.as_bytes != found.manifest["as_bytes"]:
        kinds = ("bytes", "ids") if corpus.as_bytes else ("ids", "bytes")
        raise UserError(f"{settings.data} holds {kinds[0]}, but the run was trained on {kinds[1]}")


def _to_restart(folder: Path) -> bool:
    """Whether there is a checkpoint to continue from; if not, the run begins anew."""
    if _is_saved(folder):
        return True
    for name in (METRICS, RANKS):
        (folder / name).unlink(missing_ok=True)
    return False


def _is_saved(folder: Path) -> bool:
    return latest_checkpoint(folder / CHECKPOINTS, warn, check_run) is not None
