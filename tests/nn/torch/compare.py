"""Runs the cases with either library: values, and gradients of a random weighted sum of them."""

import numpy as np

from ringlet import nn


class Ringlet:
    """This library."""

    functional = nn.functional
    modules = nn
    tensor = nn.Tensor

    @staticmethod
    def fill(module, values):
        """Set the parameters."""
        for name, parameter in module.named_parameters():
            parameter.data = values[name]

    @staticmethod
    def array(tensor):
        return tensor.data if isinstance(tensor, nn.Tensor) else tensor


class Torch:
    """PyTorch, whose functions are in two places."""

    def __init__(self, torch):
        self.tensor, self.functional, self.modules = torch.tensor, self, torch.nn
        self._places = torch.nn.functional, torch

    def __getattr__(self, name):
        first, second = self._places
        return getattr(first, name) if hasattr(first, name) else getattr(second, name)

    def fill(self, module, values):
        """Set the parameters."""
        module.double()
        for name, parameter in module.named_parameters():
            parameter.data = self.tensor(values[name])

    @staticmethod
    def array(tensor):
        return tensor.detach().numpy()


def evaluate(library, case, draw):
    """The results of a case and the gradients of its inputs, as arrays."""
    inputs, function, *build = case
    tensors = [library.tensor(x, requires_grad=x.dtype.kind == "f") for x in inputs(draw)]
    parameters = []
    if build:
        module = build[0](library.modules).eval()
        named = sorted(module.named_parameters())
        library.fill(module, {name: 0.5 * draw.normal(*p.shape) for name, p in named})
        parameters = [parameter for _, parameter in named]
        results = function(module, *tensors)
    else:
        results = function(library.functional, *tensors)
    results = list(results) if isinstance(results, list | tuple) else [results]
    results = [result for result in results if result is not None]
    total = 0
    for result in results:
        if result.requires_grad:
            weights = draw.normal(*result.shape).astype(library.array(result).dtype)
            total = total + (result * library.tensor(weights)).sum()
    if not isinstance(total, int):
        total.backward()
    gradients = [library.array(x.grad) for x in tensors + parameters if x.grad is not None]
    return [np.asarray(library.array(x)) for x in results] + gradients


def pack(rows):
    """{name: arrays} as three arrays that need no pickle: names, shapes as text, flat values."""
    arrays = [array for row in rows.values() for array in row]
    return {
        "names": np.array([name for name, row in rows.items() for _ in row]),
        "shapes": np.array([" ".join(map(str, array.shape)) for array in arrays]),
        "values": np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float32),
    }


def unpack(file):
    """What was packed."""
    rows, start = {}, 0
    for name, text in zip(file["names"], file["shapes"], strict=True):
        shape = tuple(map(int, str(text).split()))
        stop = start + int(np.prod(shape))
        rows.setdefault(str(name), []).append(file["values"][start:stop].reshape(shape))
        start = stop
    return rows
