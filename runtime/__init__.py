"""Models on many processes: data parallelism, the trainer, checkpoints."""

from ringlet.runtime.checkpoint import (
    Checkpoint,
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from ringlet.runtime.config import ConfigError, TrainConfig, make_config
from ringlet.runtime.data import Corpus, DataError, load_corpus
from ringlet.runtime.data_parallel import DataParallel
from ringlet.runtime.finite import NonFinite
from ringlet.runtime.trainer import Outcome, Trainer

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "Corpus",
    "DataError",
    "DataParallel",
    "NonFinite",
    "Outcome",
    "TrainConfig",
    "Trainer",
    "latest_checkpoint",
    "load_checkpoint",
    "load_corpus",
    "make_config",
    "save_checkpoint",
    "verify_checkpoint",
]
