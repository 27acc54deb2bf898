"""Whether a checkpoint's shards hold what its manifest says: every array once, in its dtype."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ringlet.nn.safetensors import DTYPES, ArrayEntry, SafetensorsError, SafetensorsFile
from ringlet.runtime.checkpoint.manifest import CheckpointError, Manifest
from ringlet.runtime.sharding.shard_spec import ShardSpec

SHARED = "residual"
"""A kind of arrays that need no pieces: no rank has lost anything of such a one."""

MOST_CUTS = 6
"""Axes of an array that its shards may cut: 2 to their power is the number of a shard's corners."""


def check_pieces(folder: Path, manifest: Manifest) -> None:
    """Raise CheckpointError unless the pieces tile each array exactly, in its dtype, and each
    array in the files is a piece once at most."""
    files: dict[str, SafetensorsFile] = {}
    used: set[tuple[str, str]] = set()

    def stored(file: str, key: str, dtype: str) -> ArrayEntry:
        """What the shard holds under the key."""
        if file not in files:
            files[file] = SafetensorsFile(folder / file)
        found = files[file].entries.get(key)
        if found is None or (file, key) in used:
            raise ValueError(f"{file} has no {key}" if found is None else f"{key} is there twice")
        if found.dtype == "BF16" or DTYPES[found.dtype] != dtype:
            raise ValueError(f"{key} is {found.dtype} in {file}, not {dtype}")
        used.add((file, key))
        return found

    name = ""
    try:
        for name, entry in manifest["arrays"].items():
            pieces = [(p, stored(p["file"], p["key"], entry["dtype"])) for p in entry["pieces"]]
            if pieces or not name.startswith(SHARED):
                _check_tiling(entry["shape"], pieces)
        for name, entry in manifest["extras"].items():
            shape = stored(entry["file"], name, entry["dtype"]).shape
            if list(shape) != entry["shape"]:
                raise ValueError(f"its shape in {entry['file']} is {shape}")
    except (SafetensorsError, OSError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{folder}: {name} is not complete: {error}") from error


def _check_tiling(
    shape: Sequence[int], pieces: Iterable[tuple[Mapping[str, Any], ArrayEntry]]
) -> None:
    """Raise ValueError unless the pieces are all of their shards, and the shards all of the array,
    each element once."""
    places: dict[ShardSpec, list[tuple[int, int]]] = {}
    for piece, found in pieces:
        place = piece["first"], piece["first"] + math.prod(found.shape)
        places.setdefault(ShardSpec.from_json(shape, piece), []).append(place)
    for spec, parts in places.items():
        ends = [0, *(stop for _, stop in sorted(parts))]
        if [start for start, _ in sorted(parts)] != ends[:-1] or ends[-1] != spec.size:
            raise ValueError("the pieces of a shard overlap, or leave a gap")
    views = {spec.view for spec in places}
    if len(views) != 1 or not tile(views.pop(), list(places)):
        raise ValueError("its shards overlap, or leave a gap")


def tile(view: tuple[int, ...], shards: Sequence[ShardSpec]) -> bool:
    """Whether the shards, boxes in the view, are all of it, each element once.

    A sum of boxes is the whole if their corners are: what counts each corner with a sign, + where
    an even number of its coordinates are ends, tells any two functions on the grid apart (it is
    the mixed difference of the number of boxes at each element).
    """
    axes = sorted({part.axis for shard in shards for part in shard.slices})
    if len(axes) > MOST_CUTS:
        return False
    corners: Counter[tuple[int, ...]] = Counter()
    for corner, sign in _corners([(0, view[axis]) for axis in axes]):
        corners[corner] -= sign
    for shard in shards:
        cuts = {part.axis: (part.start, part.stop) for part in shard.slices}
        for corner, sign in _corners([cuts.get(axis, (0, view[axis])) for axis in axes]):
            corners[corner] += sign
    return not any(corners.values())


def _corners(box: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, ...], int]]:
    """The corners of a box, given by (start, stop) on each axis, with their signs."""
    for ends in itertools.product((0, 1), repeat=len(box)):
        yield tuple(side[end] for side, end in zip(box, ends, strict=True)), (-1) ** sum(ends)
