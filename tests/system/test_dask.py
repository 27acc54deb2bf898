"""docs/how-to/engines.md's recipe for Dask."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/engines.md"

CLUSTER = """
import subprocess, sys
from distributed import LocalCluster
if __name__ == "__main__":
    local = {"host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(n_workers=3, threads_per_worker=1, **local) as cluster:
        subprocess.run([sys.executable, "ranks.py", cluster.scheduler_address], check=True)
"""


@pytest.mark.slow
def test_the_recipe_makes_a_world_of_the_workers(tmp_path):
    pytest.importorskip("distributed", reason="needs Dask: pip install distributed")
    recipe = re.search(r"\n## Dask\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "ranks.py").write_text(recipe[1])
    (tmp_path / "cluster.py").write_text(CLUSTER)
    done = subprocess.run(
        [sys.executable, "cluster.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, str([[6.0] * 3] * 3)), done.stderr
