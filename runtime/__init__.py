"""Models on many processes: meshes and every kind of parallelism, trainer, checkpoints, planning.

Each part knows only those before it: mesh, device_collectives; compression; pipeline; options,
rules; tensor, context; expert; sharding; data; checkpoint; assembly, parallel; text; training;
planning.
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
from ringlet.runtime.planning.calibrate import calibrate
from ringlet.runtime.planning.cluster import Cluster, load_cluster
from ringlet.runtime.planning.failures import Goodput, goodput
from ringlet.runtime.planning.figures import ClusterError
from ringlet.runtime.planning.models import MODELS, Model, model_of
from ringlet.runtime.planning.plan import Plan, PlanError, load_plan, make_plan, plan
from ringlet.runtime.planning.search import Search
from ringlet.runtime.planning.setting import MEGATRON, RINGLET, Precision, Program, Setting
from ringlet.runtime.planning.simulate import Simulation, simulate
from ringlet.runtime.training.checks import NonFinite
from ringlet.runtime.training.config import ConfigError, TrainConfig, make_config
from ringlet.runtime.training.corpus import Corpus, DataError, load_corpus
from ringlet.runtime.training.fit import check_fit
from ringlet.runtime.training.trainer import Outcome, Trainer

__all__ = [
    "MEGATRON",
    "MODELS",
    "RINGLET",
    "Checkpoint",
    "CheckpointError",
    "Cluster",
    "ClusterError",
    "ConfigError",
    "Corpus",
    "DataError",
    "DataParallel",
    "Goodput",
    "Mesh",
    "MeshError",
    "MicroBatch",
    "Model",
    "NonFinite",
    "Outcome",
    "Parallel",
    "Parallelism",
    "Plan",
    "PlanError",
    "Precision",
    "Program",
    "Search",
    "Setting",
    "Simulation",
    "Step",
    "TrainConfig",
    "Trainer",
    "TrainingState",
    "calibrate",
    "check_fit",
    "goodput",
    "latest_checkpoint",
    "load_checkpoint",
    "load_cluster",
    "load_corpus",
    "load_plan",
    "make_config",
    "make_plan",
    "model_of",
    "parallelize",
    "plan",
    "save_checkpoint",
    "simulate",
    "verify_checkpoint",
]
