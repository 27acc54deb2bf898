"""Starting a run from a model: of a Hugging Face folder, or of another run.

To find out what is there only headers are read. Then each rank reads its own parts of the
parameters, as `parallelize` asks for them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ringlet.nn import uninitialized
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.memory import return_freed_memory
from ringlet.nn.models import GPT, Llama
from ringlet.nn.models.huggingface.auto import open_pretrained
from ringlet.nn.parameter import hollow
from ringlet.nn.safetensors import LazyArrays, Stored
from ringlet.runtime.assembly import Values
from ringlet.runtime.checkpoint.checkpoint import Checkpoint
from ringlet.runtime.checkpoint.manifest import read_manifest
from ringlet.runtime.checkpoint.restore import CheckpointReader
from ringlet.runtime.sharding.shard_spec import ShardSpec
from ringlet.runtime.training.config import MODEL_FIELDS, ConfigError, TrainConfig, check_config
from ringlet.runtime.training.corpus import takes_tokenizer
from ringlet.runtime.training.factories import make_model
from ringlet.runtime.training.run_tokenizer import RunTokenizer, stored_tokenizer
from ringlet.runtime.training.tokenizers import TOKENIZER, is_byte_tokenizer

CONFIG = "config.json"
"""In the folder of a Hugging Face model."""

LONGEST = 1024
"""Of the contexts to train with, unless others are asked for."""

ROWS = 4096
"""Of a table that grows, so many are read at once."""


@dataclass(frozen=True)
class Start:
    """A model to start from, in this folder: the options that describe it, or all of the run's
    whose `checkpoint` it is; its vocabulary and the number of its positions; and what made its ids,
    or whether they are bytes."""

    folder: Path
    options: Mapping[str, Any]
    vocab_size: int
    context: int
    checkpoint: Checkpoint | None = None
    tokenizer: RunTokenizer | None = None
    as_bytes: bool = False

    @property
    def path(self) -> Path:
        """The folder that holds the parameters."""
        return self.folder if self.checkpoint is None else self.checkpoint.folder

    def config(self, given: Mapping[str, Any]) -> TrainConfig:
        """The config of a run that starts here, with these options, and the model's tokenizer
        for text; raises ConfigError for options that contradict the model."""
        least = {"vocab_size": self.vocab_size}
        if self.checkpoint is not None:
            least["block_size"] = self.options["block_size"]
        for name in (name for name in MODEL_FIELDS if name in given):
            value, has = given[name], self.options[name]
            if name in least and type(value) is int and 0 < value < least[name]:
                raise ConfigError(
                    f"{name} {value} is less than the {least[name]} of the model in {self.folder}, "
                    "which can only grow"
                )
            if name not in ("vocab_size", "block_size") and value != has:
                raise ConfigError(
                    f"{name} {value} contradicts the model in {self.folder}, which has {has}: "
                    "leave it out"
                )
        config = check_config({**self.options, **given})
        own, size = self.tokenizer, max(config.vocab_size, self.vocab_size)
        if own is None or given.get("tokenizer") or not takes_tokenizer(config.data):
            return config
        if own.vocab_size > size:
            raise ConfigError(
                f"{own.file} has {own.vocab_size} ids, and the model beside it {size}: they do not "
                f"belong together, unless --vocab-size {own.vocab_size} shall give it more"
            )
        return replace(config, tokenizer=str(own.file))

    def news(self, config: TrainConfig) -> list[str]:
        """What the config's model has that is not in the folder, in words."""
        size, length, found = config.vocab_size, config.block_size, []
        if size > self.vocab_size:
            found.append(f"ids {self.vocab_size} to {size - 1} of the vocabulary")
        if length > self.context:
            found.append(f"positions {self.context} to {length - 1} of the context")
        return found

    def afresh(self, config: TrainConfig) -> str:
        """Why the optimizer starts afresh; "" if it goes on as the run's."""
        if self.checkpoint is None:
            return "the folder holds none"
        if new := self.news(config):
            return f"it has nothing for {' and '.join(new)}"
        had = self.options["optimizer"], self.options["momentum"]
        if had != (config.optimizer, config.momentum):
            return f"it was {had[0]}" + (f" with momentum {had[1]:g}" if had[1] else "")
        return ""


