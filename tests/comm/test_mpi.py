"""Messages over MPI, with each library that is here: tests/support/mpi_ranks.py says how to have
them. `pytest -m mpi` runs these, and with them the tests of collectives and transfers over MPI."""

import json
import os
import re
import subprocess
import sys
import textwrap
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from mpi_ranks import MpiPool, command, command_across, libraries, variables
from network_pair import NetworkPair, NetworkPairError

from ringlet.comm import CommError
from ringlet.comm.arrays import REDUCTIONS
from ringlet.comm.mpi import process
from ringlet.comm.mpi.process import LONGEST_NAP_S, naps

HERE = Path(__file__).parent
DEADLINE_S = 60
QUICK = ["--preset", "tiny", "--config", str(HERE.parent / "system/quick.toml")]
RINGLET = ["-P", "-c", "from ringlet.launcher.cli import main; main()"]

NONE = pytest.param(None, marks=pytest.mark.skip("no mpi4py and mpirun: see RINGLET_TEST_MPI"))
LIBRARIES = [pytest.param(prefix, id=prefix.name) for prefix in libraries()] or [NONE]

with_each_library = pytest.mark.parametrize("mpi", LIBRARIES)


# -- without a library ----------------------------------------------------------------------------


def test_nothing_of_it_is_loaded_unless_it_is_asked_for():
    program = "import sys; from ringlet import comm; comm.init(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = done.stdout.split()
    assert "ringlet.comm.world" in loaded
    assert {"mpi4py", "ringlet.comm.mpi"}.isdisjoint(loaded)


def test_without_mpi4py_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(CommError, match=r"pip install 'ringlet\[mpi\]'"):
        process.Process()


def test_who_waits_looks_rarely():
    """A second of waiting takes about a thousand looks."""
    assert sum(islice(naps(), 1050)) > 1
    assert max(islice(naps(), 1050)) == LONGEST_NAP_S


# -- with each ------------------------------------------------------------------------------------

SAME = (
    "test_collectives.py", "test_point_to_point.py", "test_dtypes.py", "test_overlaps.py",
    "test_progress.py", "test_threads.py", "test_properties.py",
)  # fmt: skip
NOT_OVER_MPI = "not shared_memory and not read_through_the_kernel"


@pytest.mark.mpi
@with_each_library
def test_the_tests_of_collectives_and_transfers_pass(mpi):
    words = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", NOT_OVER_MPI]
    done = subprocess.run(
        [sys.executable, *words, *(str(HERE / name) for name in SAME)],
        env={**os.environ, "RINGLET_TEST_OVER_MPI": str(mpi)},
        cwd=HERE.parents[1], capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]


def library_sums(world):
    """all_reduce=mpi: by the library, or as without where that cannot."""
    assert world.links  # measured over MPI
    pair = world.split([0, world.size - 1])
    for group in (world, pair, world.split([*range(world.size)][::-1])):
        if group is None:
            continue
        for dtype in ("bool", "int8", "uint64", "float16", "float32", "complex64", ">f4", "m8[s]"):
            kind = np.dtype(dtype).kind
            for op in ("sum", "max", "min", *(["prod"] if kind != "m" else [])):
                x = (np.arange(5) % 3 + group.rank).astype(dtype)
                rows = [(np.arange(5) % 3 + rank).astype(dtype) for rank in range(group.size)]
                want = rows[0]
                for row in rows[1:]:
                    want = REDUCTIONS[op](want, row)
                work = group.all_reduce(x, op, async_op=True)
                np.testing.assert_array_equal(work.wait(), want.astype(dtype), f"{dtype} {op}")
        mean = group.all_reduce(np.full((2, 3), group.rank, np.float64).T, "mean")
        np.testing.assert_array_equal(mean, np.full((3, 2), (group.size - 1) / 2))
        assert group.all_reduce(np.empty((0, 3))).shape == (0, 3)
    return world.stats()["operations"]["all_reduce"]["messages_sent"]


