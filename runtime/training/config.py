"""The options of a training run: names, defaults, presets, and where their values come from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ringlet.nn.files import SHOWN, read_toml, short
from ringlet.runtime.pipeline.schedules import named
from ringlet.runtime.rules import CONFIG, problem
from ringlet.runtime.training.similar import similar


class ConfigError(ValueError):
    """An option is unknown or its value is not possible; the message names it."""


def _under(heading: str) -> Callable[..., Any]:
    """Makes options under this heading of `ringlet train --help`: (default, help, unit, names in
    place of its own). Hidden ones are in configs only."""

    def option(
        default: Any, text: str, unit: str = "", names: tuple[str, ...] = (), hidden: bool = False
    ) -> Any:
        facts = {"heading": heading, "help": text, "unit": unit, "names": names, "hidden": hidden}
        return field(default=default, metadata=facts)

    return option


_model, _data, _parallelism = _under("Model"), _under("Data"), _under("Parallelism")
_optimization, _output, _workers = _under("Optimization"), _under("Output"), _under("Workers")


@dataclass(frozen=True)
class TrainConfig:
    """All options of a run. The defaults are the preset `nano`: nanoGPT's recipe for a CPU.

    Each is also an option of `ringlet train`, with this help under this heading; runtime/rules.py
    says which ones can be combined.
    """

    data: str = _data(
        "pydoc",
        "Text to train on: a folder of `ringlet data build`, or several with weights, as in "
        "a=3,b=1; nanoGPT's .bin (uint16 token ids); or any file, read as bytes. pydoc is the text "
        "of Python's documentation.",
    )
    tokenizer: str = _data(
        "",
        "File tokenizer.json that makes tokens of the text in --data (they are kept for next "
        "time), or has made those of a .bin.",
    )
    pack: bool = _data(False, "Let tokens attend to their own document alone.")
    start: str = _data(
        "",
        "Folder of a model to start from: Hugging Face's GPT-2, Llama, Mistral, Qwen2 or Qwen3, or "
        "a run's, whose optimizer goes on. The model's options are its own.",
        names=("--from",),
    )
    architecture: str = _data("", "What a folder says of the model beside its sizes.", hidden=True)
    device: str = _workers("cpu", "cpu, or cuda: one GPU for each worker, through CuPy.")
    steps: int = _optimization(2000, "Total number of optimizer steps.")
    batch_size: int = _data(12, "Sequences in each step, over all workers and micro-batches.")
    seed: int = _data(1337, "Seed of every random number.")

    mesh: str = _parallelism(
        "",
        "Length of each axis, as in dp=2,tp=2,pp=2: data, tensor, pipeline, context (cp) and "
        "expert (ep) parallelism. dp takes the remaining workers.",
    )
    zero: int = _parallelism(
        0, "ZeRO stage: 1 shards optimizer state, 2 gradients too, 3 parameters too."
    )
    accumulate: int = _parallelism(
        1, "Micro-batches that each worker splits its share of the batch into."
    )
    schedule: str = _parallelism(
        "1f1b",
        "Pipeline schedule: gpipe, 1f1b, interleaved, zero-bubble, zb-h2, zb-v, zb-1p, zb-2p, or a "
        "file NAME.csv as PyTorch's.",
    )
    chunks: int = _parallelism(
        0, "Stages on each rank, for an interleaved pipeline; 0: as few as the schedule needs."
    )
    layers_per_stage: str = _parallelism(
        "",
        "Blocks in each pipeline stage, in the model's order, as in 3,5,4; by default nearly "
        "equally many.",
    )
    sequence: bool = _parallelism(
        False, "Shard activations between tensor-parallel layers by sequence."
    )
    recompute: str = _parallelism(
        "",
        "What to recompute in the backward pass to save memory: blocks, or patterns of module "
        "names, as in *.attend,*.act.",
    )

    compress: str = _parallelism(
        "",
        "Compress gradients: float16, bfloat16, int8, topk[:ratio], powersgd[:rank], or auto, as "
        "the link between the workers is.",
    )
    compress_activations: str = _parallelism(
        "", "Compress activations between tp layers and pp stages: float16, bfloat16 or int8."
    )
    bucket_bytes: int = _parallelism(
        0,
        "Size of gradient buckets; 0 chooses it from the measured link where that cannot change "
        "results.",
        "bytes",
    )
    priority: bool = _parallelism(
        False, "Send the first layers' gradients first, for slow links. Needs --clip 0."
    )
    local_steps: int = _parallelism(
        1, "Steps that each dp replica takes between synchronizations (DiLoCo)."
    )
    outer_learning_rate: float = _parallelism(
        1.0, "Learning rate of the synchronization; DiLoCo uses 0.7."
    )
    outer_momentum: float = _parallelism(0.0, "Momentum of the synchronization; DiLoCo uses 0.9.")

    model: str = _model("gpt", "gpt, or llama: rotary positions, RMSNorm, SwiGLU, no biases.")
    block_size: int = _model(64, "Context length in tokens.")
    n_layer: int = _model(4, "Number of blocks.")
    n_head: int = _model(4, "Attention heads in each block.")
    n_kv_head: int = _model(
        0, "Key and value heads of a llama, shared by its query heads; 0: one for each."
    )
    n_embd: int = _model(128, "Embedding width.")
    dropout: float = _model(0.0, "Dropout probability of a gpt.")
    bias: bool = _model(True, "Give the linear layers of a gpt biases.")
    vocab_size: int = _model(0, "Vocabulary size; 0: as the data needs.")

    experts: int = _model(0, "Experts in place of each MLP of a gpt; 0: an ordinary MLP.")
    top_k: int = _model(2, "Experts that each position is routed to.")
    capacity_factor: float = _model(
        1.25,
        "Capacity of an expert, as a multiple of its even share of a sequence; tokens beyond it "
        "are dropped. 0: no limit.",
    )
    balance: float = _model(0.01, "Weight of the auxiliary loss that balances the experts' load.")

    optimizer: str = _optimization(
        "adamw", "adamw, sgd, adam, adagrad, rmsprop, lion, adafactor or muon."
    )
    learning_rate: float = _optimization(1e-3, "Peak learning rate.")
    learning_rate_floor: float = _optimization(1e-4, "Learning rate at the last step.")
    learning_rate_schedule: str = _optimization(
        "cosine", "cosine, linear, constant, one_cycle or inverse_sqrt."
    )
    warmup_steps: int = _optimization(100, "Steps over which the learning rate rises to its peak.")
    beta1: float = _optimization(0.9, "Decay rate of the mean gradient, in Adam and its relatives.")
    beta2: float = _optimization(
        0.99, "Decay rate of the mean squared gradient, in Adam and its relatives."
    )
    momentum: float = _optimization(
        0.0, "Momentum of sgd and rmsprop, and of muon, where 0 stands for 0.95."
    )
    weight_decay: float = _optimization(
        0.1, "Weight decay of weights and embeddings; biases and norms have none."
    )
    clip: float = _optimization(1.0, "Clip the norm of all gradients to this; 0: no clipping.")

    eval_every: int = _output(250, "Steps between validations.")
    eval_windows: int = _output(2048, "Number of validation sequences to use, at most.")
    checkpoint_every: int = _output(500, "Steps between checkpoints.")
    keep: int = _output(3, "Number of recent checkpoints to keep.")
    keep_best: bool = _output(True, "Also keep the checkpoint with the lowest validation loss.")


MODEL_FIELDS = (
    "model", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "bias", "vocab_size",
    "experts", "architecture",
)  # fmt: skip
"""What cannot change when a run resumes: the parameters would not fit."""

FIXED_FIELDS = (*MODEL_FIELDS, "optimizer", "momentum")
"""What determines the optimizer's state cannot change either."""

