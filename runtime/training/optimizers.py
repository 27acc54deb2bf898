"""The optimizer and the learning rates that a config names."""

from collections.abc import Callable, Mapping

from ringlet.nn import optim
from ringlet.nn.flat import Flat
from ringlet.nn.optim import Optimizer, Schedule
from ringlet.runtime.training.config import ConfigError, TrainConfig

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


def check_optimizer(config: TrainConfig, shape: Mapping[str, int]) -> None:
    """Raise ConfigError if the optimizer needs matrices whole and the mesh cuts them."""
    if config.optimizer not in ("adafactor", "muon"):
        return
    cuts = {"zero": config.zero, "tp": shape["tp"] > 1}
    if config.optimizer == "adafactor":  # a tensor of experts has one size
        cuts["ep"] = shape["ep"] > 1
    cut = [name for name, here in cuts.items() if here]
    if cut:
        raise ConfigError(
            f"{config.optimizer} works on whole matrices, which {' and '.join(cut)} would cut: "
            f"its steps would be others than one process's. zero 0 and a mesh of dp, pp and cp "
            "would fit, or another optimizer, such as adamw"
        )


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
