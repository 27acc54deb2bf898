"""Arrays that learn: autograd, layers, models and optimizers in NumPy.

Names and semantics are PyTorch's. Nothing here knows any process but its own.
"""

from ringlet.nn import functional, models, optim, random
from ringlet.nn.cache import KeyValueCache
from ringlet.nn.experts import ExpertLinear, Experts, MixtureOfExperts
from ringlet.nn.flat import Flat, FlatParameters, Slot, common_dtype, first_nonfinite
from ringlet.nn.gradcheck import gradcheck
from ringlet.nn.layers import (
    GELU,
    CausalSelfAttention,
    CrossEntropyLoss,
    Dropout,
    Embedding,
    LayerNorm,
    Linear,
    PackedAttention,
)
from ringlet.nn.memory import keep_freed_memory
from ringlet.nn.module import Module, ModuleList, Parameter, Sequential, uninitialized
from ringlet.nn.recompute import checkpoint
from ringlet.nn.tensor import Operation, Tensor, enable_grad, is_grad_enabled, no_grad

keep_freed_memory()

__all__ = [
    "GELU",
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
    "Linear",
    "MixtureOfExperts",
    "Module",
    "ModuleList",
    "Operation",
    "PackedAttention",
    "Parameter",
    "Sequential",
    "Slot",
    "Tensor",
    "checkpoint",
    "common_dtype",
    "enable_grad",
    "first_nonfinite",
    "functional",
    "gradcheck",
    "is_grad_enabled",
    "models",
    "no_grad",
    "optim",
    "random",
    "uninitialized",
]
