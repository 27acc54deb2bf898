"""Gradients as 16-bit or 8-bit numbers, with error feedback at both encodings.

What a rank loses when it encodes the other ranks' parts of its contribution, and when it encodes
the sum of its own part, lies in different places of its residual: one memory holds both (the
worker's and the server's of Tang et al., "DoubleSqueeze: parallel stochastic gradient descent with
double-pass error-compensated compression", 2019).
"""

from ringlet.comm import Group
from ringlet.runtime.compression.codecs import Codec
from ringlet.runtime.compression.collectives import all_reduce_bytes, sum_encoded
from ringlet.runtime.compression.compressor import Compressor, Matrices, Stretch
from ringlet.runtime.compression.flight import Phases


class Encoded(Compressor):
    """Sums what a codec encodes."""

    def __init__(self, group: Group, codec: Codec) -> None:
        super().__init__(group)
        self.codec = codec
        self.name = codec.name

    def bytes_sent(self, size: int, matrices: Matrices = ()) -> int:
        """See Compressor."""
        return all_reduce_bytes(size, self.codec, self.group.size)

    def _phases(self, stretch: Stretch) -> Phases:
        return sum_encoded(
            self.group, stretch.grad, self.codec, stretch.residual, label=stretch.label
        )
