"""The pytest plugin: `@pytest.mark.world(4)` runs a test function on four ranks.

    @pytest.mark.world(4)
    def test_sum(world):                      # every rank runs this; module-level
        x = np.ones(3)
        world.all_reduce(x)
        assert (x == world.size).all()

    @pytest.mark.world(3, faults=["kill rank 2 at its third all_reduce"], failing=[2])
    def test_survivors_notice(world): ...

The ranks stay warm for the whole session, so a test takes milliseconds; after a failure new ranks
are started. Fixtures are made once, in pytest's own process, and must return what `comm` can send
as objects, or a path.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ringlet.launcher.testing.pool import WorkerPool

HELP = (
    "world(size, deadline=30, transport='auto', faults=(), failing=()): run the test on `size` "
    "ranks; it fails when one does that is not in `failing`, or after `deadline` seconds"
)

_POOLS = pytest.StashKey[dict[tuple[int, str], "WorkerPool"]]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", HELP)
    config.stash[_POOLS] = {}


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the ranks."""
    for pool in config.stash.get(_POOLS, {}).values():
        pool.close()


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[None]:
    """The rank's world, which only exists on the ranks."""
    if request.node.get_closest_marker("world") is None:
        pytest.fail("the fixture `world` needs @pytest.mark.world(size)", pytrace=False)
    yield None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked test on its ranks."""
    mark = pyfuncitem.get_closest_marker("world")
    if mark is None:
        return None
    _run(pyfuncitem, *mark.args, **mark.kwargs)
    return True


def _run(
    item: pytest.Function,
    size: int,
    deadline: float = 30.0,
    transport: str = "auto",
    faults: tuple[str, ...] = (),
    failing: tuple[int, ...] = (),
) -> None:
    from ringlet.launcher.testing.pool import RanksFailed, WorkerPool

    pools = item.config.stash[_POOLS]
    pool = pools.setdefault((size, transport), WorkerPool(size, transport))
    names = [name for name in item._fixtureinfo.argnames if name != "world"]
    arguments: dict[str, Any] = {name: item.funcargs[name] for name in names}
    try:
        pool.run(item.function, deadline, faults, **arguments)
    except RanksFailed as error:
        if set(error.failures) != set(failing):
            pytest.fail(str(error), pytrace=False)
    else:
        if failing:
            pytest.fail(f"ranks {list(failing)} should have failed, and none has", pytrace=False)
