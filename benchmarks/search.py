"""How long the planner searches, and how much memory that takes: a table in Markdown.

    python benchmarks/search.py

Seconds of the processor (they mean something on a busy machine, too), each search in a process of
its own. docs/how-to/planning.md has the table.
"""

import multiprocessing
import resource
from dataclasses import replace

from ringlet import runtime
from ringlet.runtime.planning.setting import MEGATRON

CASES = [
    ("llama-7b", 1024, 512),
    ("gpt3-175b", 1024, 1536),
    ("mixtral-8x7b", 1024, 1024),
    ("llama-7b", 16384, 4096),
    ("gpt3-175b", 16384, 3072),
    ("gpt-1t", 16384, 3072),
]
"""(model, ranks, batch)"""


def selene(ranks):
    """The shipped cluster, with as many hosts as it takes."""
    cluster = runtime.load_cluster("selene")
    *inner, last = cluster.links
    links = (*inner, replace(last, ranks=max(ranks, last.ranks)))
    return replace(cluster, hosts=ranks // cluster.devices, links=links)


def row(case):
    """A line of the table."""
    name, ranks, batch = case
    model = runtime.MODELS[name]
    found = runtime.plan(model, selene(ranks), batch, program=MEGATRON)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (
        f"| {name}, batch {batch:,} | {ranks:,} | {found.listed:,} | {found.simulated} "
        f"| {'yes' if found.complete else 'no'} | {used.ru_utime:.1f} s "
        f"| {used.ru_maxrss / 1024:.0f} MiB |"
    )


def main():
    """Print the table."""
    print("| | ranks | settings | simulated | complete | processor | memory |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(row, (case,)), flush=True)


if __name__ == "__main__":
    main()
