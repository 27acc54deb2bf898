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

    def pair(self, make):
        """Two arrays of one shape."""
        shape = self.shape()
        return [getattr(self, make)(*shape) for _ in range(2)]

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


def spatial(draw, ignored=False):
    """Logits and targets of images: classes on axis 1, of as many as there are rows or columns."""
    shape = [draw.length(2, 4) for _ in range(3)]
    targets = draw.ids(shape[1], shape[0], shape[2], 3)
    if ignored:
        targets[0, 0] = -100
    return [draw.normal(*shape, 3), targets]


def pairs(draw):
    """Numbers, and probabilities with a 0 among them, of one shape."""
    shape = draw.shape()
    share = draw.random.random(shape)
    share.reshape(-1)[0] = 0
    return [draw.normal(*shape), share]


def features(draw):
    """What logits are made from, and how: some rows do not count."""
    (_, targets), width = logits(draw, ignored=True), draw.length(1, 4)
    count = max(2, int(targets.max()) + 1)
    weight, bias = draw.normal(count, width), draw.normal(count)
    return [draw.normal(len(targets), width), weight, targets, bias, draw.positive(count)]


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
    "embedding padding": (
        lambda d: [d.ids(4, *d.shape()), d.normal(4, 3)],
        lambda F, ids, w: F.embedding(ids, w, padding_idx=1),
    ),
    "cross_entropy probabilities": (
        lambda d: [d.normal(*(shape := d.shape(2, 2))), d.positive(*shape)],
        lambda F, x, p: F.cross_entropy(x, p),
    ),
    "cross_entropy probabilities weighted": (
        lambda d: [
            d.normal(*(shape := d.shape(2, 2))),
            d.positive(*shape),
            d.bools(shape[1]) + 0.5,
        ],
        lambda F, x, p, w: F.cross_entropy(x, p, w.detach(), reduction="sum", label_smoothing=0.2),
    ),
    "cross_entropy probabilities none": (
        lambda d: [d.normal(*(shape := d.shape(2, 2))), d.positive(*shape)],
        lambda F, x, p: F.cross_entropy(x, p.detach(), reduction="none"),
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
    "cross_entropy of images": (spatial, lambda F, x, y: F.cross_entropy(input=x, target=y)),
    "cross_entropy of images, smoothed": (
        lambda d: spatial(d, ignored=True),
        lambda F, x, y: F.cross_entropy(x, y, reduction="none", label_smoothing=0.1),
    ),
    "cross_entropy of one": (
        lambda d: [d.normal(4), np.array(2)],
        lambda F, x, y: F.cross_entropy(x, y),
    ),
    "cross_entropy probabilities of images": (
        lambda d: [d.normal(2, 3, 4), d.positive(2, 3, 4), d.positive(3)],
        lambda F, x, p, w: F.cross_entropy(x, p, w.detach()),
    ),
    "nll_loss": (logits, lambda F, x, y: F.nll_loss(F.log_softmax(x, dim=-1), y)),
    "nll_loss of images": (
        lambda d: spatial(d, ignored=True),
        lambda F, x, y: [F.nll_loss(x, y, reduction=how) for how in ("mean", "sum", "none")],
    ),
    "nll_loss weighted": (
        lambda d: [d.normal(5, 3), d.ids(3, 5), d.positive(3)],
        lambda F, x, y, w: F.nll_loss(input=x, target=y, weight=w.detach()),
    ),
    "mse_loss": (
        lambda d: d.pair("normal"),
        lambda F, x, y: [F.mse_loss(x, y, reduction=how) for how in ("mean", "sum", "none")],
    ),
    "kl_div": (
        pairs,
        lambda F, x, p: [
            F.kl_div(x, p.detach(), reduction=how) for how in ("batchmean", "sum", "none")
        ],
    ),
    "kl_div of logarithms": (
        lambda d: d.pair("normal"),
        lambda F, x, y: F.kl_div(x, y, reduction="sum", log_target=True),
    ),
    "binary_cross_entropy_with_logits": (
        pairs,
        lambda F, x, p: F.binary_cross_entropy_with_logits(x * 9, p),
    ),
    "binary_cross_entropy_with_logits weighted": (
        lambda d: [d.normal(4, 3), d.positive(4, 3), d.positive(3), d.positive(3)],
        lambda F, x, p, w, own: F.binary_cross_entropy_with_logits(
            x, p, w.detach(), pos_weight=own.detach(), reduction="sum"
        ),
    ),
    "linear_cross_entropy": (
        lambda d: features(d)[:3],
        lambda F, x, w, y: F.linear_cross_entropy(x, w, y, ignore_index=-100),
    ),
    "linear_cross_entropy of each": (
        lambda d: features(d)[:4],
        lambda F, x, w, y, b: F.linear_cross_entropy(
            x, w, y, linear_bias=b, reduction="none", ignore_index=-100
        ),
    ),
    "linear_cross_entropy smoothed, weighted": (
        features,
        lambda F, x, w, y, b, c: F.linear_cross_entropy(
            x,
            w,
            y,
            linear_bias=b,
            weight=c.detach(),
            ignore_index=-100,
            reduction="mean",
            label_smoothing=0.2,
        ),
    ),
}


