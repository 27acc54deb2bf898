"""The one helper through which tests start ranks: `ranks(4).run(function, **arguments)`; and a
device where there is none."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked_pool import ForkedPool, Template
from mpi_ranks import MpiPool
from network_pair import NetworkPair, NetworkPairError, NetworkPairPool

from ringlet.comm import machine
from ringlet.comm.schedules.links import Links
from ringlet.comm.shared.constants import CHOICES
from ringlet.launcher.testing.pool import WorkerPool
from ringlet.nn import backend

FAKE = Path(__file__).with_name("fake")

FOLDERS: list[tempfile.TemporaryDirectory[str]] = []

if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    # Who wants no bytecode beside the sources gets none there. But the tests start a thousand
    # processes, and without any each would compile all of ringlet again.
    FOLDERS.append(tempfile.TemporaryDirectory(prefix="bytecode-", ignore_cleanup_errors=True))
    os.environ["PYTHONPYCACHEPREFIX"] = FOLDERS[-1].name

# Each process of the tests has one of the cores, and OpenBLAS's second thread would spin on another
# process's: importing NumPy alone takes twice the processor time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# What was measured of this machine before counts in no test.
FOLDERS.append(tempfile.TemporaryDirectory(prefix="cache-", ignore_cleanup_errors=True))
os.environ["XDG_CACHE_HOME"] = FOLDERS[-1].name

# Nor is it measured at each start, as on every busy machine: both ways are known to be the faster
# one, of worlds of another size. `comm/test_machine.py` has worlds that measure.
for _ in range(machine.AGREEING):
    machine.keep({f"{n} ranks, {c.text}": c.values[n % 2] for n in range(2, 17) for c in CHOICES})


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    for folder in FOLDERS:
        folder.cleanup()


@pytest.fixture
def fake_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The backend is CuPy, of which a stand-in takes the place, here and in processes that are
    started; gives its module. See tests/fake/cupy/core.py."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupyx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    with backend.substituted(backend.CuPy()) as present:
        yield present.module
    for name in [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupyx")]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[..., WorkerPool]]:
    """`ranks(size, transport="auto", **variables)`: a pool of warm ranks, shared by the whole test
    session, with these variables in their environment.

    With "ipc", collectives run each operation's first algorithm, whose traffic is the textbook's;
    with "tcp", what is priced lowest on links that are not measured.
    """
    choices = {"ipc": {"RINGLET_ALGORITHM": "first"}, "tcp": {"RINGLET_LINKS": str(Links())}}
    over_mpi = os.environ.get("RINGLET_TEST_OVER_MPI")  # tests/comm/test_mpi.py sets it
    template = Template()
    pools: dict[tuple[Any, ...], WorkerPool] = {}

    def pool(size: int, transport: str = "auto", **variables: str) -> WorkerPool:
        key = (size, transport, *variables.items())
        if key not in pools:
            own = {**choices.get(transport, {}), **variables}
            if over_mpi:
                pools[key] = MpiPool(Path(over_mpi), size, **own)
            else:
                pools[key] = ForkedPool(template, size, transport, variables=own)
        return pools[key]

    yield pool
    for each in pools.values():
        each.close()
    template.close()


@pytest.fixture(scope="session")
def two_hosts() -> Iterator[Callable[..., NetworkPairPool]]:
    """`two_hosts(hosts=(0, 0, 1, 1), mbit=None, **variables)`: warm ranks on two hosts with a link
    between them, with these variables in their environment.

    `hosts[rank]` is 0 or 1. Tests are skipped where the machine cannot have such a link.
    """
    try:
        pair = NetworkPair()
    except NetworkPairError as error:
        pytest.skip(str(error))
    pools: dict[tuple[Any, ...], NetworkPairPool] = {}

    def pool(
        hosts: tuple[int, ...] = (0, 1), mbit: float | None = None, **variables: str
    ) -> NetworkPairPool:
        pair.set_rate(mbit)
        key = (hosts, *variables.items())
        if key not in pools:
            pools[key] = NetworkPairPool(pair, hosts, variables=variables)
        return pools[key]

    yield pool
    for each in pools.values():
        each.close()
    pair.close()
