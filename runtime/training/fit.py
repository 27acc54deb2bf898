"""Fitting a run to a number of workers: its mesh, and whether it can be spread over them."""

import math
from dataclasses import asdict, fields, replace

from ringlet.nn.models import LlamaConfig
from ringlet.runtime.mesh import AXES, MeshError, parse_mesh
from ringlet.runtime.options import Parallelism, parse_layers
from ringlet.runtime.rules import MODEL, MODULE, OPTIONS, RUN, problem
from ringlet.runtime.training.config import ConfigError, TrainConfig
from ringlet.runtime.training.factories import model_config

DEFAULT_WORKERS = 2


def mesh_shape(config: TrainConfig, workers: int) -> dict[str, int]:
    """The length of every axis; without dp in the config it takes the remaining workers."""
    given = parse_mesh(config.mesh)
    shape = {axis: given.get(axis, 1) for axis in AXES}
    others = math.prod(given.values())
    if "dp" not in given and workers % others == 0:
        shape["dp"] = workers // others
    return shape


def default_workers(config: TrainConfig) -> int:
    """The size of the mesh, if the config has one; raises ConfigError if it is malformed."""
    try:
        given = parse_mesh(config.mesh)
    except MeshError as error:
        raise ConfigError(str(error)) from error
    return math.prod(given.values()) if given else DEFAULT_WORKERS


def resized(config: TrainConfig, workers: int) -> TrainConfig:
    """The same run on another number of workers: only dp changes.

    A mesh whose other axes do not fit the number is left as it is, for `check_fit` to refuse.
    """
    given = parse_mesh(config.mesh)
    others = math.prod(length for axis, length in given.items() if axis != "dp")
    if "dp" not in given or workers % others:
        return config
    shape = {**given, "dp": workers // others}
    return replace(config, mesh=",".join(f"{axis}={length}" for axis, length in shape.items()))


def parallelism(config: TrainConfig) -> Parallelism:
    """The options of `parallelize` that a config has."""
    values = {field.name: getattr(config, field.name) for field in fields(Parallelism)}
    patterns = (part.strip() for part in config.recompute.split(","))
    values["recompute"] = tuple(filter(None, patterns))
    values["layers_per_stage"] = parse_layers(config.layers_per_stage)
    return Parallelism(**values)


def check_fit(config: TrainConfig, workers: int) -> None:
    """Raise ConfigError, with what would fit, if the run cannot be spread over the workers."""
    if workers < 1:
        raise ConfigError(f"{workers} workers; there must be at least 1")
    try:
        shape = mesh_shape(config, workers)
        options = parallelism(config)
    except MeshError as error:
        raise ConfigError(str(error)) from error
    facts = {**asdict(config), **vars(options), **shape, "shape": shape, "workers": workers}
    rules = [OPTIONS, RUN, MODEL]
    sizes = model_config(config, config.vocab_size or 1)
    if isinstance(sizes, LlamaConfig):
        scaling = (sizes.rope_scaling or {}).get("rope_type")
        plain = not any(sizes.windows) and not sizes.attention_dropout and scaling != "dynamic"
        facts |= {"plain": plain or shape["cp"] == 1, "head_norm": sizes.qk_norm}
        facts |= {"ranks": shape["dp"] * shape["cp"]}
        rules.append({name: MODULE[name] for name in ("causal", "head norms")})
    if text := problem(facts, *rules):
        raise ConfigError(text)
