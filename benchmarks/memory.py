"""Peak memory of a worker against the formula, for each way of sharing a model.

    python benchmarks/memory.py [--layers 12] [--width 384] [--context 128] [--samples 1]

Every case runs in fresh processes over Unix sockets, so that all memory is a worker's own. Two
steps with AdamW, whose state is there from the first on; the peak is the kernel's (VmHWM) less what
the process had before the model.
"""

import argparse
import gc
from pathlib import Path

import numpy as np

from ringlet import nn
from ringlet.launcher.testing.pool import WorkerPool
from ringlet.nn.backend import xp
from ringlet.nn.memory import return_freed_memory
from ringlet.nn.models import GPT, GPTConfig, Llama, LlamaConfig
from ringlet.nn.optim import AdamW
from ringlet.runtime import Mesh, MicroBatch, Parallelism, Step, parallelize
from ringlet.runtime.planning.footprint import footprint
from ringlet.runtime.planning.models import model_of
from ringlet.runtime.planning.setting import Setting

LLAMA = {"kind": "llama"}

CASES = {
    "one process": ({}, {}),
    "data parallel": ({"dp": 2}, {}),
    "ZeRO 1": ({"dp": 2}, {"zero": 1}),
    "ZeRO 2": ({"dp": 2}, {"zero": 2}),
    "ZeRO 3": ({"dp": 2}, {"zero": 3}),
    "ZeRO 3, 4 ranks": ({"dp": 4}, {"zero": 3}),
    "recomputed blocks": ({}, {"recompute": ["blocks"]}),
    "GPipe, 2 ranks": ({"pp": 2}, {"schedule": "gpipe"}),
    "1F1B, 2 ranks": ({"pp": 2}, {}),
    "1F1B, 4 ranks": ({"pp": 4}, {}),
    "tensor parallel": ({"tp": 2}, {}),
    "sequence parallel": ({"tp": 2}, {"sequence": True}),
    "context parallel": ({"cp": 2}, {}),
    "50,257 words, 1,024 rows": (
        {}, {}, {"vocab_size": 50257, "block_size": 1024, "n_layer": 2}
    ),
    "4 experts": ({}, {}, {"n_expert": 4}),
    "4 experts, 2 ranks": ({"ep": 2}, {}, {"n_expert": 4}),
    "4 experts, 2 ranks, ZeRO 3": ({"ep": 2}, {"zero": 3}, {"n_expert": 4}),
    "Llama": ({}, {}, LLAMA),
    "Llama, tensor parallel": ({"tp": 2}, {"sequence": True}, LLAMA),
    "Llama, 1F1B, 2 ranks": ({"pp": 2}, {}, LLAMA),
}  # fmt: skip


def status(name):
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def watched():
    """Bytes that this process has; its peak (VmHWM) begins here."""
    # A BLAS takes its buffers at its first product; MKL's is a large one.
    for size in (256, 512):
        xp.matmul(*np.ones((2, size, size), np.float32))
    gc.collect()
    return_freed_memory()  # else the peak reuses it
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    return before


def config_of(sizes):
    """A GPT's sizes, or those of a Llama as large with two heads of keys."""
    if sizes.get("kind") != "llama":
        return GPTConfig(**sizes)
    return LlamaConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["n_embd"],
        intermediate_size=3 * sizes["n_embd"],
        num_hidden_layers=sizes["n_layer"],
        num_attention_heads=sizes["n_head"],
        num_key_value_heads=2,
        max_position_embeddings=sizes["block_size"],
    )


def peak(world, mesh, options, sizes, samples, micro):
    """Bytes by which this rank's memory grew at most."""
    options = {**options, "recompute": tuple(options.get("recompute", ()))}
    made, config = Mesh(world, **mesh), config_of(sizes)
    before = watched()
    with nn.uninitialized():
        model = Llama(config) if isinstance(config, LlamaConfig) else GPT(config)
    parallel = parallelize(model, made, Parallelism(**options), seed=1)
    parallel.use(AdamW)
    ids = np.random.default_rng(0).integers(0, 256, (samples, sizes["block_size"] + 1))
    batches = [MicroBatch(ids[:, :-1], ids[:, 1:], 0)] * micro
    for step in range(2):
        parallel.gradients(batches, Step(1, step, 1.0))
        parallel.update(1e-3)
    return [made.index("pp"), status("VmHWM") - before]


def measure(name, sizes, samples, micro):
    """(measured bytes, formula's bytes) of each different rank."""
    mesh, options, *more = CASES[name]
    sizes = {**sizes, **dict(*more)}
    with WorkerPool(int(np.prod([1, *mesh.values()])), "ipc") as pool:
        found = pool.run(
            peak,
            deadline=300,
            mesh=mesh,
            options=options,
            sizes=sizes,
            samples=samples,
            micro=micro,
        )
    rows = []
    for place, nbytes in dict(map(tuple, found)).items():
        replicas = mesh.get("dp", 1) * mesh.get("ep", 1)
        setting = Setting(
            mesh,
            batch=samples * micro * replicas,
            micro_batch=samples,
            options=Parallelism(**{**options, "recompute": tuple(options.get("recompute", ()))}),
        )
        wanted = footprint(model_of(config_of(sizes)), setting, place)
        rows.append((nbytes, wanted.total))
    return rows


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--samples", type=int, default=1, help="in each micro-batch")
    parser.add_argument("--micro-batches", type=int, default=4)
    given = parser.parse_args()
    sizes = {
        "vocab_size": 256, "block_size": given.context, "n_layer": given.layers,
        "n_head": given.width // 64, "n_embd": given.width,
    }  # fmt: skip
    print(f"{'':28}{'measured':>12}{'formula':>12}{'ratio':>8}")
    for name in CASES:
        rows = measure(name, sizes, given.samples, given.micro_batches)
        for number, (measured, wanted) in enumerate(rows):
            head = name if len(rows) == 1 else f"{name}, rank {number}"
            ratio = measured / wanted
            print(
                f"{head:28}{measured / 2**20:9.1f}MiB{wanted / 2**20:9.1f}MiB{ratio:8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
