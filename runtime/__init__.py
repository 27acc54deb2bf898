"""Models on many processes: meshes and every kind of parallelism, the trainer, checkpoints.

Each part knows only those before it: mesh, device_collectives; compression; pipeline; options,
rules; tensor, context; expert; sharding; data; checkpoint; assembly, parallel; planning, training.
To see how they work together, begin with parallel.py, then follow what interests you.
"""

from ringlet.runtime.checkpoint.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from ringlet.runtime.checkpoint.manifest import CheckpointError
from ringlet.runtime.checkpoint.restore import load_checkpoint
from ringlet.runtime.checkpoint.state import TrainingState
from ringlet.runtime.data.data_parallel import DataParallel
from ringlet.runtime.mesh import Mesh, MeshError
from ringlet.runtime.options import Parallelism
from ringlet.runtime.parallel import Parallel, Step, parallelize
from ringlet.runtime.pipeline.run import MicroBatch
from ringlet.runtime.training.checks import NonFinite
from ringlet.runtime.training.config import ConfigError, TrainConfig, make_config
from ringlet.runtime.training.corpus import Corpus, DataError, load_corpus
from ringlet.runtime.training.fit import check_fit
from ringlet.runtime.training.trainer import Outcome, Trainer

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ConfigError",
    "Corpus",
    "DataError",
    "DataParallel",
    "Mesh",
    "MeshError",
    "MicroBatch",
    "NonFinite",
    "Outcome",
    "Parallel",
    "Parallelism",
    "Step",
    "TrainConfig",
    "Trainer",
    "TrainingState",
    "check_fit",
    "latest_checkpoint",
    "load_checkpoint",
    "load_corpus",
    "make_config",
    "parallelize",
    "save_checkpoint",
    "verify_checkpoint",
]