# -- tensor operations: each takes one array of any shape, unless something else is said ----------

ELEMENTWISE = {
    "neg": lambda F, x: -x,
    "exp": lambda F, x: x.exp(),
    "expm1": lambda F, x: x.expm1(),
    "sin": lambda F, x: x.sin(),
    "cos": lambda F, x: F.cos(x),
    "erf": lambda F, x: F.erf(x),
    "square": lambda F, x: x.square(),
    "cube": lambda F, x: x**3,
    "number arithmetic": lambda F, x: 2 - x * 3 / 7 + 1,
    "clone": lambda F, x: x.clone() * x,
    "float": lambda F, x: x.float() * 2,
    "detach": lambda F, x: x.detach() * x,
    "sum": lambda F, x: x.sum(),
    "sum axis": lambda F, x: x.sum(-1, keepdim=True),
    "mean": lambda F, x: x.mean(),
    "mean axis": lambda F, x: x.mean(dim=0),
    "var": lambda F, x: x.var(unbiased=False),
    "var axis": lambda F, x: x.var(dim=-1, correction=0, keepdim=True),
    "logsumexp": lambda F, x: x.logsumexp(-1),
    "logsumexp keepdim": lambda F, x: x.logsumexp(0, keepdim=True),
    "norm": lambda F, x: x.norm(),
    "norm axis": lambda F, x: x.norm(dim=-1, keepdim=True),
    "cumsum": lambda F, x: x.cumsum(-1),
    "cumprod": lambda F, x: [x.cumprod(-1), x.cumprod(dim=0)],
    "cumprod with zeros": lambda F, x: F.where(x > 0.5, x * 0, x).cumprod(0),
    "softplus": lambda F, x: [F.softplus(x), F.softplus(x * 9, beta=2.0, threshold=5)],
    "logsigmoid": lambda F, x: F.logsigmoid(x * 50),
    "leaky_relu": lambda F, x: F.leaky_relu(x, negative_slope=0.2),
    "normalize": lambda F, x: [F.normalize(x, dim=0), F.normalize(x * 0, p=3.0, dim=-1)],
    "norm 3": lambda F, x: [x.norm(3), x.norm(p=2.5, dim=-1), x.norm(0, -1), (x * 0).norm(3)],
    "norm fro": lambda F, x: x.norm(p="fro", dim=-1, keepdim=True),
    "dtype of a softmax": lambda F, x: F.softmax(x.float(), dim=-1, dtype=x.dtype),
    "dtype of sums": lambda F, x: [x.sum(dim=0, dtype=x.float().dtype), (x > 0).sum(dtype=x.dtype)],
    "axis": lambda F, x: [x.sum(axis=-1), x.mean(axis=0), x.amax(axis=0), F.cat([x, x], axis=0)],
    "input": lambda F, x: [F.exp(input=x), F.mul(input=x, other=x), F.softmax(input=x, dim=0)],
    "casts": lambda F, x: [x.type_as(x.float()), x.double(), x.long(), x.type(x.dtype)],
    "casts to others": lambda F, x: [x.to(x.float()), x.to(x.device), x.bool(), x.int()],
    "nonzero": lambda F, x: [(x > 0).nonzero(), *F.nonzero(x > 0, as_tuple=True)],
    "flip all": lambda F, x: x.flip(*range(x.dim())) * x,
    "size": lambda F, x: x.reshape(x.size(-1), -1) * x.size()[0],
    "new": lambda F, x: [x.new_zeros(2), x.new_ones((1, 2)), x.new_full((2,), 3.0) * x.sum()],
    "fill with a tensor": lambda F, x: x.masked_fill(x > 0, x.sum()),
    "prod": lambda F, x: x.prod(),
    "prod axis": lambda F, x: x.prod(0, keepdim=True),
    "reshape": lambda F, x: x.reshape(-1, 1),
    "view": lambda F, x: x.view((1, -1)),
    "flatten": lambda F, x: x.flatten(),
    "T": lambda F, x: x.reshape(1, -1).T,
    "unsqueeze": lambda F, x: x.unsqueeze(-1).unsqueeze(0),
    "expand": lambda F, x: x.unsqueeze(0).expand(3, *x.shape),
    "repeat": lambda F, x: x.repeat(2, *x.shape),
    "repeat_interleave": lambda F, x: x.repeat_interleave(2, dim=0),
    "split": lambda F, x: x.split(2),
    "chunk": lambda F, x: x.chunk(3, dim=-1),
    "unbind": lambda F, x: x.unbind(0),
    "cat": lambda F, x: F.cat([x, x * 2, x], dim=-1),
    "stack": lambda F, x: F.stack([x, x * x], dim=1),
    "flip": lambda F, x: x.flip((0,)) * x,
    "roll": lambda F, x: x.roll(2, 0) * x,
    "pad": lambda F, x: [F.pad(x, (1, 2), value=3.0), F.pad(x, (2, -1), "constant")],
    "masked_fill": lambda F, x: x.masked_fill(x > 0.2, -1.5),
    "where": lambda F, x: F.where(x > 0, x * 2, x.exp()),
    "index": lambda F, x: x[0],
    "index slices": lambda F, x: x[..., :1],
    "index new axis": lambda F, x: x[None, ..., None],
    "index list": lambda F, x: x[[0, 0, -1]],
    "index mask": lambda F, x: x[x > 0],
    "narrow": lambda F, x: x.narrow(0, 0, 1),
    "select": lambda F, x: x.select(-1, 0),
    "masked_select": lambda F, x: x.masked_select(x < 0.3),
    "comparisons": lambda F, x: [x > 0.1, x >= x, x < 0, x <= 0, x == x, x != x],
    "logic": lambda F, x: [(x > 0) & (x < 1), (x > 0) | (x < -1), (x > 0) ^ (x > 1), ~(x > 0)],
    "finite": lambda F, x: [F.isnan(x), F.isinf(x * float("inf")), x.isfinite()],
    "all any": lambda F, x: [(x > -9).all(), (x > 0).any(-1)],
    "iterate": lambda F, x: [each * 2 for each in x],
}
POSITIVE = {
    "log": lambda F, x: x.log(),
    "log1p": lambda F, x: x.log1p(),
    "log2": lambda F, x: x.log2(),
    "log10": lambda F, x: x.log10(),
    "sqrt": lambda F, x: x.sqrt(),
    "rsqrt": lambda F, x: F.rsqrt(x),
    "reciprocal": lambda F, x: x.reciprocal(),
    "pow fraction": lambda F, x: x.pow(0.7),
    "pow zero": lambda F, x: x**0,
    "number to the power": lambda F, x: 2**x,
}
DISTINCT = {
    "abs": lambda F, x: abs(x),
    "sign": lambda F, x: x.sign() * x,
    "floor": lambda F, x: x.floor() * x,
    "ceil": lambda F, x: x.ceil() * x,
    "round": lambda F, x: x.round() * x,
    "clamp": lambda F, x: x.clamp(-2, 2),
    "clamp above": lambda F, x: x.clamp(max=0),
    "max": lambda F, x: x.max(),
    "min": lambda F, x: x.min(),
    "max axis": lambda F, x: x.max(-1),
    "min axis": lambda F, x: x.min(dim=0, keepdim=True),
    "max of two": lambda F, x: x.max(-x),
    "amax": lambda F, x: x.amax(-1, keepdim=True),
    "amin": lambda F, x: x.amin(0),
    "argmax": lambda F, x: [x.argmax(), x.argmax(0), x.argmin(dim=-1, keepdim=True)],
    "sort": lambda F, x: x.sort(dim=0, descending=True),
    "topk": lambda F, x: x.topk(1, dim=-1),
    "topk smallest": lambda F, x: x.topk(1, 0, largest=False),
    "norm 1": lambda F, x: x.norm(p=1, dim=-1),
    "norm infinity": lambda F, x: x.norm(p=float("inf")),
    "remainder": lambda F, x: x % 2.5,
    "floor_divide": lambda F, x: x.detach() // 2,
}
CASES |= {name: (one("normal"), function) for name, function in ELEMENTWISE.items()}
CASES |= {name: (one("positive"), function) for name, function in POSITIVE.items()}
CASES |= {name: (one("distinct"), function) for name, function in DISTINCT.items()}