RENAMED = {"needed_first": "priority", "from": "start"}
"""Other names of options: older ones, which configs and checkpoints may still have, and --from."""

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

DEVICES = ("cpu", "cuda")
OPTIMIZERS = ("adamw", "sgd", "adam", "adagrad", "rmsprop", "lion", "adafactor", "muon")

_CHOICES = {
    "model": ("gpt", "llama"),
    "device": DEVICES,
    "optimizer": OPTIMIZERS,
    "learning_rate_schedule": ("cosine", "linear", "constant", "one_cycle", "inverse_sqrt"),
}

_TYPES = {field.name: type(field.default) for field in fields(TrainConfig)}
_POSITIVE = (
    "steps", "batch_size", "accumulate", "local_steps", "block_size", "n_layer",
    "n_head", "n_embd", "top_k", "eval_every", "eval_windows", "checkpoint_every", "keep",
)  # fmt: skip
_NOT_NEGATIVE = (
    "learning_rate", "learning_rate_floor", "outer_learning_rate", "weight_decay", "clip",
    "warmup_steps", "vocab_size", "n_kv_head", "chunks", "bucket_bytes", "experts",
    "capacity_factor", "balance",
)  # fmt: skip
_BELOW_ONE = ("dropout", "beta1", "beta2", "momentum", "outer_momentum")


