"""A stand-in for CuPy that needs no GPU; see core.py beside it."""

from cupy import core

globals().update(core.functions)
