"""ringlet: a from-scratch distributed training runtime in pure NumPy.

`ringlet.comm` lets processes talk, `ringlet.nn` lets arrays learn, `ringlet.runtime` puts models
on many processes, and `ringlet.launcher` starts and guards them.
"""

from pathlib import Path

__version__ = "0.1.0"

# In a source checkout the four folders stand at the repository's root; taking them from there
# (and not through the links beside this file) makes tracebacks, coverage and breakpoints name
# the files that people edit.
_root = Path(__file__).resolve().parents[2]
if (_root / "pyproject.toml").is_file() and (_root / "comm").is_dir():
    __path__.insert(0, str(_root))
