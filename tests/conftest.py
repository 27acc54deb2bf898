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

from ringlet.launcher.testing.pool import WorkerPool
from ringlet.nn import backend

FAKE = Path(__file__).with_name("fake")

FOLDERS: list[tempfile.TemporaryDirectory[str]] = []

if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    # Who wants no bytecode beside the sources gets none there. But the tests start a thousand
    # processes, and without any each would compile all of ringlet again.
    FOLDERS.append(tempfile.TemporaryDirectory(prefix="bytecode-", ignore_cleanup_errors=True))
    os.environ["PYTHONPYCACHEPREFIX"] = FOLDERS[-1].name

# What was measured of this machine before counts in no test.
FOLDERS.append(tempfile.TemporaryDirectory(prefix="cache-", ignore_cleanup_errors=True))
os.environ["XDG_CACHE_HOME"] = FOLDERS[-1].name


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
    with "tcp", what is priced lowest.
    """
    over_mpi = os.environ.get("RINGLET_TEST_OVER_MPI")  # tests/comm/test_mpi.py sets it
    template = Template()
    pools: dict[tuple[Any, ...], WorkerPool] = {}

    def pool(size: int, transport: str = "auto", **variables: str) -> WorkerPool:
        key = (size, transport, *variables.items())
        if key not in pools:
            first = {"RINGLET_ALGORITHM": "first"} if transport == "ipc" else {}
            if over_mpi:
                pools[key] = MpiPool(Path(over_mpi), size, **first, **variables)
            else:
                pools[key] = ForkedPool(template, size, transport, variables={**first, **variables})
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
