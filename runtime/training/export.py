"""Whole models out of checkpoints, whichever mesh saved them."""

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
