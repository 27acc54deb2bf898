"""A checkpoint's manifest: what it must say, its checksum, and the files that it vouches for.

Checkpoints are copied and downloaded, so a manifest is checked like all bytes from outside.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ringlet.nn.files import open_file, read_object, short
from ringlet.nn.safetensors import DTYPES, MOST_DIMENSIONS
from ringlet.runtime.sharding.shard_spec import ShardSpec

Manifest: TypeAlias = dict[str, Any]

FORMAT = 2
NAME = "manifest.json"

FLOATS = ("<f8", "<f4", "<f2")
"""The dtypes of parameters, and of what has an element for each of theirs."""

_SHARD = re.compile(r"shard-[0-9]+\.safetensors")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or does not fit; the message names the folder and the reason."""


def sealed(manifest: Manifest) -> bytes:
    """The file's bytes, with the checksum."""
    whole = {**manifest, "format": FORMAT}
    return json.dumps({**whole, "sha256": _seal(whole)}, indent=1).encode()


def read_manifest(folder: Path) -> Manifest:
    """Read and check a folder's manifest; raises CheckpointError."""
    path = folder / NAME
    manifest = read_object(path, CheckpointError)
    try:
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{folder} has format {short(manifest['format'])}, not {FORMAT}")
        seal = manifest.pop("sha256")
        if seal != _seal(manifest):
            raise CheckpointError(f"{path} is damaged: its checksum differs")
        _check(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error
    return manifest


def digest(path: Path) -> dict[str, Any]:
    """A file's size and checksum; raises OSError."""
    with open_file(path) as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": checksum}


def _seal(manifest: Mapping[str, Any]) -> str:
    """The checksum of the manifest's content, however it is formatted."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _check(manifest: Manifest) -> None:
    """Raise ValueError, TypeError or KeyError for content that is not as it must be."""
    files, optimizer = manifest["files"], manifest["optimizer"]
    _need(_is_number(manifest["step"]), "step")
    _need(type(manifest["config"]) is dict, "config")
    _need(type(optimizer["name"]) is str and _is_number(optimizer["steps"]), "optimizer")
    _need(type(files) is dict and all(_SHARD.fullmatch(name) for name in files), "files")
    for entry in manifest["arrays"].values():
        shape = _array(entry, FLOATS)
        for piece in entry["pieces"]:
            _need(piece["file"] in files and type(piece["key"]) is str, "pieces")
            _need(_is_number(piece["first"]), "pieces")
            ShardSpec.from_json(shape, piece)
    for entry in manifest["extras"].values():
        _array(entry, DTYPES.values())
        _need(entry["file"] in files, "extras")


def _array(entry: Mapping[str, Any], dtypes: Collection[str]) -> list[int]:
    """The shape of an array of one of the dtypes."""
    shape: list[int] = entry["shape"]
    _need(type(shape) is list and len(shape) <= MOST_DIMENSIONS, "shape")
    _need(all(map(_is_number, shape)), "shape")
    _need(entry["dtype"] in dtypes, "dtype")
    return shape


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _need(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(f"{what} is not as it must be")
