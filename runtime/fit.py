"""Whether a run fits a number of workers: asked before anything starts."""

import math
from dataclasses import replace

from ringlet.runtime.mesh import (
    AXES,
    MeshError,
    check_product,
    divisors,
    mesh_text,
    parse_mesh,
)
from ringlet.runtime.options import Parallelism
from ringlet.runtime.training.config import ConfigError, TrainConfig
from ringlet.runtime.training.optimizers import check_optimizer

DEFAULT_WORKERS = 2


def mesh_shape(config: TrainConfig, workers: int) -> dict[str, int]:
    """The length of every axis; where dp is not given it takes the workers that are left.

    Raises MeshError unless the product is the number of workers.
    """
    given = parse_mesh(config.mesh)
    shape = {axis: given.get(axis, 1) for axis in AXES}
    others = math.prod(given.values())
    if "dp" not in given and workers % others == 0:
        shape["dp"] = workers // others
    check_product(shape, workers)
    return shape


def default_workers(config: TrainConfig) -> int:
    """As many as the mesh has, if there is one; raises ConfigError if it is none."""
    try:
        given = parse_mesh(config.mesh)
    except MeshError as error:
        raise ConfigError(str(error)) from error
    return math.prod(given.values()) if given else DEFAULT_WORKERS


def resized(config: TrainConfig, workers: int) -> TrainConfig:
    """The same run on another number of workers: dp alone is another.

    A mesh whose other axes do not fit the number stays as it is, for `check_fit` to refuse.
    """
    given = parse_mesh(config.mesh)
    others = math.prod(length for axis, length in given.items() if axis != "dp")
    if "dp" not in given or workers % others:
        return config
    shape = {**given, "dp": workers // others}
    return replace(config, mesh=",".join(f"{axis}={length}" for axis, length in shape.items()))


def parallelism(config: TrainConfig) -> Parallelism:
    """The options of `parallelize` that a config holds."""
    return Parallelism(
        zero=config.zero,
        schedule=config.schedule,
        chunks=config.chunks,
        sequence=config.sequence,
        compress=config.compress,
        compress_activations=config.compress_activations,
        bucket_bytes=config.bucket_bytes,
        needed_first=config.needed_first,
        local_steps=config.local_steps,
        outer_learning_rate=config.outer_learning_rate,
        outer_momentum=config.outer_momentum,
        recompute=tuple(filter(None, (part.strip() for part in config.recompute.split(",")))),
    )


def check_fit(config: TrainConfig, workers: int) -> None:
    """Raise ConfigError, with what would fit, if the run cannot be spread over the workers."""
    if workers < 1:
        raise ConfigError(f"{workers} workers; there has to be at least 1")
    try:
        shape = mesh_shape(config, workers)
        parallelism(config).check(shape)
        if config.device == "cuda":
            parallelism(config).check_device()
    except MeshError as error:
        raise ConfigError(str(error)) from error
    check_optimizer(config, shape)
    _check_batch(config, shape)
    _check_rounds(config, shape)
    if config.needed_first and config.clip:
        raise ConfigError(
            f"clip is {config.clip}; clipping waits for all gradients, and needed_first does not: "
            "clip 0 would fit"
        )
    _check_model(config, shape)


def _check_batch(config: TrainConfig, shape: dict[str, int]) -> None:
    ranks = shape["dp"] * shape["ep"]
    if ranks * config.accumulate > config.batch_size:
        pieces = f" with {config.accumulate} micro-batches each" if config.accumulate > 1 else ""
        axes = "workers" if shape["dp"] == max(shape.values()) else "data-parallel ranks"
        raise ConfigError(
            f"{ranks} {axes}{pieces} cannot share a batch of {config.batch_size}; at most "
            f"{config.batch_size // config.accumulate} can"
        )


def _check_rounds(config: TrainConfig, shape: dict[str, int]) -> None:
    """Replicas that do not agree cannot be saved, and each has the same share of the batch."""
    if config.local_steps == 1:
        return
    for name in ("steps", "checkpoint_every"):
        if getattr(config, name) % config.local_steps:
            raise ConfigError(
                f"{name} is {getattr(config, name)}; with local_steps {config.local_steps} it has "
                "to be a multiple of that, since replicas agree only then"
            )
    if config.batch_size % shape["dp"]:
        raise ConfigError(
            f"a batch of {config.batch_size} cannot be cut into dp={shape['dp']} equal parts, "
            "which local steps need"
        )


def _check_model(config: TrainConfig, shape: dict[str, int]) -> None:
    tensor, context, stages = shape["tp"], shape["cp"], shape["pp"] * config.chunks
    if config.n_head % tensor:
        raise ConfigError(
            f"n_head {config.n_head} cannot be cut into tp={tensor} parts; tp can be "
            f"{divisors(config.n_head)}"
        )
    if config.n_kv_head % tensor:
        raise ConfigError(
            f"n_kv_head {config.n_kv_head} cannot be cut into tp={tensor} parts; tp can be "
            f"{divisors(config.n_kv_head)}"
        )
    if shape["ep"] > 1 and not config.experts:
        raise ConfigError(
            f"ep={shape['ep']} spreads experts, and the model has none: experts "
            f"{2 * shape['ep']}, or dp={shape['dp'] * shape['ep']}, would fit"
        )
    if config.experts % shape["ep"]:
        raise ConfigError(
            f"{config.experts} experts cannot be cut into ep={shape['ep']} parts; ep can be "
            f"{divisors(config.experts)}"
        )
    if stages > config.n_layer:
        raise ConfigError(
            f"n_layer {config.n_layer} is too few for {stages} stages ({mesh_text(shape)}, "
            f"{config.chunks} chunks); at most {config.n_layer} stages would fit"
        )
    if context > 1 and config.block_size % (2 * context):
        raise ConfigError(
            f"block_size {config.block_size} cannot be cut into 2 x cp={context} equal parts; a "
            f"multiple of {2 * context} would fit"
        )
    if config.sequence and (config.block_size // context) % tensor:
        raise ConfigError(
            f"block_size {config.block_size} cannot be cut along the sequence into tp={tensor} "
            f"equal parts; a multiple of {context * tensor} would fit"
        )
