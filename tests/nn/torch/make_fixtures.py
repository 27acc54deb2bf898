"""Writes what PyTorch says to the cases, so that the ordinary tests can do without it.

PYTHONPATH=src python tests/nn/torch/make_fixtures.py        # with a Python that has torch
"""

from pathlib import Path

import numpy as np
import torch
from cases import CASES, OPTIMIZERS, SCHEDULES, Draw
from compare import Torch, evaluate, optimized, pack, scheduled

ROUNDS = 2
FILE = Path(__file__).with_name("fixtures.npz")


def main():
    """Make the file anew."""
    library = Torch(torch)
    rows = {
        f"{name} #{number}": evaluate(library, case, Draw(name, number))
        for name, case in CASES.items()
        for number in range(ROUNDS)
    }
    for name, options in OPTIMIZERS.items():
        rows[f"{name} optimizer"] = optimized(library, name, options, Draw(name, 0))
    for name, given in SCHEDULES.items():
        rows[f"{name} schedule"] = scheduled(library, name, *given)
    np.savez_compressed(FILE, **pack(rows))
    print(f"{len(rows)} rows, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
