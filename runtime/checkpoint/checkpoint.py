"""Checkpoints that are whole or not there, and that show when they are damaged.

A checkpoint is a folder `step-N` with shards in safetensors and a manifest. The manifest names
every array by its logical name and the pieces of it that each shard holds, so that a run on any
mesh can load what another saved. It has the checksum of every shard and one of itself.

Shards are written and synced in `step-N.tmp`; after a barrier rank 0 writes the manifest and
renames the folder. The newest checkpoint is the newest folder that verifies: there is no pointer
that could point to a broken one.
"""

import contextlib
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringlet.comm import Group
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.files import sync_folder, synced
from ringlet.nn.safetensors import dump_safetensors
from ringlet.runtime.checkpoint.manifest import NAME as MANIFEST
from ringlet.runtime.checkpoint.manifest import (
    CheckpointError,
    Manifest,
    digest,
    read_manifest,
    sealed,
)
from ringlet.runtime.checkpoint.pieces import check_pieces
from ringlet.runtime.checkpoint.state import TrainingState

EXTRAS = "extras:"

_NAME = re.compile(r"step-(\d+)(\.old)?")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its folder and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """The number of optimizer steps before it."""
        return self.manifest["step"]


def save_checkpoint(
    folder: Path,
    world: Group,
    state: TrainingState,
    *,
    step: int,
    config: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    keep: int = 3,
    keep_best: bool = True,
) -> Path:
    """Save a checkpoint under `folder`, which all ranks see (a collective); return its folder.

    Every rank writes what it owns. The `keep` newest checkpoints in `folder` are kept (1 or more),
    with `keep_best` also the one with the lowest `val_loss` in its `extra`. Raises CheckpointError
    on all ranks if one of them cannot write (a full disk); earlier checkpoints stay.
    """
    final = folder / f"step-{step:06d}"
    temporary = final.with_suffix(".tmp")

    def complete() -> None:
        entries = [entry for entries, _ in written for entry in entries.items()]
        arrays: dict[str, Any] = {
            name: {"shape": list(shape), "dtype": state.dtype.str, "pieces": []}
            for name, shape in state.array_names()
        }
        for name, pieces in entries:
            if name in arrays:
                arrays[name]["pieces"] += pieces
        optimizer = state.optimizer
        manifest = {
            "step": step,
            "config": dict(config),
            "optimizer": {"name": type(optimizer).__name__, "steps": optimizer.steps},
            "arrays": arrays,
            "extras": {name: pieces[0] for name, pieces in entries if name.startswith(EXTRAS)},
            "files": {name: digest for _, files in written for name, digest in files.items()},
            **(extra or {}),
        }
        with synced(temporary / MANIFEST) as file:
            file.write(sealed(manifest))
        sync_folder(temporary)
        _put_in_place(temporary, final)
        _prune(folder, step, keep, keep_best)

    try:
        _together(world, final, lambda: None if world.rank else _make_room(temporary))
        written = _together(world, final, lambda: _write_pieces(temporary, world.rank, state))
        _together(world, final, lambda: None if world.rank else complete())
    except CheckpointError:
        if world.rank == 0:
            _remove(temporary)
        raise
    return final


def _together(world: Group, final: Path, work: Callable[[], Any]) -> list[Any]:
    """What each rank's work returns; if one cannot write, all raise."""
    result, problem = None, ""
    try:
        result = work()
    except OSError as error:
        problem = f"rank {world.rank} cannot write it: {error}"
    everyone = world.all_gather_object([result, problem])
    if problems := [problem for _, problem in everyone if problem]:
        raise CheckpointError(f"{final} was not saved: {'; '.join(problems)}")
    return [result for result, _ in everyone]


def _make_room(temporary: Path) -> None:
    for unfinished in temporary.parent.glob("step-*.tmp"):
        _remove(unfinished)
    temporary.mkdir(parents=True)