def make_config(
    preset: str = DEFAULT_PRESET,
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Merge, in rising order: defaults, a preset, a TOML file, and options that are not None.

    A TOML file has options at its top level, and may name a `preset`. Raises ConfigError.
    """
    sizes, given = _given(preset, file, options)
    return check_config({**sizes, **given})


def resume_config(
    saved: Mapping[str, Any],
    preset: str | None = None,
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Merge, in rising order: a saved run's config, a TOML file, and options that are not None.

    A preset may be named, without effect. Raises ConfigError if model or optimizer would change.
    """
    sizes, given = _given(preset, file, options)
    if given.get("start", saved.get("start", "")) != saved.get("start", ""):
        raise ConfigError("a run that resumes has its own parameters: leave out --from")
    config = check_config({**saved, **given})
    wanted = {**saved, **sizes, **given}
    changed = [name for name in FIXED_FIELDS if name in saved and wanted[name] != saved[name]]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)} cannot change when a run resumes; use another --out"
        )
    return config


def read_config(file: Path | None) -> dict[str, Any]:
    """The options in a TOML file, if there is one; raises ConfigError."""
    found = {} if file is None else read_toml(file, ConfigError)
    return {RENAMED.get(name, name): value for name, value in found.items()}


def _given(
    preset: str | None, file: Path | None, options: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a preset (which the file may name), and those of the file and the options."""
    given = {name: value for name, value in (options or {}).items() if value is not None}
    given = {**read_config(file), **given}
    preset = given.pop("preset", preset)
    if preset is not None and preset not in list(PRESETS):
        raise ConfigError(f"unknown preset {short(preset)}; there are {', '.join(PRESETS)}")
    return (PRESETS[preset] if preset else {}), given


def check_config(values: Mapping[str, Any]) -> TrainConfig:
    """A config of these values; raises ConfigError naming what is unknown or impossible."""
    values = {RENAMED.get(name, name): value for name, value in values.items()}
    checked = {name: _check_value(name, value) for name, value in values.items()}
    try:
        checked["schedule"] = named(checked.get("schedule", TrainConfig.schedule))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    config = TrainConfig(**checked)
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise ConfigError(
                f"unknown {name} {short(getattr(config, name))}; there are {', '.join(choices)}"
            )
    for names, low, high, text in (
        (_POSITIVE, 1, math.inf, "at least 1"),
        (_NOT_NEGATIVE, 0, math.inf, "0 or more"),
        (_BELOW_ONE, 0, 1, "from 0 to below 1"),
    ):
        for name in names:
            if not low <= getattr(config, name) < high:
                raise ConfigError(f"{name} is {getattr(config, name)}; it must be {text}")
    if text := problem(asdict(config), CONFIG):
        raise ConfigError(text)
    return config


def _check_value(name: str, value: Any) -> Any:
    if name not in _TYPES:
        near = similar(
            name[:SHOWN], {each.name: each.metadata["help"] for each in fields(TrainConfig)}
        )
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"unknown option {short(name)}{hint}")
    wanted = _TYPES[name]
    if wanted is float and type(value) is int and abs(value) < 1 << 53:
        value = float(value)
    if type(value) is not wanted:
        raise ConfigError(f"{name} is {short(value)}; it must be {wanted.__name__}")
    if type(value) is int and abs(value) >= 1 << 63:
        raise ConfigError(f"{name} is {short(value)}, a number that is too large")
    return value
