"""`compress=auto`: a codec for gradients, or none, as the link between the ranks is.

The price of a sum is the time of its bytes on the link, and of encoding and decoding them; nothing
counts as hidden behind computing. Only codecs whose result is close to plain sums come into
question. Bits depend on the choice, so it depends on nothing that changes from run to run: the
link's bandwidth is rounded to a power of ten (`Links.coarse`), and the codecs' speeds are
constants.
"""

from ringlet.comm import Group
from ringlet.comm.schedules.links import Links
from ringlet.comm.schedules.svg import counted
from ringlet.runtime.compression.codecs import CODECS
from ringlet.runtime.compression.collectives import all_reduce_bytes

AUTO = "auto"

CODEC_S = {"bfloat16": 1e-9, "int8": 2e-9, "float16": 3.5e-9}
"""Seconds to encode and decode a number with error feedback, on one core of an EPYC (Zen 4);
benchmarks/compression.py measures them."""

WORTHWHILE = 0.6
"""A codec has to spare this part of the time at least: plain sums may be hidden altogether."""

NUMBERS = 1 << 20


def choose(group: Group) -> str:
    """The name of the codec for sums over the group; "" for none. The same on all ranks."""
    if group.size == 1 or group.shares_memory:
        return ""
    bandwidth = Links.parse(group.links).coarse().network.bandwidth
    plain = 2 * (group.size - 1) / group.size * 4 * NUMBERS / bandwidth
    prices = {
        all_reduce_bytes(NUMBERS, CODECS[name], group.size) / bandwidth + seconds * NUMBERS: name
        for name, seconds in CODEC_S.items()
    }
    least = min(prices)
    return prices[least] if least <= (1 - WORTHWHILE) * plain else ""


def reason(group: Group) -> str:
    """The choice in a sentence."""
    chosen, what = choose(group), "compress auto sums gradients"
    if group.size == 1:
        return f"{what} plainly: there is nobody to send them to"
    if group.shares_memory:
        return f"{what} plainly: the {counted(group.size, 'rank')} share memory"
    mbit = Links.parse(group.links).network.bandwidth * 8e-6
    return f"{what} {f'as {chosen}' if chosen else 'plainly'}: the link has {mbit:,.0f} Mbit/s"