def _remove(path: Path) -> None:
    """Remove a folder, a file, or a link and not what it leads to. What cannot be removed stays: it
    is in nobody's way, or whoever needs its name will say so."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _put_in_place(temporary: Path, final: Path) -> None:
    """Rename the whole folder. A folder that already has the name (a damaged checkpoint, or the
    same step saved again) counts until the new one is there, and only then goes."""
    folder = final.parent
    if final.exists() or final.is_symlink():
        old = final.with_suffix(".old")
        _remove(old)
        final.rename(old)
    temporary.rename(final)
    sync_folder(folder)
    for replaced in folder.glob("step-*.old"):
        _remove(replaced)


def _write_pieces(folder: Path, rank: int, state: TrainingState) -> list[Any]:
    """Write this rank's pieces; [manifest entries by array, files with their digests]."""
    entries: dict[str, list[dict[str, Any]]] = {}
    arrays: dict[str, Array] = {}
    file = f"shard-{rank}.safetensors"
    for piece in state.pieces():
        key = piece.name if piece.name not in arrays else f"{piece.name}@{piece.first}"
        arrays[key] = piece.values
        place = {"file": file, "key": key, "first": piece.first, **piece.spec.to_json()}
        entries.setdefault(piece.name, []).append(place)
    for prefix, extras in state.extras.items():
        for name, array in extras.arrays.items() if extras.owned else ():
            key = f"{EXTRAS}{prefix}:{name}"
            arrays[key] = array
            entries[key] = [{"file": file, "shape": list(array.shape), "dtype": array.dtype.str}]
    if not arrays:
        return [entries, {}]
    with synced(folder / file) as output:
        dump_safetensors(output, arrays)
    return [entries, {file: digest(folder / file)}]


def _prune(folder: Path, step: int, keep: int, keep_best: bool) -> None:
    """Remove old checkpoints now that `step` is saved.

    Checkpoints of later steps do not count: the run resumed from before them because they are
    damaged. They are replaced when the run comes to their step.
    """
    paths = [path for path in checkpoints(folder) if _step(path) <= step]
    kept = set(paths[-keep:])
    losses = {path: loss for path in paths if (loss := _val_loss(path)) is not None}
    if keep_best and losses:
        kept.add(min(losses, key=losses.__getitem__))
    for path in paths:
        if path not in kept:
            with contextlib.suppress(OSError):  # who reads it finds all of it, or nothing
                path = path.rename(path.with_suffix(".tmp"))
            _remove(path)


def _val_loss(path: Path) -> float | None:
    try:
        value = read_manifest(path).get("val_loss")
    except CheckpointError:
        return None
    return value if isinstance(value, float) else None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints' folders, oldest first, verified or not, without unfinished ones."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (_step(path), not path.suffix))


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def latest_checkpoint(
    folder: Path, warn: Any = None, check: Callable[[Checkpoint], Any] | None = None
) -> Checkpoint | None:
    """The newest checkpoint that verifies, and for which `check` raises no CheckpointError;
    `warn(text)` is called for each that is passed over."""
    seen = set[Path]()
    while left := [path for path in checkpoints(folder) if path not in seen]:
        seen.add(left[-1])
        try:
            found = verify_checkpoint(left[-1])
            if check is not None:
                check(found)
            return found
        except CheckpointError as error:
            # One that is gone was removed by a run that goes on, and has saved newer ones.
            if warn is not None and left[-1].is_dir():
                warn(f"skipping a damaged checkpoint: {error}")
    return None


def verify_checkpoint(path: Path) -> Checkpoint:
    """Read the manifest, check every file's size and checksum, and that the files hold every array
    whole; raises CheckpointError."""
    manifest = read_manifest(path)
    for name, expected in manifest["files"].items():
        file = path / name
        try:
            same = digest(file) == expected
        except FileNotFoundError as error:
            raise CheckpointError(f"{file} is missing") from error
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
        if not same:
            raise CheckpointError(f"{file} is damaged: its size or checksum differs")
    check_pieces(path, manifest)
    return Checkpoint(path, manifest)
