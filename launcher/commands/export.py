"""`ringlet export`: a trained model as other programs read it."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ringlet.launcher.errors import UserError
from ringlet.nn.models import PretrainedError
from ringlet.runtime.checkpoint.checkpoint import latest_checkpoint
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.training.export import export_huggingface
from ringlet.runtime.training.trainer import CHECKPOINTS


def export(
    folder: Annotated[
        Path, typer.Option("--from", help="The folder of a run; its newest checkpoint is taken.")
    ],
    to: Annotated[Path, typer.Option("--to", help="The folder to write.")],
) -> None:
    """Write a trained model as Hugging Face's GPT-2 or Llama, whichever mesh has trained it."""
    checkpoint = latest_checkpoint(folder / CHECKPOINTS, warn=lambda t: print(t, file=sys.stderr))
    if checkpoint is None:
        raise UserError(f"there is no checkpoint in {folder}")
    try:
        export_huggingface(checkpoint, to)
    except (CheckpointError, FileExistsError, PretrainedError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"cannot write {to}: {error.strerror}") from error
    typer.echo(f"wrote config.json and model.safetensors of step {checkpoint.step} to {to}")
