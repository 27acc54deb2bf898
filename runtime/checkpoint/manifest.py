"""A checkpoint's manifest: what it must say, its checksum, and the files that it vouches for.

Checkpoints are copied and downloaded, so a manifest is checked like all bytes from outside.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ringlet.runtime.sharding.shard_spec import ShardSpec

Manifest: TypeAlias = dict[str, Any]

FORMAT = 2
NAME = "manifest.json"
MOST_BYTES = 256 << 20
"""Larger manifests are refused; this is enough for a million pieces."""

_SHARD = re.compile(r"shard-\d+\.safetensors")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or does not fit; the message names the folder and the reason."""


def sealed(manifest: Manifest) -> bytes:
    """The file's bytes, with the checksum."""
    whole = {**manifest, "format": FORMAT}
    return json.dumps({**whole, "sha256": _seal(whole)}, indent=1).encode()


def read_manifest(folder: Path) -> Manifest:
    """Read and check a folder's manifest; raises CheckpointError."""
    path = folder / NAME
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(f"{path} is longer than any manifest")
        manifest: Manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise CheckpointError(f"{folder} has format {manifest['format']}, not {FORMAT}")
        seal = manifest.pop("sha256")
        if seal != _seal(manifest):
            raise CheckpointError(f"{path} is damaged: its checksum differs")
        _check(manifest)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {NAME}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error
    return manifest


def digest(path: Path) -> dict[str, Any]:
    """A file's size and checksum."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": checksum}


def _seal(manifest: Mapping[str, Any]) -> str:
    """The checksum of the manifest's content, however it is formatted."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _check(manifest: Manifest) -> None:
    """Raise ValueError, TypeError or KeyError for content that is not as it must be."""
    files, optimizer = manifest["files"], manifest["optimizer"]
    _need(type(manifest["step"]) is int and manifest["step"] >= 0, "step")
    _need(type(manifest["config"]) is dict, "config")
    _need(type(optimizer["name"]) is str and type(optimizer["steps"]) is int, "optimizer")
    _need(all(_SHARD.fullmatch(name) for name in files), "files")
    for entry in manifest["arrays"].values():
        shape = _array(entry)
        for piece in entry["pieces"]:
            _need(piece["file"] in files and type(piece["key"]) is str, "pieces")
            _need(0 <= int(piece["first"]) <= ShardSpec.from_json(shape, piece).size, "pieces")
    for entry in manifest["extras"].values():
        _array(entry)
        _need(entry["file"] in files, "extras")


def _array(entry: Mapping[str, Any]) -> list[int]:
    shape: list[int] = entry["shape"]
    _need(type(shape) is list and all(type(n) is int and n >= 0 for n in shape), "shape")
    dtype = entry["dtype"]
    # NumPy parses a dtype as Python at times, which is no place for a long text.
    _need(type(dtype) is str and len(dtype) <= 16 and np.dtype(dtype).kind in "biufc", "dtype")
    return shape


def _need(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(f"{what} is not as it must be")
