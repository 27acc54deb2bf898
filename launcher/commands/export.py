"""`ringlet export`: write a trained model in the format that other programs read."""

from dataclasses import dataclass
from pathlib import Path

import click

from ringlet.launcher.commands.options import with_options
from ringlet.launcher.commands.progress import progress
from ringlet.launcher.commands.train.folder import read_newest
from ringlet.launcher.errors import UserError, make_folder, user_errors
from ringlet.launcher.options import option
from ringlet.nn.models import LanguageModel, PretrainedError
from ringlet.runtime.checkpoint.checkpoint import Checkpoint
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.training.export import load_model
from ringlet.runtime.training.run_tokenizer import (
    RunTokenizer,
    export_tokenizer,
    stored_tokenizer,
)
from ringlet.runtime.training.tokenizers import TOKENIZER, TokenizerError
from ringlet.runtime.training.trainer import CHECKPOINTS


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

    It may have been trained on any mesh, and becomes a GPT-2 or a Llama, or again what it has
    started from. The tokenizer of its text goes with it.
    """
    with progress(f"reading {options.folder}"), user_errors(CheckpointError):
        found, model, tokenizer = read_newest(options.folder, _read)
    make_folder(options.to, "--to")
    for name in (CHECKPOINTS, TOKENIZER):
        if (options.to / name).exists():
            raise UserError(f"{options.to} holds {name} already: choose another --to")
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if model.eos and not model.huggingface:
        special["bos_token_id"] = model.eos[0]  # documents follow each other
    model.huggingface = {**special, **model.huggingface}
    errors = (FileExistsError, PretrainedError, CheckpointError, TokenizerError)
    with (
        progress(f"writing {options.to}"),
        user_errors(*errors, os_error=f"cannot write {options.to}"),
    ):
        model.save_pretrained(options.to)
        names = ["config.json", "model.safetensors"]
        if tokenizer is not None or found.manifest["as_bytes"]:
            names += export_tokenizer(tokenizer, model, options.to)
    click.echo(
        f"wrote {', '.join(names[:-1])} and {names[-1]} of step {found.step} to {options.to}"
    )


def _read(found: Checkpoint) -> tuple[Checkpoint, LanguageModel, RunTokenizer | None]:
    return found, load_model(found), stored_tokenizer(found)
