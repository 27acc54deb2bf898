"""Write the fixtures of test_transformers.py, with a Python that has torch and transformers.

All of them, or those named on the command line.
"""

import sys
from pathlib import Path

import numpy as np
from library import MODELS, build, computed

FOLDER = Path(__file__).parent / "fixtures"


def main():
    """One folder for each model: as the library saves it, and what it computes."""
    for name in sys.argv[1:] or MODELS:
        model = build(name)
        shards = {"max_shard_size": "4KB"} if name == "llama" else {}
        model.save_pretrained(FOLDER / name, **shards)
        (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
        np.savez_compressed(FOLDER / name / "computed.npz", **computed(model, name))


if __name__ == "__main__":
    main()
