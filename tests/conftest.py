"""The one helper through which tests start ranks: `ranks(4).run(function, **arguments)`."""

from collections.abc import Callable, Iterator

import pytest

from ringlet.launcher.pool import WorkerPool


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[..., WorkerPool]]:
    """`ranks(size, transport="auto")`: a pool of warm ranks, shared by the whole test session."""
    pools: dict[tuple[int, str], WorkerPool] = {}

    def pool(size: int, transport: str = "auto") -> WorkerPool:
        key = (size, transport)
        if key not in pools:
            pools[key] = WorkerPool(size, transport)
        return pools[key]

    yield pool
    for each in pools.values():
        each.close()
