"""`@pytest.mark.world(n)`, faults to order, and `launcher.spawn`."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import numpy as np
import pytest
from quickly import mostly_slow
from waiting import alive, until

from ringlet import comm
from ringlet.comm.faults import parse_fault
from ringlet.launcher.testing.pool import RanksFailed

FILES = {
    "pytest.ini": """
        [pytest]
        pythonpath = lib
        xfail_strict = true
        """,
    "lib/from_lib.py": "three = 3",
    "tests/conftest.py": """
        import os, threading
        import numpy as np, pytest

        @pytest.fixture
        def numbers(): return np.arange(4.0)

        @pytest.fixture
        def unsendable(): return lambda: threading.current_thread().name

        @pytest.fixture
        def of_the_world(world): return world.size

        @pytest.fixture(autouse=True)
        def everywhere(monkeypatch): monkeypatch.setenv("FROM_A_FIXTURE", "yes")
        """,
    "tests/helpers.py": "def two(): return 2",
    "tests/package/__init__.py": "",
    "tests/package/part.py": "five = 5",
    "tests/package/test_relative.py": """
        import pytest
        from .part import five

        @pytest.mark.world(2)
        def test_relative(world): assert five == 5
        """,
    "tests/test_verdicts.py": """
        import logging, os, sys, threading, unittest, warnings
        import hypothesis, hypothesis.strategies
        import numpy as np, pytest
        from from_lib import three
        from helpers import two
        from ringlet import comm

        @pytest.mark.world(2)
        def test_imports(world): assert world.all_reduce(np.ones(2))[0] == two() == three - 1

        @pytest.mark.world(3)
        @pytest.mark.parametrize("factor", [1, 2])
        def test_fixtures(world, numbers, factor, tmp_path, unsendable):
            assert world.size == 3 and tmp_path.is_dir() and os.environ["FROM_A_FIXTURE"] == "yes"
            assert (world.all_reduce(numbers * factor) == 3 * factor * np.arange(4)).all()
            assert unsendable() == "MainThread"

        @pytest.mark.world(2)
        @pytest.mark.parametrize("dtype", [np.float32, np.dtype(">i4")])
        def test_dtypes(world, dtype): assert world.all_reduce(np.ones(2, dtype)).dtype == dtype

        class TestClass:
            def setup_method(self): self.own = 7

            @pytest.mark.world(2)
            def test_method(self, world): assert self.own == 7

        class TestOfUnittest(unittest.TestCase):
            @pytest.mark.world(2)
            def test_refused_case(self): pass

        @pytest.mark.world(2)
        def test_without_world(numbers): assert comm.init().size == 2

        @pytest.mark.world(2)
        def test_capsys(world, capsys):
            print("said", world.rank)
            assert capsys.readouterr().out == f"said {world.rank}\\n"

        @pytest.mark.world(2)
        def test_capfd(world, capfd):
            os.write(1, b"said %d" % world.rank)
            assert capfd.readouterr().out == f"said {world.rank}"

        @pytest.mark.world(2)
        def test_caplog(world, caplog):
            logging.getLogger("a").warning("rank %d", world.rank)
            assert caplog.messages == [f"rank {world.rank}"]

        @pytest.mark.world(2)
        def test_warns(world):
            with pytest.warns(UserWarning):
                warnings.warn("caught")
            warnings.warn("seen in the summary")

        @pytest.mark.world(2)
        @pytest.mark.filterwarnings("error")
        def test_fails_by_warning(world): warnings.warn("an error")

        @pytest.mark.world(2)
        def test_fails_with_odd_texts(world):
            print("\\udc80")
            os.write(1, b"\\xff")
            raise ValueError("odd \\udc80")

        @pytest.mark.world(2)
        @hypothesis.given(size=hypothesis.strategies.integers(1, 5))
        @hypothesis.settings(
            max_examples=3, deadline=None, derandomize=True,
            suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],  # everywhere
        )
        def test_examples(world, size): assert world.all_reduce(np.ones(size)).sum() == 2 * size

        @pytest.mark.world(2)
        def test_skips(world): pytest.skip("for a reason")

        @pytest.mark.world(2)
        def test_skips_on_one(world):
            if world.rank == 1:
                pytest.skip("only rank 0")

        @pytest.mark.world(2)
        def test_fails_beside_a_skip(world):
            if world.rank == 1:
                pytest.skip("only rank 0")
            raise ValueError("on rank 0")

        @pytest.mark.world(2)
        def test_skips_without_module(world): pytest.importorskip("no_such_module")

        @pytest.mark.skipif("True")
        @pytest.mark.world(0)
        def test_skips_anyway(world): pass

        @pytest.mark.world(2)
        def test_xfails(world): pytest.xfail("known")

        @pytest.mark.xfail(raises=ValueError)
        @pytest.mark.world(2)
        def test_xfails_on_one(world):
            if world.rank:
                raise ValueError

        @pytest.mark.xfail(raises=ValueError)
        @pytest.mark.world(2)
        def test_fails_as_not_expected(world): raise KeyError("other")

        @pytest.mark.xfail
        @pytest.mark.world(2)
        def test_fails_by_passing(world): pass

        @pytest.mark.xfail(strict=False)
        @pytest.mark.world(2)
        def test_xpasses(world): pass

        @pytest.mark.world(2)
        def test_fails_showing_values(world):
            print("a print of", world.rank)
            logging.getLogger("a").warning("a log of %d", world.rank)
            assert [world.rank, 2] == [0, 2]

        @pytest.mark.world(3)
        def test_fails_once(world):
            if world.rank:
                raise ValueError("odd thing")
            world.barrier()

        @pytest.mark.world(2)
        def test_fails_by_exit(world): sys.exit(0)

        @pytest.mark.world(2, deadline=0.5)
        def test_fails_hanging(world):
            print("hanging", world.rank)
            if world.rank:
                threading.Event().wait()

        @pytest.mark.world(2)
        def test_fails_at_a_breakpoint(world):
            if world.rank:
                breakpoint()

        @pytest.mark.world(3, faults=["kill rank 2 at its third all_reduce"], failing=[2])
        def test_survivors(world):
            for _ in range(2):
                world.all_reduce(np.ones(2))
            with pytest.raises(comm.PeerLost, match="rank 2"):
                world.all_reduce(np.ones(2))
                world.barrier()

        @pytest.mark.world(3, failing=[1])
        def test_fails_failing_nowhere(world): pass

        @pytest.mark.world(2)
        async def test_refused_async(world): assert False

        @pytest.mark.world(2)
        def test_refused_subtests(world, subtests): pass

        @pytest.mark.world(2)
        def test_refused_world_in_a_fixture(world, of_the_world): pass

        def test_fails_without_a_mark(world): pass

        def test_of_its_own(): assert True
        """,
    "tests/test_marker.py": """
        import pytest

        @pytest.mark.world(size=2, deadline=20, transport="ipc")
        def test_keywords(world): assert not world.shares_memory

        def refused(*arguments, **options):
            @pytest.mark.world(*arguments, **options)
            def test(world): pass
            return test

        test_refused_nothing = refused()
        test_refused_0 = refused(0)
        test_refused_negative = refused(-1)
        test_refused_text = refused("2")
        test_refused_float = refused(2.0)
        test_refused_bool = refused(True)
        test_refused_option = refused(2, ranks=3)
        test_refused_deadline = refused(2, deadline=0)
        test_refused_transport = refused(2, transport="shm")
        test_refused_fault = refused(2, faults=["maim rank 1"])
        test_refused_text_of_faults = refused(2, faults="kill rank 1 at its first barrier")
        test_refused_rank_of_fault = refused(2, faults=["kill rank 2 at its first barrier"])
        test_refused_failing = refused(2, failing=[2])
        """,
    "tests/test_isolation.py": """
        import gc, json, os, random, signal, sys, threading
        import numpy as np, pytest
        import helpers
        from ringlet import comm

        pytestmark = pytest.mark.world(2)

        @pytest.fixture(scope="module", autouse=True)
        def own_world(): yield comm.init(); comm.shutdown()  # pytest's own process may have one

        def test_leaves_everything(world):
            assert world.size == comm.init().size == 2
            if world.rank == 0:
                world.isend(np.full(3, 111.0), 1)
                world.isend(np.full(3, 111.0), 1, tag=7)
            world.split([1, 0]).empty(1000)[:] = 5
            comm.inject(["kill rank 1 at its first barrier"])
            os.environ["LEFT"] = "here"
            os.chdir("/")
            random.seed(1), np.random.seed(1)
            sys.path.insert(0, "/left")
            sys.modules["left"] = json
            json.dumps = str
            helpers.cache = world
            np.seterr(all="raise")
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            threading.Thread(target=threading.Event().wait).start()
            gc.disable()

        def test_nothing_is_left(world):
            assert "LEFT" not in os.environ and os.getcwd() != "/" and "left" not in sys.modules
            assert random.random() != random.Random(1).random()
            assert np.random.random() != np.random.RandomState(1).random()
            assert json.dumps({}) == "{}" and not hasattr(helpers, "cache") and gc.isenabled()
            assert "/left" not in sys.path and np.geterr()["divide"] == "warn"
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            world.barrier()
            if world.rank == 0:
                world.send(np.zeros(3), 1)
                world.send(np.zeros(3), 1, tag=7)
            else:
                assert (world.recv(0) == 0).all() and (world.recv(0, tag=7) == 0).all()
        """,
}

VERDICTS = {"fails": "FAILED", "refused": "ERROR", "skips": "SKIPPED", "xfails": "XFAIL",
            "xpasses": "XPASS"}  # fmt: skip
"""By the word after `test_`; all others pass."""

SHOWN = {
    "skips": ["for a reason"],
    "skips_on_one": ["rank 1: only rank 0"],
    "fails_with_odd_texts": ["ValueError: odd \\udc80"],
    "fails_by_warning": ["UserWarning: an error (ranks 0 and 1 of 2)"],
    "fails_beside_a_skip": ["ValueError: on rank 0 (rank 0 of 2)"],
    "fails_as_not_expected": ["KeyError: 'other'"],
    "fails_by_passing": ["XPASS(strict)"],
    "fails_showing_values": [
        "assert [1, 2] == [0, 2]",
        "At index 0 diff: 1 != 0",
        "(rank 1 of 2)",
        "stdout of rank 0",
        "a print of 0",
        "log of rank 0",
        "a log of 0",
        "stdout of rank 1",
        "a print of 1",
        "log of rank 1",
        "a log of 1",
    ],
    "fails_once": [
        "ValueError: odd thing (ranks 0, 1 and 2 of 3)",
        "--- ranks 1 and 2 ---",
        "--- rank 0, an echo of that ---",
        "PeerLost",
    ],
    "fails_by_exit": ["SystemExit: 0"],
    "fails_hanging": ["has not returned within 0.5 s", "in test_fails_hanging", "hanging 1"],
    "fails_at_a_breakpoint": ["rank 1 stopped at a breakpoint, and ranks have no terminal"],
    "fails_failing_nowhere": ["rank 1 should have failed"],
    "refused_case": ["not of unittest.TestCase"],
    "refused_async": ["test_refused_async is async"],
    "refused_subtests": ["the fixture subtests"],
    "refused_world_in_a_fixture": ["world.size: the world exists on the ranks only"],
    "fails_without_a_mark": ["needs @pytest.mark.world(size)"],
    "refused_nothing": ["missing 1 required positional argument: 'size'; write world(size, "],
    "refused_0": ["size is 0: a test needs at least one rank"],
    "refused_negative": ["size is -1"],
    "refused_text": ["size is '2': it is a whole number"],
    "refused_float": ["size is 2.0"],
    "refused_bool": ["size is True"],
    "refused_option": ["unexpected keyword argument 'ranks'"],
    "refused_deadline": ["deadline is 0"],
    "refused_transport": ["one of auto, ipc, tcp"],
    "refused_fault": ["is not a fault"],
    "refused_text_of_faults": ["it is a list"],
    "refused_rank_of_fault": ["there is no rank 2"],
    "refused_failing": ["there is no rank 2"],
}
"""What the report of a test has to say."""


def run_pytest(folder, *options, plugins=(), **run):
    """pytest with our plugin and these, in a process of its own."""
    names = ["ringlet.launcher.testing.pytest_plugin", *plugins]
    loaded = [word for name in names for word in ("-p", name)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *loaded, "--strict-markers", *options],
        cwd=folder, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, timeout=100, **run,
    )  # fmt: skip


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))


def test_the_verdicts_are_true_and_say_what_happened_on_which_rank(tmp_path):
    write(tmp_path, FILES)
    reported = run_pytest(tmp_path, "-v", "-rs", "tests").stdout
    found = re.findall(r"^\S+::test_(\S+) ([A-Z]+)", reported, re.MULTILINE)
    expected = [(name, VERDICTS.get(re.split(r"[_\[]", name)[0], "PASSED")) for name, _ in found]
    assert found == expected, reported
    assert len(found) > 50

    for name, shown in SHOWN.items():
        head = rf"^_+ (?:ERROR at setup of )?(?:\w+\.)?test_{name} _+$(.*?)^[_=]{{9}}"
        part = re.search(head, reported, re.MULTILINE | re.DOTALL)
        text = reported if part is None else part[1]
        for words in shown:
            assert words in text, text
            assert part is None or len(shown) == 1 or text.count(words) < 4
    for rank in range(2):
        assert f"UserWarning: rank {rank}: seen in the summary" in reported


@pytest.mark.parametrize(
    "options",
    mostly_slow(
        [("--import-mode=importlib",), ("--import-mode=append", "-n", "2"), ("--capture=sys",)],
        ("--import-mode=append", "-n", "2"),
    ),
)
def test_ranks_are_as_pytests_process_in_every_mode(tmp_path, options):
    files = ["pytest.ini", "lib/from_lib.py", "tests/conftest.py", "tests/package/__init__.py",
             "tests/package/part.py", "tests/package/test_relative.py"]  # fmt: skip
    write(tmp_path, {name: FILES[name] for name in files})
    write(tmp_path, {"tests/test_lib.py": """
        import pytest
        from from_lib import three

        @pytest.mark.world(2)
        def test_lib(world, capsys):
            print(world.rank)
            assert capsys.readouterr().out == f"{world.rank}\\n" and three == 3
        """})  # fmt: skip
    plugins = ["xdist"] if "-n" in options else []
    done = run_pytest(tmp_path, *options, plugins=plugins)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_without_capturing_each_line_says_its_rank(tmp_path):
    write(tmp_path, {"test_it.py": """
        import sys, pytest

        @pytest.mark.world(2)
        def test_prints(world):
            print("several", "words", end="")
            print(" and more")
            print("an error", file=sys.stderr)
            print("no newline", end="")
        """})  # fmt: skip
    out = run_pytest(tmp_path, "-s").stdout
    for rank in range(2):
        for line in ("several words and more", "no newline"):
            assert f"rank {rank}: {line}\n" in out, out


@pytest.mark.parametrize(
    "options", mostly_slow([[], ["--branch"], ["--parallel-mode"]], ["--parallel-mode"])
)
def test_coverage_measures_what_ranks_run(tmp_path, options):
    write(tmp_path, {
        "mine.py": """
            def f(x):
                if x == 0:
                    return 0
                return 1
            """,
        "test_it.py": """
            import mine, pytest

            @pytest.mark.world(2)
            def test_f(world): assert mine.f(world.rank) == world.rank
            """,
    })  # fmt: skip
    coverage = [sys.executable, "-m", "coverage"]
    ours = ["-p", "ringlet.launcher.testing.pytest_plugin"]
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, timeout=60,
                  env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})  # fmt: skip
    done = run([*coverage, "run", *options, "--source=.", "-m", "pytest", *ours])
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    if "--parallel-mode" in options:
        run([*coverage, "combine"])
    out = run([*coverage, "report", "--include=mine.py"]).stdout
    assert "100%" in out, out


def test_ranks_of_a_killed_pytest_end(tmp_path):
    write(tmp_path, {"test_it.py": """
        import os, threading, pytest
        from pathlib import Path

        @pytest.mark.world(2)
        def test_hangs(world):
            Path(f"{world.rank}").write_text(f"{os.getpid()}\\n")
            world.barrier()
            os.kill(os.getppid(), 9)
            threading.Event().wait()
        """})  # fmt: skip
    assert run_pytest(tmp_path).returncode == -signal.SIGKILL
    pids = [int((tmp_path / f"{rank}").read_text()) for rank in range(2)]
    assert until(lambda: not any(map(alive, pids)))


# -- faults ---------------------------------------------------------------------------------------


def under_faults(world):
    """What this rank met in three sums, by name."""
    met = []
    for _ in range(3):
        began = time.monotonic()
        try:
            total = world.all_reduce(np.ones(1000), timeout=1.0)
        except comm.CommError as error:
            met.append(type(error).__name__)
            break
        met.append(float(total[0]) if (total == total[0]).all() else "damaged")
        if time.monotonic() - began > 0.3:
            met.append("late")
    return met


def test_faults_happen_where_they_are_told_to(ranks):
    pool = ranks(2, "ipc")
    fault = "delay rank 1 at its second all_reduce by 0.4 s"
    assert pool.run(under_faults, faults=[fault]) == [[2.0, 2.0, "late", 2.0]] * 2
    fault = "duplicate rank 0 at its 3rd all_reduce"
    assert pool.run(under_faults, faults=[fault]) == [[2.0] * 3] * 2
    assert pool.run(under_faults) == [[2.0] * 3] * 2  # they are gone with their test
    met = pool.run(under_faults, faults=["drop rank 1 at its first all_reduce"])
    assert "CommTimeout" in [m[-1] for m in met]
    pool.close()  # that group is broken for good
    met = pool.run(under_faults, faults=["corrupt rank 0 at its 3rd all_reduce"])
    assert met[1] == [2.0, 2.0, "CommError"]
    pool.close()


@pytest.mark.parametrize(
    "text",
    ["", "kill rank 2", "kill rank two at its first barrier", "kill rank 1 at its 0th barrier",
     "maim rank 1 at its first barrier", "delay rank 1 at its first barrier",
     "kill rank 1 at its first barrier by 2 s", "kill rank 1 in its first send",
     "drop rank 1 in its first barrier"],
)  # fmt: skip
def test_what_is_no_fault(text):
    with pytest.raises(ValueError, match="is not a fault"):
        parse_fault(text)


def test_faults_that_cannot_happen_are_refused(ranks):
    with pytest.raises(ValueError, match="the ranks are 0 to 1"):
        ranks(2).run(under_faults, faults=["kill rank 2 at its first barrier"])
    with pytest.raises(RanksFailed, match="use the transport ipc or tcp"):
        ranks(2).run(under_faults, faults=["drop rank 1 at its first all_reduce"])


def faults_of_a_generator(world):
    comm.inject(text for text in ["delay rank 1 at its second all_reduce by 0.4 s"])
    return under_faults(world)


def test_faults_can_come_from_a_generator(ranks):
    assert ranks(2).run(faults_of_a_generator) == [[2.0, 2.0, "late", 2.0]] * 2
