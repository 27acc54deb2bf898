"""What is compared with PyTorch: the same lines run with either library.

A case is (inputs, function). `inputs(draw)` makes the arrays, of random shapes; those of float64
get gradients. `function(F, *tensors)` has `F` for ringlet's functions or PyTorch's.
"""

import numpy as np


class Draw:
    """Random arrays and shapes, the same for the same case and round everywhere."""

    def __init__(self, name, round_number):
        seed = [round_number, *name.encode()]
        self.random = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))

    def length(self, low=1, high=5):
        return int(self.random.integers(low, high + 1))

    def shape(self, low=1, high=3):
        return tuple(self.length() for _ in range(self.length(low, high)))

    def normal(self, *shape):
        return self.random.standard_normal(shape)

    def positive(self, *shape):
        return self.random.random(shape) + 0.5

    def distinct(self, *shape):
        """No two equal, none near an integer: extrema and bounds have one slope everywhere."""
        count = int(np.prod(shape))
        return (self.random.permutation(count) - count // 2 + 0.3).reshape(shape)

    def bools(self, *shape):
        return self.random.random(shape) > 0.4

    def ids(self, count, *shape):
        return self.random.integers(0, count, shape)


def one(make, low=1, high=3):
    """Inputs of one array of any shape."""
    return lambda draw: [getattr(draw, make)(*draw.shape(low, high))]


def attention(draw, groups=1, bias=None, value_width=None):
    b, g, t, d = (draw.length(1, 3) for _ in range(4))
    s, e = draw.length(t, 6), value_width or d
    inputs = [draw.normal(b, g * groups, t, d), draw.normal(b, g, s, d), draw.normal(b, g, s, e)]
    if bias == "bool":
        mask = draw.bools(b, 1, t, s)
        mask[..., 0] = True
        inputs.append(mask)
    elif bias == "number":
        inputs.append(draw.normal(1, g * groups, t, s))
    return inputs


def square(draw):
    b, h, t, d = (draw.length(1, 4) for _ in range(4))
    return [draw.normal(b, h, t, d) for _ in range(3)]


def logits(draw, ignored=False):
    rows, count = draw.length(2, 6), draw.length(2, 7)
    targets = draw.ids(count, rows)
    if ignored:
        targets[0] = -100
    return [draw.normal(rows, count), targets]


def normalized(draw, parts):
    *rows, width = draw.shape(2, 3)
    return [draw.normal(*rows, width + 1), *(draw.normal(width + 1) for _ in range(parts))]


def sequences(draw, batch_first=False):
    """Queries, and keys and values of another length."""
    batch, t, s = (draw.length(2, 4) for _ in range(3))
    shapes = [(batch, t, 8), (batch, s, 8)] if batch_first else [(t, batch, 8), (s, batch, 8)]
    return [draw.normal(*shape) for shape in shapes]


def padded(draw):
    """The same with a mask of the keys that are padding."""
    queries, keys = sequences(draw, batch_first=True)
    hidden = draw.bools(*keys.shape[:2])
    hidden[:, 0] = False
    return [queries, keys, hidden]


CASES = {
    "tanh": (one("normal"), lambda F, x: F.tanh(x)),
    "sigmoid": (one("normal"), lambda F, x: F.sigmoid(x)),
    "relu": (one("distinct"), lambda F, x: F.relu(x)),
    "gelu": (one("normal"), lambda F, x: F.gelu(x)),
    "gelu tanh": (one("normal"), lambda F, x: F.gelu(x, approximate="tanh")),
    "silu": (one("normal"), lambda F, x: F.silu(x)),
    "softmax": (one("normal"), lambda F, x: F.softmax(x, dim=-1)),
    "softmax first": (one("normal"), lambda F, x: F.softmax(x, dim=0)),
    "log_softmax": (one("normal"), lambda F, x: F.log_softmax(x, dim=-1)),
    "layer_norm": (
        lambda d: normalized(d, 2),
        lambda F, x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-5),
    ),
    "layer_norm plain": (
        lambda d: [d.normal(3, 2, d.length(2, 5))],
        lambda F, x: F.layer_norm(x, x.shape[1:]),
    ),
    "rms_norm": (
        lambda d: normalized(d, 1),
        lambda F, x, w: F.rms_norm(x, x.shape[-1:], w, eps=1e-6),
    ),
    "rms_norm default": (lambda d: normalized(d, 0), lambda F, x: F.rms_norm(x, x.shape[-1:])),
    "linear": (
        lambda d: [d.normal(*d.shape(), 3), d.normal(4, 3), d.normal(4)],
        lambda F, x, w, b: F.linear(x, w, b),
    ),
    "embedding": (
        lambda d: [d.ids(5, *d.shape()), d.normal(5, d.length())],
        lambda F, ids, w: F.embedding(ids, w),
    ),
    "attention": (attention, lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v)),
    "attention causal": (
        square,
        lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    ),
    "attention value width": (
        lambda d: attention(d, value_width=5),
        lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.7),
    ),
    "attention bool mask": (
        lambda d: attention(d, bias="bool"),
        lambda F, q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
    ),
    "attention bias": (
        lambda d: attention(d, bias="number"),
        lambda F, q, k, v, bias: F.scaled_dot_product_attention(q, k, v, attn_mask=bias),
    ),
    "attention groups": (
        lambda d: attention(d, groups=3, bias="number"),
        lambda F, q, k, v, bias: F.scaled_dot_product_attention(q, k, v, bias, enable_gqa=True),
    ),
    "cross_entropy": (logits, lambda F, x, y: F.cross_entropy(x, y)),
    "cross_entropy sum": (logits, lambda F, x, y: F.cross_entropy(x, y, reduction="sum")),
    "cross_entropy ignoring": (
        lambda d: logits(d, ignored=True),
        lambda F, x, y: F.cross_entropy(x, y, ignore_index=-100),
    ),
    "cross_entropy none": (
        lambda d: logits(d, ignored=True),
        lambda F, x, y: F.cross_entropy(x, y, reduction="none", label_smoothing=0.1),
    ),
    "cross_entropy smoothed": (
        lambda d: logits(d, ignored=True),
        lambda F, x, y: F.cross_entropy(x, y, label_smoothing=0.3),
    ),
}


