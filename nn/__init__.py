"""Arrays that learn: autograd, layers, models and optimizers in NumPy, under PyTorch's names.

It imports NumPy and the standard library (CuPy on request) and knows only its own process. Read
autograd/ first, then module.py, layers/ and models/gpt.py, then flat.py and optim/. functional,
init and random are public under these names; watch, anomaly and summary observe a model.
"""

from ringlet.nn import functional, init, models, optim, random, summary  # noqa: F401
from ringlet.nn.anomaly import Anomaly, detect_anomaly
from ringlet.nn.autograd.grad_mode import enable_grad, is_grad_enabled, no_grad
from ringlet.nn.autograd.gradcheck import gradcheck
from ringlet.nn.autograd.operations import methods  # noqa: F401
from ringlet.nn.autograd.recompute import checkpoint
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Backend, BackendError, MixedArrays, asarray, to_host, use
from ringlet.nn.finetune import (
    LoRALinear,
    add_lora,
    freeze,
    load_lora,
    merge_lora,
    save_lora,
    unfreeze,
)
from ringlet.nn.flat import Flat, FlatParameters, Slot, common_dtype, first_nonfinite
from ringlet.nn.layers.activations import (
    GELU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    SwiGLU,
    Tanh,
)
from ringlet.nn.layers.attention import CausalSelfAttention, MultiheadAttention, PackedAttention
from ringlet.nn.layers.basic import Dropout, Embedding, Linear
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.layers.experts import ExpertLinear, Experts, MixtureOfExperts
from ringlet.nn.layers.losses import CrossEntropyLoss
from ringlet.nn.layers.normalization import LayerNorm, RMSNorm
from ringlet.nn.layers.positions import (
    LearnedPositions,
    RelativePositionBias,
    RotaryEmbedding,
    SinusoidalPositions,
)
from ringlet.nn.layers.transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from ringlet.nn.memory import keep_freed_memory
from ringlet.nn.module import Module, ModuleDict, ModuleList, Parameter, Sequential, uninitialized

keep_freed_memory()

__all__ = [
    "GELU",
    "Anomaly",
    "Backend",
    "BackendError",
    "CausalSelfAttention",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "ExpertLinear",
    "Experts",
    "Flat",
    "FlatParameters",
    "KeyValueCache",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "LoRALinear",
    "LogSoftmax",
    "MixedArrays",
    "MixtureOfExperts",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "Operation",
    "PackedAttention",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "RelativePositionBias",
    "RotaryEmbedding",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositions",
    "Slot",
    "Softmax",
    "SwiGLU",
    "Tanh",
    "Tensor",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "add_lora",
    "asarray",
    "checkpoint",
    "common_dtype",
    "detect_anomaly",
    "enable_grad",
    "first_nonfinite",
    "freeze",
    "functional",
    "gradcheck",
    "init",
    "is_grad_enabled",
    "load_lora",
    "merge_lora",
    "models",
    "no_grad",
    "optim",
    "random",
    "save_lora",
    "to_host",
    "unfreeze",
    "uninitialized",
    "use",
]
