"""The optimizer and the learning-rate schedule that a config names."""

from collections.abc import Callable

from ringlet.nn import optim
from ringlet.nn.flat import Flat
from ringlet.nn.optim import Optimizer, Schedule
from ringlet.runtime.training.config import TrainConfig

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