def matrices(draw, *more):
    return [draw.normal(*more, draw.length(1, 4), draw.length(1, 4))]


def broadcast(draw, right="normal"):
    """Two arrays of shapes that go together."""
    shape = draw.shape(1, 3)
    left = [n if draw.length(0, 2) else 1 for n in shape]
    return [draw.normal(*left), getattr(draw, right)(*shape[draw.length(0, len(shape) - 1) :])]


def gathered(draw):
    rows, columns, taken = (draw.length(1, 4) for _ in range(3))
    return [draw.normal(rows, columns), draw.ids(rows, taken, columns)]


def scattered(draw, repeats):
    rows, columns = draw.length(2, 4), draw.length(1, 4)
    index = draw.ids(rows, 2, columns) if repeats else np.tile([[0], [1]], (1, columns))
    return [draw.normal(rows, columns), index, draw.normal(2, columns)]


def products(*shapes):
    """Arrays whose axes have the lengths of the letters."""

    def inputs(draw):
        lengths = {letter: draw.length(1, 4) for letter in sorted(set("".join(shapes)))}
        return [draw.normal(*(lengths[letter] for letter in shape)) for shape in shapes]

    return inputs


CASES |= {
    "add": (broadcast, lambda F, x, y: x + y),
    "sub": (broadcast, lambda F, x, y: x - y),
    "mul": (broadcast, lambda F, x, y: x * y),
    "div": (lambda d: broadcast(d, "positive"), lambda F, x, y: x / y),
    "pow": (lambda d: broadcast(d)[::-1], lambda F, x, y: x.exp() ** y),
    "remainder of two": (lambda d: broadcast(d, "positive"), lambda F, x, y: x % y),
    "maximum": (broadcast, lambda F, x, y: F.maximum(x, y)),
    "minimum": (broadcast, lambda F, x, y: F.minimum(x, y)),
    "maximum of equals": (one("normal"), lambda F, x: F.maximum(x, x * 1)),
    "var unbiased": (lambda d: [d.normal(3, d.length(2, 4))], lambda F, x: [x.var(), x.std(-1)]),
    "transpose": (matrices, lambda F, x: x.transpose(0, -1) * 2),
    "permute": (products("abc"), lambda F, x: x.permute(2, 0, -2)),
    "movedim": (products("abc"), lambda F, x: x.movedim(0, -1)),
    "mT": (products("abc"), lambda F, x: x.mT),
    "squeeze": (lambda d: [d.normal(1, d.length(), 1)], lambda F, x: [x.squeeze(), x.squeeze(1)]),
    "flatten some": (products("abcd"), lambda F, x: x.flatten(1, 2)),
    "tril": (lambda d: matrices(d, 2), lambda F, x: x.tril(-1)),
    "triu": (lambda d: matrices(d, 2), lambda F, x: F.triu(x, 1)),
    "split sizes": (lambda d: [d.normal(2, 6)], lambda F, x: x.split([1, 3, 2], dim=-1)),
    "index pairs": (
        lambda d: [d.normal(3, 4), d.ids(3, 5), d.ids(4, 5)],
        lambda F, x, i, j: x[i, j],
    ),
    "index table": (lambda d: [d.normal(4, 2, 3), d.ids(4, 2, 2)], lambda F, x, i: x[i]),
    "index column": (lambda d: [d.normal(4, 5), d.ids(5, 3)], lambda F, x, i: x[1:, i]),
    "gather": (gathered, lambda F, x, index: x.gather(0, index)),
    "scatter": (lambda d: scattered(d, False), lambda F, x, i, y: x.scatter(0, i, y)),
    "scatter_add": (lambda d: scattered(d, True), lambda F, x, i, y: x.scatter_add(0, i, y)),
    "index_fill": (
        lambda d: [d.normal(3, 4), d.ids(4, 2)],
        lambda F, x, index: x.index_fill(1, index, 2.0),
    ),
    "index 0-d": (lambda d: [d.normal(4, 3), np.array(2)], lambda F, x, i: x[i] * x[i, 1]),
    "index_select": (
        lambda d: [d.normal(2, 4), d.ids(4, 3)],
        lambda F, x, index: x.index_select(1, index),
    ),
    "one_hot": (lambda d: [d.ids(4, *d.shape())], lambda F, ids: F.one_hot(ids, 4)),
    "matmul": (products("ab", "bc"), lambda F, x, y: x @ y),
    "matmul batched": (products("dab", "ebc"), lambda F, x, y: x @ y.unsqueeze(1)),
    "matmul vector": (products("dab", "b"), lambda F, x, y: F.matmul(x, y)),
    "matmul of vectors": (products("a", "a"), lambda F, x, y: x.matmul(y)),
    "vector matmul": (products("a", "dab"), lambda F, x, y: x @ y),
    "mm": (products("ab", "bc"), lambda F, x, y: x.mm(y)),
    "bmm": (products("dab", "dbc"), lambda F, x, y: F.bmm(x, y)),
    "outer": (products("a", "b"), lambda F, x, y: F.outer(x, y) + x.outer(y)),
    "dot": (products("a", "a"), lambda F, x, y: x.dot(y)),
    "einsum product": (products("abc", "acd"), lambda F, x, y: F.einsum("bij,bjk->bik", x, y)),
    "einsum implicit": (products("ab", "bc"), lambda F, x, y: F.einsum("ij,jk", x, y)),
    "einsum trace": (products("aa"), lambda F, x: F.einsum("ii->", x)),
    "einsum diagonal": (products("aab"), lambda F, x: F.einsum("iij->ji", x)),
    "einsum sums": (products("ab", "cd"), lambda F, x, y: F.einsum("ij,kl->il", x, y)),
    "einsum ellipsis": (
        products("eab", "ebc"),
        lambda F, x, y: F.einsum("...ij,...jk->...ik", x, y),
    ),
    "einsum of three": (
        products("ab", "bc", "ca"),
        lambda F, x, y, z: F.einsum("ab,bc,ca->b", x, y, z),
    ),
    "a graph with sharing": (
        products("ab", "ab"),
        lambda F, x, y: (x * y + x).split(1)[0] * y[0] + (x[:1] + y[:1]) * x[0],
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
    "Embedding padding": (
        lambda d: [d.ids(5, *d.shape())],
        lambda module, ids: module(ids),
        lambda nn: nn.Embedding(5, 3, padding_idx=-2),
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


LAYER = {"d_model": 8, "nhead": 2, "dim_feedforward": 12}
CASES |= {
    "TransformerEncoderLayer": (
        lambda d: [sequences(d)[0]],
        lambda module, x: module(x),
        lambda nn: nn.TransformerEncoderLayer(**LAYER),
    ),
    "TransformerEncoderLayer norm first": (
        lambda d: padded(d)[1:],
        lambda module, x, hidden: module(x, src_key_padding_mask=hidden),
        lambda nn: nn.TransformerEncoderLayer(
            **LAYER, activation="gelu", norm_first=True, batch_first=True, bias=False
        ),
    ),
    "TransformerDecoderLayer": (
        padded,
        lambda module, x, memory, hidden: module(x, memory, memory_key_padding_mask=hidden),
        lambda nn: nn.TransformerDecoderLayer(**LAYER, batch_first=True),
    ),
    "TransformerDecoderLayer norm first": (
        lambda d: [*sequences(d), np.triu(np.ones((4, 4), bool), 1)],
        lambda module, x, memory, mask: module(x, memory, mask[: len(x), : len(x)]),
        lambda nn: nn.TransformerDecoderLayer(**LAYER, norm_first=True),
    ),
    "Transformer": (
        sequences,
        lambda module, y, x: module(x, y),
        lambda nn: nn.Transformer(8, 2, 1, 2, 12),
    ),
}


# Optimizers: what makes each with either library from parameters of shapes (7, 5), (7,), (3, 7);
# `options` go to both, under PyTorch's names.
OPTIMIZERS = {
    "SGD": {"lr": 0.1, "weight_decay": 0.1},
    "SGD momentum": {"lr": 0.1, "momentum": 0.9},
    "SGD Nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "Adam": {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
    "AdamW": {"lr": 0.05, "weight_decay": 0.3},
    "Adam amsgrad": {"lr": 0.05, "betas": (0.5, 0.6), "amsgrad": True, "weight_decay": 0.1},
    "AdamW amsgrad": {"lr": 0.05, "betas": (0.5, 0.6), "amsgrad": True},
    "Adagrad": {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.2},
    "RMSprop": {"lr": 0.05, "alpha": 0.9, "weight_decay": 0.1},
    "RMSprop centered": {"lr": 0.05, "momentum": 0.5, "centered": True},
    "Adafactor": {"lr": 0.3, "weight_decay": 0.1},
    "Adafactor small": {"lr": 0.01, "beta2_decay": -0.5, "eps": (1e-9, 0.01), "d": 1.5},
}
SCHEDULES = {
    "one_cycle": ((0.3, 20), {}),
    "one_cycle options": ((0.3, 17), {"rising": 0.4, "div_factor": 10, "final_div_factor": 100}),
    "linear": ((0.2, 0.05, 10), {}),
    "cosine": ((0.2, 0.02, 20), {}),
}
