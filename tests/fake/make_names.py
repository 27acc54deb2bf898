"""What the real CuPy has: run this where it is installed (a GPU is not needed) to write names.txt.

A line is a name and the names of its parameters; `ndarray.sum` and the like are methods. Names
that NumPy does not have are left out, since nothing may be reached by them.
"""

import inspect
import re
import sys
from pathlib import Path

NAMES = Path(__file__).with_name("names.txt")
UFUNC = ["*args", "out", "dtype", "casting"]
"""Parameters of a universal function: CuPy's know no `where`."""


def parameters(thing):
    """The names of a function's parameters; compiled ones have them in their docstring."""
    try:
        found = inspect.signature(thing).parameters.items()
        stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        return [stars.get(parameter.kind, "") + name for name, parameter in found]
    except (TypeError, ValueError):
        text = re.search(r"\((.*?)\)", (thing.__doc__ or "").split("\n")[0])
        parts = text.group(1).split(",") if text else []
        return [part.split("=")[0].split()[-1] for part in parts if part.strip()]


def surveyed(cupy, numpy):
    """{name: parameters} of the functions and methods that both have."""
    names = {}
    for name in sorted(set(dir(cupy)) & set(dir(numpy))):
        thing = getattr(cupy, name)
        if name.startswith("_") or inspect.ismodule(thing):
            continue
        if isinstance(thing, cupy.ufunc):
            names[name] = UFUNC
            for kind in ("at", "reduceat") if name == "add" else ():
                names[f"{name}.{kind}"] = parameters(getattr(thing, kind))
        elif callable(thing) and not inspect.isclass(thing):
            names[name] = parameters(thing)
        else:
            names[name] = []
    for name in sorted(set(dir(cupy.ndarray)) & set(dir(numpy.ndarray)) | {"get", "set"}):
        if not name.startswith("__"):
            method = getattr(cupy.ndarray, name)
            names[f"ndarray.{name}"] = parameters(method)[1:] if callable(method) else []
    return names


def read():
    """(version, {name: parameters}) of the file."""
    first, *lines = NAMES.read_text().splitlines()
    return first.removeprefix("# cupy "), {
        name: rest for name, *rest in (line.split() for line in lines)
    }


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))  # or the fake one would be found
    import cupy
    import numpy

    found = surveyed(cupy, numpy)
    lines = [f"# cupy {cupy.__version__}", *(" ".join([n, *p]) for n, p in found.items())]
    NAMES.write_text("\n".join(lines) + "\n")
