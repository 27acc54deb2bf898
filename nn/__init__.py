"""Arrays that learn: autograd, layers, models and optimizers in NumPy, under PyTorch's names.

It imports NumPy and the standard library (CuPy on request) and knows only its own process. Read
autograd/ first, then module.py, layers/ and models/gpt.py, then flat.py and optim/. functional,
init and random are public under these names; watch, anomaly and summary observe a model.
"""

from ringlet.nn import functional, init, methods, models, optim, random, summary, utils
from ringlet.nn.anomaly import *
from ringlet.nn.autograd.grad_mode import *
from ringlet.nn.autograd.gradcheck import *
from ringlet.nn.autograd.recompute import *
from ringlet.nn.autograd.tensor import Operation as Operation
from ringlet.nn.autograd.tensor import Tensor as Tensor
from ringlet.nn.backend import *
from ringlet.nn.containers import *
from ringlet.nn.finetune import *
from ringlet.nn.flat import *
from ringlet.nn.layers.activations import *
from ringlet.nn.layers.attention import *
from ringlet.nn.layers.basic import *
from ringlet.nn.layers.cache import *
from ringlet.nn.layers.experts import *
from ringlet.nn.layers.losses import *
from ringlet.nn.layers.normalization import *
from ringlet.nn.layers.positions import *
from ringlet.nn.layers.transformer import *
from ringlet.nn.memory import keep_freed_memory
from ringlet.nn.module import *

keep_freed_memory()
