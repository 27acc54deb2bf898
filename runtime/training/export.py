"""Whole models out of checkpoints, whichever mesh saved them."""

import math

from ringlet.nn import uninitialized
from ringlet.nn.files import short
from ringlet.nn.models import LanguageModel
from ringlet.runtime.checkpoint.checkpoint import Checkpoint
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.checkpoint.restore import load_parameters
from ringlet.runtime.checkpoint.state import split_name
from ringlet.runtime.training.config import ConfigError, TrainConfig, check_config
from ringlet.runtime.training.factories import make_model
from ringlet.runtime.training.run_tokenizer import is_fact

MOST_SECONDS = 1e12


def check_run(checkpoint: Checkpoint) -> LanguageModel:
    """The model of the run that saved the checkpoint, whose values are not loaded yet; raises
    CheckpointError unless the manifest describes a run, and its arrays are that model's."""
    manifest, folder = checkpoint.manifest, checkpoint.folder
    for name, fits in (
        ("vocab_size", lambda value: type(value) is int and value > 0),
        ("as_bytes", lambda value: type(value) is bool),
        ("elapsed_s", lambda value: type(value) in (int, float) and 0 <= value < MOST_SECONDS),
        ("tokenizer", is_fact),
    ):
        if not fits(manifest.get(name)):
            raise CheckpointError(f"{folder}: its {name} is {short(manifest.get(name))}")
    try:
        model = _make_model(check_config(manifest["config"]), checkpoint)
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        found: dict[tuple[str, int], set[str]] = {("parameters", 0): set()}
        for name, entry in manifest["arrays"].items():
            kind, replica, parameter = split_name(name)
            if shapes.get(parameter) != tuple(entry["shape"]):
                raise ValueError(f"no array of it is {short(name)} of shape {entry['shape']}")
            found.setdefault((kind, replica), set()).add(parameter)
        for (kind, _), names in found.items():
            if names != set(shapes):
                raise ValueError(
                    f"it has {len(shapes)} parameters, there are {kind} of {len(names)}"
                )
    except (ConfigError, ValueError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{folder} does not hold the model of its config: {error}") from error
    return model


def _make_model(config: TrainConfig, checkpoint: Checkpoint) -> LanguageModel:
    """The model, unless it is plainly larger than all that the checkpoint holds."""
    arrays, vocab_size = checkpoint.manifest["arrays"], checkpoint.manifest["vocab_size"]
    numbers = sum(math.prod(entry["shape"]) for entry in arrays.values())
    sizes = vocab_size, config.n_embd, config.experts, config.model == "gpt" and config.block_size
    if config.n_layer > len(arrays) or max(sizes) * config.n_embd > numbers:
        raise ConfigError(f"it is larger than the {numbers:,} numbers that are there")
    with uninitialized():
        return make_model(config, vocab_size)


def load_model(checkpoint: Checkpoint) -> LanguageModel:
    """The model of a training run, whole, with the ids that end its texts; raises CheckpointError
    if something is missing."""
    model = check_run(checkpoint)
    load_parameters(checkpoint, model)
    end = (checkpoint.manifest.get("tokenizer") or {}).get("end_of_text")
    if end is not None and end not in model.eos:
        model.eos = (*model.eos, end)
    return model
