"""Options that would do nothing: one table. What is asked for and has no effect is refused.

`ringlet train` checks it, when a run starts, for the options that were given. A config as such,
saved or made by a program, may have any values.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, NamedTuple

from ringlet.nn import uninitialized
from ringlet.runtime.assembly import check_patterns
from ringlet.runtime.training.config import ConfigError, TrainConfig
from ringlet.runtime.training.factories import make_model
from ringlet.runtime.training.fit import mesh_shape, parallelism

BETAS = ("adamw", "adam", "lion", "muon")
FALLING = ("cosine", "linear")


class Idle(NamedTuple):
    """Options that do nothing under a condition on the config and the axes, and what would help."""

    options: tuple[str, ...]
    condition: Callable[[Any], Any]
    why: str


IDLE = (
    Idle(
        ("momentum",),
        lambda r: r.optimizer not in ("sgd", "rmsprop", "muon"),
        "{optimizer} has none; sgd, rmsprop or muon would fit",
    ),
    Idle(("beta1",), lambda r: r.optimizer not in BETAS, "{optimizer} has none; adamw would fit"),
    Idle(
        ("beta2",),
        lambda r: r.optimizer not in (*BETAS, "rmsprop"),
        "{optimizer} has none; adamw would fit",
    ),
    Idle(
        ("learning_rate_floor",),
        lambda r: r.learning_rate_schedule not in FALLING,
        "{learning_rate_schedule} has none; cosine or linear would fit",
    ),
    Idle(
        ("warmup_steps",),
        lambda r: r.learning_rate_schedule == "one_cycle",
        "one_cycle warms up by itself, over three tenths of the steps",
    ),
    Idle(
        ("top_k", "capacity_factor", "balance"),
        lambda r: not r.experts,
        "the model has no experts; experts 8, say, would fit",
    ),
    Idle(("bias",), lambda r: r.bias and r.model == "llama", "a llama has none"),
    Idle(
        ("outer_learning_rate", "outer_momentum"),
        lambda r: r.local_steps == 1,
        "replicas agree after every step; local_steps above 1 would fit",
    ),
    Idle(("schedule",), lambda r: r.pp == 1, "a mesh with pp=1 has no pipeline"),
    Idle(
        ("zero", "priority", "bucket_bytes"),
        lambda r: r.sums == 1,
        "no gradients are summed between ranks, of which there is one for each part of the model",
    ),
    Idle(("bucket_bytes",), lambda r: r.zero > 1, "ZeRO sums block by block from stage 2 on"),
)


def check_effects(config: TrainConfig, asked: Mapping[str, Any], workers: int) -> None:
    """Raise ConfigError if one of the options that were `asked` for does nothing on so many
    workers, or the opposite of what it is for. An option that is off does nothing, and may."""
    shape = mesh_shape(config, workers)
    sums = shape["cp"] * shape["ep"] * (shape["dp"] if config.local_steps == 1 else 1)
    facts = {**asdict(config), **shape, "sums": sums}
    for idle in IDLE:
        found = [name for name in idle.options if asked.get(name)]
        if found and idle.condition(SimpleNamespace(**facts)):
            why = idle.why.format(**facts)
            raise ConfigError(f"{found[0]} {facts[found[0]]} would do nothing: {why}")
    peak, floor = config.learning_rate, config.learning_rate_floor
    rates = asked.keys() & {"learning_rate", "learning_rate_floor", "learning_rate_schedule"}
    if rates and config.learning_rate_schedule in FALLING and floor > peak:
        raise ConfigError(
            f"learning_rate_floor {floor:g} is above learning_rate {peak:g}; {peak / 10:g} would "
            "fit"
        )
    if asked.get("recompute"):
        patterns = parallelism(config).recompute
        with uninitialized():
            model = make_model(config, config.vocab_size or 1)
        check_patterns(model, patterns or (config.recompute,))
