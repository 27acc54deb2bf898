"""The operations, by subject; `ringlet.nn.functional` is their public face."""

from ringlet.nn.autograd.operations.activations import gelu, relu, sigmoid, silu, swiglu, tanh
from ringlet.nn.autograd.operations.arithmetic import (
    abs,
    add,
    clamp,
    div,
    floor_divide,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    remainder,
    sub,
    where,
)
from ringlet.nn.autograd.operations.attention import (
    packed_self_attention,
    scaled_dot_product_attention,
)
from ringlet.nn.autograd.operations.comparisons import (
    allclose,
    eq,
    equal,
    ge,
    gt,
    isclose,
    isfinite,
    isinf,
    isnan,
    le,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    lt,
    ne,
)
from ringlet.nn.autograd.operations.dropout import dropout
from ringlet.nn.autograd.operations.einsum import einsum
from ringlet.nn.autograd.operations.elementwise import (
    ceil,
    cos,
    erf,
    exp,
    expm1,
    floor,
    log,
    log1p,
    log2,
    log10,
    reciprocal,
    round,
    rsqrt,
    sign,
    sin,
    sqrt,
    square,
)
from ringlet.nn.autograd.operations.embedding import embedding
from ringlet.nn.autograd.operations.indexing import (
    chunk,
    flip,
    gather,
    getitem,
    index_select,
    masked_fill,
    masked_select,
    narrow,
    one_hot,
    repeat_interleave,
    roll,
    scatter,
    scatter_add,
    select,
    split,
    tril,
    triu,
    unbind,
)
from ringlet.nn.autograd.operations.linear_cross_entropy import linear_cross_entropy
from ringlet.nn.autograd.operations.loss import cross_entropy
from ringlet.nn.autograd.operations.normalization import layer_norm, log_softmax, rms_norm, softmax
from ringlet.nn.autograd.operations.products import bmm, dot, linear, matmul, mm
from ringlet.nn.autograd.operations.reductions import (
    Axes,
    Found,
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    argsort,
    cumsum,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    sort,
    std,
    sum,
    topk,
    var,
)
from ringlet.nn.autograd.operations.rotary import rotary_embedding, rotary_frequencies
from ringlet.nn.autograd.operations.shapes import (
    cat,
    clone,
    contiguous,
    expand,
    flatten,
    movedim,
    pad,
    permute,
    repeat,
    reshape,
    squeeze,
    stack,
    t,
    to,
    transpose,
    unsqueeze,
)

# fmt: off
__all__ = [
    "Axes", "Found", "abs", "add", "all", "allclose", "amax", "amin", "any", "argmax", "argmin",
    "argsort", "bmm", "cat", "ceil", "chunk", "clamp", "clone", "contiguous", "cos",
    "cross_entropy", "cumsum", "div", "dot", "dropout", "einsum", "embedding", "eq", "equal",
    "erf", "exp", "expand", "expm1", "flatten", "flip", "floor", "floor_divide", "gather", "ge",
    "gelu", "getitem", "gt", "index_select", "isclose", "isfinite", "isinf", "isnan",
    "layer_norm", "le", "linear", "linear_cross_entropy", "log", "log1p", "log2", "log10",
    "log_softmax", "logical_and", "logical_not", "logical_or", "logical_xor", "logsumexp", "lt",
    "masked_fill", "masked_select", "matmul", "max", "maximum", "mean", "min", "minimum", "mm",
    "movedim", "mul", "narrow", "ne", "neg", "norm", "one_hot", "packed_self_attention", "pad",
    "permute",
    "pow", "prod", "reciprocal", "relu", "remainder", "repeat", "repeat_interleave", "reshape",
    "rms_norm", "roll", "rotary_embedding", "rotary_frequencies", "round", "rsqrt",
    "scaled_dot_product_attention", "scatter", "scatter_add", "select", "sigmoid", "sign",
    "silu", "sin", "softmax", "sort", "split", "sqrt", "square", "squeeze", "stack", "std",
    "sub", "sum", "swiglu", "t", "tanh", "to", "topk", "transpose", "tril", "triu", "unbind",
    "unsqueeze", "var", "where",
]
# fmt: on
