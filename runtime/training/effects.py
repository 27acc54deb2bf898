"""Options that would do nothing: one table. What is asked for and has no effect is refused.

`ringlet train` checks it, when a run starts, for the options that were given. A config as such,
saved or made by a program, may have any values.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any, NamedTuple

from ringlet.nn import uninitialized
from ringlet.runtime.rules import DATA_AXES
from ringlet.runtime.training.config import ConfigError, TrainConfig
from ringlet.runtime.training.factories import make_model
from ringlet.runtime.training.fit import mesh_shape, parallelism

ADAMS = ("adamw", "adam", "lion", "muon")


class Idle(NamedTuple):
    """Options that do nothing under a condition on the config and the axes, and what would help."""

    options: tuple[str, ...]
    condition: Callable[[Any], Any]
    why: str


IDLE = (
    Idle(
        ("momentum",),
        lambda r: r.optimizer not in ("sgd", "rmsprop", "muon"),
        "{optimizer} has none: sgd, rmsprop or muon would fit",
    ),
    Idle(("beta1",), lambda r: r.optimizer not in ADAMS, "{optimizer} has none: adamw would fit"),
    Idle(
        ("beta2",),
        lambda r: r.optimizer not in (*ADAMS, "rmsprop"),
        "{optimizer} has none: adamw would fit",
    ),
    Idle(
        ("learning_rate_floor",),
        lambda r: r.learning_rate_schedule not in ("cosine", "linear"),
        "{learning_rate_schedule} has none: cosine or linear would fit",
    ),
    Idle(
        ("warmup_steps",),
        lambda r: r.learning_rate_schedule == "one_cycle",
        "one_cycle warms up by itself, over 3/10 of the steps",
    ),
    Idle(
        ("top_k", "capacity_factor", "balance"),
        lambda r: not r.experts,
        "the model has no experts: experts 8, say, would fit",
    ),
    Idle(("bias",), lambda r: r.bias and r.model == "llama", "a llama has none"),
    Idle(("schedule",), lambda r: r.pp == 1, "without a pipeline (mesh pp=2) there is nothing to do"),
    Idle(
        ("outer_learning_rate", "outer_momentum"),
        lambda r: r.local_steps == 1,
        "replicas agree after every step: local_steps above 1 would fit",
    ),
    Idle(
        ("zero", "priority", "bucket_bytes"),
        lambda r: r.replicas == 1,
        "no gradients travel with dp=1, cp=1 and ep=1",
    ),
    Idle(("bucket_bytes",), lambda r: r.zero >= 2, "ZeRO from stage 2 on goes block by block"),
    Idle(
        ("priority",),
        lambda r: r.bucket_bytes and False,
        "",
    ),
)
