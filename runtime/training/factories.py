"""The model, the optimizer and the learning-rate schedule that a config names."""

from collections.abc import Callable

from ringlet.nn import optim
from ringlet.nn.flat import Flat
from ringlet.nn.models import GPT, GPTConfig, LanguageModel, Llama, LlamaConfig
from ringlet.nn.optim import Optimizer, Schedule
from ringlet.runtime.training.config import TrainConfig

INTERMEDIATE_MULTIPLE = 32
"""A Llama's hidden layer is 8/3 of the width, rounded up to a multiple of this, so that it can be
sharded."""


def make_model(config: TrainConfig, vocab_size: int) -> LanguageModel:
    """A new model; within `nn.uninitialized()` its parameters have no values yet."""
    if config.model == "llama":
        multiple = INTERMEDIATE_MULTIPLE
        return Llama(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=config.n_embd,
                intermediate_size=-(-8 * config.n_embd // (3 * multiple)) * multiple,
                num_hidden_layers=config.n_layer,
                num_attention_heads=config.n_head,
                num_key_value_heads=config.n_kv_head,
                max_position_embeddings=config.block_size,
            )
        )
    return GPT(
        GPTConfig(
            vocab_size=vocab_size,
            block_size=config.block_size,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.n_embd,
            dropout=config.dropout,
            bias=config.bias,
            n_expert=config.experts,
            top_k=config.top_k,
            capacity_factor=config.capacity_factor,
            balance=config.balance,
        )
    )


_MAKERS: dict[str, Callable[[TrainConfig, Flat], Optimizer]] = {
    "adamw": lambda c, flat: optim.AdamW(
        flat, c.learning_rate, (c.beta1, c.beta2), weight_decay=c.weight_decay
    ),
    "adam": lambda c, flat: optim.Adam(
        flat, c.learning_rate, (c.beta1, c.beta2), weight_decay=c.weight_decay
    ),
    "sgd": lambda c, flat: optim.SGD(
        flat, c.learning_rate, c.momentum, weight_decay=c.weight_decay
    ),
    "adagrad": lambda c, flat: optim.Adagrad(
        flat, c.learning_rate, weight_decay=c.weight_decay
    ),
    "rmsprop": lambda c, flat: optim.RMSprop(
        flat, c.learning_rate, c.beta2, momentum=c.momentum, weight_decay=c.weight_decay
    ),
    "lion": lambda c, flat: optim.Lion(
        flat, c.learning_rate, (c.beta1, c.beta2), c.weight_decay
    ),
    "adafactor": lambda c, flat: optim.Adafactor(
        flat, c.learning_rate, weight_decay=c.weight_decay, decay=optim.matrices
    ),
    "muon": lambda c, flat: optim.Muon(
        flat, c.learning_rate, c.momentum or 0.95, True, c.weight_decay, betas=(c.beta1, c.beta2)
    ),
}  # fmt: skip


def make_optimizer(config: TrainConfig, flat: Flat) -> Optimizer:
    """The optimizer that the config names."""
    return _MAKERS[config.optimizer](config, flat)


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
