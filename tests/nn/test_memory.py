"""What the allocator does with the arrays of a training step, in fresh processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

PROGRAM = """
import resource
{before}
import numpy as np
from ringlet import nn

def step():
    return [np.ones(1 << 18, np.float32) for _ in range(64)]  # of 1 MiB

step(), step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
arrays = step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
lines = open("/proc/self/smaps_rollup").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages")))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc on Linux is meant")


def faults_and_huge_pages(before="", **variables):
    """Page faults of a step whose memory was used before, and KiB in huge pages."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)],
        env={**kept, **variables}, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    faults, huge = map(int, done.stdout.split())
    return faults, huge


def test_freed_memory_is_used_again_without_faults():
    assert faults_and_huge_pages()[0] < 64  # of 16,384 pages


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(),
    reason="this kernel gives no transparent huge pages",
)
def test_arrays_lie_in_huge_pages():
    assert faults_and_huge_pages()[1] >= 32 << 10


def test_a_small_address_space_is_enough():
    limit = "resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20))"
    faults_and_huge_pages(limit, OPENBLAS_NUM_THREADS="1")


def test_who_sets_the_allocator_is_left_alone():
    assert faults_and_huge_pages(MALLOC_TRIM_THRESHOLD_=str(128 << 10))[0] > 1000
