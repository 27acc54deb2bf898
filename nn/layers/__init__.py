"""Layers under PyTorch's names. Without a model around them they start from seed 0."""

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
from ringlet.nn.layers.attention import (
    CausalSelfAttention,
    MultiheadAttention,
    PackedAttention,
)
from ringlet.nn.layers.basic import Dropout, Embedding, Linear
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

__all__ = [
    "GELU",
    "CausalSelfAttention",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "LogSoftmax",
    "MultiheadAttention",
    "PackedAttention",
    "RMSNorm",
    "ReLU",
    "RelativePositionBias",
    "RotaryEmbedding",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositions",
    "Softmax",
    "SwiGLU",
    "Tanh",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
]
