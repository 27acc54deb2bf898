"""Fewer bytes for gradients and activations: codecs, collectives, and error feedback.

Knows `device_collectives`. Read codecs.py, collectives.py, compressor.py (error feedback), then
top_k.py and power_sgd.py; packing.py, in which nothing is lost, serves slow links. schemes.py has
the compressors by name.
"""

from ringlet.runtime.compression.codecs import CODECS, Codec, make_codec
from ringlet.runtime.compression.compressor import Compressor, Matrices, redistribute
from ringlet.runtime.compression.schemes import SCHEMES, bytes_sent, make_compressor

__all__ = [
    "CODECS",
    "SCHEMES",
    "Codec",
    "Compressor",
    "Matrices",
    "bytes_sent",
    "make_codec",
    "make_compressor",
    "redistribute",
]
