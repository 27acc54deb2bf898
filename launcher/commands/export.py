"""`ringlet export`: write a trained model in the format that other programs read."""

from dataclasses import dataclass
from pathlib import Path

import typer

from ringlet.launcher.commands.options import with_options
from ringlet.launcher.commands.train.folder import read_newest
from ringlet.launcher.errors import make_folder, user_errors
from ringlet.launcher.options import option
from ringlet.nn.models import PretrainedError
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.training.export import load_model


@dataclass(frozen=True)
class ExportOptions:
    """From where, to where."""

    folder: Path = option(
        ..., "Folder of a training run; its newest checkpoint is exported.", "--from"
    )
    to: Path = option(..., "Folder to write.")


@with_options(options=ExportOptions)
def export(options: ExportOptions) -> None:
    """Export a trained model in Hugging Face's format.

    It may have been trained on any mesh, and becomes a GPT-2 or a Llama.
    """
    with user_errors(CheckpointError):
        step, model = read_newest(options.folder, lambda found: (found.step, load_model(found)))
    make_folder(options.to, "--to")
    with user_errors(FileExistsError, PretrainedError, os_error=f"cannot write {options.to}"):
        model.save_pretrained(options.to)
    typer.echo(f"wrote config.json and model.safetensors of step {step} to {options.to}")
