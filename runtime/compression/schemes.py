"""Compressors by name, as options give them: "int8", "topk:0.05"."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ringlet.comm import Group
from ringlet.runtime.compression.codecs import CODECS, Codec
from ringlet.runtime.compression.collectives import all_reduce_bytes
from ringlet.runtime.compression.compressor import CodecCompressor, Compressor, Matrices
from ringlet.runtime.compression.packing import pays
from ringlet.runtime.compression.power_sgd import PowerSGD, power_sgd_bytes
from ringlet.runtime.compression.top_k import TopK, top_k_bytes


class Scheme(NamedTuple):
    """One way to compress; the parameter is what follows the colon."""

    usage: str
    read: Callable[[str], Any]
    make: Callable[[Group, Any, int], Compressor]
    """(group, parameter, seed) -> the compressor."""

    bytes_sent: Callable[[int, Matrices, Any, int], int]
    """(size, matrices, parameter, ranks) -> bytes that each rank sends."""


def make_compressor(spec: str, group: Group, seed: int = 0) -> Compressor:
    """The compressor that `spec` names: "int8", "topk:0.05", "powersgd:2".

    Raises ValueError, with what there is, for an unknown name or a parameter out of range.
    """
    scheme, parameter = parse(spec)
    return scheme.make(group, parameter, seed)


def bytes_sent(spec: str, size: int, matrices: Matrices, ranks: int) -> int:
    """Exactly how many bytes each of `ranks` ranks sends to sum a stretch of `size` elements; fewer
    where they are packed."""
    scheme, parameter = parse(spec)
    return scheme.bytes_sent(size, matrices, parameter, ranks)


def parse(spec: str) -> tuple[Scheme, Any]:
    """The scheme and its parameter; raises ValueError like `make_compressor`."""
    name, colon, text = spec.partition(":")
    if name not in SCHEMES:
        usages = ", ".join(scheme.usage for scheme in SCHEMES.values())
        raise ValueError(f"there is no compressor {name!r}; there are {usages}")
    scheme = SCHEMES[name]
    if not colon:
        return scheme, scheme.read("")
    try:
        if not text:
            raise ValueError("a parameter is missing after the colon")
        return scheme, scheme.read(text)
    except ValueError as error:
        raise ValueError(f"compressor {spec!r}: {error}; write {scheme.usage}") from None


def _encoded(codec: Codec) -> Scheme:
    return Scheme(
        codec.name,
        _read_nothing,
        lambda group, _, seed: CodecCompressor(group, codec, pays(group, codec.name)),
        lambda size, matrices, _, ranks: all_reduce_bytes(size, codec, ranks),
    )


def _read_nothing(text: str) -> None:
    if text:
        raise ValueError("it takes no parameter")


def _read_ratio(text: str) -> float:
    ratio = float(text or 0.01)
    if not 0 < ratio <= 1:
        raise ValueError("the ratio of elements that travel must be above 0 and at most 1")
    return ratio


def _read_rank(text: str) -> int:
    rank = int(text or 4)
    if rank < 1:
        raise ValueError("the rank must be at least 1")
    return rank


SCHEMES: dict[str, Scheme] = {
    **{name: _encoded(codec) for name, codec in CODECS.items()},
    "topk": Scheme(
        "topk[:ratio]",
        _read_ratio,
        lambda group, ratio, seed: TopK(group, ratio),
        lambda size, matrices, ratio, ranks: top_k_bytes(size, ratio, ranks),
    ),
    "powersgd": Scheme("powersgd[:rank]", _read_rank, PowerSGD, power_sgd_bytes),
}
