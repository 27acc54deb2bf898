"""Optimizers over flat parameters, clipping, and learning-rate schedules.

They may import flat parameters, modules and the backend. Read optimizer.py first, then adam.py;
whole.py is the base of optimizers that need whole matrices.
"""

import ringlet.nn.optim.lr_scheduler as lr_scheduler
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
