"""The operations, by subject; `ringlet.nn.functional` is their public face."""

from ringlet.nn.operations.activations import gelu as gelu
from ringlet.nn.operations.activations import relu as relu
from ringlet.nn.operations.activations import sigmoid as sigmoid
from ringlet.nn.operations.activations import silu as silu
from ringlet.nn.operations.activations import swiglu as swiglu
from ringlet.nn.operations.activations import tanh as tanh
from ringlet.nn.operations.attention import packed_self_attention as packed_self_attention
from ringlet.nn.operations.attention import (
    scaled_dot_product_attention as scaled_dot_product_attention,
)
from ringlet.nn.operations.dropout import dropout as dropout
from ringlet.nn.operations.elementwise import abs as abs
from ringlet.nn.operations.elementwise import add as add
from ringlet.nn.operations.elementwise import clamp as clamp
from ringlet.nn.operations.elementwise import cos as cos
from ringlet.nn.operations.elementwise import div as div
from ringlet.nn.operations.elementwise import exp as exp
from ringlet.nn.operations.elementwise import log as log
from ringlet.nn.operations.elementwise import maximum as maximum
from ringlet.nn.operations.elementwise import minimum as minimum
from ringlet.nn.operations.elementwise import mul as mul
from ringlet.nn.operations.elementwise import neg as neg
from ringlet.nn.operations.elementwise import pow as pow
from ringlet.nn.operations.elementwise import sin as sin
from ringlet.nn.operations.elementwise import sqrt as sqrt
from ringlet.nn.operations.elementwise import sub as sub
from ringlet.nn.operations.elementwise import where as where
from ringlet.nn.operations.embedding import embedding as embedding
from ringlet.nn.operations.loss import cross_entropy as cross_entropy
from ringlet.nn.operations.normalization import layer_norm as layer_norm
from ringlet.nn.operations.normalization import log_softmax as log_softmax
from ringlet.nn.operations.normalization import rms_norm as rms_norm
from ringlet.nn.operations.normalization import softmax as softmax
from ringlet.nn.operations.products import linear as linear
from ringlet.nn.operations.products import matmul as matmul
from ringlet.nn.operations.reductions import Axes as Axes
from ringlet.nn.operations.reductions import max as max
from ringlet.nn.operations.reductions import mean as mean
from ringlet.nn.operations.reductions import min as min
from ringlet.nn.operations.reductions import sum as sum
from ringlet.nn.operations.reductions import var as var
from ringlet.nn.operations.rotary import rotary_embedding as rotary_embedding
from ringlet.nn.operations.rotary import rotary_frequencies as rotary_frequencies
from ringlet.nn.operations.shapes import cat as cat
from ringlet.nn.operations.shapes import expand as expand
from ringlet.nn.operations.shapes import getitem as getitem
from ringlet.nn.operations.shapes import masked_fill as masked_fill
from ringlet.nn.operations.shapes import permute as permute
from ringlet.nn.operations.shapes import reshape as reshape
from ringlet.nn.operations.shapes import split as split
from ringlet.nn.operations.shapes import squeeze as squeeze
from ringlet.nn.operations.shapes import stack as stack
from ringlet.nn.operations.shapes import transpose as transpose
from ringlet.nn.operations.shapes import unsqueeze as unsqueeze
