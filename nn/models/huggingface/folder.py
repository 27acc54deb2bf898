"""Hugging Face's model folders: config.json, and safetensors in one file or in shards."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ringlet.nn.backend import Array
from ringlet.nn.files import read_object
from ringlet.nn.safetensors import LazyArrays, SafetensorsFile, write_safetensors

__all__ = ["PretrainedError"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class PretrainedError(ValueError):
    """A folder holds no model that can be loaded; the message names the file and the reason."""


def read_config(folder: Path) -> dict[str, Any]:
    """The values of a folder's config.json; raises PretrainedError."""
    return read_object(folder / CONFIG, PretrainedError)


def read_weights(folder: Path) -> Mapping[str, Array]:
    """The arrays of a folder, each read when it is used; raises PretrainedError."""
    if (folder / WEIGHTS).is_file():
        return SafetensorsFile(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return Shards(folder)
    others = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    hint = f"; {others[0]} is a pickle, which ringlet does not read" if others else ""
    raise PretrainedError(f"{folder} has neither {WEIGHTS} nor {INDEX}{hint}")


def write_weights(folder: Path, arrays: Mapping[str, Array], shard_bytes: int) -> None:
    """Write one file, or an index and shards of at most `shard_bytes` (or one larger array)."""
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


class Shards(LazyArrays):
    """The arrays of several files; an index says which file holds which."""

    def __init__(self, folder: Path) -> None:
        places = read_object(folder / INDEX, PretrainedError).get("weight_map")
        if not isinstance(places, dict) or not all(
            isinstance(file, str) and Path(file).name == file for file in places.values()
        ):
            raise PretrainedError(f"{folder / INDEX} needs a weight_map that names files beside it")
        missing = sorted({f for f in places.values() if not (folder / f).is_file()})
        if missing:
            raise PretrainedError(f"{folder} has no {', '.join(missing)}, which its index names")
        self._files = {f: SafetensorsFile(folder / f) for f in sorted(set(places.values()))}
        self.entries = places
        lost = [f"{name} in {f}" for name, f in places.items() if name not in self._files[f]]
        if lost:
            raise PretrainedError(f"{folder} has no {', '.join(lost)}, which its index names")

    def __getitem__(self, name: str) -> Array:
        return self._files[self.entries[name]][name]
