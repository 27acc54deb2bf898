"""Hugging Face's model folders: config.json, and safetensors in one file or in shards."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ringlet.nn.backend import Array
from ringlet.nn.files import read_object
from ringlet.nn.safetensors import LazyArrays, SafetensorsFile, Stored, write_safetensors

__all__ = ["PretrainedError"]

CONFIG = "config.json"
GENERATION = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


class PretrainedError(ValueError):
    """A folder holds no model that can be loaded; the message names the file and the reason."""


def read_config(folder: Path) -> dict[str, Any]:
    """The values of a folder's config.json; raises PretrainedError."""
    return read_object(folder / CONFIG, PretrainedError)


def read_generation(folder: Path) -> dict[str, Any]:
    """The values of a folder's generation_config.json, if it has one; raises PretrainedError."""
    path = folder / GENERATION
    return read_object(path, PretrainedError) if os.path.lexists(path) else {}


def read_weights(folder: Path) -> LazyArrays:
    """The arrays of a folder, each read when it is used; raises PretrainedError."""
    whole, index = (folder / WEIGHTS).exists(), (folder / INDEX).exists()
    if index:
        shards = Shards(folder)
        if whole and set(shards.entries.values()) != {WEIGHTS}:
            raise PretrainedError(
                f"{folder} has both {WEIGHTS} and {INDEX}, which names other files: remove those "
                "that are out of date"
            )
        return shards
    if whole:
        return SafetensorsFile(folder / WEIGHTS)
    others = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    hint = f"; {others[0]} is a pickle, which ringlet does not read" if others else ""
    raise PretrainedError(f"{folder} has neither {WEIGHTS} nor {INDEX}{hint}")


def refuse_taken(folder: Path) -> None:
    """Raise FileExistsError if the folder holds a model, or weights of one, already."""
    for name in (CONFIG, WEIGHTS, INDEX):
        if (folder / name).exists():
            raise FileExistsError(f"{folder} holds a model already")


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
        self._files, missing = dict[str, SafetensorsFile](), []
        for file in sorted(set(places.values())):
            try:
                self._files[file] = SafetensorsFile(folder / file)
            except FileNotFoundError:
                missing.append(file)
        if missing:
            raise PretrainedError(f"{folder} has no {', '.join(missing)}, which its index names")
        self.entries = places
        lost = [f"{name} in {f}" for name, f in places.items() if name not in self._files[f]]
        if lost:
            raise PretrainedError(f"{folder} has no {', '.join(lost)}, which its index names")

    def stored(self, name: str) -> Stored:
        return self._files[self.entries[name]].stored(name)

    def release(self) -> None:
        for file in self._files.values():
            file.release()
