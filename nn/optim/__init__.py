"""Optimizers over flat parameters, clipping, and learning-rate schedules.

They may import flat parameters, modules and the backend. Read optimizer.py first, then adam.py;
whole.py is the base of optimizers that need whole matrices.
"""

from ringlet.nn.optim.adafactor import Adafactor
from ringlet.nn.optim.adam import Adam, AdamW
from ringlet.nn.optim.adaptive import Adagrad, RMSprop
from ringlet.nn.optim.clipping import clip_grad_norm_, clip_grad_value_, grad_norm
from ringlet.nn.optim.lion import Lion
from ringlet.nn.optim.muon import Muon, hidden_matrices, orthogonalized
from ringlet.nn.optim.optimizer import Group, Optimizer, everything, matrices
from ringlet.nn.optim.schedules import (
    Schedule,
    constant,
    cosine,
    inverse_sqrt,
    linear,
    one_cycle,
    warmup,
    warmup_cosine,
)
from ringlet.nn.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Group",
    "Lion",
    "Muon",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "clip_grad_norm_",
    "clip_grad_value_",
    "constant",
    "cosine",
    "everything",
    "grad_norm",
    "hidden_matrices",
    "inverse_sqrt",
    "linear",
    "matrices",
    "one_cycle",
    "orthogonalized",
    "warmup",
    "warmup_cosine",
]
