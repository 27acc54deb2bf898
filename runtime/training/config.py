"""What a training run is made of: every option, its default, and presets of sizes."""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """An option is unknown or its value is not possible; the message names it."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """All options of a run. The defaults are the preset `nano`: nanoGPT's recipe for a CPU.

    Each is an option of `ringlet train` too, with this help; `runtime.fit` says what goes together.
    """

    data: str = _option(
        "pydoc", "A file of text (any encoding: bytes), a nanoGPT .bin (uint16), or pydoc."
    )
    seed: int = _option(1337, "Decides every random number.")
    device: str = _option("cpu", "cpu, or cuda: a GPU for each worker, through CuPy.")
    steps: int = _option(2000, "Optimizer steps in all.")
    batch_size: int = _option(12, "Contexts for each step, over all workers and micro-batches.")
    accumulate: int = _option(1, "Micro-batches into which each worker cuts its share.")

    mesh: str = _option(
        "",
        "Axes and lengths, as in dp=2,tp=2,pp=2: data, tensor, pipeline, context (cp) and expert "
        "(ep) parallelism; what is not named is data parallelism.",
    )
    zero: int = _option(0, "Stage of ZeRO: 1 cuts optimizer state, 2 gradients too, 3 parameters.")
    schedule: str = _option("1f1b", "Of the pipeline: gpipe, 1f1b, interleaved or zero-bubble.")
    chunks: int = _option(1, "Stages on each rank of an interleaved pipeline.")
    sequence: bool = _option(
        False, "Cut activations between tensor-parallel layers along the sequence."
    )
    recompute: str = _option(
        "", "Compute again in backward: blocks, or patterns of modules, as in *.attend,*.act."
    )

    compress: str = _option(
        "", "Of gradients: float16, bfloat16, int8, topk[:ratio] or powersgd[:rank]."
    )
    compress_activations: str = _option(
        "", "Between tp layers and pp stages: float16, bfloat16 or int8."
    )
    bucket_bytes: int = _option(
        0,
        "Of gradients that travel at once; 0: as the link is measured, where no bit depends on it.",
    )
    needed_first: bool = _option(
        False, "The first layers' gradients overtake; for slow links. Needs --clip 0."
    )
    local_steps: int = _option(1, "Steps that dp replicas take before they agree.")
    outer_learning_rate: float = _option(1.0, "Of the agreement; DiLoCo's is 0.7.")
    outer_momentum: float = _option(0.0, "Of the agreement; DiLoCo's is 0.9.")

    model: str = _option("gpt", "gpt, or llama: rotary positions, RMSNorm, SwiGLU, no biases.")
    block_size: int = _option(64, "The longest context, in tokens.")
    n_layer: int = _option(4, "Blocks.")
    n_head: int = _option(4, "Heads of each attention.")
    n_kv_head: int = _option(0, "Heads of keys in a llama, shared by queries; 0: one for each.")
    n_embd: int = _option(128, "Width.")
    dropout: float = _option(0.0, "Dropout probability, in a gpt.")
    bias: bool = _option(True, "Whether a gpt's linear layers have one.")
    vocab_size: int = _option(0, "0: as the data needs.")

    experts: int = _option(0, "Experts in the place of each MLP of a gpt; 0: one MLP for all.")
    top_k: int = _option(2, "Experts for each position.")
    capacity_factor: float = _option(
        1.25, "Of an expert's even share of a context; more is dropped. 0: no limit."
    )
    balance: float = _option(0.01, "Weight of the loss that evens out the experts' load.")

    optimizer: str = _option(
        "adamw", "adamw, sgd, adam, adagrad, rmsprop, lion, adafactor or muon."
    )
    learning_rate: float = _option(1e-3, "The highest learning rate.")
    learning_rate_floor: float = _option(1e-4, "The one at the last step.")
    learning_rate_schedule: str = _option(
        "cosine", "cosine, linear, constant, one_cycle or inverse_sqrt."
    )
    warmup_steps: int = _option(100, "Steps in which the learning rate rises to its highest.")
    beta1: float = _option(0.9, "Of AdamW and its kin: how long the mean gradient is remembered.")
    beta2: float = _option(0.99, "The same of its square.")
    momentum: float = _option(0.0, "Of sgd and rmsprop.")
    weight_decay: float = _option(0.1, "Of weights and embeddings; biases and norms do not decay.")
    clip: float = _option(1.0, "The largest norm of all gradients together; 0: any.")

    eval_every: int = _option(250, "Steps between validations.")
    eval_windows: int = _option(2048, "At most so many contexts of the validation part are used.")
    checkpoint_every: int = _option(500, "Steps between checkpoints.")
    keep: int = _option(3, "So many newest checkpoints stay.")
    keep_best: bool = _option(True, "So does the one with the lowest validation loss.")


MODEL_FIELDS = (
    "model", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "bias", "vocab_size",
    "experts",
)  # fmt: skip
"""What cannot change when a run goes on: the parameters would not fit."""

FIXED_FIELDS = (*MODEL_FIELDS, "optimizer", "momentum")
"""Nor can what decides the optimizer's state."""

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"block_size": 32, "n_embd": 64, "n_head": 4, "n_layer": 2, "batch_size": 8},
    "nano": {"block_size": 64, "n_embd": 128, "n_head": 4, "n_layer": 4, "batch_size": 12},
    "small": {"block_size": 128, "n_embd": 256, "n_head": 8, "n_layer": 6, "batch_size": 8},
    "baby": {"block_size": 256, "n_embd": 384, "n_head": 6, "n_layer": 6, "batch_size": 4},
    "wide": {
        "block_size": 128, "n_embd": 512, "n_head": 8, "n_layer": 4, "batch_size": 4,
        "vocab_size": 8192,
    },
    "long": {"block_size": 1024, "n_embd": 256, "n_head": 4, "n_layer": 4, "batch_size": 1},
}  # fmt: skip

