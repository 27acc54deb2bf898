"""The model, the optimizer and the learning-rate schedule that a config names."""

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any, TypeAlias

import numpy as np

from ringlet.nn import FlatParameters, Parameter, optim
from ringlet.nn.files import parse_object, short
from ringlet.nn.flat import Flat
from ringlet.nn.models import GPT, GPTConfig, LanguageModel, Llama, LlamaConfig, PretrainedError
from ringlet.nn.models.huggingface.adapter import refusals, remember
from ringlet.nn.models.huggingface.auto import described
from ringlet.nn.models.rope import longest_context
from ringlet.nn.optim import FlatOptimizer, Schedule
from ringlet.runtime.training.config import ConfigError, TrainConfig

INTERMEDIATE_MULTIPLE = 32
"""A Llama's hidden layer is 8/3 of the width, rounded up to a multiple of this to be sharded."""


def model_config(config: TrainConfig, vocab_size: int) -> GPTConfig | LlamaConfig:
    """The sizes of the model; raises ConfigError for an `architecture` that is none."""
    if config.architecture:
        return _of_a_folder(config, vocab_size)
    if config.model == "llama":
        multiple = INTERMEDIATE_MULTIPLE
        return LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=config.n_embd,
            intermediate_size=-(-8 * config.n_embd // (3 * multiple)) * multiple,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.n_kv_head,
            max_position_embeddings=config.block_size,
        )
    options = asdict(config)
    same = {field.name: options[field.name] for field in fields(GPTConfig) if field.name in options}
    return GPTConfig(**{**same, "vocab_size": vocab_size, "n_expert": config.experts})


def _of_a_folder(config: TrainConfig, vocab_size: int) -> GPTConfig | LlamaConfig:
    """The sizes that the config.json of a folder says, with the vocabulary and the context of the
    run, which may be larger."""
    try:
        found = described(_said(config)["config"])
    except PretrainedError as error:
        raise ConfigError(str(error)) from error
    length = config.block_size
    if isinstance(found, GPTConfig):
        sizes = "gpt", found.n_layer, found.n_head, found.n_embd
        changes = {"block_size": max(found.block_size, length), "dropout": config.dropout}
    elif isinstance(found, LlamaConfig):
        sizes = "llama", found.num_hidden_layers, found.num_attention_heads, found.hidden_size
        context = longest_context(found.rope_scaling, found.max_position_embeddings)
        if length > context and found.rope_scaling:
            raise ConfigError(
                f"block_size {length} is more than the {context} positions to which rope_scaling "
                "stretches this model"
            )
        changes = {"max_position_embeddings": length} if length > context else {}
    else:
        raise ConfigError(f"architecture is a {type(found).__name__}, not of a gpt or a llama")
    if sizes != (config.model, config.n_layer, config.n_head, config.n_embd):
        raise ConfigError(f"architecture is of another model: {short(sizes)}")
    return replace(found, vocab_size=vocab_size, **changes)


def _said(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """What the config.json of a folder, and its generation_config.json, have said."""
    with refusals("architecture"):
        found = parse_object(config.architecture)
        return {name: {**found[name]} for name in ("config", "generation")}


def make_model(config: TrainConfig, vocab_size: int) -> LanguageModel:
    """A new model; within `nn.uninitialized()` its parameters have no values yet."""
    sizes = model_config(config, vocab_size)
    kind: Any = Llama if isinstance(sizes, LlamaConfig) else GPT
    if not config.architecture:
        return kind(sizes)
    with refusals("architecture"):
        model: LanguageModel = kind(sizes)
        remember(model, **_said(config))
    return model


def _betas(config: TrainConfig) -> dict[str, Any]:
    return {"betas": (config.beta1, config.beta2)}


_Make: TypeAlias = Callable[..., FlatOptimizer]
_OPTIMIZERS: dict[str, tuple[_Make, Callable[[TrainConfig], dict[str, Any]]]] = {
    "adamw": (optim.AdamW, _betas),
    "adam": (optim.Adam, _betas),
    "sgd": (optim.SGD, lambda c: {"momentum": c.momentum}),
    "adagrad": (optim.Adagrad, lambda c: {}),
    "rmsprop": (optim.RMSprop, lambda c: {"alpha": c.beta2, "momentum": c.momentum}),
    "lion": (optim.Lion, _betas),
    "adafactor": (optim.Adafactor, lambda c: {"decay": optim.matrices}),
    "muon": (optim.Muon, lambda c: {"momentum": c.momentum or 0.95, **_betas(c)}),
}


def make_optimizer(config: TrainConfig, flat: Flat) -> FlatOptimizer:
    """The optimizer that the config names."""
    kind, options = _OPTIMIZERS[config.optimizer]
    return kind(flat, config.learning_rate, weight_decay=config.weight_decay, **options(config))


def optimizer_states(config: TrainConfig) -> int:
    """How many numbers the optimizer keeps for each parameter of a matrix."""
    if config.optimizer == "adafactor":  # one for each row and column
        return 0
    one = FlatParameters([("parameter", Parameter(np.zeros(1, np.float32)))])
    return len(make_optimizer(config, one).state)


def make_schedule(config: TrainConfig) -> Schedule:
    """The learning rate of each step."""
    peak, floor = config.learning_rate, config.learning_rate_floor
    warm, falling = config.warmup_steps, config.steps - config.warmup_steps
    if config.learning_rate_schedule == "inverse_sqrt":
        return optim.inverse_sqrt(peak, warm)
    if config.learning_rate_schedule == "one_cycle":
        return optim.one_cycle(peak, config.steps)
    if config.learning_rate_schedule == "cosine":
        return lambda step: optim.warmup_cosine(
            step, peak=peak, floor=floor, warmup_steps=warm, total_steps=config.steps
        )
    end = peak if config.learning_rate_schedule == "constant" else floor
    return optim.warmup(optim.linear(peak, end, falling), warm)
