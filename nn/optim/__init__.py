"""Optimizers of flat parameters and, with torch.optim's face, of others; clipping, learning rates.

They may import flat parameters, modules and the backend. Read optimizer.py first, then adam.py;
whole.py is the base of optimizers that need whole matrices, parameters.py has the other face.
"""

import importlib
from typing import Any

from ringlet.nn.optim.adafactor import *
from ringlet.nn.optim.adam import *
from ringlet.nn.optim.adaptive import *
from ringlet.nn.optim.clipping import *
from ringlet.nn.optim.lion import *
from ringlet.nn.optim.muon import *
from ringlet.nn.optim.optimizer import *
from ringlet.nn.optim.param_groups import *
from ringlet.nn.optim.schedules import *
from ringlet.nn.optim.sgd import *


def __getattr__(name: str) -> Any:
    """`lr_scheduler`, which is imported when it is asked for."""
    if name == "lr_scheduler":
        return importlib.import_module("ringlet.nn.optim.lr_scheduler")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
