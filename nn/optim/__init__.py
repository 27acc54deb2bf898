"""Optimizers over flat parameters, clipping, and learning-rate schedules."""

from ringlet.nn.optim.adamw import AdamW
from ringlet.nn.optim.clipping import clip_grad_norm_, grad_norm
from ringlet.nn.optim.optimizer import Optimizer
from ringlet.nn.optim.schedules import warmup_cosine
from ringlet.nn.optim.sgd import SGD

__all__ = ["SGD", "AdamW", "Optimizer", "clip_grad_norm_", "grad_norm", "warmup_cosine"]
