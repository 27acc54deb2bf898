"""PyTorch's top-level names, for files written for it: `import ringlet.nn.torch as torch`.

docs/how-to/pytorch_models.md says which import lines to change. What ringlet lacks is refused by
name.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from ringlet import nn
from ringlet.nn import creation, functional, optim
from ringlet.nn.autograd import grad_mode
from ringlet.nn.backend import Device, chosen
from ringlet.nn.random import manual_seed

DTYPES = {
    **{name: np.dtype(name) for name in ("bool", "uint8", "int8", "complex64", "complex128")},
    **{name: np.dtype(name) for name in ("int16", "int32", "int64")},
    **{name: np.dtype(name) for name in ("float16", "float32", "float64")},
    "short": np.dtype("int16"), "int": np.dtype("int32"), "long": np.dtype("int64"),
    "half": np.dtype("float16"), "float": np.dtype("float32"), "double": np.dtype("float64"),
}  # fmt: skip


def of_dtype(name: str) -> Any:
    """The function that makes a tensor of this dtype of numbers."""
    return lambda data: creation.tensor(data, dtype=DTYPES[name])


NAMES: dict[str, Any] = {
    **{name: getattr(functional, name) for name in dir(functional) if name[0] != "_"},
    **{name: getattr(creation, name) for name in creation.__all__},
    **{name: getattr(grad_mode, name) for name in grad_mode.__all__},
    **DTYPES,
    **{f"{name.capitalize()}Tensor": of_dtype(name) for name in ("float", "double", "long", "int")},
    **{name: getattr(math, name) for name in ("inf", "nan", "pi", "e")},
    "Size": tuple, "Tensor": nn.Tensor, "concat": functional.cat, "concatenate": functional.cat,
    "device": Device, "dtype": np.dtype, "finfo": np.finfo, "iinfo": np.iinfo,
    "is_tensor": lambda obj: isinstance(obj, nn.Tensor), "manual_seed": manual_seed,
    "nn": nn, "numel": nn.Tensor.numel, "optim": optim,
    "cuda": SimpleNamespace(is_available=lambda: chosen().on_device),
    "utils": SimpleNamespace(checkpoint=SimpleNamespace(checkpoint=nn.checkpoint)),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in NAMES:
        return NAMES[name]
    raise AttributeError(
        f"ringlet has nothing for torch.{name}; docs/reference/nn.md lists what there is"
    )


def __dir__() -> list[str]:
    return sorted(NAMES)
