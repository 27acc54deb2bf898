"""Shared memory in huge pages."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from ringlet.comm.shared.segment import HUGE_BYTES, Segment

pytestmark = pytest.mark.skipif(
    not hasattr(os, "O_TMPFILE"), reason="only Linux has files without names"
)


def huge_bytes(segment):
    """How much of a segment is mapped in huge pages here."""
    mappings = Path("/proc/self/smaps").read_text()
    mapping = mappings[mappings.index(f"\n{segment.address:x}-") :]
    return int(re.search(r"ShmemPmdMapped: +(\d+) kB", mapping)[1]) << 10


@pytest.mark.parametrize("size", [1000, HUGE_BYTES, 4 * HUGE_BYTES + 1000])
def test_a_segment_holds_what_either_side_writes(size):
    own = Segment.create(size)
    peers = Segment.attach(own.place, size)
    assert own.bytes.size == size
    assert not own.bytes.any()
    own.bytes[...] = np.arange(size) % 251
    assert (peers.bytes == np.arange(size) % 251).all()
    peers.bytes[-1] = 255
    assert own.bytes[-1] == 255


def test_a_long_segment_lies_in_huge_pages_on_both_sides():
    size = 4 * HUGE_BYTES + 1000
    own = Segment.create(size)
    peers = Segment.attach(own.place, size)
    assert own.address % HUGE_BYTES == peers.address % HUGE_BYTES == 0
    own.bytes[...] = peers.bytes[...] = 1
    if not huge_bytes(own):
        pytest.skip("Linux gives shared memory no huge pages here")
    assert huge_bytes(own) == huge_bytes(peers) == 4 * HUGE_BYTES
