"""The layers of Vaswani et al., "Attention is all you need" (2017), under PyTorch's names."""

import copy
from collections.abc import Callable
from typing import Any

from ringlet.nn import functional as F
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.containers import ModuleList
from ringlet.nn.layers.attention import MultiheadAttention
from ringlet.nn.layers.basic import Dropout, Linear
from ringlet.nn.layers.normalization import LayerNorm
from ringlet.nn.module import Module

__all__ = [
    "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder",
    "TransformerEncoderLayer",
]  # fmt: skip

Activation = str | Callable[[Tensor], Tensor]
Mask = Tensor | Array | None


class _Layer(Module):
    """What encoder and decoder layers share: self-attention and two linear layers."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        if activation not in ("relu", "gelu") and not callable(activation):
            raise ValueError(f"activation is {activation!r}; it must be 'relu' or 'gelu'")
        self._act = activation if callable(activation) else getattr(F, activation)
        self.norm_first = norm_first
        self._attention = (d_model, nhead, dropout, bias)
        self.self_attn = MultiheadAttention(*self._attention, batch_first=batch_first)
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)

    def _add(self, x: Tensor, norm: Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        """x plus part(x), normalized before or after."""
        return x + part(norm(x)) if self.norm_first else norm(x + part(x))

    def _itself(self, x: Tensor, mask: Mask, padding: Mask, causal: bool) -> Tensor:
        return self.dropout1(self.self_attn(x, x, x, padding, False, mask, True, causal)[0])

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self._act(self.linear1(x))))

    def extra_repr(self) -> str:
        return f"norm_first={self.norm_first}"


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward part, each added to its input: (S, B, E) -> (S, B, E).

    Or with the batch first. `norm_first` normalizes before each part instead of after the
    addition. Masks are those of MultiheadAttention.
    """

    def forward(
        self,
        src: Tensor,
        src_mask: Mask = None,
        src_key_padding_mask: Mask = None,
        is_causal: bool = False,
    ) -> Tensor:
        attend = (src_mask, src_key_padding_mask, is_causal)
        x = self._add(src, self.norm1, lambda x: self._itself(x, *attend))
        return self._add(x, self.norm2, lambda x: self.dropout2(self._feed_forward(x)))


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's result, and a feed-forward part.

    (T, B, E) and the memory (S, B, E) -> (T, B, E); or with the batch first.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        first, norm = self.self_attn.batch_first, self.norm1
        self.multihead_attn = MultiheadAttention(*self._attention, batch_first=first)
        self.norm3 = LayerNorm(norm.normalized_shape, norm.eps, bias=norm.bias is not None)
        self.dropout3 = Dropout(self.dropout.p)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        itself = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        across = (memory_mask, memory_key_padding_mask, memory_is_causal)
        x = self._add(tgt, self.norm1, lambda x: self._itself(x, *itself))
        x = self._add(x, self.norm2, lambda x: self._across(x, memory, *across))
        return self._add(x, self.norm3, lambda x: self.dropout3(self._feed_forward(x)))

    def _across(self, x: Tensor, memory: Tensor, mask: Mask, padding: Mask, causal: bool) -> Tensor:
        both = memory, memory
        return self.dropout2(self.multihead_attn(x, *both, padding, False, mask, True, causal)[0])


class _Stack(Module):
    """Copies of a layer, and a normalization if there is one."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        self.layers = ModuleList([copy.deepcopy(layer) for _ in range(num_layers)])
        self.norm = norm
        self.initialize()

    def _through(self, x: Tensor, *inputs: Any, **options: Any) -> Tensor:
        for layer in self.layers:
            x = layer(x, *inputs, **options)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """Several encoder layers like the given one, and an optional normalization."""

    def __init__(
        self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None
    ) -> None:
        super().__init__(encoder_layer, num_layers, norm)

    def forward(
        self,
        src: Tensor,
        mask: Mask = None,
        src_key_padding_mask: Mask = None,
        is_causal: bool = False,
    ) -> Tensor:
        return self._through(src, mask, src_key_padding_mask, is_causal)


class TransformerDecoder(_Stack):
    """Several decoder layers like the given one, and an optional normalization."""

    def __init__(
        self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None
    ) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(self, tgt: Tensor, memory: Tensor, *masks: Any, **options: Any) -> Tensor:
        """Masks are those of TransformerDecoderLayer."""
        return self._through(tgt, memory, *masks, **options)


class Transformer(Module):
    """An encoder of the source and a decoder of the target that attends to it.

    (S, B, E), (T, B, E) -> (T, B, E); or with the batch first. The caller provides embeddings,
    positions and the head.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        each = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first)
        norms = [LayerNorm(d_model, layer_norm_eps, bias=bias) for _ in range(2)]
        encoder = TransformerEncoderLayer(*each, norm_first, bias)
        decoder = TransformerDecoderLayer(*each, norm_first, bias)
        self.encoder = TransformerEncoder(encoder, num_encoder_layers, norms[0])
        self.decoder = TransformerDecoder(decoder, num_decoder_layers, norms[1])
        self.initialize()

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Mask = None,
        tgt_mask: Mask = None,
        memory_mask: Mask = None,
        src_key_padding_mask: Mask = None,
        tgt_key_padding_mask: Mask = None,
        memory_key_padding_mask: Mask = None,
        src_is_causal: bool = False,
        tgt_is_causal: bool = False,
    ) -> Tensor:
        """Masks are those of the layers."""
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        paddings = (tgt_key_padding_mask, memory_key_padding_mask)
        return self.decoder(tgt, memory, tgt_mask, memory_mask, *paddings, tgt_is_causal)