# With modules a case is (inputs, function, build): `build(nn)` makes the module with either
# library, and `function(module, *tensors)` calls it.
CASES |= {
    "Linear": (
        lambda d: [d.normal(*d.shape(), 3)],
        lambda module, x: module(x),
        lambda nn: nn.Linear(3, 4),
    ),
    "Embedding": (
        lambda d: [d.ids(5, *d.shape())],
        lambda module, ids: module(ids),
        lambda nn: nn.Embedding(5, 3),
    ),
    "LayerNorm": (
        lambda d: [d.normal(*d.shape(), 2, 3)],
        lambda module, x: module(x),
        lambda nn: nn.LayerNorm((2, 3), bias=False),
    ),
    "RMSNorm": (
        lambda d: [d.normal(*d.shape(), 4)],
        lambda module, x: module(x),
        lambda nn: nn.RMSNorm(4, eps=1e-5),
    ),
    "MultiheadAttention": (
        lambda d: [sequences(d)[0]],
        lambda module, x: module(x, x, x),
        lambda nn: nn.MultiheadAttention(8, 2),
    ),
    "MultiheadAttention across": (
        padded,
        lambda module, x, y, hidden: module(x, y, y, key_padding_mask=hidden, need_weights=False),
        lambda nn: nn.MultiheadAttention(8, 2, bias=False, batch_first=True),
    ),
    "MultiheadAttention weights": (
        padded,
        lambda module, x, y, hidden: module(x, y, y, hidden, average_attn_weights=False),
        lambda nn: nn.MultiheadAttention(8, 4, batch_first=True),
    ),
    "MultiheadAttention masks": (
        lambda d: [*(d.normal(4, 2, 8) for _ in range(3)), d.normal(4, 4)],
        lambda module, x, y, z, mask: module(x, y, z, attn_mask=mask, need_weights=False)[0],
        lambda nn: nn.MultiheadAttention(8, 2),
    ),
    "MultiheadAttention mask of each head": (
        lambda d: [d.normal(4, 3, 8), d.normal(6, 4, 4) > 1],
        lambda module, x, mask: module(x, x, x, attn_mask=mask, need_weights=False)[0],
        lambda nn: nn.MultiheadAttention(8, 2),
    ),
    "MultiheadAttention widths": (
        lambda d: [d.normal(2, 3, 8), d.normal(2, 4, 5), d.normal(2, 4, 6)],
        lambda module, x, y, z: module(x, y, z),
        lambda nn: nn.MultiheadAttention(8, 2, kdim=5, vdim=6, batch_first=True),
    ),
    "MultiheadAttention unbatched": (
        lambda d: [d.normal(3, 8), d.normal(4, 8), d.bools(4) & (np.arange(4) > 0)],
        lambda module, x, y, hidden: module(x, y, y, hidden),
        lambda nn: nn.MultiheadAttention(8, 2),
    ),
}
