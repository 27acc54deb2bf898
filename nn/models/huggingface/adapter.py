"""What all adapters have in common: a model's config and parameters under the names of its files.

An adapter is a class for each model, in a file of its own, so that the models' files hold nothing
but the models.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ringlet.nn.backend import Array
from ringlet.nn.files import short
from ringlet.nn.finetune import LoRALinear
from ringlet.nn.models.huggingface.folder import (
    CONFIG,
    GENERATION,
    PretrainedError,
    read_config,
    read_generation,
    read_weights,
    refuse_taken,
    write_weights,
)
from ringlet.nn.models.language_model import LanguageModel
from ringlet.nn.module import uninitialized
from ringlet.nn.safetensors import LazyArrays, Stored

BLOCKS = ("n_layer", "num_hidden_layers", "num_layers", "num_decoder_layers")
"""The fields of configs that count blocks."""


@contextlib.contextmanager
def refusals(path: Path | str) -> Iterator[None]:
    """Turn what a model raises for a config that cannot be, of whatever values, into
    PretrainedError."""
    try:
        yield
    except PretrainedError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as e:
        kind = "" if type(e) is ValueError else f"{type(e).__name__}: "
        raise PretrainedError(f"{path} describes no model: {kind}{e}") from e


def _check(config: Any, arrays: int) -> None:
    """Raise ValueError or TypeError for values that only a later use would refuse."""
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        most = 1 if "drop" in name else math.inf
        if name in BLOCKS and value > arrays:
            raise ValueError(f"{name} {value}, for which {arrays} arrays are too few")
        if isinstance(field.default, float) and not 0 <= value < most:
            raise ValueError(f"{name} {value}")
        if name.endswith("token_id") and not 0 <= value < config.vocab_size:
            raise ValueError(f"{name} {value} in a vocabulary of {config.vocab_size}")


class Adapter:
    """How one class of models differs from its files.

    `kinds` are its names in a config.json: pairs (model_type, architecture). `file_names` are pairs
    (here, there) of parts of parameters' names. `transposed` and `ignored` are patterns of names in
    files: matrices that are (in, out) there, and arrays that are no parameters here. Files of a
    model without its head omit `prefix`. `head` is the name there of the matrix that computes the
    logits, and `table` that of the embedding with which a tied model shares it; `copies` are pairs
    (copy, original) of other arrays that are there twice.
    """

    kinds: tuple[tuple[str, str], ...]
    prefix: str = ""
    file_names: tuple[tuple[str, str], ...] = ()
    older_names: tuple[tuple[str, str], ...] = ()
    transposed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    head: str = "lm_head.weight"
    table: str
    copies: tuple[tuple[str, str], ...] = ()

    def config(self, values: Mapping[str, Any]) -> Any:
        """The model's config from the values of a config.json; raises PretrainedError."""
        raise NotImplementedError

    def values(self, config: Any) -> dict[str, Any]:
        """The values for a config.json; raises PretrainedError for what it cannot express."""
        raise NotImplementedError

    def kind_of(self, model: LanguageModel) -> tuple[str, str]:
        """The model_type and the architecture of its file."""
        return self.kinds[0]

    def adapt(self, config: Any, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> Any:
        """The config as the arrays in the files need it."""
        return config

    def file_name(self, name: str) -> str:
        """A parameter's name in files."""
        for here, there in self.file_names:
            name = name.replace(here, there)
        return name

    def file_state(self, model: LanguageModel) -> dict[str, Array]:
        """The parameters under their names in files, laid out as there."""
        named = ((self.file_name(name), p.data) for name, p in model.named_parameters())
        return {name: array.T if matches(name, self.transposed) else array for name, array in named}

    def open(self, kind: type[LanguageModel], folder: Path, strict: bool = True) -> "Pretrained":
        """The model of a folder, of which only the config and the files' headers are read."""
        values = read_config(folder)
        kinds = [kind for kind, _ in self.kinds]
        if values.get("model_type") not in kinds:
            raise PretrainedError(
                f"{folder / CONFIG} is of a {values.get('model_type')!r}, not of a "
                f"{' or '.join(map(repr, kinds))}"
            )
        if values.get("quantization_config") is not None:
            raise PretrainedError(
                f"{folder / CONFIG} has a quantization_config, and quantized weights cannot be "
                "loaded: take the folder of the original, unquantized model"
            )
        generation = read_generation(folder)
        arrays = FileArrays(self, read_weights(folder), folder)
        with uninitialized(), refusals(folder / CONFIG):
            config = self.config(values)
            _check(config, len(arrays))
            if config.tie_word_embeddings and not arrays.join(self.head, self.table):
                config = replace(config, tie_word_embeddings=False)
            model = kind(self.adapt(config, values, arrays) if strict else config)
        remember(model, values, generation)
        return Pretrained(model, RenamedArrays(self, model, arrays))

    def load(self, kind: type[LanguageModel], folder: Path, strict: bool) -> LanguageModel:
        """See LanguageModel.from_pretrained."""
        model, arrays = self.open(kind, folder, strict)
        if not strict:
            model.initialize(0)
        model.load_state_dict(arrays, strict)
        model.eval()
        return model

    def save(self, model: LanguageModel, folder: Path, shard_bytes: int) -> None:
        """See LanguageModel.save_pretrained."""
        refuse_taken(folder)
        adapted = [path for path, module in model.named_modules() if isinstance(module, LoRALinear)]
        if adapted:
            raise PretrainedError(
                f"{adapted[0]} has LoRA matrices, which have no place in a model's files: merge "
                "them first (merge_lora), or save them alone (save_lora)"
            )
        model_type, architecture = self.kind_of(model)
        values = {
            **{k: v for k, v in model.huggingface.items() if k != "dtype"},
            "model_type": model_type,
            "architectures": [architecture],
            **self.values(model.config),
            "torch_dtype": "float32",
        }
        if model.eos or values.get("eos_token_id") is not None:
            ids = list(model.eos)
            values["eos_token_id"] = ids if len(ids) > 1 else next(iter(ids), None)
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(folder, self.file_state(model), shard_bytes)
        if model.generation:
            text = json.dumps(dict(model.generation), indent=2)
            (folder / GENERATION).write_text(text + "\n")
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n")


class Pretrained(NamedTuple):
    """A model without its values yet, and the arrays that hold them, by its parameters' names."""

    model: LanguageModel
    arrays: "RenamedArrays"


def remember(
    model: LanguageModel, config: Mapping[str, Any], generation: Mapping[str, Any]
) -> None:
    """Give a model what the files say beside its sizes; raises PretrainedError."""
    model.huggingface, model.generation = config, generation
    ends = [each.get("eos_token_id") for each in (generation, config)]
    model.eos = _end_ids(ends[1] if ends[0] is None else ends[0])


class FileArrays(LazyArrays):
    """The arrays of files under their newest and full names there, each once."""

    entries: dict[str, str]

    def __init__(self, adapter: Adapter, arrays: LazyArrays, folder: Path) -> None:
        self._arrays, self._folder = arrays, folder
        self.entries = {_modern(name, adapter.older_names): name for name in arrays}
        prefix, beside = adapter.prefix, adapter.head.split(".")[0]
        if prefix and not any(name.startswith(prefix) for name in self.entries):
            self.entries = {
                name if name.split(".")[0] == beside else prefix + name: old
                for name, old in self.entries.items()
            }
        for copy, original in adapter.copies:
            if not self.join(copy, original):
                raise PretrainedError(
                    f"{folder}: {copy} differs from {original}, and this model has one for both"
                )

    def join(self, copy: str, original: str) -> bool:
        """Keep one of two arrays that should be the same; false if they are not."""
        if copy not in self or original not in self or self._same(copy, original):
            if copy in self:
                self.entries.setdefault(original, self.entries.pop(copy))
            return True
        return False

    def _same(self, copy: str, original: str) -> bool:
        one, other = self.stored(copy), self.stored(original)
        if one.is_bfloat16 == other.is_bfloat16:
            return np.array_equal(one.array, other.array)
        return np.array_equal(one.widened(), other.widened())

    def stored(self, name: str) -> Stored:
        return self._arrays.stored(self.entries[name])

    def release(self) -> None:
        self._arrays.release()


def _modern(name: str, older: tuple[tuple[str, str], ...]) -> str:
    for old, new in older:
        name = name.replace(old, new)
    return name


class RenamedArrays(LazyArrays):
    """The arrays of files under the names that a model has for them."""

    def __init__(self, adapter: Adapter, model: LanguageModel, arrays: FileArrays) -> None:
        self._adapter, self._arrays = adapter, arrays
        own = {adapter.file_name(name): name for name, _ in model.named_parameters()}
        self.entries = {
            own.get(name, name): name
            for name in arrays
            if name in own or not matches(name, adapter.ignored)
        }

    def stored(self, name: str) -> Stored:
        there = self.entries[name]
        found = self._arrays.stored(there)
        if matches(there, self._adapter.transposed):
            return found._replace(array=found.array.T)
        return found

    def release(self) -> None:
        self._arrays.release()


def _end_ids(value: Any) -> tuple[int, ...]:
    """The ids of an eos_token_id: one, several, or none."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(each) is int for each in ids):
        raise PretrainedError(f"eos_token_id is {short(value)}; it must be an id, or a list of ids")
    return tuple(ids)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name fits one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def expect(values: Mapping[str, Any], possible: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise PretrainedError for a value of a config.json that is not supported."""
    for key, choices in possible.items():
        if key in values and values[key] not in choices:
            raise PretrainedError(
                f"{CONFIG} says {key}: {json.dumps(values[key])}; this model supports "
                f"{' or '.join(map(json.dumps, choices))}"
            )


def number(values: Mapping[str, Any], key: str, default: Any = None, least: int = 1) -> Any:
    """A whole number from a config.json; raises PretrainedError."""
    value = values.get(key)
    value = default if value is None else value
    if type(value) is not int or value < least:
        raise PretrainedError(
            f"{CONFIG} says {key}: {value!r}; it must be a whole number, at least {least}"
        )
    return value


def known_values(config_class: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config.json that a config has fields for, in the fields' types.

    A value that is missing or null keeps its default, unless it is a size that the model needs.
    Raises PretrainedError naming the value.
    """
    known = {}
    for field in fields(config_class):
        value, default = values.get(field.name), field.default
        if type(default) is int and (value is not None or default > 1):
            least = 0 if default < 2 else 1
            known[field.name] = number(values, field.name, least=least)
        elif value is not None:
            kinds = (int, float) if type(default) is float else (type(default),)
            if default is not None and type(value) not in kinds:
                raise PretrainedError(f"{CONFIG} says {field.name}: {value!r}")
            known[field.name] = float(value) if type(default) is float else value
    return known
