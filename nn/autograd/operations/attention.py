"""Attention: softmax(q k^T) v as one operation, computed by tiled_attention."""

from ringlet.nn.autograd.conversion import array_of, of_one_dtype, only_floats
from ringlet.nn.autograd.deferred import Gradients
from ringlet.nn.autograd.operations.attention_scores import FirstKeys, Masks
from ringlet.nn.autograd.operations.dropout import check_probability, keep_mask
from ringlet.nn.autograd.operations.tiled_attention import attend, attend_backward
from ringlet.nn.autograd.tensor import Operation, Tensor
from ringlet.nn.backend import Array, asarray, xp

__all__ = ["FirstKeys", "packed_self_attention", "scaled_dot_product_attention"]


class ScaledDotProductAttention(Operation):
    """softmax(q k^T / sqrt(D) + bias) v. Vaswani et al., "Attention is all you need" (2017),
    3.2.1; with fewer key-value heads than query heads Ainslie et al., "GQA" (2023).

    The bias is one that has a gradient: (B or 1, H or 1, T or 1, S or 1).
    """

    def __init__(self, masks: Masks) -> None:
        self.masks = masks

    def forward(self, q: Array, k: Array, v: Array, bias: Array | None = None) -> Array:
        self.bias = bias
        if bias is not None:
            shape = (*q.shape[:3], k.shape[2])
            self.masks = self.masks._replace(bias=xp.broadcast_to(bias, shape))
        # Laid out as (B, T, H, E): joining the heads is a view then.
        out = xp.swapaxes(xp.empty((q.shape[0], q.shape[2], q.shape[1], v.shape[3]), q.dtype), 1, 2)
        if q.size and k.size:
            self.blocks = attend(q, k, v, out, self.masks)
        else:
            self.blocks = []
            out.fill(0)
        self.arrays = q, k, v, out
        return out

    def backward(self, grad: Array) -> Gradients:
        q, k, v, _ = self.arrays
        like = xp.empty_like if self.blocks else xp.zeros_like
        gradients = like(q), like(k), like(v)
        to_bias = None if self.bias is None else xp.zeros_like(self.bias)
        if self.blocks:
            attend_backward(self.blocks, self.arrays, grad, self.masks, gradients, to_bias)
        return gradients if to_bias is None else (*gradients, to_bias)


class PackedSelfAttention(Operation):
    """Self-attention over queries, keys and values side by side: (B, T, 3C) -> (B, T, C).

    This saves the copies of splitting, transposing and joining the heads.
    """

    def __init__(self, heads: int, masks: Masks) -> None:
        self.heads, self.masks = heads, masks

    def _heads(self, packed: Array, parts: int) -> list[Array]:
        """(B, T, parts * C) -> parts views of (B, H, T, D)."""
        batch, length, _ = packed.shape
        view = packed.reshape(batch, length, parts, self.heads, -1)
        return [view[:, :, part].transpose(0, 2, 1, 3) for part in range(parts)]

    def forward(self, packed: Array) -> Array:
        self.packed = packed
        batch, length, width = self.packed.shape
        self.result = xp.empty((batch, length, width // 3), self.packed.dtype)
        q, k, v = self._heads(self.packed, 3)
        (out,) = self._heads(self.result, 1)
        self.blocks = attend(q, k, v, out, self.masks)
        return self.result

    def backward(self, grad: Array) -> Gradients:
        result = xp.empty(self.packed.shape, self.packed.dtype)
        q, k, v = self._heads(self.packed, 3)
        to_q, to_k, to_v = self._heads(result, 3)
        (out,), (g,) = self._heads(self.result, 1), self._heads(grad, 1)
        attend_backward(self.blocks, (q, k, v, out), g, self.masks, (to_q, to_k, to_v))
        return (result,)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | Array | FirstKeys | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    path: str = "",
    part: tuple[int, int] = (0, 1),
    window: int = 0,
) -> Tensor:
    """softmax(q k^T / sqrt(D) + mask) v: (B, H, T, D), (B, G, S, D), (B, G, S, E) -> (B, H, T, E).

    G equals H, or with `enable_gqa` divides it: each key-value head serves H / G query heads. The
    axis of heads may be missing. `attn_mask` is broadcast to (B, H, T, S): bool (true where a query
    attends to the key) or numbers to add, which may require a gradient. A query that attends to no
    key gets zeros. Causal: the last query attends to all keys, each earlier one to one key less
    (PyTorch counts from the first query; the two agree for T = S); it may be combined with a mask.
    With a `window` each query attends only to the nearest so many of these keys. Dropout is applied
    to the probabilities, with `path` and `part` (of the heads) as in `dropout`. A mask may also be
    `FirstKeys`, of packed texts: tiles without keys are not computed.

    Raises ValueError naming the shapes if they do not match, TypeError naming dtypes.
    """
    if query.ndim == 3:
        mask = _with_heads(attn_mask)
        q, k, v = (x.unsqueeze(1) for x in (query, key, value))
        options = (mask, dropout_p, is_causal, scale, enable_gqa, path, part, window)
        return scaled_dot_product_attention(q, k, v, *options).squeeze(1)
    _check(query, key, value, enable_gqa)
    _check_scores(query, key, attn_mask, is_causal, window)
    check_probability(dropout_p)
    shape = (*query.shape[:3], key.shape[2])
    keep = keep_mask(shape, query.dtype, dropout_p, path, part) if dropout_p else None
    masks = Masks(is_causal, None, keep, scale, window)
    if isinstance(attn_mask, FirstKeys):
        return ScaledDotProductAttention(masks._replace(first=attn_mask.first))(query, key, value)
    if isinstance(attn_mask, Tensor) and attn_mask.requires_grad:
        bias = attn_mask.reshape(*(1,) * (4 - attn_mask.ndim), *attn_mask.shape)
        return ScaledDotProductAttention(masks)(query, key, value, bias)
    if attn_mask is not None:
        masks = masks._replace(bias=xp.broadcast_to(asarray(array_of(attn_mask)), shape))
    return ScaledDotProductAttention(masks)(query, key, value)


def _with_heads(mask: Tensor | Array | FirstKeys | None) -> Tensor | Array | FirstKeys | None:
    if mask is None or isinstance(mask, FirstKeys) or mask.ndim < 3:
        return mask
    return mask.unsqueeze(-3) if isinstance(mask, Tensor) else mask[..., None, :, :]


def _check(q: Tensor, k: Tensor, v: Tensor, grouped: bool) -> None:
    fit = q.ndim == k.ndim == 4 and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]
    if not fit or k.shape[:3] != v.shape[:3] or q.shape[1] % (k.shape[1] or 1):
        raise ValueError(f"q {q.shape}, k {k.shape} and v {v.shape} do not match")
    of_one_dtype("attention", *only_floats("attention", q, k, v))
    if q.shape[1] != k.shape[1] and not grouped:
        raise ValueError(f"{q.shape[1]} query and {k.shape[1]} key heads need enable_gqa=True")


