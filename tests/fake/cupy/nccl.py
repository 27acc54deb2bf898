"""The stand-in for NCCL: collectives of ringlet's own carry what lies at the addresses.

`carrier` is the group that a test has chosen. Every call is written to `log` with the stream that
it was given; `hangs` is how many of the next calls never end, and `error` what NCCL finds while
something is in flight.
"""

import ctypes
import types

import numpy as np

available = True
carrier = None
log = []
hangs = 0
error = ""
_stuck = []

TYPES = ["int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]
NAMES = dict(enumerate(TYPES))
OPS = dict(enumerate(("sum", "prod", "max", "min")))
globals().update({f"NCCL_{name.upper()}": number for number, name in NAMES.items()})
globals().update({f"NCCL_{name.upper()}": number for number, name in OPS.items()})


class NcclError(RuntimeError):
    """What NCCL says."""


class Event:
    """Done, unless it belongs to what hangs."""

    def __init__(self, stuck=False):
        self._stuck = stuck

    @property
    def done(self):
        return not (self._stuck and _stuck)


class Stream:
    """A stream does everything at once."""

    def __init__(self, null=False, non_blocking=False):
        self.ptr = id(self)

    def record(self, event=None):
        log.append(("record", self.ptr))
        return Event(bool(_stuck))

    def wait_event(self, event):
        log.append(("wait", self.ptr))

    def synchronize(self):
        pass


def get_unique_id():
    """As CuPy up to 13 gives it."""
    return tuple(range(-64, 64))


def groupStart():
    """Sends and receives up to groupEnd go together."""
    log.append(("groupStart", 0))
    _group.append([])


def groupEnd():
    log.append(("groupEnd", 0))
    calls = _group.pop()
    for kind, data, peer in calls:
        if kind == "send":
            carrier.isend(data.copy(), peer, tag=7)
    for kind, data, peer in calls:
        if kind == "recv":
            carrier.recv(peer, tag=7, out=data)


_group = []


def _at(address, count, kind):
    nbytes = count * np.dtype(NAMES[kind]).itemsize
    return np.frombuffer((ctypes.c_char * nbytes).from_address(address), NAMES[kind])


class NcclCommunicator:
    """Of the carrier's ranks."""

    def __init__(self, ndev, commId, rank):
        assert (ndev, rank, commId) == (carrier.size, carrier.rank, get_unique_id())
        self.aborted = False

    def _begin(self, what, stream):
        global hangs
        assert not self.aborted
        log.append((what, stream))
        if hangs:
            hangs -= 1
            _stuck.append(what)
        return bool(_stuck)

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream):
        if not self._begin("allReduce", stream):
            out = _at(recvbuf, count, datatype)
            out[:] = carrier.all_reduce(_at(sendbuf, count, datatype).copy(), OPS[op])

    def allGather(self, sendbuf, recvbuf, count, datatype, stream):
        if not self._begin("allGather", stream):
            out = _at(recvbuf, count * carrier.size, datatype)
            out[:] = carrier.all_gather(_at(sendbuf, count, datatype).copy()).reshape(-1)

    def reduceScatter(self, sendbuf, recvbuf, count, datatype, op, stream):
        if not self._begin("reduceScatter", stream):
            x = _at(sendbuf, count * carrier.size, datatype)
            _at(recvbuf, count, datatype)[:] = carrier.reduce_scatter(x.copy(), OPS[op])

    def send(self, sendbuf, count, datatype, peer, stream):
        self._begin("send", stream)
        _group[-1].append(("send", _at(sendbuf, count, datatype), peer))

    def recv(self, recvbuf, count, datatype, peer, stream):
        self._begin("recv", stream)
        _group[-1].append(("recv", _at(recvbuf, count, datatype), peer))

    def check_async_error(self):
        if error:
            raise NcclError(error)

    def abort(self):
        """Ends what is in flight."""
        self.aborted = True
        _stuck.clear()


current = Stream(null=True)
device = types.SimpleNamespace(pci_bus_id="0000:00:04.0")
