"""`ringlet export`: write a trained model in the format that other programs read."""

from dataclasses import dataclass
from pathlib import Path

import typer

from ringlet.launcher.commands.options import with_options
from ringlet.launcher.commands.train.prepare import newest_checkpoint
from ringlet.launcher.errors import user_errors
from ringlet.launcher.options import option
from ringlet.nn.models import PretrainedError
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.training.export import export_huggingface


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
    checkpoint, to = newest_checkpoint(options.folder), options.to
    errors = (CheckpointError, FileExistsError, PretrainedError)
    with user_errors(*errors, os_error=f"cannot write {to}"):
        export_huggingface(checkpoint, to)
    typer.echo(f"wrote config.json and model.safetensors of step {checkpoint.step} to {to}")
