"""Loading a checkpoint that any mesh has saved: arrays are put together from their pieces."""

from collections.abc import Mapping
from itertools import count, takewhile
from typing import Any

import numpy as np

from ringlet.comm import Group
from ringlet.nn import Module
from ringlet.nn.autograd.tensor import Array
from ringlet.nn.safetensors import SafetensorsError, SafetensorsFile
from ringlet.nn.versions import write
from ringlet.runtime.checkpoint.checkpoint import EXTRAS, Checkpoint
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.checkpoint.state import Replicas, TrainingState, array_name, split_name
from ringlet.runtime.compression.compressor import redistribute
from ringlet.runtime.sharding.shard_spec import ShardSpec


def load_checkpoint(checkpoint: Checkpoint | None, world: Group, state: TrainingState) -> int:
    """Load rank 0's checkpoint on every rank (a collective); return its step.

    Rank 0 reads one whole array after the other, and every rank takes its shard, so any mesh can
    have saved it. Only rank 0 needs the files; the others' `checkpoint` may be None. Raises
    CheckpointError on all ranks if an array is missing or has another shape.
    """
    counts, problem = [0, 0], ""
    if world.rank == 0:
        try:
            counts = _check_fit(checkpoint, state)
        except CheckpointError as error:
            problem = str(error)
    counts, problem = world.broadcast_object([counts, problem])
    if problem:
        raise CheckpointError(problem)
    reader = None if checkpoint is None or world.rank else CheckpointReader(checkpoint)
    kinds = state.kinds()
    for name, shape in state.array_names():
        if reader is None:
            whole = np.empty(shape, state.dtype)
        else:
            whole = reader.for_replica(name, shape, kinds)
        state.restore(name, world.broadcast(whole, label=name))
    _load_extras(world, state, reader)
    for part in state.parts:
        part.optimizer.steps = counts[1]
    return int(counts[0])


def _load_extras(world: Group, state: TrainingState, reader: "CheckpointReader | None") -> None:
    """Broadcast all extras; every rank loads its own and drops the others."""
    entries = world.broadcast_object(None if reader is None else reader.extras())
    found: dict[str, dict[str, Array]] = {}
    for key, (shape, dtype) in entries.items():
        array = np.empty(shape, dtype) if reader is None else reader.extra(key)
        world.broadcast(array, label=key)
        prefix, _, name = key.removeprefix(EXTRAS).rpartition(":")
        found.setdefault(prefix, {})[name] = array
    for prefix, extras in state.extras.items():
        if prefix in found:
            extras.load(found[prefix])


def _check_fit(checkpoint: Checkpoint | None, state: TrainingState) -> list[int]:
    """Check that all arrays are there; [step, steps of the optimizer]."""
    if checkpoint is None:
        raise CheckpointError("rank 0 has no checkpoint to load")
    saved = checkpoint.manifest["optimizer"]
    if saved["name"] != type(state.optimizer).__name__:
        raise CheckpointError(
            f"{checkpoint.folder} was saved with {saved['name']}, not "
            f"{type(state.optimizer).__name__}"
        )
    kinds = state.kinds()
    for name, shape in state.array_names():
        kind, _, parameter = split_name(name)
        if kind in kinds and kinds[kind].shared and name not in checkpoint.manifest["arrays"]:
            continue  # a run without such sums has zeros
        _check_array(checkpoint, array_name(kind, 0, parameter), shape, state.dtype)
    return [checkpoint.step, saved["steps"]]


def _check_array(
    checkpoint: Checkpoint, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    entry = checkpoint.manifest["arrays"].get(name)
    if entry is None:
        raise CheckpointError(f"{checkpoint.folder} has no {name}")
    if tuple(entry["shape"]) != shape:
        raise CheckpointError(
            f"{checkpoint.folder}: {name} has shape {tuple(entry['shape'])}, the model's is {shape}"
        )
    if entry["dtype"] != dtype.str:
        raise CheckpointError(
            f"{checkpoint.folder}: {name} is {entry['dtype']}, the model's is {dtype.str}"
        )


def load_parameters(checkpoint: Checkpoint, model: Module) -> None:
    """Copy the checkpoint's parameters into a whole model; raises CheckpointError."""
    reader = CheckpointReader(checkpoint)
    for name, parameter in model.named_parameters():
        _check_array(checkpoint, f"parameters/{name}", parameter.shape, parameter.dtype)
        write(parameter.data, reader.whole(f"parameters/{name}"))


class CheckpointReader:
    """Puts a checkpoint's arrays together from their pieces."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._files: dict[str, SafetensorsFile] = {}

    def whole(self, name: str) -> Array:
        """A whole array."""
        entry = self._checkpoint.manifest["arrays"][name]
        shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
        parts: dict[ShardSpec, Array] = {}
        for piece in entry["pieces"]:
            spec = ShardSpec.from_json(shape, piece)
            part = parts.setdefault(spec, np.empty(spec.size, dtype))
            values = self._read(piece["file"], piece["key"])
            part[piece["first"] : piece["first"] + values.size] = values.reshape(-1)
        result = np.empty(shape, dtype) if parts else np.zeros(shape, dtype)
        for spec, part in parts.items():
            spec.put(part, result)
        return result

    def for_replica(
        self, name: str, shape: tuple[int, ...], kinds: Mapping[str, Replicas]
    ) -> Array:
        """A replica's array; the number of replicas may have changed since it was saved.

        Shares of a sum are redistributed, so that the sum stays. Otherwise new replicas continue
        from the old ones, in turn.
        """
        kind, number, parameter = split_name(name)
        names = (array_name(kind, replica, parameter) for replica in count())
        saved = list(takewhile(self._checkpoint.manifest["arrays"].__contains__, names))
        if kind not in kinds or len(saved) == kinds[kind].count:
            return self.whole(name)
        if not kinds[kind].shared:
            return self.whole(array_name(kind, number % len(saved), parameter))
        if not saved:
            return np.zeros(shape, np.float32)
        return redistribute((self.whole(each) for each in saved), kinds[kind].count)

    def extras(self) -> dict[str, list[Any]]:
        """[shape, dtype] of the extras, by key."""
        entries = self._checkpoint.manifest["extras"].items()
        return {key: [entry["shape"], entry["dtype"]] for key, entry in entries}

    def extra(self, key: str) -> Array:
        """One of the extras."""
        return self._read(self._checkpoint.manifest["extras"][key]["file"], key).copy()

    def _read(self, file: str, key: str) -> Array:
        path = self._checkpoint.folder / file
        try:
            if file not in self._files:
                self._files[file] = SafetensorsFile(path)
            return self._files[file][key]
        except (SafetensorsError, OSError, KeyError) as error:
            raise CheckpointError(f"{path}: cannot read {key}: {error}") from error