def from_folder(folder: Path) -> Start:
    """The model of a Hugging Face folder. Raises PretrainedError, SafetensorsError; ConfigError for
    a model that is not trained so, or arrays that are not the model's; TokenizerError."""
    model, arrays = open_pretrained(folder)
    if not isinstance(model, GPT | Llama):
        raise ConfigError(
            f"{folder} holds a {type(model).__name__}, and a run trains a GPT or a Llama"
        )
    own = {name: parameter.shape for name, parameter in model.named_parameters()}
    there = {name: arrays.stored(name).array.shape for name in arrays}
    faults = [f"no {name}" for name in own if name not in there]
    faults += [f"an unexpected {name}" for name in there if name not in own]
    faults += [
        f"{n} of shape {there[n]}, not {own[n]}" for n in own if there.get(n, own[n]) != own[n]
    ]
    if faults:
        raise ConfigError(f"{folder} does not hold the model of its config: it has {faults[0]}")
    sizes, values = model.config, dict(model.huggingface)
    values["tie_word_embeddings"] = sizes.tie_word_embeddings  # as the files have it
    context = model.context_length or LONGEST
    if isinstance(model, GPT):
        same = ("n_layer", "n_head", "n_embd", "bias", "dropout")
        options = {"model": "gpt", "n_kv_head": 0, **{name: getattr(sizes, name) for name in same}}
    else:
        options = {
            "model": "llama", "n_layer": sizes.num_hidden_layers, "n_embd": sizes.hidden_size,
            "n_head": sizes.num_attention_heads, "n_kv_head": sizes.groups,
            "bias": sizes.attention_bias,
        }  # fmt: skip
    options |= {
        "experts": 0, "vocab_size": sizes.vocab_size, "block_size": min(context, LONGEST),
        "architecture": json.dumps({"config": values, "generation": dict(model.generation)}),
    }  # fmt: skip
    file = folder / TOKENIZER
    as_bytes = is_byte_tokenizer(file)
    made_by = RunTokenizer.at(file) if file.exists() and not as_bytes else None
    return Start(folder, options, sizes.vocab_size, context, None, made_by, as_bytes)


def from_run(folder: Path, checkpoint: Checkpoint) -> Start:
    """The model of a run, whose checkpoint has been checked; raises CheckpointError, for another
    tokenizer than it was trained with."""
    vocab_size = checkpoint.manifest["vocab_size"]
    options = asdict(check_config(checkpoint.manifest["config"])) | {"vocab_size": vocab_size}
    with uninitialized():
        model = make_model(check_config(options), vocab_size)
    context = model.context_length or options["block_size"]
    made_by, as_bytes = stored_tokenizer(checkpoint), checkpoint.manifest["as_bytes"]
    return Start(folder, options, vocab_size, context, checkpoint, made_by, as_bytes)


def values_of(path: Path, config: TrainConfig, vocab_size: int) -> Values:
    """The parameters of the folder of a model, or of a checkpoint, for the config's model: what is
    not there gets its initial values. Raises what opening the folder raises."""
    with uninitialized():
        model = make_model(config, vocab_size)
    hollow(model.parameters())
    read, release = _reader(path)
    return_freed_memory()  # of whole models

    def values(name: str, spec: ShardSpec, start: int, stop: int) -> Array:
        found = read(name)
        if found.array.shape != spec.shape:
            whole = model.initial_value(name, spec.shape, config.seed)
            for row in range(0, len(found.array), ROWS):
                rows = found._replace(array=found.array[row : row + ROWS]).widened()
                whole[row : row + len(rows)] = rows
            found = Stored(whole, False)
        part = found._replace(array=spec.part(found.array, start, stop)).widened()
        release()
        return part

    return values


def _reader(path: Path) -> tuple[Callable[[str], Stored], Callable[[], None]]:
    """Gives a parameter as it is stored; and lets go of the memory that it takes."""
    if (path / CONFIG).is_file():
        arrays: LazyArrays = open_pretrained(path).arrays
        return arrays.stored, arrays.release
    reader = CheckpointReader(Checkpoint(path, read_manifest(path)))
    return lambda name: Stored(reader.whole(f"parameters/{name}"), False), lambda: None