DEFAULT_PRESET = "nano"

MODELS = ("gpt", "llama")

DEVICES = ("cpu", "cuda")

OPTIMIZERS = ("adamw", "sgd", "adam", "adagrad", "rmsprop", "lion", "adafactor", "muon")
SCHEDULES = ("cosine", "linear", "constant", "one_cycle", "inverse_sqrt")

_TYPES = {field.name: type(field.default) for field in fields(TrainConfig)}
_POSITIVE = (
    "steps", "batch_size", "accumulate", "chunks", "local_steps", "block_size", "n_layer",
    "n_head", "n_embd", "top_k", "eval_every", "eval_windows", "checkpoint_every", "keep",
)  # fmt: skip
_NOT_NEGATIVE = (
    "learning_rate", "learning_rate_floor", "outer_learning_rate", "weight_decay", "clip",
    "warmup_steps", "vocab_size", "n_kv_head", "bucket_bytes", "experts", "capacity_factor",
    "balance",
)  # fmt: skip


def make_config(
    preset: str = DEFAULT_PRESET,
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Defaults, over them a preset, over it a TOML file, over it options that are not None.

    A TOML file holds options at its top level, and may name a `preset`. Raises ConfigError.
    """
    sizes, given = _given(preset, file, options)
    return check_config({**sizes, **given})


def resume_config(
    saved: Mapping[str, Any],
    preset: str | None = None,
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """A saved run's config, over it a TOML file, over it options that are not None.

    A preset may be named again, and changes nothing. Raises ConfigError if the model or the
    optimizer would be another.
    """
    sizes, given = _given(preset, file, options)
    config = check_config({**saved, **given})
    wanted = {**saved, **sizes, **given}
    changed = [name for name in FIXED_FIELDS if name in saved and wanted[name] != saved[name]]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)} cannot change when a run goes on; use another --out"
        )
    return config


def _given(
    preset: str | None, file: Path | None, options: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a preset (which the file may name) says, and what the file and the options say."""
    from_file = {} if file is None else _read_toml(file)
    preset = from_file.pop("preset", preset)
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    given = {name: value for name, value in (options or {}).items() if value is not None}
    return (PRESETS[preset] if preset else {}), {**from_file, **given}


def check_config(values: Mapping[str, Any]) -> TrainConfig:
    """A config of these values; raises ConfigError naming what is unknown or impossible."""
    checked = {name: _check_value(name, value) for name, value in values.items()}
    config = TrainConfig(**checked)
    for name in _POSITIVE:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; it has to be at least 1")
    if config.n_embd % config.n_head:
        raise ConfigError(f"n_embd {config.n_embd} cannot be cut into n_head {config.n_head} heads")
    _check_model(config)
    if config.device not in DEVICES:
        raise ConfigError(f"unknown device {config.device!r}; there are {', '.join(DEVICES)}")
    if config.experts and config.top_k > config.experts:
        raise ConfigError(
            f"top_k is {config.top_k}, and there are {config.experts} experts; at most "
            f"{config.experts} would fit"
        )
    if config.optimizer not in OPTIMIZERS:
        raise ConfigError(
            f"unknown optimizer {config.optimizer!r}; there are {', '.join(OPTIMIZERS)}"
        )
    if config.learning_rate_schedule not in SCHEDULES:
        raise ConfigError(
            f"unknown learning_rate_schedule {config.learning_rate_schedule!r}; there are "
            f"{', '.join(SCHEDULES)}"
        )
    if not 0 <= config.dropout < 1:
        raise ConfigError(f"dropout is {config.dropout}; it has to be from 0 to below 1")
    for name in _NOT_NEGATIVE:
        if not 0 <= getattr(config, name) < math.inf:
            raise ConfigError(f"{name} is {getattr(config, name)}; it has to be 0 or more")
    for name in ("beta1", "beta2", "momentum", "outer_momentum"):
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; it has to be from 0 to below 1")
    return config


def _check_model(config: TrainConfig) -> None:
    if config.model not in MODELS:
        raise ConfigError(f"unknown model {config.model!r}; there are {', '.join(MODELS)}")
    if config.model == "llama":
        for name in ("dropout", "experts"):
            if getattr(config, name):
                raise ConfigError(
                    f"{name} is {getattr(config, name)}, and a llama has none: 0, or model gpt, "
                    "would fit"
                )
    elif config.n_kv_head:
        raise ConfigError(
            f"n_kv_head is {config.n_kv_head}; only a llama's heads share keys: 0, or model "
            "llama, would fit"
        )
    if config.n_kv_head and config.n_head % config.n_kv_head:
        raise ConfigError(f"n_head {config.n_head} cannot share n_kv_head {config.n_kv_head}")


def _check_value(name: str, value: Any) -> Any:
    if name not in _TYPES:
        near = difflib.get_close_matches(name, _TYPES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"unknown option {name!r}{hint}")
    wanted = _TYPES[name]
    if wanted is float and type(value) is int and abs(value) < 1 << 53:
        value = float(value)
    if type(value) is not wanted:
        raise ConfigError(f"{name} is {value!r}; it has to be {wanted.__name__}")
    return value


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is no TOML: {error}") from error
