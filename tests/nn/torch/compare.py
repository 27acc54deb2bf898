"""Runs the cases with either library: values, and gradients of a random weighted sum of them."""

import numpy as np

from ringlet import nn


class Ringlet:
    """This library."""

    functional = nn.functional
    modules = nn
    tensor = nn.Tensor

    @staticmethod
    def optimize(kind, options, data, grads):
        """The parameters, as one array, after a step with each of the gradients."""
        names = {"lr": "learning_rate", "lr_decay": "learning_rate_decay", "d": "clip"}
        options = {names.get(name, name): value for name, value in options.items()}
        named = [(str(n), nn.Parameter(nn.asarray(x.copy()))) for n, x in enumerate(data)]
        flat = nn.FlatParameters(named)
        optimizer = getattr(nn.optim, kind)(flat, decay=nn.optim.everything, **options)
        for grad in grads:
            flat.grad[:] = nn.asarray(np.concatenate([x.reshape(-1) for x in grad]))
            optimizer.step()
        return nn.to_host(flat.data)

    @staticmethod
    def schedule(kind, arguments, options, steps):
        """The learning rate of each step."""
        rate = getattr(nn.optim, kind)(*arguments, **options)
        return np.array([rate(step) for step in range(steps)])

    @staticmethod
    def fill(module, values):
        """Set the parameters."""
        for name, parameter in module.named_parameters():
            parameter.data = nn.asarray(values[name])

    @staticmethod
    def array(tensor):
        return nn.to_host(tensor.data if isinstance(tensor, nn.Tensor) else tensor)


class Torch:
    """PyTorch, whose functions are in two places."""

    def __init__(self, torch):
        self.tensor, self.functional, self.modules = torch.tensor, self, torch.nn
        self.torch = torch
        self._places = torch.nn.functional, torch

    def __getattr__(self, name):
        first, second = self._places
        return getattr(first, name) if hasattr(first, name) else getattr(second, name)

    def optimize(self, kind, options, data, grads):
        """The parameters, as one array, after a step with each of the gradients."""
        parameters = [self.torch.nn.Parameter(self.tensor(x)) for x in data]
        optimizer = getattr(self.torch.optim, kind)(parameters, **options)
        for grad in grads:
            for parameter, x in zip(parameters, grad, strict=True):
                parameter.grad = self.tensor(x)
            optimizer.step()
        return np.concatenate([self.array(x).reshape(-1) for x in parameters])

    def schedule(self, kind, arguments, options, steps):
        """The learning rate of each step."""
        optimizer = self.torch.optim.SGD([self.torch.nn.Parameter(self.tensor(0.0))], arguments[0])
        schedules = self.torch.optim.lr_scheduler
        if kind == "one_cycle":
            options = {"pct_start" if n == "rising" else n: v for n, v in options.items()}
            schedule = schedules.OneCycleLR(optimizer, *arguments, **options)
        elif kind == "linear":
            peak, end, count = arguments
            schedule = schedules.LinearLR(optimizer, 1.0, end / peak, count)
        else:
            _, floor, count = arguments
            schedule = schedules.CosineAnnealingLR(optimizer, count, floor)
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return np.array(rates)

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


def optimized(library, name, options, draw):
    """The parameters after six steps with random gradients."""
    shapes = [(7, 5), (7,), (3, 7)]
    data, *grads = ([draw.normal(*shape) for shape in shapes] for _ in range(7))
    return [library.optimize(name.partition(" ")[0], options, data, grads)]


def scheduled(library, name, arguments, options):
    """The learning rates of as many steps as there are."""
    return [library.schedule(name.partition(" ")[0], arguments, options, arguments[-1])]


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
    rows, start, values = {}, 0, file["values"]  # of a compressed file, read once
    for name, text in zip(file["names"], file["shapes"], strict=True):
        shape = tuple(map(int, str(text).split()))
        stop = start + int(np.prod(shape))
        rows.setdefault(str(name), []).append(values[start:stop].reshape(shape))
        start = stop
    return rows