@pytest.mark.mpi
@with_each_library
def test_the_librarys_own_all_reduce(mpi):
    with MpiPool(mpi, 3, RINGLET_ALGORITHM="all_reduce=mpi") as pool:
        pool.run(library_sums)


def run(mpi, size, text, *words, **more):
    """What mpirun does with the script: code, output, errors."""
    program = words or ["-c", textwrap.dedent(text)]
    done = subprocess.run(
        [*command(mpi, size), *program], env=variables(**{"RINGLET_TRANSPORT": "mpi", **more}),
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


ENDINGS = {
    "at once": ("", 0, ""),
    "one later": ("world.rank or time.sleep(1)", 0, ""),
    "an error": ("if world.rank: raise ValueError('of rank 1')", 1, "of rank 1"),
    "sys.exit": ("if world.rank: sys.exit(3)\nworld.barrier()", None, "has shut down"),
    "killed": ("if world.rank: os.kill(os.getpid(), 9)\nworld.barrier()", None, ""),
    "left early": ("comm.shutdown() if world.rank else world.recv(1)", 1, "has shut down"),
    "never comes": (
        "world.rank or world.barrier(timeout=1)\ntime.sleep(50)", 124, "waited 1.. s for rank 1",
    ),
    "a mismatch": (
        "try: world.barrier() if world.rank else world.all_reduce(np.ones(2))\n"
        "except comm.CollectiveMismatch: print('seen', flush=True)", 0, "",
    ),
    "the program has MPI": (
        "from mpi4py import MPI\nassert MPI.COMM_WORLD.allreduce(1) == world.size\n"
        "if world.rank: raise ValueError('of rank 1')", 1, "of rank 1",
    ),
    "all leave and come again": (
        "comm.shutdown()\nworld = comm.init()\nassert world.all_reduce(np.ones(1))[0] == 2", 0, "",
    ),
}  # fmt: skip


@pytest.mark.mpi
@with_each_library
@pytest.mark.parametrize("name", ENDINGS)
def test_a_job_ends(mpi, name):
    text, code, error = ENDINGS[name]
    start = "import os, sys, time\nimport numpy as np\nfrom ringlet import comm\n"
    done = run(mpi, 2, f"{start}world = comm.init()\n{text}")
    assert done[0] == code or (code is None and done[0] != 0), done
    assert re.search(error, done[2]), done
    assert name != "a mismatch" or done[1].count("seen") == 2, done


@pytest.mark.mpi
@with_each_library
def test_mpi_and_the_launcher_have_to_agree(mpi):
    text = "from ringlet import comm; comm.init()"
    done = subprocess.run(
        [str(mpi / "bin/python"), "-c", text], capture_output=True, text=True, timeout=DEADLINE_S,
        env={**variables(RINGLET_TRANSPORT="mpi"), "RANK": "1", "WORLD_SIZE": "2"},
    )  # fmt: skip
    assert "this is rank 1 of 2, MPI says rank 0 of 1: start the ranks with" in done.stderr, done


@pytest.mark.mpi
@with_each_library
def test_mpi_has_to_be_for_several_threads(mpi):
    text = "from mpi4py import MPI; from ringlet import comm; comm.init()"
    code, _, errors = run(mpi, 2, text, MPI4PY_RC_THREAD_LEVEL="single")
    assert code == 1
    assert "MPI is initialised for one thread" in errors


HOSTS = """
import json, os
from ringlet.comm.join.addresses import own_addresses
os.environ["RINGLET_HOST"] = own_addresses()[0]  # both have this machine's identity
import numpy as np
from ringlet import comm
world = comm.init()
x = world.all_reduce(np.arange(300_000.0))
assert (x == 4 * np.arange(300_000.0)).all()
endpoint = world._endpoint
shown = {address.rpartition(":")[0] for address in endpoint.addresses}
mine = [*sorted(shown), endpoint._key is not None, endpoint.carrier is not None]
everybodys = world.all_gather_object(mine)
if world.rank == 0:
    print(json.dumps(everybodys))
"""


@pytest.mark.mpi
@with_each_library
def test_ranks_on_two_hosts_meet_over_mpi_without_an_address_or_a_key(mpi, tmp_path):
    try:
        pair = NetworkPair()
    except NetworkPairError as error:
        pytest.skip(str(error))
    with pair:
        for name, value, carried in (("TRANSPORT", "mpi", True), ("RENDEZVOUS", "mpi", False)):
            own = variables(**{"RINGLET_TRANSPORT": "auto", f"RINGLET_{name}": value})
            done = subprocess.run(
                [*command_across(mpi, pair, tmp_path), "-c", HOSTS], env=own,
                capture_output=True, text=True, timeout=DEADLINE_S,
            )  # fmt: skip
            assert done.returncode == 0, done
            each = ["ipc", *(f"tcp://{address}" for address in pair.addresses), True, carried]
            assert json.loads(done.stdout) == [each] * 4


def ringlet(mpi, size, *words, **more):
    """What `mpirun -n SIZE ringlet WORDS` does."""
    return run(mpi, size, "", *RINGLET, *words, **more)


SUM = (
    "import numpy as np\nfrom ringlet import comm\nworld = comm.init()\n"
    "print('sum', world.all_reduce(np.ones(1))[0], world._endpoint.carrier is not None)\n"
)


@pytest.mark.mpi
@with_each_library
def test_run_under_mpirun(mpi, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SUM)
    code, shown, errors = ringlet(
        mpi, 2, "run", "--transport", "mpi", str(script), RINGLET_TRANSPORT=""
    )
    assert (code, shown.count("sum 2.0 True")) == (0, 2), errors
    code, shown, errors = ringlet(mpi, 2, "run", str(script), RINGLET_TRANSPORT="")
    assert (code, shown.count("sum 2.0 False")) == (0, 2), errors
    script.write_text(f"{SUM}if world.rank: raise ValueError('of rank 1')\nworld.barrier()\n")
    code, shown, errors = ringlet(
        mpi, 2, "run", "--transport", "mpi", str(script), RINGLET_TRANSPORT=""
    )
    assert code == 1
    assert "of rank 1" in errors, (shown, errors)


REFUSED = {
    "without mpirun": (0, {}, ["--transport", "mpi"], "is for ranks that mpirun starts"),
    "several workers": (1, {}, ["--transport", "mpi", "-n", "2"], "has one worker"),
    "restarts": (2, {}, ["--transport", "mpi", "--max-restarts", "1"], "MPI starts its processes"),
    "by the variable": (2, {"RINGLET_TRANSPORT": "mpi"}, [], "use --transport mpi"),
    "by the meeting": (2, {"RINGLET_RENDEZVOUS": "mpi"}, [], "=mpi is for scripts"),
}  # fmt: skip


@pytest.mark.mpi
@with_each_library
@pytest.mark.parametrize("name", REFUSED)
def test_what_run_cannot_do_under_mpirun_is_refused(mpi, name, tmp_path):
    size, more, options, text = REFUSED[name]
    (tmp_path / "script.py").write_text(SUM)
    words = [*RINGLET, "run", *options, str(tmp_path / "script.py")]
    start = command(mpi, size) if size else [str(mpi / "bin/python")]
    done = subprocess.run(
        [*start, *words], env={**variables(), **more}, capture_output=True, text=True,
        timeout=DEADLINE_S,
    )  # fmt: skip
    assert text in done.stderr, done
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


@pytest.mark.mpi
@with_each_library
def test_a_training_over_mpi_has_the_bits_of_one_over_tcp(mpi, tmp_path):
    losses = []
    for transport in ("mpi", "tcp"):
        words = ["train", *QUICK, "--transport", transport, "--out", str(tmp_path / transport)]
        code, shown, errors = ringlet(mpi, 2, *words, RINGLET_TRANSPORT="")
        assert code == 0, (shown, errors)
        rows = (tmp_path / transport / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(row).get("loss") for row in rows])
    assert len(losses[0]) > 5
    assert losses[0] == losses[1]
