"""What all models here have in common: an embedding, blocks, a head and a loss."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ringlet.nn.autograd.conversion import host_array
from ringlet.nn.autograd.tensor import Tensor
from ringlet.nn.backend import Array
from ringlet.nn.layers.cache import KeyValueCache
from ringlet.nn.layers.losses import LogitsLoss
from ringlet.nn.models.generation.decoding import Continuing, Decoding
from ringlet.nn.models.huggingface.pretrained import Pretrained
from ringlet.nn.module import Module, ModuleList


class LanguageModel(Pretrained):
    """A model made of `embed`, `blocks`, `head` and `loss`; the head is `features`
    and `output`.

    `forward` runs them in a row; a pipeline runs them on different processes, each of which has
    the ids and asks `for_blocks`. What goes from block to block is one tensor (B, T, C), or
    for a model with several inputs a tuple with one for each.
    """

    loss: Module
    context_length: int | None = None
    """The largest number of positions; None: there is none."""

    def embed(self, ids: Any, positions: Any, *args: Any, **options: Any) -> Any:
        """Ids (B, T) at positions (T,) of their contexts -> (B, T, C)."""
        raise NotImplementedError

    def for_blocks(self, ids: Any, positions: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
        """What every block is given after the tensor: what depends on the ids' places alone."""
        return ()

    def advance(self, block: Module, x: Any, common: tuple[Any, ...], **cache: Any) -> Any:
        """What goes on to the next block, after this one."""
        return block(x, *common, **cache)

    @property
    def blocks(self) -> ModuleList | Sequence[Module]:
        """The layers that a pipeline may cut apart, each (B, T, C) -> (B, T, C)."""
        raise NotImplementedError

    def features(self, x: Any) -> Tensor:
        """What the last block gives, ready for the output layer: (B, T, C) -> (B, T, C)."""
        raise NotImplementedError

    @property
    def output(self) -> Module:
        """The linear layer that makes the logits: (B, T, C) -> (B, T, V)."""
        raise NotImplementedError

    def head(self, x: Any) -> Tensor:
        """(B, T, C) -> logits (B, T, V)."""
        return self.output(self.features(x))

    def caches(self) -> list[KeyValueCache]:
        """An empty cache for each block, to generate with."""
        return [KeyValueCache(self.context_length) for _ in self.blocks]

    def decoding(self, ids: Array, use_cache: bool, **options: Any) -> Decoding:
        """The state of a generation that begins with ids (B, T); see nn.models.generation."""
        return Continuing(self, ids, use_cache, **options)

    def prompt(self, ids: Array) -> Array:
        """What a generation's result begins with."""
        return ids

    def forward(
        self,
        ids: Any,
        targets: Array | Tensor | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        caches: Sequence[KeyValueCache] | None = None,
        **options: Array,
    ) -> Tensor:
        """Logits (B, T, V) of ids (B, T); with targets (B, T) the cross-entropy in nats.

        Targets of -100 do not count. With caches (one for each block) the ids continue those of
        before. Options are those of the model's `embed` and `for_blocks`. Raises ValueError for
        more positions than `context_length`, IndexError for an id or target that is not in the
        vocabulary.
        """
        ids = host_array(ids)
        start = caches[0].length if caches else 0
        positions = np.arange(start, start + ids.shape[1])
        common = self.for_blocks(ids, positions, **options)
        x = self.embed(ids, positions, **options)
        for number, block in enumerate(self.blocks):
            cache = {"cache": caches[number]} if caches else {}
            x = self.advance(block, x, common, **cache)
        return self.end(x, targets, reduction)

    def end(
        self, x: Any, targets: Array | Tensor | None, reduction: Literal["mean", "sum"]
    ) -> Tensor:
        """The logits of what the last block gave, or with targets the loss. For the loss the
        logits are never whole, unless somebody looks at them."""
        if targets is None:
            return self.head(x)
        x, last = self.features(x), self.output
        if isinstance(self.loss, LogitsLoss) and self.loss.fuses(last):
            loss = self.loss(x, targets, reduction, last)
        else:
            loss = self.loss(last(x), targets, reduction)
        return loss

    def check_length(self, positions: Array) -> None:
        """Raise ValueError if there are more positions than the context has."""
        seen = int(positions.max(initial=-1)) + 1
        if self.context_length is not None and seen > self.context_length:
            raise ValueError(f"{seen} positions for a context of {self.context_length}")
