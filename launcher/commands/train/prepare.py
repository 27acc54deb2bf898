"""What `ringlet train` trains: checked before anything starts, then made into the workers' task."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ringlet import __version__
from ringlet.launcher.commands.progress import progress
from ringlet.launcher.commands.train.checks import (
    check_kind,
    check_memory,
    check_steps,
    load_data,
)
from ringlet.launcher.commands.train.folder import RunFolder, newest_checkpoint, warn
from ringlet.launcher.commands.train.starting import Starting, find
from ringlet.launcher.commands.train.trackers.chosen import check_packages
from ringlet.launcher.errors import UserError, user_errors
from ringlet.launcher.options import option
from ringlet.launcher.supervisor.options import WorkerOptions
from ringlet.nn import mkl
from ringlet.nn.backend import BackendError, find_gpus
from ringlet.runtime.checkpoint.checkpoint import latest_checkpoint
from ringlet.runtime.checkpoint.manifest import CheckpointError
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
from ringlet.runtime.training.corpus import DataError
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
from ringlet.runtime.training.run_tokenizer import stored_tokenizer
from ringlet.runtime.training.tokenizers import TokenizerError
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
        None, "TOML file with options from the headings below (docs/reference/training.md)."
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
    errors = (ConfigError, DataError, TextError, BackendError, TokenizerError, CheckpointError)
    with user_errors(*errors, mkl.BLASError):
        in_file = read_config(options.config)
        given = {name: value for name, value in given.items() if value is not None}
        preset = options.preset or in_file.pop("preset", None)
        values = {**in_file, **given}
        if given.get("start") == "":  # a variable that is not set
            raise UserError("--from is empty; it takes the folder of a model")
        start, found = None if options.resume else find(values, preset), None
        if start is not None:
            settings = start.config(values)
        elif not options.resume:
            settings = make_config(preset or DEFAULT_PRESET, options=values)
        elif options.out is None:
            raise UserError("--resume needs --out: the folder of the run to continue")
        else:
            with progress(f"checking the checkpoints of {options.out}"):
                found = newest_checkpoint(options.out)
            saved = {**found.manifest["config"], "vocab_size": found.manifest["vocab_size"]}
            own = stored_tokenizer(found)
            if own is not None and saved.get("tokenizer"):  # wherever it has come from
                saved["tokenizer"] = str(own.file)
            settings = resume_config(saved, preset, options=values)
        if settings.device == "cuda" and hosts[1] == 1:
            find_gpus()
        if hosts[1] == 1:
            mkl.wanted()  # or tells what is missing
        workers = DEFAULT_WORKERS if hosts[1] > 1 else default_workers(settings)
        room = settings.vocab_size if start is None else values.get("vocab_size", 0)
        corpus = load_data(settings, room)
        starting = None if start is None else Starting.of(start, settings, corpus)
    if starting is not None:
        settings, found = starting.settings, starting.start.checkpoint
    check_memory(settings, hosts[1])
    if found is not None:
        check_kind(found, settings, corpus)
        if starting is None or starting.goes_on:
            check_steps(found, settings)
    base = (preset or DEFAULT_PRESET) if start is None else start.folder.resolve().name
    name = f"{corpus.name}-{base}"
    # A file may list all options; those that it leaves at their defaults are not asked for.
    usual = asdict(TrainConfig())
    asked = {n: value for n, value in in_file.items() if value != usual.get(n)} | given
    vocabulary = settings.vocab_size or corpus.vocab_size
    training = Training(settings, options, name, workers, hosts, asked, vocabulary, starting)
    if options.auto or options.plan or (options.resume and _stored(options).exists()):
        training.plan_by(launch)
    return training


def _stored(options: TrainOptions) -> Path:
    """The plan in the folder of the run."""
    return (options.out or Path()) / PLAN


@dataclass
class Training:
    """A run of these settings, in --out or a folder of this name, on at least and at most so many
    `hosts`, and on `workers` workers unless others are asked for; `asked` are the options that must
    have an effect. Checkpoints and metrics go to `folder`, which is made and locked together with
    the first task. `starting` is how it starts from a model."""

    settings: TrainConfig
    options: TrainOptions
    name: str
    workers: int
    hosts: tuple[int, int]
    asked: Mapping[str, Any]
    vocabulary: int
    starting: Starting | None = None
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
        facts["start"] = None if self.starting is None or resume else self.starting.task
        variables = {} if self.plan is None else self.plan.variables
        more = {"sample": self.options.sample, "variables": variables, "flops": about["flops"]}
        return json.dumps({**facts, **more})

    def _about(self, workers: int) -> dict[str, Any]:
        """What the run's folder says of it."""
        model = model_of(model_config(self.settings, self.vocabulary))
        sample = replace(model, context=self.settings.block_size)
        return {
            "ringlet": __version__,
            "workers": workers,
            "mesh": mesh_shape(self.settings, workers),
            "vocab_size": self.vocabulary,
            "parameters": model.parameters,
            "flops": model_flops(sample, self.settings.batch_size),
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
    def notes(self) -> list[str]:
        """What is said of how it starts."""
        return [] if self.starting is None else self.starting.notes

    @property
    def workers_given(self) -> list[str]:
        """The option for as many workers again, if they are not what the next start takes."""
        count = self.options.workers
        return [] if count in (None, self.workers) else ["-n", str(count)]

    def close(self) -> None:
        """Let other runs have the folder."""
        if self._held is not None:
            self._held.close()


def _to_restart(folder: Path) -> bool:
    """Whether there is a checkpoint to continue from; if not, the run begins anew."""
    if _is_saved(folder):
        return True
    for name in (METRICS, RANKS):
        (folder / name).unlink(missing_ok=True)
    return False


def _is_saved(folder: Path) -> bool:
    return latest_checkpoint(folder / CHECKPOINTS, warn, check_run) is not None
