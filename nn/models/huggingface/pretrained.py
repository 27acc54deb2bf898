"""Models in folders as Hugging Face lays them out: config.json and safetensors, in shards or one.

A model's file says how its config and its parameters' names differ from those in the files; here
is what all models have in common.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from ringlet.nn.backend import Array
from ringlet.nn.module import Module, uninitialized
from ringlet.nn.safetensors import SafetensorsFile, write_safetensors

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000


class PretrainedError(ValueError):
    """A folder holds no model that can be loaded; the message names the file and the reason."""


class Config(Protocol):
    """A model's sizes, which a config.json can say too."""

    @classmethod
    def from_huggingface(cls, values: Mapping[str, Any]) -> Self:
        """From the values of a config.json; raises PretrainedError for what is not built here."""

    def to_huggingface(self) -> dict[str, Any]:
        """The values that a config.json needs."""


class Pretrained(Module):
    """A model that is loaded from a folder and saved to one.

    `architecture` and `model_type` are its names in a config.json. `file_names` are (here, there)
    pairs of parts of parameters' names, `transposed` and `ignored` patterns of names in files:
    matrices that are (in, out) there, and arrays that are no parameters here. Files of a model
    without its head leave out `prefix`.
    """

    architecture: ClassVar[str]
    model_type: ClassVar[str]
    config_class: ClassVar[type[Config]]
    prefix: ClassVar[str] = ""
    file_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    older_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    transposed: ClassVar[tuple[str, ...]] = ()
    ignored: ClassVar[tuple[str, ...]] = ()

    config: Any
    huggingface: Mapping[str, Any] = {}
    """What the config.json said, if the model was loaded; it is saved again."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, strict: bool = True) -> Self:
        """The model in a folder with config.json and model.safetensors, or its shards and index.

        Weights become float32. With `strict=False` parameters that the files do not have get
        their initial values. Raises PretrainedError for another kind of model or what is not
        built here, SafetensorsError for damaged files, KeyError listing arrays that are missing,
        unexpected or of the wrong shape.
        """
        folder = Path(folder)
        values = read_config(folder)
        if values.get("model_type") != cls.model_type:
            raise PretrainedError(
                f"{folder / CONFIG} is of a {values.get('model_type')!r}, not of a "
                f"{cls.model_type!r}"
            )
        arrays = read_weights(folder)
        values = cls.refine(values, arrays)
        with uninitialized():
            model = cls(cls.config_class.from_huggingface(values))  # type: ignore[call-arg]
        model.huggingface = values
        if not strict:
            model.initialize(0)
        model.load_state_dict(Renamed(model, arrays), strict)
        return model

    @classmethod
    def refine(cls, values: dict[str, Any], arrays: Mapping[str, Array]) -> dict[str, Any]:
        """The config's values, where the arrays of the files say better."""
        return values

    def save_pretrained(self, folder: str | Path, shard_bytes: int = SHARD_BYTES) -> None:
        """Write config.json and model.safetensors, in shards of at most `shard_bytes` if larger.

        Raises FileExistsError if the folder holds a model already, PretrainedError for what the
        files have no way to say.
        """
        folder = Path(folder)
        if (folder / CONFIG).exists():
            raise FileExistsError(f"{folder} holds a model already")
        own = {"model_type": self.model_type, "architectures": [self.architecture]}
        values = {
            **{k: v for k, v in self.huggingface.items() if k != "dtype"},
            **own,
            **self.config.to_huggingface(),
            "torch_dtype": "float32",
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(folder, self.file_state(), shard_bytes)
        (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n")

    def file_state(self) -> dict[str, Array]:
        """The parameters under their names in files, laid out as there."""
        return {
            there: array.T if matches(there, self.transposed) else array
            for name, array in self.state_dict().items()
            for there in [self.file_name(name)]
        }

    def file_name(self, name: str) -> str:
        """A parameter's name in files."""
        for here, there in self.file_names:
            name = name.replace(here, there)
        return name


class Renamed(Mapping[str, Array]):
    """The arrays of files under the names that a model has for them."""

    def __init__(self, model: Pretrained, arrays: Mapping[str, Array]) -> None:
        self._model, self._arrays = model, arrays
        plain = {self._modern(name): name for name in arrays}
        prefix = model.prefix
        if prefix and not any(name.startswith(prefix) for name in plain):
            outside = [name for name, _ in model.children() if f"{name}." != prefix]
            plain = {
                name if name.split(".")[0] in outside else prefix + name: old
                for name, old in plain.items()
            }
        own = {model.file_name(name): name for name in model.state_dict()}
        self._names = {
            own.get(name, name): (name, old)
            for name, old in plain.items()
            if name in own or not matches(name, model.ignored)
        }

    def _modern(self, name: str) -> str:
        for old, new in self._model.older_names:
            name = name.replace(old, new)
        return name

    def __getitem__(self, name: str) -> Array:
        there, old = self._names[name]
        array = self._arrays[old]
        return array.T if matches(there, self._model.transposed) else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Shards(Mapping[str, Array]):
    """The arrays of several files, each of which has those that an index says."""

    def __init__(self, folder: Path) -> None:
        places = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(
            isinstance(file, str) and Path(file).name == file for file in places.values()
        ):
            raise PretrainedError(
                f"{folder / INDEX} needs a weight_map of names of files beside it"
            )
        missing = sorted({f for f in places.values() if not (folder / f).is_file()})
        if missing:
            raise PretrainedError(f"{folder} has no {', '.join(missing)}, which its index names")
        self._files = {f: SafetensorsFile(folder / f) for f in sorted(set(places.values()))}
        self._places: dict[str, str] = places
        lost = [f"{name} in {f}" for name, f in places.items() if name not in self._files[f]]
        if lost:
            raise PretrainedError(f"{folder}: there is no {', '.join(lost)}")

    def __getitem__(self, name: str) -> Array:
        return self._files[self._places[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name has one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def read_config(folder: Path) -> dict[str, Any]:
    """The values of a folder's config.json; raises PretrainedError."""
    return _read_json(folder / CONFIG)


def read_weights(folder: Path) -> Mapping[str, Array]:
    """The arrays of a folder, read when they are asked for; raises PretrainedError."""
    if (folder / WEIGHTS).is_file():
        return SafetensorsFile(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return Shards(folder)
    others = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    hint = f"; {others[0]} is a pickle, which is not read" if others else ""
    raise PretrainedError(f"{folder} has neither {WEIGHTS} nor {INDEX}{hint}")


def write_weights(folder: Path, arrays: Mapping[str, Array], shard_bytes: int) -> None:
    """One file, or shards of at most `shard_bytes` (if no array is larger) and their index."""
    shards: list[dict[str, Array]] = [{}]
    room = shard_bytes
    for name, array in arrays.items():
        if array.nbytes > room and shards[-1]:
            shards.append({})
            room = shard_bytes
        shards[-1][name] = array
        room -= array.nbytes
    metadata = {"format": "pt"}
    if len(shards) == 1:
        write_safetensors(folder / WEIGHTS, shards[0], metadata)
        return
    places = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, shard, metadata)
        places.update(dict.fromkeys(shard, file))
    total = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def expect(values: Mapping[str, Any], possible: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise PretrainedError for a value of a config.json that no model here has."""
    for key, choices in possible.items():
        if key in values and values[key] not in choices:
            raise PretrainedError(
                f"{CONFIG} says {key}: {json.dumps(values[key])}; this model is built for "
                f"{' or '.join(map(json.dumps, choices))}"
            )


def number(values: Mapping[str, Any], key: str, default: Any = None, least: int = 1) -> Any:
    """A whole number of a config.json; raises PretrainedError."""
    value = values.get(key)
    value = default if value is None else value
    if type(value) is not int or value < least:
        raise PretrainedError(
            f"{CONFIG} says {key}: {value!r}; it has to be a whole number from {least} on"
        )
    return value


def known_values(config_class: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those values of a config.json that a config has fields for, in the fields' types.

    What has no value, or null, keeps its default, but for sizes without which there is no model.
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise PretrainedError(f"there is no {path}") from error
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise PretrainedError(f"{path} holds no object")
    return values
