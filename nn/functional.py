"""Functions under PyTorch's names; see each one's docstring for shapes and errors."""

from ringlet.nn.autograd.operations.activations import *
from ringlet.nn.autograd.operations.arithmetic import *
from ringlet.nn.autograd.operations.attention import *
from ringlet.nn.autograd.operations.casting import *
from ringlet.nn.autograd.operations.comparisons import *
from ringlet.nn.autograd.operations.cumulative import *
from ringlet.nn.autograd.operations.dropout import *
from ringlet.nn.autograd.operations.einsum import *
from ringlet.nn.autograd.operations.elementwise import *
from ringlet.nn.autograd.operations.embedding import *
from ringlet.nn.autograd.operations.indexing import *
from ringlet.nn.autograd.operations.linear_cross_entropy import *
from ringlet.nn.autograd.operations.loss import *
from ringlet.nn.autograd.operations.normalization import *
from ringlet.nn.autograd.operations.products import *
from ringlet.nn.autograd.operations.reductions import *
from ringlet.nn.autograd.operations.rotary import *
from ringlet.nn.autograd.operations.shapes import *
from ringlet.nn.autograd.operations.simple_losses import *
from ringlet.nn.autograd.operations.updates import *
