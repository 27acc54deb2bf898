"""Functions under PyTorch's names; see each one's docstring for shapes and errors."""

from ringlet.nn.operations import cat as cat
from ringlet.nn.operations import cos as cos
from ringlet.nn.operations import cross_entropy as cross_entropy
from ringlet.nn.operations import dropout as dropout
from ringlet.nn.operations import embedding as embedding
from ringlet.nn.operations import exp as exp
from ringlet.nn.operations import gelu as gelu
from ringlet.nn.operations import layer_norm as layer_norm
from ringlet.nn.operations import linear as linear
from ringlet.nn.operations import log as log
from ringlet.nn.operations import log_softmax as log_softmax
from ringlet.nn.operations import matmul as matmul
from ringlet.nn.operations import maximum as maximum
from ringlet.nn.operations import minimum as minimum
from ringlet.nn.operations import packed_self_attention as packed_self_attention
from ringlet.nn.operations import relu as relu
from ringlet.nn.operations import rms_norm as rms_norm
from ringlet.nn.operations import rotary_embedding as rotary_embedding
from ringlet.nn.operations import rotary_frequencies as rotary_frequencies
from ringlet.nn.operations import (
    scaled_dot_product_attention as scaled_dot_product_attention,
)
from ringlet.nn.operations import sigmoid as sigmoid
from ringlet.nn.operations import silu as silu
from ringlet.nn.operations import sin as sin
from ringlet.nn.operations import softmax as softmax
from ringlet.nn.operations import sqrt as sqrt
from ringlet.nn.operations import stack as stack
from ringlet.nn.operations import swiglu as swiglu
from ringlet.nn.operations import tanh as tanh
from ringlet.nn.operations import where as where
