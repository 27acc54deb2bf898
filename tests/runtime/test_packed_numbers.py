"""Packed 16-bit numbers: nothing is lost, the same bits as unpacked, in fewer bytes."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from ringlet.nn.random import generator
from ringlet.runtime.compression import CODECS, bytes_sent
from ringlet.runtime.compression.compressor import CodecCompressor
from ringlet.runtime.compression.packing import pack, pays, unpack

LENGTH = 5000


def gradient(size, *labels):
    drawn = generator(0, "packing", *labels).standard_normal(size, dtype=np.float32)
    return np.asarray(1e-4 * drawn, np.float32)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "x",
    [
        gradient(1, "one"),
        gradient(100_003, "many"),
        np.zeros(70_000, np.float32),
        np.array([np.inf, -np.inf, np.nan, 0, -0.0, 1e-30, 3e38], np.float32),
        np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16).astype(np.float32),
    ],
    ids=["one", "gradients", "zeros", "special", "every half"],
)
def test_what_is_unpacked_is_what_was_packed(name, x):
    data = CODECS[name].encode(x)
    packed = pack(data)
    np.testing.assert_array_equal(unpack(packed, np.empty_like(data)), data)
    if x.size == 100_003:
        assert packed.size < {"float16": 0.86, "bfloat16": 0.72}[name] * data.size


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda packed: packed[:-1], "not those of 900 numbers"),
        (lambda packed: np.append(packed, np.uint8(0)), "not those of 900 numbers"),
        (lambda packed: packed[:900], "not those of 900 numbers"),
        (lambda packed: packed[:3], "not those of 900 numbers"),
        (lambda packed: np.append(packed[:900], np.full(9, 255, np.uint8)), "cannot be read"),
        (lambda packed: pack(np.zeros(2000, np.uint8)), "1000 numbers|900 numbers|cannot be read"),
    ],
)
def test_other_bytes_are_refused(change, words):
    packed = pack(CODECS["float16"].encode(gradient(900)))
    with pytest.raises(ValueError, match=words):
        unpack(change(packed), np.empty(1800, np.uint8))


def summed(world, name):
    """Sums and residuals of a few stretches, packed and not; and the bytes sent for the former."""
    found, sent = [], 0
    for packed in (False, True):
        before = total_sent(world)
        compressor = CodecCompressor(world, CODECS[name], packed)
        compressor.lanes = [world, world.split(range(world.size))]
        grads = [gradient(LENGTH + n, n, world.rank) for n in range(6)]
        residuals = [np.zeros_like(grad) for grad in grads]
        for _ in range(2):
            works = [compressor.start(*each) for each in zip(grads, residuals, strict=True)]
            for work in works:
                work.wait()
        found.append([*grads, *residuals])
        sent = total_sent(world) + total_sent(compressor.lanes[1]) - before
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sent < 0.9 * sum(2 * bytes_sent(name, LENGTH + n, (), world.size) for n in range(6))
    return [grad.tobytes() for grad in found[1][:6]]


def total_sent(group):
    return sum(part["bytes_sent"] for part in group.stats()["operations"].values())


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [2, 3])
def test_packed_sums_are_the_same_bits_in_fewer_bytes(ranks, size, name):
    first, *others = ranks(size, transport="tcp").run(summed, name=name)
    assert all(other == first for other in others)


@dataclass
class Linked:
    bits_per_s: float
    size: int = 2
    shares_memory: bool = False

    def measure_links(self):
        return SimpleNamespace(network=SimpleNamespace(bandwidth=self.bits_per_s / 8))


@pytest.mark.parametrize(
    ("group", "codec", "expected"),
    [
        (Linked(1e8), "float16", True),
        (Linked(1e8), "bfloat16", True),
        (Linked(4e8), "bfloat16", True),
        (Linked(4e8), "float16", False),
        (Linked(1e9), "bfloat16", False),
        (Linked(1e8), "int8", False),
        (Linked(1e8, size=1), "float16", False),
        (Linked(1e8, shares_memory=True), "float16", False),
    ],
)
def test_numbers_are_packed_where_the_link_is_slow(group, codec, expected):
    assert pays(group, codec) == expected
