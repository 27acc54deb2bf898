"""Whole models out of checkpoints, whichever mesh saved them."""

from pathlib import Path

from ringlet.nn import uninitialized
from ringlet.nn.models import LanguageModel
from ringlet.runtime.checkpoint.checkpoint import Checkpoint
from ringlet.runtime.checkpoint.restore import load_parameters
from ringlet.runtime.training.config import check_config
from ringlet.runtime.training.factories import make_model


def load_model(checkpoint: Checkpoint) -> LanguageModel:
    """The model of a training run, whole; raises CheckpointError if something is missing."""
    config = check_config(checkpoint.manifest["config"])
    with uninitialized():
        model = make_model(config, checkpoint.manifest["vocab_size"])
    load_parameters(checkpoint, model)
    return model


def export_huggingface(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the model as Hugging Face reads it; see LanguageModel.save_pretrained.

    Raises FileExistsError if the folder holds a model already, PretrainedError for a model that
    Hugging Face does not have.
    """
    if (folder / "config.json").exists():
        raise FileExistsError(f"{folder} holds a model already")
    load_model(checkpoint).save_pretrained(folder)
