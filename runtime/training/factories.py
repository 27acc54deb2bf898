"""The model, the optimizer and the learning-rate schedule that a config names."""

from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, TypeAlias

import numpy as np

from ringlet.nn import FlatParameters, Parameter, optim
from ringlet.nn.flat import Flat
from ringlet.nn.models import GPT, GPTConfig, LanguageModel, Llama, LlamaConfig
from ringlet.nn.optim import FlatOptimizer, Schedule
from ringlet.runtime.training.config import TrainConfig

INTERMEDIATE_MULTIPLE = 32
"""A Llama's hidden layer is 8/3 of the width, rounded up to a multiple of this to be sharded."""


def model_config(config: TrainConfig, vocab_size: int) -> GPTConfig | LlamaConfig:
    """The sizes of the model."""
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


def make_model(config: TrainConfig, vocab_size: int) -> LanguageModel:
    """A new model; within `nn.uninitialized()` its parameters have no values yet."""
    sizes = model_config(config, vocab_size)
    return Llama(sizes) if isinstance(sizes, LlamaConfig) else GPT(sizes)


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