def _check_scores(
    q: Tensor, k: Tensor, mask: Tensor | Array | FirstKeys | None, causal: bool, window: int
) -> None:
    if causal and q.shape[2] > k.shape[2]:
        raise ValueError(f"causal attention of {q.shape[2]} queries to only {k.shape[2]} keys")
    if window < 0 or (window and not causal):
        raise ValueError(f"a window of {window} keys; it is for causal attention, 0 for all keys")
    if mask is None:
        return
    if isinstance(mask, FirstKeys):
        _check_first(mask, q, k, causal)
        return
    if array_of(mask).dtype.kind in "iu":
        raise TypeError(f"a mask is of bools, or of floats to add, not of {mask.dtype}")
    scores = (*q.shape[:3], k.shape[2])
    pairs = zip(mask.shape[::-1], scores[::-1], strict=False)
    if mask.ndim > 4 or any(own not in (1, length) for own, length in pairs):
        raise ValueError(f"a mask of shape {mask.shape} cannot be broadcast to scores of {scores}")


def _check_first(mask: FirstKeys, q: Tensor, k: Tensor, causal: bool) -> None:
    batch, length = q.shape[0], q.shape[-2]
    if not causal or k.shape[-2] != length or mask.first.shape != (batch, length):
        raise ValueError(
            f"first keys of shape {mask.first.shape} are for causal attention of as many samples "
            f"and positions to themselves, not of q {q.shape} to k {k.shape}"
        )


def packed_self_attention(
    qkv: Tensor, heads: int, is_causal: bool = True, attn_mask: Array | FirstKeys | None = None
) -> Tensor:
    """Self-attention of queries, keys and values side by side: (B, T, 3C) -> (B, T, C).

    `attn_mask` is an array as for `scaled_dot_product_attention`, without a gradient.
    """
    if qkv.shape[-1] % (3 * heads):
        raise ValueError(f"a last axis of {qkv.shape[-1]} is no multiple of 3 x {heads} heads")
    masks = Masks(is_causal)
    if isinstance(attn_mask, FirstKeys):
        _check_first(attn_mask, qkv, qkv, is_causal)
        masks = Masks(is_causal, first=attn_mask.first)
    elif attn_mask is not None:
        batch, length, _ = qkv.shape
        masks = Masks(
            is_causal, xp.broadcast_to(asarray(attn_mask), (batch, heads, length, length))
        )
    return PackedSelfAttention(heads, masks)(qkv)
